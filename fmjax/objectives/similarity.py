"""Sentence embeddings whose cosine tells how near two texts are: SBERT's regression.

Reimers and Gurevych 2019, arXiv:1908.10084, section 3; in sentence-transformers the loss is CosineSimilarityLoss.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.objectives import labelled
from fmjax.objectives.classification import NumberEncoder, range_laws
from fmjax.objectives.contrastive import OTHER, embedded
from fmjax.objectives.objective import Examples, Objective, shapes
from fmjax.objectives.vocabulary import Vocabulary

PREFIXES = ("", "other_")  # of the names of the two texts in a batch


@dataclasses.dataclass(frozen=True)
class ScoreEncoder(NumberEncoder):
  """The tokens of two texts and their score; each text has a row of its own."""

  pair: bool = True

  columns = fields = "text", "other", "score"

  def encode(self, records, tokenizer):
    scores = [self.told(record[-1], number) for number, record in enumerate(records)]
    every = labelled.encoded(records, self.texts_read, tokenizer)
    return [[(*texts, score)] for texts, score in zip(every, scores)]


@dataclasses.dataclass(frozen=True)
class Similarity(Objective):
  """The squared error of the cosine of two texts' embeddings, with scores from `low` to `high` brought to 0 to 1.

  Records: text, other, score.
  """

  name: str = "similarity"
  low: float = 0.0
  high: float = 1.0
  pooling: Literal["first", "mean"] = "mean"  # the first token, through model.pooler where there is one; all tokens

  shortest = 3
  task = "base"
  shows = "text", "other"
  judged_by = "spearman", "pearson"

  def laws(self):
    yield from range_laws(self)

  def needs(self, length: int) -> tuple[str, ...]:
    return labelled.row_needs()

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(ScoreEncoder(low=self.low, high=self.high))

  def extent(self, sizes: dict[str, int]) -> int:
    return max(labelled.row_extent([sizes[name]]) for name in ("text", "other"))

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, other_tokens, other_segments [T]; labels [], 0 to 1; weights []."""
    real, example = len(record["score"]) > 0, {}
    for prefix, name in zip(PREFIXES, ("text", "other")):
      row = labelled.joined([record[name]], vocabulary, length) if real else labelled.NOTHING
      made = labelled.row_example(*row, vocabulary, length)
      example |= {prefix + key: made[key] for key in ("tokens", "segments")}
    score = (labelled.float_of(record["score"]) - self.low) / (self.high - self.low) if real else 0
    return example | dict(labels=np.array(score, np.float32), weights=np.float32(real))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    names = [f"{prefix}{name}" for prefix in PREFIXES for name in ("tokens", "segments")]
    told = shapes(dict(labels=jnp.float32, weights=jnp.float32), batch_size)
    return shapes(dict.fromkeys(names, jnp.int32), batch_size, length) | told

  def model_laws(self, model):
    yield from labelled.encoder_laws(model)
    if self.pooling == "first" and model.pool != "first":
      yield "pool", model.pool, "takes the first token: set model.pool=first, or objective.pooling=mean"

  def scores(self, model, params, batch: dict, key=None, train: bool = False):
    """The cosines of the pairs, [B]."""
    keys = key, None if key is None else jax.random.fold_in(key, OTHER)
    own_BD, other_BD = (
      embedded(model, params, batch[f"{prefix}tokens"], batch[f"{prefix}segments"], one, train, self.pooling)
      for prefix, one in zip(PREFIXES, keys)
    )
    return jnp.sum(own_BD * other_BD, 1)

  def loss(self, model, params, batch: dict, key, train: bool):
    """Sums over pairs."""
    weights_B = batch["weights"]
    square_B = jnp.square(self.scores(model, params, batch, key, train) - batch["labels"])
    loss = jnp.sum(weights_B * square_B)
    return loss, jnp.sum(weights_B), dict(loss=loss)

  def predict(self, model, params, batch: dict) -> dict:
    return dict(cosine=self.scores(model, params, batch))

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """Scores as the data has them."""
    return [
      dict(
        predicted=self.low + float(cosine) * (self.high - self.low),
        expected=float(labelled.float_of(record["score"])),
      )
      for record, cosine in zip(records, predicted["cosine"])
    ]
