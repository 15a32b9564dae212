"""LoRA: beside a matrix a product of two narrow ones (Hu et al. 2022, arXiv:2106.09685), and its kin."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from fmjax.adapt.method import FIXED, Added, Method, chosen
from fmjax.laws import at_least, fraction
from fmjax.models import adapters
from fmjax.sharding import Declaration

PARTS = ("a", "b", "m", FIXED)


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
  """W becomes W + scale a b. A target is a matrix's name, or a regular expression of its whole path."""

  name: Literal["lora"] = "lora"
  rank: int = 8
  alpha: float | None = None  # scale = alpha / rank; None: twice the rank
  targets: tuple[str, ...] = ("q", "v")
  dropout: float = 0.0  # of what goes into a
  rank_stabilised: bool = False  # scale = alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)
  dora: bool = False  # the magnitude of each output apart (Liu et al. 2024, arXiv:2402.09353)

  def laws(self):
    yield from at_least(self, 1, "rank")
    yield from fraction(self, "dropout")
    if self.alpha is not None and not self.alpha > 0:
      yield "alpha", self.alpha, "must be positive"
    if not self.targets:
      yield "targets", self.targets, "names no matrix"

  @property
  def scale(self) -> float:
    alpha = 2 * self.rank if self.alpha is None else self.alpha
    return alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

  def added(self, declarations, shapes, config):
    found = {}
    for path in chosen(self.targets, declarations):
      declared = declarations[path]
      sizes = dict(zip(declared.letters, shapes[path]))
      found |= {f"{path}_lora/{part}": one for part, one in self.pair(path, declared, sizes).items()}
    return found

  def pair(self, path: str, declared: Declaration, sizes: dict[str, int]) -> dict[str, Added]:
    """a as PEFT begins it (He et al. 2015 with a slope of sqrt 5), b at zero: the model is what it was."""
    layers = "L" if declared.letters.startswith("L") else ""
    rank = "RM"["R" in declared.letters]
    sizes = sizes | {rank: self.rank}
    bound = 1 / math.sqrt(math.prod(sizes[letter] for letter in declared.ins))

    def added(ins, outs, kind, make):
      letters = layers + ins + outs
      shape = tuple(sizes[letter] for letter in letters)
      return Added(Declaration(letters, ins, outs, kind), shape, lambda key, params, where: make(key, shape, where))

    def uniform(key, shape, where):
      return jax.random.uniform(key, shape, jnp.float32, -bound, bound, out_sharding=where)

    def zeros(key, shape, where):
      return jnp.zeros(shape, jnp.float32, out_sharding=where)

    numbers = (self.scale, self.dropout) if self.dropout else (self.scale,)
    layer = (sizes["L"],) if layers else ()
    fixed = Added(
      Declaration(layers + "C", "", "C", "vector"), (*layer, len(numbers)),
      lambda key, params, where: jnp.broadcast_to(jnp.array(numbers), (*layer, len(numbers)), out_sharding=where),
    )  # fmt: skip
    found = dict(a=added(declared.ins, rank, "matrix", uniform), b=added(rank, declared.outs, "matrix", zeros))
    if self.dora:
      found["m"] = self.magnitude(path, declared, layers, sizes)
    return found | {FIXED: fixed}

  def magnitude(self, path, declared, layers: str, sizes) -> Added:
    letters = layers + declared.outs
    places = tuple(declared.letters.index(letter) for letter in declared.ins)

    def make(key, params, where):
      return jax.reshard(jnp.sqrt(jnp.sum(jnp.square(params[path]), places)), where)

    shape = tuple(sizes[letter] for letter in letters)
    return Added(Declaration(letters, "", declared.outs, "vector"), shape, make)

  def merged(self, params, declarations):
    merged = {path: x for path, x in params.items() if path in declarations}
    for path in chosen(self.targets, declarations):
      w, a, b = params[path], *(params[f"{path}_lora/{part}"] for part in "ab")
      stacked = declarations[path].letters.startswith("L")
      product = (jax.vmap(adapters.product) if stacked else adapters.product)(a, b)
      w += jax.reshard(self.scale * product, jax.typeof(w).sharding.spec).astype(w.dtype)
      if self.dora:
        w = w * self.ratio(w, params[f"{path}_lora/m"], declarations[path])
      merged[path] = w
    return merged

  def ratio(self, w, m, declared):
    places = tuple(declared.letters.index(letter) for letter in declared.ins)
    norm = jnp.sqrt(jnp.sum(jnp.square(w), places))
    ratio = jax.reshard(m, jax.typeof(norm).sharding.spec) / norm
    return jnp.expand_dims(ratio, places)
