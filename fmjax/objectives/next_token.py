"""Next-token prediction: the causal language model's objective, where asked with documents filled in the middle."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fmjax.objectives.objective import Packed, Windows, padded, shapes
from fmjax.objectives.token_loss import TokenLoss
from fmjax.objectives.vocabulary import Vocabulary

SENTINELS = ("fim_prefix", "fim_suffix", "fim_middle")  # as StarCoder calls them (Li et al. 2023, arXiv:2305.06161)


@dataclasses.dataclass(frozen=True)
class NextToken(TokenLoss):
  """A share `fim_rate` of the documents in a row comes as prefix, suffix, middle (Bavarian et al. 2022, 2207.14255).

  This is the paper's context-level variant: rows are cut first, and keep their length. Documents are cut in three at
  random tokens, where the paper takes random characters.
  """

  name: str = "next_token"
  fim_rate: float = 0.0
  spm_rate: float = 0.5  # share of these documents whose suffix comes first

  @property
  def scores_text(self) -> bool:
    return not self.fim_rate

  def laws(self):
    yield from super().laws()
    for name in ("fim_rate", "spm_rate"):
      if not 0 <= getattr(self, name) <= 1:
        yield name, getattr(self, name), "must lie in [0, 1]"

  def needs(self, length: int) -> tuple[str, ...]:
    return SENTINELS if self.fim_rate else ()

  def layout(self, length: int, packed: bool) -> Windows | Packed:
    return causal_rows(length, packed)

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, targets, weights, of a packed row also segments and positions, each [T]; padding is `end`."""
    if self.fim_rate:
      record = record | dict(tokens=self.permuted(record, rng, vocabulary))
    return causal_example(record, vocabulary.end, length)

  def permuted(self, record: dict, rng, vocabulary: Vocabulary) -> np.ndarray:
    """The row's tokens, with some of the documents, or what the row has of them, in another order."""
    tokens, sentinels = record["tokens"].copy(), [vocabulary[name] for name in SENTINELS]
    ends, pieces = np.flatnonzero(tokens == vocabulary.end), np.cumsum(record.get("pieces", [len(tokens)]))
    edges = np.unique(np.concatenate([[0], ends, ends + 1, pieces])).tolist()
    for low, high in zip(edges, edges[1:]):
      if high - low > len(SENTINELS) and rng.random() < self.fim_rate:
        tokens[low:high] = in_three(tokens[low:high], rng, sentinels, rng.random() < self.spm_rate)
    return tokens

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    return causal_shapes(batch_size, length, packed)

  def model_laws(self, model):
    return decoder_laws(model)


def decoder_laws(model):
  if model.kind != "decoder":
    yield "kind", model.kind, "tells each token from those before it: set model.kind=decoder"


def causal_rows(length: int, packed: bool) -> Windows | Packed:
  return Packed(length) if packed else Windows(length, before=1)


def places(record: dict) -> tuple[np.ndarray, np.ndarray]:
  """(its piece, its place in it) of each target of a row; a window is one piece."""
  sizes = np.maximum(np.asarray(record.get("pieces", [len(record["tokens"])])) - 1, 0)
  piece = np.repeat(np.arange(len(sizes)), sizes)
  return piece, np.arange(len(piece)) - (np.cumsum(sizes) - sizes)[piece]


def causal_example(record: dict, end: int, length: int, told: np.ndarray | None = None) -> dict:
  """tokens and the targets that follow them, padded with `end`; weights; of a packed row segments and positions.

  `told` weighs each of the record's tokens as a target; None: all the same.
  """
  tokens, (piece, place) = record["tokens"], places(record)
  at = np.arange(len(piece)) + piece  # a piece's first token is no target
  example = dict(
    tokens=padded(tokens[at], length, end),
    targets=padded(tokens[at + 1], length, end),
    weights=padded(np.ones(len(at)) if told is None else told[at + 1], length).astype(np.float32),
  )
  if "pieces" in record:
    example |= dict(segments=padded(piece + 1, length), positions=padded(place, length))
  return example


def causal_shapes(batch_size: int, length: int, packed: bool) -> dict:
  row = dict(tokens=jnp.int32, targets=jnp.int32, weights=jnp.float32)
  row |= dict(segments=jnp.int32, positions=jnp.int32) if packed else {}
  return shapes(row, batch_size, length)


def in_three(document: np.ndarray, rng: np.random.Generator, sentinels, suffix_first: bool) -> np.ndarray:
  """`document`, whose last three tokens make room, in three parts, each behind its sentinel, the middle last.

  The cuts are any two, so parts may be empty. With the suffix first its sentinel follows the prefix's at once, and
  the prefix stands before the middle: the paper's second variant, which it trains together with the other order.
  """
  document = document[: -len(SENTINELS)]
  low, high = np.sort(rng.integers(0, len(document), 2, endpoint=True))
  prefix, middle, suffix = document[:low], document[low:high], document[high:]
  of_prefix, of_suffix, of_middle = ([one] for one in sentinels)
  if suffix_first:
    return np.concatenate([of_prefix, of_suffix, suffix, of_middle, prefix, middle])
  return np.concatenate([of_prefix, prefix, of_suffix, suffix, of_middle, middle])
