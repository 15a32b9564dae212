"""How a parameter is born: declared once, by its einsum, with its initialiser, sharding and view as a matrix."""

import contextlib
import contextvars
import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from fmjax.architecture import TransformerConfig
from fmjax.kernels.linear import linear, turned
from fmjax.models import adapters
from fmjax.sharding import Declaration, flow, stored

TURNED = "_turned"  # after a matrix's name: its outputs come first, as a step of decoding on a CPU reads it best
EMBEDDING_STD = 0.02  # Radford et al. 2019 (GPT-2), as in their code

_declared: contextvars.ContextVar[dict | None] = contextvars.ContextVar("declared", default=None)


@contextlib.contextmanager
def declarations():
  """Collects {path: Declaration} of the parameters that are declared while it is open."""
  table: dict[str, Declaration] = {}
  token = _declared.set(table)
  try:
    yield table
  finally:
    _declared.reset(token)


class Layer(nn.Module):
  """A module that knows the model's config, the dtype it computes in, and whether it trains."""

  config: TransformerConfig
  dtype: Any = jnp.float32
  train: bool = False

  def size(self, letter: str) -> int:
    config = self.config
    if letter == "T":  # rows of the table of positions
      return config.max_positions + config.first_position
    return config.padded_V if letter == "V" else getattr(config, letter)

  def weight(self, name: str, ins: str, outs: str, letters: str, kind: str, initializer, **sizes):
    """The parameter `name`, at rest and in float32; `sizes` are those of letters that the config does not know."""
    shape = tuple(sizes.get(letter) or self.size(letter) for letter in letters)
    if (table := _declared.get()) is not None:
      table["/".join((*self.path, name))] = Declaration(letters, ins, outs, kind)
    return self.param(name, lambda key: initializer(key, shape, jnp.float32, out_sharding=stored(letters, shape)))

  def embedding(self, name: str, letters: str, **sizes):
    std = self.config.init_std or EMBEDDING_STD
    return self.weight(name, letters[0], letters[1:], letters, "embedding", nn.initializers.normal(std), **sizes)

  def vector(self, name: str, letters: str, initializer, **sizes):
    return flow(self.weight(name, "", letters, letters, "vector", initializer, **sizes), letters)

  def linear(self, name: str, equation: str, x, *, residual: bool = False, bias: bool | None = None, **sizes):
    """`einsum(equation, x, weight)` plus a bias, where `bias` (None: the config's) says so.

    The letters that the equation sums are the fan-in of the initialiser. `residual` marks a map whose result joins
    the residual stream: it starts smaller by 1 / sqrt(2 L) (Radford et al. 2019, section 2.3).
    """
    operands, output = equation.split("->")
    letters = operands.split(",")[1]
    ins = "".join(letter for letter in letters if letter not in output)
    outs = "".join(letter for letter in letters if letter in output)
    scale = adapters.beside(self, f"{name}_scale") or {}
    x = adapters.scaled(x, operands.split(",")[0], scale.get("ins"), ins)
    if self.has_variable("params", name + TURNED):
      w = self.get_variable("params", name + TURNED)
      y = turned(f"{operands.split(',')[0]},{outs + ins}->{output}", x, w.astype(self.dtype))
    else:
      std = self.config.init_std or 1 / math.sqrt(math.prod(self.size(letter) for letter in ins))
      std *= (2 * self.config.L) ** -0.5 if residual else 1
      w = self.weight(name, ins, outs, letters, "matrix", nn.initializers.normal(std), **sizes)
      w = adapters.mixed(self, name, w).astype(self.dtype)
      y = adapters.low_rank(self, name, equation, x, linear(equation, x, w), w)
    if self.config.bias if bias is None else bias:
      b = self.vector(f"{name}_bias", outs, nn.initializers.zeros_init(), **sizes)
      y += jnp.expand_dims(b.astype(self.dtype), range(len(output) - len(outs)))
    y = adapters.scaled(y, output, scale.get("outs"), outs)
    return adapters.bottleneck(self, name, y, output)

  def dropout_key(self):
    """A key where dropout is on, else None."""
    return self.make_rng("dropout") if self.train and self.config.dropout else None
