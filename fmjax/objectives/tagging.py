"""A tag for each word: named entities, parts of speech, chunks.

BERT's way (Devlin et al. 2019, arXiv:1810.04805, section 5.3): the state of a word's first token tells its tag.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from fmjax.objectives import labelled
from fmjax.objectives.objective import Encoder, Examples, Objective, Refused, shapes
from fmjax.objectives.vocabulary import Vocabulary

Scheme = Literal["bio", "iob1"]
OUTSIDE = "O"


@dataclasses.dataclass(frozen=True)
class WordEncoder(Encoder):
  """tokens [n] of all words, the place among them of each word's first, or -1, and its tag: words [w], labels [w].

  Words are tokenised one by one, as Hugging Face's `is_split_into_words` does; where a space is part of a token,
  each has the space before it, as with `add_prefix_space`.
  """

  labels: tuple[str, ...] = ()
  scheme: Scheme | None = None

  columns = "words", "tags"
  fields = "tokens", "words", "labels"

  def texts(self, record: tuple) -> list[str]:
    return [" ".join(one for one in record[0] if isinstance(one, str))] if isinstance(record[0], list) else []

  def encode(self, records, tokenizer):
    every = [self.checked(*record, number) for number, record in enumerate(records)]
    space = " " if tokenizer.encode(" a") != tokenizer.encode("a") else ""
    pieces = iter(tokenizer.encode_all([space + word for words, _ in every for word in words]))
    found = []
    for words, labels in every:
      own = [next(pieces) for _ in words]
      sizes = np.array([len(piece) for piece in own], np.int32)
      first = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1).astype(np.int32)
      found.append([(np.concatenate([labelled.NOTHING[0], *own]), first, np.array(labels, np.int32))])
    return found

  def checked(self, words, tags, number: int) -> tuple[list[str], list[int]]:
    """(words, the numbers of their tags); raises Refused."""
    words = labelled.texts_of(words, "words", number)
    if not isinstance(tags, list) or len(tags) != len(words):
      got = f"{len(words)} words and {len(tags) if isinstance(tags, list) else repr(tags)[:80]} tags"
      raise Refused(number, "unequal columns", expected="a tag for each word", got=got)
    names = [self.labels[labelled.label_of(tag, self.labels, number)] for tag in tags]
    if self.scheme == "iob1":
      names = bio_of_iob1(names)
    elif self.scheme == "bio" and (place := first_broken(names)) is not None:
      before = names[place - 1] if place else "the beginning"
      raise Refused(number, "a sequence of tags breaks BIO", got=f"{names[place]} after {before}, at word {place}",
                    expected=f"B{names[place][1:]} there",
                    fix="set objective.scheme=iob1, or mend the record")  # fmt: skip
    return words, [labelled.label_of(name, self.labels, number) for name in names]


@dataclasses.dataclass(frozen=True)
class Tagging(Objective):
  """Which of `labels` each word has; tokens that are not a word's first have no weight.

  Records are a list of words and one of tags. With a `scheme` tags mark spans: O, B-TYPE, I-TYPE. In "iob1" a span
  begins with B only right after another of its type; it is made "bio", where each does. None: any tags.
  """

  name: str = "tagging"
  labels: tuple[str, ...] = ()
  scheme: Scheme | None = "bio"

  shortest = 3
  task = "token"
  joins = True
  shows = ("tokens",)

  @property
  def judged_by(self) -> tuple[str, ...]:
    return ("span_f1", "accuracy") if self.scheme else ("accuracy",)

  def laws(self):
    yield from labelled.labels_laws(self.labels)
    if not self.scheme:
      return
    for label in self.labels:
      if label != OUTSIDE and label[:2] not in ("B-", "I-"):
        yield (
          "labels",
          label,
          "is no tag of spans, as O, B-TYPE and I-TYPE are: mend it, or set objective.scheme=None",
        )
      elif label[:2] == "I-" and "B-" + label[2:] not in self.labels:
        yield "labels", label, f"goes on with a span that no label begins: add 'B-{label[2:]}'"
    if OUTSIDE not in self.labels:
      yield "labels", self.labels, f"lacks {OUTSIDE!r}, the tag of no span"

  def needs(self, length: int) -> tuple[str, ...]:
    return labelled.row_needs()

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(WordEncoder(self.labels, self.scheme))

  def extent(self, sizes: dict[str, int]) -> int:
    return labelled.row_extent([sizes["tokens"]])

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, token_types, labels, weights [T]; a word that the length cuts off is not told."""
    row, labels, weights = labelled.NOTHING, np.zeros(length, np.int32), np.zeros(length, np.float32)
    if len(record["tokens"]):
      row = labelled.joined([record["tokens"]], vocabulary, length)
      places = placed(record, length)
      told = places >= 0
      labels[places[told]], weights[places[told]] = record["labels"][told], 1
    return labelled.row_example(*row, vocabulary, length) | dict(labels=labels, weights=weights)

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    told = shapes(dict(labels=jnp.int32, weights=jnp.float32), batch_size, length)
    return labelled.row_shapes(batch_size, length) | told

  def joined_shapes(self, rows: int, length: int, join: int) -> dict:
    told = shapes(dict(labels=jnp.int32, weights=jnp.float32), rows, length)
    return labelled.joined_row_shapes(rows, length, join) | told

  def model_fields(self) -> dict:
    return dict(head="token", classes=len(self.labels))

  def model_laws(self, model):
    yield from labelled.encoder_laws(model)
    yield from labelled.head_laws(model, "token", len(self.labels))

  def scores(self, model, params, batch: dict, key=None, train: bool = False):
    """z_BTC, in float32."""
    hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
    return model.classify(params, hidden_BTD, batch).astype(jnp.float32)

  def loss(self, model, params, batch: dict, key, train: bool):
    """Sums over words, in nats."""
    return self.loss_from(model, params, model.apply(params, batch, key=key, train=train).hidden, batch, train, key)

  def loss_from(self, model, params, hidden_BTD, batch: dict, train: bool, key=None):
    z_BTC = model.classify(params, hidden_BTD, batch, key if train else None).astype(jnp.float32)
    nll_BT, _, correct_BT = labelled.class_terms(z_BTC, batch["labels"])
    weights_BT = batch["weights"]
    loss, correct = jnp.sum(weights_BT * nll_BT), jnp.sum(weights_BT * correct_BT)
    return loss, jnp.sum(weights_BT), dict(loss=loss, accuracy=correct)

  def predict(self, model, params, batch: dict) -> dict:
    return dict(probabilities=labelled.probabilities(self.scores(model, params, batch)))

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """A tag for each word: "O" for one that the length cut off, and where there is no scheme ""."""
    found = []
    for record, p_TC in zip(records, predicted["probabilities"]):
      best, places = np.argmax(p_TC, -1), placed(record, len(p_TC))
      missing = OUTSIDE if self.scheme else ""
      tags = [self.labels[best[place]] if place >= 0 else missing for place in places.tolist()]
      expected = [self.labels[label] for label in record["labels"].tolist()]
      found.append(dict(words=words_of(record, tokenizer), predicted=tags, expected=expected))
    return found


