"""Next-token prediction: the causal language model's objective."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.kernels.cross_entropy import Terms, cross_entropy
from fmjax.laws import Branch, fraction
from fmjax.models.heads import output_embedding


@dataclasses.dataclass(frozen=True)
class NextToken(Branch):
  name: str = "next_token"
  label_smoothing: float = 0.0
  z_loss: float = 0.0

  def laws(self):
    yield from fraction(self, "label_smoothing")
    if self.z_loss < 0:
      yield "z_loss", self.z_loss, "must not be negative"

  def transform(self, record: dict, rng: np.random.Generator) -> dict:
    """A window of T + 1 tokens, `length` of whose targets are real -> tokens, targets, weights, each [T]."""
    window = record["tokens"]
    weights = np.arange(len(window) - 1) < record["length"]
    return dict(tokens=window[:-1], targets=window[1:], weights=weights.astype(np.float32))

  def batch_shapes(self, batch_size: int, length: int) -> dict:
    """What a batch is, without data: name -> ShapeDtypeStruct."""
    types = dict(tokens=jnp.int32, targets=jnp.int32, weights=jnp.float32)
    return {name: jax.ShapeDtypeStruct((batch_size, length), dtype) for name, dtype in types.items()}

  def loss(self, model, params, batch: dict, key, train: bool):
    """(sum, weight, metrics): sums over tokens in nats; metrics are sums of the same weight."""
    hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
    states, bias_V = model.states(params, hidden_BTD)
    regularisers = (self.label_smoothing, self.z_loss) if train else (0.0, 0.0)
    terms = Terms(model.config.V, *regularisers, model.config.output_softcap)
    sums = cross_entropy(states, output_embedding(params), batch["targets"], batch["weights"], terms, bias_V)
    return sums.loss, jnp.sum(batch["weights"]), dict(loss=sums.nll, accuracy=sums.correct)
