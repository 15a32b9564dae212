"""The feed-forward half of a Block, plain or gated."""

from flax import linen as nn

from fmjax.models.activations import ACTIVATIONS
from fmjax.models.linear import Layer


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
