"""The least objective of labelled data that has all that one can have: what the laws of the loader are tried on."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fmjax.objectives.objective import Encoder, Examples, Objective, Refused, padded, shapes


@dataclasses.dataclass(frozen=True)
class Graded(Encoder):
  """A text in pieces of `length` tokens, cls included, and what it is worth; of one that is None no piece.

  `marks` are the places of ! in it, often none. Floats are stored as their bits.
  """

  length: int
  columns = ("text", "grade")
  fields = ("tokens", "grade", "marks")

  def texts(self, record):
    return [record[0]] if record[0] else []

  def encode(self, records, tokenizer):
    return [self.one(number, *record, tokenizer) for number, record in enumerate(records)]

  def one(self, number, text, grade, tokenizer):
    if text is None:
      return []
    try:
      bits = np.array([float(grade)], np.float32).view(np.int32)
    except (TypeError, ValueError) as error:
      raise Refused(number, "a grade is no number", got=repr(grade), expected="a number such as 3.5") from error
    ids, own = tokenizer.encode(text), self.length - 1
    pieces = [ids[start : start + own] for start in range(0, max(len(ids), 1), own)]
    marks = np.flatnonzero(np.array([*text]) == "!").astype(np.int32)
    return [(np.array([tokenizer.special["cls"], *piece], np.int32), bits, marks) for piece in pieces]


@dataclasses.dataclass(frozen=True)
class Grading(Objective):
  name: str = "grading"

  def needs(self, length):
    return ("cls", "pad")

  def layout(self, length, packed):
    return Examples(Graded(length))

  def extent(self, sizes):
    return sizes["tokens"]

  def transform(self, record, rng, *, vocabulary, length):
    tokens, real = record["tokens"], len(record["tokens"])
    return dict(
      tokens=padded(tokens, length, vocabulary["pad"]),
      segments=padded(np.ones(real), length),
      labels=record["grade"].view(np.float32)[0] if real else np.float32(0),
      marks=np.int32(len(record["marks"])),
      weights=np.float32(real > 0),
      drawn=np.float32(rng.random()),
    )

  def batch_shapes(self, batch_size, length, packed=False):
    row = shapes(dict.fromkeys(("labels", "weights", "drawn"), jnp.float32) | dict(marks=jnp.int32), batch_size)
    return row | shapes(dict(tokens=jnp.int32, segments=jnp.int32), batch_size, length)
