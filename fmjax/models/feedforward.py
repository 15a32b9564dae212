"""The feed-forward half of a Block, plain or gated."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.models.linear import Layer

ACTIVATIONS = {
  # Hendrycks and Gimpel 2016, section 2; jax.nn.gelu's erfc takes twice as long on a CPU.
  "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5))),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
}


class FeedForward(Layer):
  @nn.compact
  def __call__(self, x_BTD):
    activation = ACTIVATIONS[self.config.activation]
    h_BTF = self.linear("up", "BTD,DF->BTF", x_BTD)
    if self.config.gated:
      h_BTF = activation(self.linear("gate", "BTD,DF->BTF", x_BTD)) * h_BTF
    else:
      h_BTF = activation(h_BTF)
    return self.linear("down", "BTF,FD->BTD", h_BTF, residual=True)
