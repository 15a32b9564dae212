"""Small parameters between the layers' own: bottlenecks, scales, and embeddings, keys and values of no text."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from fmjax.adapt.method import Added, Method, chosen
from fmjax.laws import at_least
from fmjax.models.linear import EMBEDDING_STD
from fmjax.sharding import Declaration


def stacked(declared: Declaration) -> str:
  return "L" if declared.letters.startswith("L") else ""


def new(
  letters: str, kind: str, sizes: dict[str, int], fill: float | None, ins: str = "", std: float = 0.02
) -> Added:
  """A parameter that begins as `fill`, or None: normal."""
  shape = tuple(sizes[letter] for letter in letters)
  own = letters.removeprefix("L")

  def make(key, params, where):
    if fill is None:
      return EMBEDDING_STD * jax.random.normal(key, shape, jnp.float32, out_sharding=where)
    return jnp.full(shape, fill, jnp.float32, out_sharding=where)

  return Added(Declaration(letters, ins, own.removeprefix(ins), kind), shape, make)


@dataclasses.dataclass(frozen=True)
class Bottleneck(Method):
  """A narrow layer behind each half of a Block, whose norms train too (Houlsby et al. 2019, arXiv:1902.00751).

  Pfeiffer et al. 2021 (arXiv:2005.00247): after=("down",), norms=False. It begins as the identity.
  """

  name: Literal["bottleneck"] = "bottleneck"
  width: int = 64
  after: tuple[Literal["o", "down"], ...] = ("o", "down")
  norms: bool = True

  def laws(self):
    yield from at_least(self, 1, "width")
    if not self.after:
      yield "after", self.after, "names no place"

  def trains(self, path, declared):
    return self.norms and path.rpartition("/")[0].endswith("norm") and path.startswith(("blocks/", "encoder/blocks/"))

  def added(self, declarations, shapes, config):
    found = {}
    for path in chosen(self.after, declarations):
      layers = stacked(declarations[path])
      sizes = dict(zip(declarations[path].letters, shapes[path])) | dict(R=self.width)
      found |= {
        f"{path}_bottleneck/down": new(layers + "DR", "matrix", sizes, None, ins="D"),
        f"{path}_bottleneck/down_bias": new(layers + "R", "vector", sizes, 0.0),
        f"{path}_bottleneck/up": new(layers + "RD", "matrix", sizes, 0.0, ins="R"),
        f"{path}_bottleneck/up_bias": new(layers + "D", "vector", sizes, 0.0),
      }
    return found

  def merged(self, params, declarations):
    return None


@dataclasses.dataclass(frozen=True)
class IA3(Method):
  """Scales of keys, values and the feed-forward's hidden (Liu et al. 2022, arXiv:2205.05638, section 3.3)."""

  name: Literal["ia3"] = "ia3"
  outs: tuple[str, ...] = ("k", "v")  # maps whose outputs are scaled
  ins: tuple[str, ...] = ("down",)  # maps whose inputs are

  def laws(self):
    if not self.outs and not self.ins:
      yield "outs", self.outs, "names no matrix, and so does adapt.ins"

  def added(self, declarations, shapes, config):
    found = {}
    for side in ("ins", "outs"):
      for path in chosen(getattr(self, side), declarations):
        declared = declarations[path]
        sizes = dict(zip(declared.letters, shapes[path]))
        found[f"{path}_scale/{side}"] = new(stacked(declared) + getattr(declared, side), "vector", sizes, 1.0)
    return found

  def merged(self, params, declarations):
    merged = {path: x for path, x in params.items() if path in declarations}
    for path, declared in declarations.items():
      for side in ("ins", "outs"):
        scale = params.get(f"{path}_scale/{side}")
        if scale is None:
          continue
        w, other = merged[path], declared.outs if side == "ins" else declared.ins
        wide = jnp.expand_dims(scale, tuple(declared.letters.index(letter) for letter in other))
        merged[path] = w * jax.reshard(wide, jax.P())
        if side == "outs" and f"{path}_bias" in merged:
          merged[f"{path}_bias"] *= scale
    return merged


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
  """Embeddings that are learnt and stand before each text, as if tokens (Lester et al. 2021, arXiv:2104.08691).

  They begin as those of random tokens (section 3.2), have no position and no type, and are left out of what the stack
  gives: nothing is told of them, and a decoder does not look back at them, but only at the text.
  """

  name: Literal["prompt"] = "prompt"
  length: int = 16

  def laws(self):
    yield from at_least(self, 1, "length")

  def model_laws(self, model):
    if model.kind == "decoder":
      yield "name", self.name, "is for text that is read both ways, not for model.kind=decoder: set adapt.name=prefix"

  def added(self, declarations, shapes, config):
    stack = "encoder/" if any(path.startswith("encoder/") for path in declarations) else ""
    _, width = declarations["embed/tokens"].letters
    shape = (self.length, shapes["embed/tokens"][1])

    def make(key, params, where):
      return params["embed/tokens"].at[jax.random.randint(key, (self.length,), 0, config.V)].get(out_sharding=where)

    return {f"{stack}embed/prompt/rows": Added(Declaration("P" + width, "P", width, "embedding"), shape, make)}

  def merged(self, params, declarations):
    return None


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
  """Keys and values that every query of a layer sees before the text's (Li and Liang 2021, arXiv:2101.00190)."""

  name: Literal["prefix"] = "prefix"
  length: int = 16

  def laws(self):
    yield from at_least(self, 1, "length")

  def added(self, declarations, shapes, config):
    found = {}
    for path in chosen((r"(encoder/)?blocks/attention/k",), declarations):
      layers, module = stacked(declarations[path]), path.rpartition("/")[0]
      sizes = dict(zip(declarations[path].letters, shapes[path])) | dict(P=self.length)
      found |= {f"{module}/prefix/{part}": new(layers + "PKH", "embedding", sizes, None) for part in "kv"}
    return found

  def merged(self, params, declarations):
    return None
