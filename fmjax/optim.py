"""The optimizer: the optax chain and the learning rate's schedule that the config names.

A weight keeps the shape its letters give it, such as "LDNH", and every rule here sees it as the matrix that its
Declaration says: `ins` by `outs`, once a layer. Axes are named, never merged, so a weight keeps its sharding.
"""

import dataclasses
import math
import string
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fmjax.laws import Branch, at_least, fraction
from fmjax.leaves import by_path
from fmjax.sharding import FLOWING, STORED, Declaration, einsum, flow


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Branch):
  """What every optimizer takes. Steps of warm-up and decay count updates."""

  learning_rate: float = 1e-3
  schedule: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = "cosine"
  warmup_steps: int = 0
  decay_steps: int | None = None  # wsd: the last steps, that fall to the end; None: a fifth of train.steps
  end_fraction: float = 0.1  # of the peak, at the end of linear, cosine and wsd
  weight_decay: float = 0.0  # decoupled, times the learning rate; of matrices and embeddings only
  clip_norm: float | None = 1.0
  start_decay: float = 0.0  # decoupled too, towards where the run started (Li et al. 2018, arXiv:1802.01483)
  layer_decay: float | None = None  # of the learning rate, each layer down (Howard and Ruder 2018, arXiv:1801.06146)
  unfreeze_every: int | None = None  # updates until the next layer down trains too (section 3.3 there)

  def laws(self):
    yield from at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "start_decay")
    yield from at_least(self, 1, "decay_steps", "unfreeze_every")
    if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
      yield "layer_decay", self.layer_decay, "must lie in (0, 1]"
    if self.decay_steps is not None and self.schedule != "wsd":
      yield (
        "decay_steps",
        self.decay_steps,
        f"schedule {self.schedule!r} has none: set schedule to 'wsd', or it to None",
      )
    if self.clip_norm is not None and self.clip_norm <= 0:
      yield "clip_norm", self.clip_norm, "must be positive, or None for no clipping"
    if not 0 <= self.end_fraction <= 1:
      yield "end_fraction", self.end_fraction, "must lie in [0, 1]"


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerConfig):
  """Loshchilov and Hutter 2019 (arXiv:1711.05101); b2 as language models have it (Brown et al. 2020, App. B)."""

  name: Literal["adamw"] = "adamw"
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1

  def laws(self):
    yield from super().laws()
    yield from fraction(self, "b1", "b2")
    yield from at_least(self, 0, "eps")


@dataclasses.dataclass(frozen=True)
class Lion(OptimizerConfig):
  """Chen et al. 2023 (arXiv:2302.06675), who advise a learning rate 3 to 10 times below AdamW's."""

  name: Literal["lion"] = "lion"
  b1: float = 0.9
  b2: float = 0.99

  def laws(self):
    yield from super().laws()
    yield from fraction(self, "b1", "b2")


@dataclasses.dataclass(frozen=True)
class SGD(OptimizerConfig):
  name: Literal["sgd"] = "sgd"
  momentum: float | None = 0.9
  nesterov: bool = False

  def laws(self):
    yield from super().laws()
    if self.momentum is not None:
      yield from fraction(self, "momentum")
    elif self.nesterov:
      yield "nesterov", True, "needs a momentum: set optimizer.momentum"


@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerConfig):
  """Shazeer and Stern 2018 (arXiv:1804.04235), with the learning rate from the schedule."""

  name: Literal["adafactor"] = "adafactor"
  decay_rate: float = 0.8  # update t keeps 1 - t^-decay_rate of the second moment
  eps: float = 1e-30  # added to the squared gradient
  clip_rms: float | None = 1.0  # of an update, per parameter
  multiply_by_rms: bool = True  # the step is relative to the parameter's own scale

  def laws(self):
    yield from super().laws()
    yield from at_least(self, 0, "eps")
    if not 0 < self.decay_rate <= 1:
      yield "decay_rate", self.decay_rate, "must lie in (0, 1]"
    if self.clip_rms is not None and self.clip_rms <= 0:
      yield "clip_rms", self.clip_rms, "must be positive, or None for no clipping"


