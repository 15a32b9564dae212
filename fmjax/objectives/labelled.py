"""What objectives of labelled records have in common: texts to rows, labels and numbers to arrays, and back."""

import math
import re
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import nearest
from fmjax.objectives.objective import Refused, padded, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import flow

Pooling = Literal["first", "mean", "last"]  # [CLS], which stands first; all tokens; the last one, of a decoder
ROW = dict(tokens=jnp.int32, segments=jnp.int32, token_types=jnp.int32)


# A record's values, checked, as arrays.


def text_of(value, column: str, number: int) -> str:
  if not isinstance(value, str):
    raise Refused(number, f"the column {column!r} holds no text", expected="text", got=repr(value)[:80])
  return value


def texts_of(value, column: str, number: int) -> list[str]:
  if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
    raise Refused(number, f"the column {column!r} holds no list of texts", expected='["text", ...]',
                  got=repr(value)[:80])  # fmt: skip
  return value


def number_of(value, column: str, number: int) -> float:
  """A finite number, also one that is written as text."""
  try:
    found = float("nan" if isinstance(value, bool) else value)
  except (TypeError, ValueError):
    found = math.nan
  if not math.isfinite(found):
    raise Refused(number, f"the column {column!r} holds no number", expected="a finite number", got=repr(value)[:80])
  return found


def label_of(value, labels: tuple[str, ...], number: int) -> int:
  """The place among `labels` of the one that is written as `value` is; Refused where there is none.

  Where no label is written as a whole number, such a number is a place itself, from 0, as TFDS's ClassLabel is.
  """
  text = str(value)
  if value is not None and text in labels:
    return labels.index(text)
  is_place = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels)
  if is_place and not any(re.fullmatch(r"[+-]?\d+", label) for label in labels):
    return value
  raise Refused(number, "a label is not one of objective.labels", got=repr(value), expected=", ".join(labels),
                fix=nearest(text, labels))  # fmt: skip


def labels_laws(labels: tuple[str, ...], name: str = "labels"):
  if len(set(labels)) < 2:
    yield name, labels, "needs two labels or more"
  elif twice := sorted({label for label in labels if labels.count(label) > 1}):
    yield name, labels, f"has {twice[0]!r} twice"


def encoded(records: list[tuple], columns: tuple[str, ...], tokenizer) -> list[list[np.ndarray]]:
  """For each record the tokens of its texts, which come first in it and are called `columns`."""
  texts = [
    text_of(record[place], name, number)
    for number, record in enumerate(records)
    for place, name in enumerate(columns)
  ]
  ids = iter(tokenizer.encode_all(texts))
  return [[next(ids) for _ in columns] for _ in records]


def fronts(tokenizer, pooling: Pooling = "first") -> tuple[np.ndarray, np.ndarray]:
  """What the tokenizer's family sets before a text, and before the second of two, that `joined` does not.

  Llama and others begin with `bos`; RoBERTa has two separators between two texts.
  """
  first, second = [], []
  if tokenizer.kind == "huggingface" and pooling == "last":
    first = [token for token in tokenizer("")["input_ids"][0][:1] if token == tokenizer.special.get("bos")]
  elif tokenizer.kind == "huggingface":
    sep = tokenizer.special["sep"]
    second = [sep] * max(0, tokenizer("", "")["input_ids"][0].tolist().count(sep) - 2)
  return np.array(first, np.int32), np.array(second, np.int32)


def whole_number(value: int) -> np.ndarray:
  return np.array([value], np.int32)


def float_bits(value: float) -> np.ndarray:
  """Those of a float32, int32 [1]."""
  return np.array([value], np.float32).view(np.int32)


def float_of(bits: np.ndarray) -> np.float32:
  return bits.view(np.float32)[0]


def text_bits(text: str) -> np.ndarray:
  """Its UTF-8 bytes, four in an int32; zeros fill up the last."""
  data = text.encode()
  return np.frombuffer(data + b"\0" * (-len(data) % 4), "<i4").astype(np.int32)


def text_of_bits(bits: np.ndarray) -> str:
  return bits.astype("<i4").tobytes().rstrip(b"\0").decode()


# Rows.


def row_needs(pooling: Pooling = "first") -> tuple[str, ...]:
  return ("cls", "sep", "pad") if pooling != "last" else ()


def row_extent(sizes: list[int], pooling: Pooling = "first") -> int:
  """The tokens of a row of one text or two that have these."""
  return sum(sizes) + len(sizes) + (pooling != "last")


