"""From one text to another: the objective of translation and summarisation, and of all pairs that are made of one."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fmjax.laws import at_least
from fmjax.objectives.objective import Documents, padded, shapes
from fmjax.objectives.token_loss import TokenLoss
from fmjax.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Pairs(TokenLoss):
  """Objectives for an encoder_decoder: it reads a source, and tells its target."""

  def sizes(self, length: int) -> tuple[int, int]:
    """(tokens of a source, of a target), each with its `end`."""
    raise TypeError(f"{type(self).__name__} does not say how long its texts are")

  def pair(self, source: np.ndarray, target: np.ndarray, vocabulary: Vocabulary, length: int) -> dict:
    """source_tokens, source_segments [S]; tokens, targets, weights [T], of a source and a target without `end`.

    Both are closed by `end`, and cut where they leave it no room; the decoder starts with `pad`, as T5's and
    Marian's do. Where both are empty the weights are 0, but the source still has its `end`: queries need a key.
    """
    S, T = self.sizes(length)
    pad, weight = vocabulary["pad"], np.float32(len(source) + len(target) > 0)
    source, target = (np.append(text[: size - 1], vocabulary.end) for text, size in ((source, S), (target, T)))
    return dict(
      source_tokens=padded(source, S, pad),
      source_segments=(np.arange(S) < len(source)).astype(np.int32),
      tokens=padded(np.append(pad, target[:-1]), T, pad),
      targets=padded(target, T, pad),
      weights=weight * (np.arange(T) < len(target)),
    )

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    S, T = self.sizes(length)
    source = shapes(dict(source_tokens=jnp.int32, source_segments=jnp.int32), batch_size, S)
    return source | shapes(dict(tokens=jnp.int32, targets=jnp.int32, weights=jnp.float32), batch_size, T)

  def model_laws(self, model):
    if model.kind != "encoder_decoder":
      yield "kind", model.kind, "reads a source and tells a target: set model.kind=encoder_decoder"


@dataclasses.dataclass(frozen=True)
class SequenceToSequence(Pairs):
  """Sutskever et al. 2014, arXiv:1409.3215; label smoothing is 0.1 in Vaswani et al. 2017, arXiv:1706.03762."""

  name: str = "seq2seq"
  source_length: int | None = None  # tokens of a source; None: data.sequence_length, as a target has

  shortest = 2

  def laws(self):
    yield from super().laws()
    yield from at_least(self, 1, "source_length")

  def needs(self, length: int) -> tuple[str, ...]:
    return ("pad",)

  def sizes(self, length: int) -> tuple[int, int]:
    return self.source_length or length, length

  def layout(self, length: int, packed: bool) -> Documents:
    S, T = self.sizes(length)
    return Documents((("source", S), ("target", T)))

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    return self.pair(record["source"], record["target"], vocabulary, length)

  def model_laws(self, model):
    yield from super().model_laws(model)
    if model.has_table and (self.source_length or 0) > (model.max_positions or float("inf")):
      yield "max_positions", model.max_positions, f"reads more: objective.source_length={self.source_length}"
