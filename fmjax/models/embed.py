"""Tokens, positions and types into the model's width."""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmjax.architecture import TransformerConfig
from fmjax.models import adapters
from fmjax.models.linear import Layer
from fmjax.models.norm import Norm
from fmjax.sharding import take


class Embed(Layer):
  """Token ids, their positions and their types (None: all of type 0) -> x_BTD.

  A decoder's table serves its encoder too: given as `table`, none is declared. Where a prompt is learnt, x has its
  rows before the tokens'.
  """

  @nn.compact
  def __call__(self, tokens_BT, positions_BT, types_BT=None, table=None):
    config = self.config
    width = "R" if config.R else "D"
    if table is None:
      table = self.embedding("tokens", "V" + width)
      if not config.tied:
        # Declared here, read by the heads: the output layer's own table.
        self.embedding("outputs", "V" + width)
    x = take(table.astype(self.dtype), tokens_BT, "V" + width, "BT" + width)
    if config.embedding_scale:
      x *= jnp.asarray(math.sqrt(config.D), self.dtype)
    if config.positions == "learned":
      positions = self.embedding("positions", "T" + width)
      x += take(positions.astype(self.dtype), positions_BT + config.first_position, "T" + width, "BT" + width)
    if config.positions == "sinusoidal":
      table_TD = jnp.asarray(sinusoids(config.max_positions, x.shape[-1]), self.dtype)
      x += take(table_TD, positions_BT, "T" + width, "BT" + width)
    if config.token_types:
      types = self.embedding("types", "C" + width, C=config.token_types)
      ids_BT = jnp.zeros_like(tokens_BT) if types_BT is None else types_BT
      x += take(types.astype(self.dtype), ids_BT, "C" + width, "BT" + width)
    x = adapters.prompted(self, x, "BT" + width)
    if config.embedding_norm:
      x = Norm(config, self.dtype, letter=width, name="norm")(x)
    if config.R:
      x = self.linear("project", "BTR,RD->BTD", x)
    return x


def sinusoids(positions: int, width: int):
  """The table of Vaswani et al. 2017, section 3.5, with all sines before all cosines."""
  angle = np.arange(positions)[:, None] / 10000 ** (np.arange(width // 2) / (width // 2))
  return np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)


def frequencies(config: TransformerConfig, local: bool = False):
  """Radians a position of each pair, float32 [H / 2]; `local` is a layer with a window.

  `rotary_scaling` is (factor, low, high, original): a frequency that turns less than `low` times in `original`
  positions is divided by `factor`, one that turns more than `high` times stays, those between go over smoothly
  (Llama 3.1, arXiv:2407.21783, section 3.4.2). An `original` of 0 divides all (Chen et al. 2023, arXiv:2306.15595).
  """
  base = config.rotary_local_base if local and config.rotary_local_base else config.rotary_base
  half = config.H // 2
  frequency = base ** (-np.arange(half) / half)
  if config.rotary_scaling and not (local and config.rotary_local_base):
    factor, low, high, original = config.rotary_scaling
    turns = original * frequency / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0, 1) if high > low else (turns > high) * 1.0
    frequency = frequency * (keep + (1 - keep) / factor)
  return frequency.astype(np.float32)


def rotate(x_BTNH, positions_BT, frequency_H):
  """Rotary positions (Su et al. 2021, arXiv:2104.09864) on halves, as Llama lays them out, in float32."""
  half = x_BTNH.shape[-1] // 2
  angle_BTNH = (positions_BT.astype(jnp.float32)[..., None] * frequency_H[None, None])[:, :, None]
  cos, sin = jnp.cos(angle_BTNH), jnp.sin(angle_BTNH)
  a, b = x_BTNH[..., :half].astype(jnp.float32), x_BTNH[..., half:].astype(jnp.float32)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BTNH.dtype)


def buckets(config: TransformerConfig, *, causal: bool):
  """The row of T5's bias table for each distance key - query in [-relative_distance, relative_distance].

  Half of the buckets hold one distance each, the rest grow with its logarithm; where a query sees both ways, each
  way has half of them (Raffel et al. 2020, section 2.1, as in their code).
  """
  count = config.relative_buckets if causal else config.relative_buckets // 2
  distance = np.arange(-config.relative_distance, config.relative_distance + 1)
  offset = 0 if causal else np.where(distance > 0, count, 0)
  distance = np.maximum(-distance, 0) if causal else np.abs(distance)
  exact = count // 2
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(config.relative_distance / exact)
  far = np.minimum(exact + (ratio * (count - exact)).astype(np.int32), count - 1)
  return (offset + np.where(distance < exact, distance, far)).astype(np.int32)
