"""The feed-forward half of a Block, plain or gated."""

import functools

import jax
from flax import linen as nn

from fmjax.models.linear import Layer

ACTIVATIONS = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
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