@dataclasses.dataclass(frozen=True)
class Muon(OptimizerConfig):
  """Jordan et al. 2024, Muon: hidden matrices by momentum made orthogonal, all else by AdamW.

  The update is scaled to AdamW's usual size (Liu et al. 2025, arXiv:2502.16982), so that a learning rate and a
  weight decay tuned for AdamW serve both parts.
  """

  name: Literal["muon"] = "muon"
  momentum: float = 0.95
  nesterov: bool = True
  iterations: int = 5  # of Newton-Schulz
  adam_learning_rate: float = 1.0  # of what AdamW updates, as a fraction of learning_rate
  adam_b1: float = 0.9
  adam_b2: float = 0.95
  eps: float = 1e-8  # of AdamW's denominator and of the norm that Newton-Schulz divides by
  weight_decay: float = 0.1

  def laws(self):
    yield from super().laws()
    yield from fraction(self, "momentum", "adam_b1", "adam_b2")
    yield from at_least(self, 0, "adam_learning_rate", "eps")
    yield from at_least(self, 1, "iterations")


OPTIMIZERS = {"adamw": AdamW, "lion": Lion, "sgd": SGD, "adafactor": Adafactor, "muon": Muon}


def schedule(config: OptimizerConfig, steps: int) -> Callable[[int], float]:
  """The learning rate of update number n, from 0, in a run of `steps` updates; computed on the host.

  Warm-up is linear: update 0 has peak / warmup_steps. Linear, cosine (Loshchilov and Hutter 2017) and wsd (Hu et al.
  2024, arXiv:2404.06395; its fall is linear, as Hagele et al. 2024, arXiv:2405.18392 measure) come down to
  end_fraction of the peak at n = steps and stay there. Inverse square root: Vaswani et al. 2017, section 5.3.
  """
  peak, warm, end = config.learning_rate, config.warmup_steps, config.end_fraction
  after = max(steps - warm, 1)
  fall = after
  if config.schedule == "wsd":
    fall = min(after, max(1, steps // 5) if config.decay_steps is None else config.decay_steps)

  def learning_rate(n: int) -> float:
    if n < warm:
      return peak * (n + 1) / warm
    done = min(max(n - warm - (after - fall), 0) / fall, 1.0)
    match config.schedule:
      case "constant":
        return peak
      case "inverse_sqrt":
        return peak * math.sqrt(max(warm, 1) / (n + 1))
      case "cosine":
        return peak * (end + (1 - end) * (1 + math.cos(math.pi * done)) / 2)
      case "linear" | "wsd":
        return peak * (1 - (1 - end) * done)

  return learning_rate


def make(config: OptimizerConfig, declarations: dict[str, Declaration]) -> optax.GradientTransformation:
  """Gradients -> what the step multiplies by minus the learning rate and adds to the parameters.

  `declarations` maps a parameter's slash-joined path to what it says of itself. The gradient is clipped by its
  global norm first; weight decay is added last, to matrices and embeddings.
  """
  clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
  decay = [decay_to_zero(config.weight_decay, declarations)]
  match config:
    case AdamW():
      rule = [optax.scale_by_adam(config.b1, config.b2, config.eps), *decay]
    case Lion():
      rule = [optax.scale_by_lion(config.b1, config.b2), *decay]
    case SGD():
      trace = optax.identity() if config.momentum is None else optax.trace(config.momentum, config.nesterov)
      rule = [trace, *decay]
    case Adafactor():
      rule = [scale_by_factors(config, declarations), *decay]
    case Muon():
      hidden = [optax.trace(config.momentum, config.nesterov), orthogonal(config, declarations), *decay]
      rest = [optax.scale_by_adam(config.adam_b1, config.adam_b2, config.eps), *decay]
      rest += [optax.scale(config.adam_learning_rate)]
      parts = dict(muon=optax.chain(*hidden), adam=optax.chain(*rest))
      rule = [optax.partition(parts, lambda tree: each(muon_or_adam, declarations, tree))]
  if config.start_decay:
    rule.append(decay_to_start(config.start_decay))
  if config.layer_decay is not None or config.unfreeze_every is not None:
    clip.insert(0, by_depth(1.0, config.unfreeze_every, declarations))  # the norm is of what trains
    rule.append(by_depth(config.layer_decay or 1.0, config.unfreeze_every, declarations))
  return optax.chain(*clip, *rule)


def decay_to_zero(rate: float, declarations: dict[str, Declaration]) -> optax.GradientTransformationExtraArgs:
  """Adds `rate`, or the number `weight_decay` that an update is given, times each matrix and embedding."""

  def update(updates, state, params, *, weight_decay=rate, **_):
    def decayed(declared, u, p):
      return u + weight_decay * p if is_decayed(declared, p) else u

    none = weight_decay is rate and not rate
    return updates if none else each(decayed, declarations, updates, params), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def decay_to_start(rate: float) -> optax.GradientTransformation:
  """Adds `rate` times the way from the first parameters, which it keeps, to those of now."""

  def update(updates, start, params):
    return jax.tree.map(lambda u, p, p0: u + rate * (p - p0), updates, params, start), start

  return optax.GradientTransformation(lambda params: jax.tree.map(jnp.copy, params), update)


def by_depth(decay: float, every: int | None, declarations: dict[str, Declaration]) -> optax.GradientTransformation:
  """Multiplies what is of a layer n below the top by decay^(n + 1), of embeddings by decay^(L + 1), of heads by 1.

  With `every` the layer n has 0 before update (n + 1) * every, and embeddings before (L + 1) * every.
  """

  def scaled(path, u, count, layers):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    own = name.removeprefix("encoder/")
    if own.startswith("blocks/") and declarations[name].letters.startswith("L"):
      below = layers - jnp.arange(layers).reshape(-1, *(1 for _ in u.shape[1:]))
    else:
      below = layers + 1 if own.split("/")[0] in ("embed", "relative") else layers if own.startswith("blocks/") else 0
    scale = jnp.asarray(decay, jnp.float32) ** below
    return u * (scale if every is None else jnp.where(count >= below * every, scale, 0.0))

  def update(updates, count, params):
    stacked = [x.shape[0] for path, x in by_path(updates).items() if declarations[path].letters.startswith("L")]
    layers = max(stacked, default=1)
    return jax.tree.map_with_path(lambda path, u: scaled(path, u, count, layers), updates), count + 1

  return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update)


def each(function, declarations: dict[str, Declaration], tree, *more):
  """`function(declaration, leaf, ...)` for every leaf of `tree`, a tree of parameters or a part of one."""

  def declared(path, *leaves):
    return function(declarations[jax.tree_util.keystr(path, simple=True, separator="/")], *leaves)

  return jax.tree.map_with_path(declared, tree, *more)


def places(declared: Declaration, letters: str) -> tuple[int, ...]:
  return tuple(declared.letters.index(letter) for letter in letters)


def sides(declared: Declaration, x) -> tuple[int, int]:
  """The numbers of rows and of columns of the matrix view of `x`: its fan-in and fan-out."""
  return tuple(math.prod(x.shape[i] for i in places(declared, side)) for side in (declared.ins, declared.outs))


def rms(declared: Declaration, x):
  """Root mean square of each layer's own parameter, in axes of size 1: stacked layers are as if apart."""
  whole = declared.ins + declared.outs if declared.kind != "vector" else declared.letters.replace("L", "")
  return jnp.sqrt(jnp.mean(x * x, places(declared, whole), keepdims=True))


MIN_RMS = 1e-3  # of a parameter, so that one that is zero moves: epsilon_2 of Shazeer and Stern 2018


class FactorsState(NamedTuple):
  count: jax.Array
  moments: dict  # per parameter {"row", "column"} where it is a matrix, else {"full"}


def scale_by_factors(config: Adafactor, declarations: dict[str, Declaration]) -> optax.GradientTransformation:
  """Adafactor's rule. A matrix's second moment is its means over `outs` (row) and over `ins` (column), a layer."""

  def means(declared, square):
    if declared.kind == "vector":
      return dict(full=square)
    return dict(row=square.mean(places(declared, declared.outs)), column=square.mean(places(declared, declared.ins)))

  def scaled(declared, g, moment, p):
    if declared.kind == "vector":
      u = g * jax.lax.rsqrt(moment["full"])
    else:
      row = jnp.expand_dims(moment["row"], places(declared, declared.outs))
      column = jnp.expand_dims(moment["column"], places(declared, declared.ins))
      mean = row.mean(places(declared, declared.ins), keepdims=True)
      u = g * jax.lax.rsqrt(row / mean) * jax.lax.rsqrt(column)
    if config.clip_rms is not None:
      u = u / jnp.maximum(1.0, rms(declared, u) / config.clip_rms)
    return u * jnp.maximum(rms(declared, p), MIN_RMS) if config.multiply_by_rms else u

  def init(params):
    moments = each(lambda declared, p: means(declared, jnp.zeros_like(p)), declarations, params)
    return FactorsState(jnp.zeros([], jnp.int32), moments)

  def update(grads, state, params):
    count = optax.safe_increment(state.count)
    keep = 1 - count.astype(jnp.float32) ** -config.decay_rate
    new = each(lambda declared, g: means(declared, g * g + config.eps), declarations, grads)
    moments = jax.tree.map(lambda old, now: keep * old + (1 - keep) * now, state.moments, new)
    return each(scaled, declarations, grads, moments, params), FactorsState(count, moments)

  return optax.GradientTransformation(init, update)


def is_decayed(declared: Declaration, _) -> bool:
  return declared.kind != "vector"


def muon_or_adam(declared: Declaration, _) -> str:
  # Jordan et al. 2024: Muon is for hidden layers; those that touch the vocabulary, the classes or an image's channels
  # do better with AdamW.
  return "muon" if declared.kind == "matrix" and not {"V", "C"} & set(declared.letters) else "adam"


ADAM_RMS = 0.2  # what an AdamW update's usually is: Liu et al. 2025 (arXiv:2502.16982), section 2.2


def orthogonal(config: Muon, declarations: dict[str, Declaration]) -> optax.GradientTransformation:
  """Replaces each matrix by the nearest one with orthonormal rows or columns, times what makes its rms ADAM_RMS."""

  def replace(declared, x):
    size = ADAM_RMS * math.sqrt(max(sides(declared, x)))
    return size * newton_schulz(declared, x, config.iterations, config.eps)

  return optax.stateless(lambda updates, params: each(replace, declarations, updates))


# The quintic of Jordan et al. 2024: steep at 0, and in five rounds it brings singular values into about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz(declared: Declaration, x, iterations: int, eps: float):
  """The orthogonal factor of every layer's matrix in `x`, by `iterations` of X <- a X + (b A + c A A) X, A = X X^T.

  Sums and products are of x's dtype, and the backend's default precision multiplies float32 in bfloat16 on a TPU
  and in TF32 on a GPU: the speed the authors take from bfloat16 with none of its rounding in between.
  """
  # A layer is to Newton-Schulz what an example is to the model, so it takes the letter B: the layers spread over the
  # axes a batch spreads over, where their number divides, instead of every device doing all of them.
  letters = declared.letters.replace("L", "B")
  # A is square in the smaller side; of equal ones, in that which `tensor` does not cut.
  sizes = zip(sides(declared, x), (declared.ins, declared.outs))
  small = min(sizes, key=lambda side: (side[0], any(letter in FLOWING for letter in side[1])))[1]
  spare = [letter for letter in string.ascii_lowercase if letter not in letters]
  second, third = ("".join(spare[start : start + len(small)]) for start in (0, len(small)))
  apart = "".join(letter for letter in letters if letter not in declared.ins + declared.outs)
  twin = letters.translate(str.maketrans(small, second))
  gram, other, chained = apart + small + second, apart + small + third, apart + second + third

  def one_round(_, x):
    a, b, c = QUINTIC
    gram_x = einsum(f"{letters},{twin}->{gram}", x, x)
    # A is symmetric: its second factor may be read along its rows.
    polynomial = b * gram_x + c * einsum(f"{other},{chained}->{gram}", gram_x, gram_x)
    return a * x + einsum(f"{gram},{twin}->{letters}", polynomial, x)

  home = jax.typeof(x).sharding.spec
  x = flow(x, letters)
  norm = jnp.sqrt(jnp.sum(x * x, places(declared, declared.ins + declared.outs), keepdims=True))
  return go_home(jax.lax.fori_loop(0, iterations, one_round, x / (norm + eps)), letters, home)


def go_home(x, letters: str, home: jax.P):
  """`x`, which lies as FLOWING says, brought to `home`, where its weight rests."""
  # XLA swaps the axis of two dimensions by an all-to-all, but where it has to gather over another axis in the same
  # move it replicates the whole tensor. So layers that lie over `data` and `fsdp` give up `fsdp` first.
  if "B" in letters and jax.typeof(x).sharding.spec[letters.index("B")]:
    last = tuple(axis for axis in FLOWING["B"] if axis not in STORED.values())
    x = jax.reshard(x, jax.P(*(last if letter == "B" else axes for letter, axes in zip(letters, home))))
  return jax.reshard(x, home)
