"""Contrastive learning of text embeddings, with the batch's other texts as negatives.

SimCSE (Gao, Yao and Chen 2021, arXiv:2104.08821): the defaults, with model.pooler=tanh for its training's MLP
E5 (Wang et al. 2022, arXiv:2212.03533): unsupervised=False, temperature=0.01, pooling="mean"
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.objectives.labelled import encoder_laws
from fmjax.objectives.objective import Documents, Objective, padded, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import einsum, flow, flowing

OTHER = 1 << 20  # the key of the second view, apart from the numbers of the keys that a Model makes
MASKED = -1e30  # a logit that takes no part; finite, so that a batch of empty rows stays finite


@dataclasses.dataclass(frozen=True)
class Contrastive(Objective):
  """Which of the batch's second texts is a text's own? Both go through the same encoder.

  Unsupervised, the two are one text under two dropout masks; else a document's `source` and `target`. The negatives
  are all other pairs of the batch, whatever devices they lie on, so that the loss depends on the batch: each part of
  train.accumulate has its own rows alone for negatives, batch_size / accumulate of them.
  """

  name: str = "contrastive"
  unsupervised: bool = True
  temperature: float = 0.05  # of the cosines
  pooling: Literal["first", "mean"] = "first"  # the first token, through model.pooler where there is one; all tokens

  shortest = 3

  def laws(self):
    if not self.temperature > 0:
      yield "temperature", self.temperature, "must be positive"

  @property
  def fields(self) -> tuple[str, ...]:
    return ("text",) if self.unsupervised else ("source", "target")

  def needs(self, length: int) -> tuple[str, ...]:
    return "cls", "sep", "pad"

  def layout(self, length: int, packed: bool) -> Documents:
    return Documents(tuple((field, length - 2) for field in self.fields))

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments [T] of [CLS] text [SEP]; of a pair also other_tokens, other_segments.

    Where one of a pair is empty, both rows are.
    """
    texts = [record[field] for field in self.fields]
    example = {}
    for prefix, text in zip(("", "other_"), texts):
      row = [vocabulary["cls"], *text, vocabulary["sep"]] if all(map(len, texts)) else []
      example[f"{prefix}tokens"] = padded(row, length, vocabulary["pad"])
      example[f"{prefix}segments"] = (np.arange(length) < len(row)).astype(np.int32)
    return example

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    names = [f"{prefix}{name}" for prefix in ("", "other_")[: len(self.fields)] for name in ("tokens", "segments")]
    return shapes(dict.fromkeys(names, jnp.int32), batch_size, length)

  def model_laws(self, model):
    yield from encoder_laws(model)
    if self.pooling == "first" and model.pool != "first":
      yield "pool", model.pool, "takes the first token: set model.pool=first, or objective.pooling=mean"
    if self.unsupervised and not model.dropout:
      yield "dropout", model.dropout, "tells two dropout masks apart: set model.dropout, to 0.1 as BERT's"

  def loss(self, model, params, batch: dict, key, train: bool):
    """The cross-entropy of each row's own pair among all of the batch, in nats a row; empty rows take no part.

    Also the `accuracy` that it is the nearest, and what Wang and Isola 2020 (arXiv:2005.10242) tell embeddings by:
    `alignment`, the squared distance of a pair, and the Gaussian `potential` of different rows, whose logarithm is
    their uniformity. Evaluated without dropout, both views of an unsupervised text are the same.
    """
    own_BD, other_BD = self.views(model, params, batch, key, train)
    real_B = jnp.any(batch["segments"] != 0, axis=1)
    cosine_BS = einsum("BD,SD->BS", own_BD, other_BD, precision=jax.lax.Precision.HIGHEST)
    row_BS, column_BS = (
      jax.lax.broadcasted_iota(jnp.int32, cosine_BS.shape, axis, out_sharding=flowing("BS", cosine_BS.shape))
      for axis in (0, 1)
    )
    real_S = flow(real_B, "S")
    z_BS = jnp.where(real_S[None], cosine_BS / self.temperature, MASKED)
    is_own_BS = row_BS == column_BS
    nll_B = jax.nn.logsumexp(z_BS, 1) - jnp.sum(jnp.where(is_own_BS, z_BS, 0.0), 1)
    is_nearest_B = jnp.argmax(z_BS, 1) == row_BS[:, 0]
    others_BS = real_B[:, None] & real_S[None] & ~is_own_BS

    def over_rows(x_B):
      return jnp.sum(jnp.where(real_B, x_B, 0.0))

    weight = jnp.sum(real_B.astype(jnp.float32))
    potential = jnp.sum(jnp.where(others_BS, jnp.exp(4 * cosine_BS - 4), 0.0))  # e^(-2 d^2), d^2 = 2 - 2 cosine
    metrics = dict(
      loss=over_rows(nll_B),
      accuracy=over_rows(is_nearest_B.astype(jnp.float32)),
      alignment=over_rows(jnp.sum(jnp.square(own_BD - other_BD), 1)),
      potential=(potential, weight * (weight - 1)),
    )
    return metrics["loss"], weight, metrics

  def views(self, model, params, batch: dict, key, train: bool):
    """Both texts' embeddings [B, D]."""
    own_BD = embedded(model, params, batch["tokens"], batch["segments"], key, train, self.pooling)
    prefix = "" if self.unsupervised else "other_"
    if self.unsupervised and (key is None or not train):
      return own_BD, own_BD
    key = None if key is None else jax.random.fold_in(key, OTHER)
    tokens_BT, segments_BT = batch[f"{prefix}tokens"], batch[f"{prefix}segments"]
    return own_BD, embedded(model, params, tokens_BT, segments_BT, key, train, self.pooling)


def embedded(model, params, tokens_BT, segments_BT, key, train: bool, pooling: Literal["first", "mean"]):
  """e_BD of length 1, in float32: the first token, through model.pooler where there is one, or the mean of all."""
  batch = dict(tokens=tokens_BT, segments=segments_BT)
  hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
  if pooling == "first":
    x_BD = model.pooled(params, hidden_BTD, batch).astype(jnp.float32)
  else:  # the sum, which points where the mean does
    x_BD = einsum("BTD,BT->BD", hidden_BTD, (segments_BT != 0).astype(hidden_BTD.dtype), accumulate=jnp.float32)
  return x_BD * jax.lax.rsqrt(jnp.sum(jnp.square(x_BD), 1, keepdims=True) + 1e-12)