def joined(texts: list[np.ndarray], vocabulary: Vocabulary, length: int, pooling: Pooling = "first"):
  """(tokens, token types) of [CLS] a [SEP] or [CLS] a [SEP] b [SEP], int32, of `length` tokens at most.

  For pooling "last" each text is closed by `end`, and no [CLS] stands before them. Of two texts the longer is cut
  until both are equal, then both are, as Hugging Face does; a separator that b brings with it stays.
  """
  before, after = ([vocabulary["cls"]], vocabulary["sep"]) if pooling != "last" else ([], vocabulary.end)
  room = length - len(before) - len(texts)
  if len(texts) == 1:
    cut = [texts[0][:room]]
  else:
    a, b = texts
    front = int(len(b) > 0 and b[0] == after)
    sizes = shares(len(a), len(b) - front, room - front)
    cut = [a[: sizes[0]], b[: front + sizes[1]]]
  row = np.concatenate([before, *(part for text in cut for part in (text, [after]))]).astype(np.int32)
  return row, (np.arange(len(row)) > len(before) + len(cut[0])).astype(np.int32)


def shares(a: int, b: int, room: int) -> tuple[int, int]:
  """What is left of two texts of a and b tokens that have `room` for both."""
  if a + b <= room:
    return a, b
  short = min(a, b, room // 2)
  return (short, room - short) if a <= b else (room - short, short)


def row_example(row, types, vocabulary: Vocabulary, length: int) -> dict:
  """tokens, segments, token_types [T]."""
  return dict(
    tokens=padded(row, length, vocabulary.special.get("pad", vocabulary.end)),
    segments=(np.arange(length) < len(row)).astype(np.int32),
    token_types=padded(types, length),
  )


def side_by_side(examples: list[dict], length: int, last: bool = False) -> dict:
  """Examples of one row each as one row of `length`: tokens, segments from 1 on, token_types, positions, and of what
  else they have per token its row, per example a list.

  pools [examples]: where each one's first token stands, or its `last`. Each sees itself alone, from position 0 on.
  """
  sizes = [int(np.count_nonzero(example["segments"])) for example in examples]
  starts = np.cumsum([0, *sizes[:-1]])
  made = dict(positions=np.zeros(length, np.int32), segments=np.zeros(length, np.int32))
  for number, (start, size) in enumerate(zip(starts, sizes), 1):
    made["segments"][start : start + size] = number
    made["positions"][start : start + size] = np.arange(size)
  padding = next(
    (example["tokens"][-1] for example, size in zip(examples, sizes) if size < len(example["tokens"])), 0
  )
  made["pools"] = (starts + last * np.maximum(np.array(sizes) - 1, 0)).astype(np.int32)
  for name, first in examples[0].items():
    if name == "segments":
      continue
    if first.ndim == 0:
      made[name] = np.stack([example[name] for example in examples])
      continue
    parts = [example[name][:size] for example, size in zip(examples, sizes)]
    row = made[name] = np.full(length, padding if name == "tokens" else 0, first.dtype)
    row[: sum(sizes)] = np.concatenate(parts)
  return made


def joined_row_shapes(rows: int, length: int, join: int) -> dict:
  return (
    row_shapes(rows, length)
    | shapes(dict(positions=jnp.int32), rows, length)
    | shapes(dict(pools=jnp.int32), rows, join)
  )


def each(x):
  """[rows, examples] of joined examples as [all of them]; what has one axis stays."""
  if x.ndim == 1:
    return x
  x = flow(x, "BC")
  return jnp.reshape(x, (-1,), out_sharding=jax.P(jax.typeof(x).sharding.spec[0]))


NOTHING = np.empty(0, np.int32), np.empty(0, np.int32)  # the row of no record


def row_shapes(batch_size: int, length: int) -> dict:
  return shapes(ROW, batch_size, length)


# Models and losses.


def pooling_laws(model, pooling: Pooling):
  """Of a model that pools one token of a row."""
  if model.kind == "encoder_decoder":
    yield "kind", model.kind, "tells something of a text: set model.kind=encoder, or decoder"
  elif model.kind == "decoder" and pooling != "last":
    yield "kind", model.kind, "takes tokens that see none after them: set objective.pooling=last"
  elif model.pool != pooling:
    yield "pool", model.pool, f"has pooling={pooling}: set model.pool={pooling}"


def pooling_fields(pooling: Pooling) -> dict:
  """Of a model that pools so; a pooler is for one token."""
  return dict(pool=pooling) if pooling != "mean" else dict(pool=pooling, pooler=None)


def head_laws(model, head: str, classes: int):
  if (model.head, model.classes) != (head, classes):
    yield "head", model.head, f"has a head of its own: set model.head={head}, model.classes={classes}"


def encoder_laws(model):
  if model.kind != "encoder":
    yield "kind", model.kind, "reads a text both ways: set model.kind=encoder"


def class_terms(z, labels, smoothing: float = 0.0):
  """(nll, nll with label smoothing, whether the first choice is right) of scores z [..., C], in float32."""
  logp = jax.nn.log_softmax(z.astype(jnp.float32))
  nll = -jnp.sum(jax.nn.one_hot(labels, z.shape[-1]) * logp, -1)
  smooth = (1 - smoothing) * nll - smoothing * jnp.mean(logp, -1) if smoothing else nll
  return nll, smooth, (jnp.argmax(z, -1) == labels).astype(jnp.float32)


def probabilities(z):
  return jax.nn.softmax(z.astype(jnp.float32))
