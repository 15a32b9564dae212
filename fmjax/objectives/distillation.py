"""To say what a teacher says: a trained model's scores beside the targets of an objective, for a student to learn.

Scores as in Hinton et al. 2015 (arXiv:1503.02531) and in DistilBERT (Sanh et al. 2019, arXiv:1910.01108), hidden
states as in TinyBERT (Jiao et al. 2020, arXiv:1909.10351), attention as in MiniLM (Wang et al. 2020,
arXiv:2002.10957). Kernels keep no probabilities: those of the last layer are computed once more.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmjax.kernels.cross_entropy import CHUNK_BYTES
from fmjax.kernels.linear import ways
from fmjax.laws import Branch, at_least
from fmjax.models import Model
from fmjax.objectives.classification import OfTexts
from fmjax.objectives.labelled import each
from fmjax.objectives.objective import Objective
from fmjax.sharding import Declaration, einsum, flow, flowing, stored

TEACHER, PROJECTION = "teacher", "projection"  # of the names of parameters
BESIDE = 1 << 20  # the key of the projection, apart from the numbers of the keys that a Model makes


@dataclasses.dataclass(frozen=True)
class Distillation(Branch):
  """A share `weight` of the loss is T^2 KL(teacher || student) at the temperature T, the rest the objective's own.

  The factor keeps the gradient's size whatever T is (Hinton et al. 2015, section 2). Scores are compared where the
  objective weighs them; where it tells a number, not classes, by their squared difference. Added are `hidden_weight`
  times the mean squared difference of hidden states, and `attention_weight` times KL(teacher || student) of where a
  token of the last layer looks, the mean over tokens and heads.
  """

  teacher: str | None = None  # a SPEC; None: there is none, and the fields below say nothing
  temperature: float = 2.0  # Sanh et al. 2019, as in their code
  weight: float = 0.5  # 0: the teacher is only compared with
  hidden_weight: float = 0.0
  attention_weight: float = 0.0

  def laws(self):
    yield from at_least(self, 0, "hidden_weight", "attention_weight")
    if not self.temperature > 0:
      yield "temperature", self.temperature, "must be positive"
    if not 0 <= self.weight <= 1:
      yield "weight", self.weight, "must lie in [0, 1]"

  def objective_laws(self, objective: Objective, model):
    """Yields (field, value, law) for each law that these break together with what the student is and learns."""
    if self.teacher is None:
      return
    if type(objective).loss_from is Objective.loss_from:
      yield "teacher", self.teacher, f"objective {objective.name!r} has no scores that a teacher's are set beside"
    if isinstance(objective, OfTexts) and objective.r_drop:
      yield "teacher", self.teacher, f"is not for two passes: set objective.r_drop=0, not {objective.r_drop}"
    for name in ("hidden_weight", "attention_weight"):
      if getattr(self, name) and model.kind == "encoder_decoder":
        yield name, getattr(self, name), "is for one stack of layers, not for an encoder_decoder: set it to 0"
    if self.attention_weight and model.positions == "relative":
      yield "attention_weight", self.attention_weight, "leaves out biases, and model.positions=relative has them"


@dataclasses.dataclass(frozen=True)
class Taught(Model):
  """The student, whose parameters and methods are a Model's of `config`, and under "teacher" all of its teacher.

  The teacher rests. Where hidden states of two widths are compared, "projection" [D, C] brings the student's to the
  teacher's width.
  """

  teacher: Any = None  # a Model
  projects: bool = False

  resting = (f"{TEACHER}/",)

  def init(self, key):
    found = super().init(key) | {TEACHER: self.teacher.init(key)}
    if self.projects:
      shape = self.config.D, self.teacher.config.D
      own, where = jax.random.fold_in(key, BESIDE), stored("DC", shape)
      found[PROJECTION] = jax.random.normal(own, shape, jnp.float32, out_sharding=where) / math.sqrt(shape[0])
    return found

  def declarations(self) -> dict:
    found = super().declarations()
    found |= {f"{TEACHER}/{path}": one for path, one in self.teacher.declarations().items()}
    return found | ({PROJECTION: Declaration("DC", "D", "C", "matrix")} if self.projects else {})

  def alone(self, params):
    """(the student, its parameters)."""
    own = {name: value for name, value in params.items() if name not in (TEACHER, PROJECTION)}
    return Model(self.config, self.dtype, self.remat), own


class Side(NamedTuple):
  """One of two models, and the states that its last layer gave."""

  model: Model
  params: Any
  hidden_BTD: Any


@dataclasses.dataclass(frozen=True)
class Distilled:
  """The loss of `objective` for a Taught model, which learns from its teacher as `how` says."""

  objective: Objective
  how: Distillation

  def loss(self, model: Taught, params, batch: dict, key, train: bool):
    """As an objective's. Among the metrics `distillation`, `hidden` and `attention` tell the two models apart."""
    how = self.how
    hiddens = bool(how.hidden_weight or how.attention_weight)
    own = model.apply(params, batch, key=key, train=train, hiddens=hiddens)
    total, weight, metrics = self.objective.loss_from(model, params, own.hidden, batch, train, key)
    known = jax.lax.stop_gradient(params[TEACHER])
    theirs = model.teacher.apply(known, batch, hiddens=hiddens)
    pair = Side(model, params, own.hidden), Side(model.teacher, known, theirs.hidden)
    apart = self.of_scores(*pair, batch, key if train else None)
    total, metrics = (1 - how.weight) * total + how.weight * apart, dict(metrics, distillation=apart)
    if how.attention_weight:
      gazes = model.gaze(params, own.hiddens, batch), model.teacher.gaze(known, theirs.hiddens, batch)
      apart = of_gazes(*gazes, batch)
      total, metrics = total + how.attention_weight * apart, dict(metrics, attention=apart)
    if how.hidden_weight:
      apart = of_states(own.hiddens, theirs.hiddens, batch, params.get(PROJECTION))
      total, metrics = total + how.hidden_weight * apart, dict(metrics, hidden=apart)
    return total, weight, metrics

  def of_scores(self, own: Side, theirs: Side, batch: dict, key=None):
    """The sum of what tells scores apart, each place with its weight in the batch; `key` is the student's."""
    if self.objective.task not in ("sequence", "token"):
      own, theirs = (
        side._replace(hidden_BTD=self.objective.answering(side.hidden_BTD, batch)) for side in (own, theirs)
      )
      return over_vocabulary(own, theirs, batch["weights"], self.how.temperature)
    z = own.model.classify(own.params, own.hidden_BTD, batch, key)
    their_z = theirs.model.classify(theirs.params, theirs.hidden_BTD, batch)
    weights = batch["weights"] if z.ndim == 3 else each(batch["weights"])
    return jnp.sum(weights * divergence(z, their_z, self.how.temperature))


