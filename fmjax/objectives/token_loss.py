"""The loss of all objectives that tell a text token by token: cross-entropy over the vocabulary."""

import dataclasses

import jax.numpy as jnp

from fmjax.kernels.cross_entropy import Terms, cross_entropy
from fmjax.laws import at_least, fraction
from fmjax.models.heads import output_embedding
from fmjax.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class TokenLoss(Objective):
  """Of `targets` [B, T], each with its weight in `weights`, from the states at `tokens`."""

  label_smoothing: float = 0.0
  z_loss: float = 0.0

  def laws(self):
    yield from fraction(self, "label_smoothing")
    yield from at_least(self, 0, "z_loss")

  def loss(self, model, params, batch: dict, key, train: bool):
    """(sum, weight, metrics): sums over tokens in nats; metrics are sums of the same weight."""
    return self.loss_from(model, params, model.apply(params, batch, key=key, train=train).hidden, batch, train)

  def loss_from(self, model, params, hidden_BTD, batch: dict, train: bool, key=None):
    states, bias_V = model.states(params, hidden_BTD)
    regularisers = (self.label_smoothing, self.z_loss) if train else (0.0, 0.0)
    terms = Terms(model.config.V, *regularisers, model.config.output_softcap)
    sums = cross_entropy(states, output_embedding(params), batch["targets"], batch["weights"], terms, bias_V)
    return sums.loss, jnp.sum(batch["weights"]), dict(loss=sums.nll, accuracy=sums.correct)
