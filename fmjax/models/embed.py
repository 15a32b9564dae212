"""Tokens and positions into the model's width, and out of it again."""

import jax.numpy as jnp
from flax import linen as nn

from fmjax.models.linear import Layer
from fmjax.sharding import einsum, take


class Embed(Layer):
  """Token ids and their positions -> x_BTD."""

  @nn.compact
  def __call__(self, tokens_BT, positions_BT):
    e_VD = self.embedding("tokens", "VD")
    x_BTD = take(e_VD.astype(self.dtype), tokens_BT, "VD", "BTD")
    if self.config.positions == "learned":
      p_TD = self.embedding("positions", "TD")
      x_BTD += take(p_TD.astype(self.dtype), positions_BT, "TD", "BTD")
    if not self.config.tied:
      # Declared here, read by the heads: the output layer's own table.
      self.embedding("outputs", "VD")
    return x_BTD


def rotate(x_BTNH, positions_BT, base: float):
  """Rotary positions (Su et al. 2021, arXiv:2104.09864) on halves, as Llama lays them out, in float32."""
  half = x_BTNH.shape[-1] // 2
  frequency_H = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BTNH = (positions_BT.astype(jnp.float32)[..., None] * frequency_H[None, None])[:, :, None]
  cos, sin = jnp.cos(angle_BTNH), jnp.sin(angle_BTNH)
  a, b = x_BTNH[..., :half].astype(jnp.float32), x_BTNH[..., half:].astype(jnp.float32)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BTNH.dtype)


def output_embedding(params):
  """The table e_VD that turns hidden states into logits."""
  return params["embed"].get("outputs", params["embed"]["tokens"])


def logits(params, hidden_BTD, vocabulary: int):
  """z_BTV in float32; the ids that only pad V to its multiple get -inf."""
  z_BTV = einsum("BTD,VD->BTV", hidden_BTD, output_embedding(params).astype(hidden_BTD.dtype), accumulate=jnp.float32)
  real_V = jnp.arange(z_BTV.shape[-1]) < vocabulary
  return jnp.where(real_V[None, None], z_BTV, -jnp.inf)