def divergence(z, their_z, temperature: float):
  """T^2 KL(teacher || student) of scores, in nats over their last axis; of one number the squared difference.

  A score of -inf counts as nothing.
  """
  z, their_z = z.astype(jnp.float32), their_z.astype(jnp.float32)
  if z.shape[-1] == 1:
    return jnp.square(z - their_z)[..., 0]
  logp, their_logp = jax.nn.log_softmax(z / temperature), jax.nn.log_softmax(their_z / temperature)
  terms = jnp.where(jnp.isfinite(their_logp), jnp.exp(their_logp) * (their_logp - logp), 0.0)
  return temperature**2 * jnp.sum(terms, -1)


def over_vocabulary(own: Side, theirs: Side, weights_BT, temperature: float, chunk_bytes: int = CHUNK_BYTES):
  """The sum of `divergence` over places, in parts of T, so that never all logits are held."""

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def part(total, cut):
    *hiddens, weights_BT = cut
    z, their_z = (side.model.logits(side.params, hidden) for side, hidden in zip((own, theirs), hiddens))
    return total + jnp.sum(flow(weights_BT, "BT") * divergence(z, their_z, temperature)), None

  (B, T), V = weights_BT.shape, own.model.config.padded_V
  held = 4 * B * T * V / math.prod(map(ways, flowing("BTV", (B, T, V))))
  parts = min(T, math.ceil(held / chunk_bytes))
  cut = own.hidden_BTD, theirs.hidden_BTD, weights_BT
  if parts == 1:
    return part(jnp.zeros(()), cut)[0]
  return jax.lax.scan(part, jnp.zeros(()), jax.tree.map(lambda x: cut_along_T(x, parts), cut))[0]


