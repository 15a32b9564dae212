"""From one text to another: the objective of translation and summarisation, and of all pairs that are made of one."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from fmjax.laws import at_least
from fmjax.objectives import labelled
from fmjax.objectives.objective import Encoder, Examples, padded, shapes
from fmjax.objectives.token_loss import TokenLoss
from fmjax.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Pairs(TokenLoss):
  """Objectives for an encoder_decoder: it reads a source, and tells its target.

  Where `framing` is "t5" a decoder starts from `pad`, as Marian's does too; where it is "bart" it starts from `end`,
  and each text begins with `bos` (Lewis et al. 2019, arXiv:1910.13461, as in their code).
  """

  framing = "t5"

  def start(self, vocabulary: Vocabulary) -> int:
    """The token that the decoder starts from."""
    return vocabulary.end if self.framing == "bart" else vocabulary["pad"]

  def framed(self, text: np.ndarray, size: int, vocabulary: Vocabulary) -> np.ndarray:
    """The text between what stands before and behind it, cut where it leaves that no room in `size` tokens."""
    front = [vocabulary["bos"]] if self.framing == "bart" else []
    return np.concatenate([front, text[: size - 1 - len(front)], [vocabulary.end]]).astype(np.int32)

  def sizes(self, length: int) -> tuple[int, int]:
    """(tokens of a source, of a target), each with its `end`."""
    raise TypeError(f"{type(self).__name__} does not say how long its texts are")

  def pair(self, source: np.ndarray, target: np.ndarray, vocabulary: Vocabulary, length: int) -> dict:
    """source_tokens, source_segments [S]; tokens, targets, weights [T], of a source and a target without `end`.

    Both are closed by `end`, and cut where they leave it no room. Where both are empty the weights are 0, but the
    source still has its `end`: queries need a key.
    """
    S, T = self.sizes(length)
    pad, weight = vocabulary["pad"], np.float32(len(source) + len(target) > 0)
    source, target = (self.framed(text, size, vocabulary) for text, size in ((source, S), (target, T)))
    return dict(
      source_tokens=padded(source, S, pad),
      source_segments=(np.arange(S) < len(source)).astype(np.int32),
      tokens=padded(np.append(self.start(vocabulary), target[:-1]), T, pad),
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
class PairEncoder(Encoder):
  """The tokens of two texts, the first of which begins with `prefix`, none closed by `end`; the second as it is too.

  A tokenizer may not know all of a target's characters: what a model writes is held against the text itself. A pair
  of which one is empty is left out.
  """

  prefix: str = ""

  columns = "source", "target"
  fields = "source", "target", "reference"
  counted = "source", "target"

  def encode(self, records, tokenizer):
    pairs = [
      [labelled.text_of(value, name, number) for value, name in zip(record, self.columns)]
      for number, record in enumerate(records)
    ]
    pieces = iter(tokenizer.encode_all([text for source, target in pairs for text in (self.prefix + source, target)]))
    made = [(next(pieces), next(pieces), labelled.text_bits(target)) for _, target in pairs]
    return [[example] if all(texts) else [] for example, texts in zip(made, pairs)]


@dataclasses.dataclass(frozen=True)
class SequenceToSequence(Pairs):
  """Sutskever et al. 2014, arXiv:1409.3215; label smoothing is 0.1 in Vaswani et al. 2017, arXiv:1706.03762.

  A `prefix` says which task a source is of, where a model has several (Raffel et al. 2020, arXiv:1910.10683, section
  2.4): "translate English to German: ".
  """

  name: str = "seq2seq"
  source_length: int | None = None  # tokens of a source; None: data.sequence_length, as a target has
  prefix: str = ""  # of each source, as text
  framing: Literal["t5", "bart"] = "t5"  # where a recipe does not say, that of the model that it starts from
  language: str = ""  # of the targets: BLEU cuts zh, ja and ko into words in ways of their own

  generates = True
  judged_by = "bleu", "chrf", "rouge1", "rougel", "exact_match"

  def laws(self):
    yield from super().laws()
    yield from at_least(self, 3 if self.framing == "bart" else 1, "source_length")

  @property
  def shortest(self) -> int:
    return 3 if self.framing == "bart" else 2

  def needs(self, length: int) -> tuple[str, ...]:
    return ("pad", "bos") if self.framing == "bart" else ("pad",)

  def sizes(self, length: int) -> tuple[int, int]:
    return self.source_length or length, length

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(PairEncoder(self.prefix))

  def extent(self, sizes: dict[str, int]) -> int:
    around = 2 if self.framing == "bart" else 1
    return around + max(sizes[name] for name in (("target",) if self.source_length else ("source", "target")))

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    return self.pair(record["source"], record["target"], vocabulary, length)

  def model_laws(self, model):
    yield from super().model_laws(model)
    if model.has_table and (self.source_length or 0) > (model.max_positions or float("inf")):
      yield "max_positions", model.max_positions, f"reads more: objective.source_length={self.source_length}"

  def prompt(self, record: dict, vocabulary: Vocabulary, length: int) -> np.ndarray:
    """The tokens of the source, as it is read in training."""
    return self.framed(record["source"], self.sizes(length)[0], vocabulary)

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """What was generated of the sources, predicted["tokens"] [B, N], up to an end; and the targets as texts."""
    found = []
    for record, tokens in zip(records, predicted["tokens"]):
      text = tokenizer.decode(before_end(tokens, tokenizer.end))
      found.append(dict(predicted=text, expected=labelled.text_of_bits(record["reference"])))
    return found


def before_end(tokens: np.ndarray, *ends: int) -> list[int]:
  """The tokens before the first of `ends`."""
  places = np.flatnonzero(np.isin(tokens, ends))
  return tokens[: places[0] if len(places) else None].tolist()
