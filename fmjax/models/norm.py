"""Normalisation over one axis, in float32 whatever the computation's dtype."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.models.linear import Layer


class Norm(Layer):
  """Layer norm (Ba et al. 2016, arXiv:1607.06450) or root-mean-square norm (Zhang and Sennrich 2019, 1910.07467).

  `letter` names the last axis of the input, which is normed.
  """

  letter: str = "D"

  @nn.compact
  def __call__(self, x):
    config = self.config
    plus_one = config.norm == "rms_plus_one"
    scale = self.vector(
      "scale", self.letter, nn.initializers.zeros_init() if plus_one else nn.initializers.ones_init()
    )
    y = x.astype(jnp.float32)
    if config.norm == "layer":
      y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + config.norm_eps)
    y = y * jnp.expand_dims(scale + 1 if plus_one else scale, range(x.ndim - 1))
    if config.norm == "layer" and config.bias:
      bias = self.vector("bias", self.letter, nn.initializers.zeros_init())
      y = y + jnp.expand_dims(bias, range(x.ndim - 1))
    return y.astype(self.dtype)