def cut_along_T(x, parts: int):
  """[parts, B, T / parts, ...] of x [B, T, ...], with zeros where T does not divide."""
  x = flow(x, "BCD"[: x.ndim])  # whole along T
  B, T, *rest = x.shape
  size = -(-T // parts)
  x = jnp.pad(x, [(0, 0), (0, parts * size - T), *((0, 0) for _ in rest)])
  axes = jax.typeof(x).sharding.spec
  x = jnp.reshape(x, (B, parts, size, *rest), out_sharding=jax.P(axes[0], None, *axes[1:]))
  return jnp.moveaxis(x, 1, 0)


def of_states(own_LBTD, theirs_LBTC, batch: dict, projection_DC=None):
  """The sum over rows of the mean squared difference of hidden states, each row as often as the objective weighs it.

  The mean is over a row's tokens, layers and width: both go into the first layer, and the student's layer n of L
  meets the teacher's that is as far on (Jiao et al. 2020, equation 8, with their uniform mapping of layers).
  """
  if projection_DC is not None:
    own_LBTD = einsum("LBTD,DC->LBTC", own_LBTD, projection_DC.astype(own_LBTD.dtype))
  theirs_LBTC = jnp.stack([theirs_LBTC[n] for n in evenly(len(own_LBTD) - 1, len(theirs_LBTC) - 1)])
  own, theirs = (flow(x, "LBTC").astype(jnp.float32) for x in (own_LBTD, theirs_LBTC))
  return over_rows(jnp.mean(jnp.square(own - theirs), (0, 3)), batch)


def of_gazes(own_BNTS, theirs_BNTS, batch: dict):
  """The sum over rows of KL(teacher || student) of log probabilities, in nats, the mean over heads and tokens.

  Wang et al. 2020, equation 4.
  """
  terms_BT = jnp.mean(jnp.sum(jnp.exp(theirs_BNTS) * (theirs_BNTS - own_BNTS), -1), 1)
  return over_rows(flow(terms_BT, "BT"), batch)


def over_rows(terms_BT, batch: dict):
  """The sum over rows of the mean of their tokens' terms, each row as often as the objective weighs it."""
  real_BT, weights = flow(read(batch), "BT").astype(jnp.float32), batch["weights"]
  mean_B = jnp.sum(real_BT * terms_BT, 1) / jnp.maximum(jnp.sum(real_BT, 1), 1)
  return jnp.sum(jnp.sum(weights, range(1, weights.ndim)) * mean_B)


def evenly(layers: int, of: int) -> list[int]:
  """For what goes into the first of `layers` and comes out of each, its place among those of a stack of `of`."""
  return [n * of // layers for n in range(layers + 1)]


def read(batch: dict):
  """Bool [B, T]: the tokens that are not padding; without segments, those up to the last that is weighed."""
  if "segments" in batch:
    return batch["segments"] != 0
  places_BT = jax.lax.broadcasted_iota(jnp.int32, batch["weights"].shape, 1)
  last_B = jnp.max(jnp.where(batch["weights"] > 0, places_BT, -1), 1)
  return places_BT <= last_B[:, None]