def placed(record: dict, length: int) -> np.ndarray:
  """Where in a row of `length` tokens each word's first stands; -1: nowhere."""
  words = record["words"]
  return np.where((words >= 0) & (words < length - 2), words + 1, -1)


def words_of(record: dict, tokenizer) -> list[str]:
  """The words as their tokens have them; one without tokens is ""."""
  starts = record["words"]
  real = starts[starts >= 0]
  pieces = iter(np.split(record["tokens"], real[1:])) if len(real) else iter(())
  return [tokenizer.decode(next(pieces).tolist()).strip() if start >= 0 else "" for start in starts]


def bio_of_iob1(tags: list[str]) -> list[str]:
  """Tags of the same spans, each of which begins with B (Tjong Kim Sang and Veenstra 1999, section 2)."""
  before = [OUTSIDE, *tags[:-1]]
  return ["B" + tag[1:] if begins(tag, last) else tag for tag, last in zip(tags, before)]


def first_broken(tags: list[str]) -> int | None:
  """The first place where an I goes on with no span."""
  before = [OUTSIDE, *tags[:-1]]
  return next((place for place, (tag, last) in enumerate(zip(tags, before)) if begins(tag, last)), None)


def begins(tag: str, last: str) -> bool:
  """Whether an I comes after the end of a span, or after one of another type."""
  return tag.startswith("I-") and (last == OUTSIDE or last[2:] != tag[2:])
