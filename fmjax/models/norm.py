"""Normalisation over the model's width, in float32 whatever the computation's dtype."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.models.linear import Layer


class Norm(Layer):
  """Layer norm (Ba et al. 2016, arXiv:1607.06450) or root-mean-square norm (Zhang and Sennrich 2019, 1910.07467)."""

  @nn.compact
  def __call__(self, x_BTD):
    config = self.config
    scale_D = self.vector("scale", "D", nn.initializers.ones_init())
    x = x_BTD.astype(jnp.float32)
    if config.norm == "layer":
      x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_eps)
    x = x * scale_D[None, None]
    if config.norm == "layer" and config.bias:
      x = x + self.vector("bias", "D", nn.initializers.zeros_init())[None, None]
    return x.astype(self.dtype)
