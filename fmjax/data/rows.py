"""Rows: which ranges of a split's tokens make one example, for each layout that an objective can ask for.

Whatever the layout, row i is found in O(1), and rows know nothing of the tokens themselves.
"""

import numpy as np

from fmjax.data import packing
from fmjax.objectives.objective import Documents, Examples, Packed, Sentences, Windows

Range = tuple[int, int]


class WindowRows:
  """Of Windows: `total` tokens, a last and shorter row if `partial`."""

  def __init__(self, layout: Windows, total: int, partial: bool):
    self.layout, self.total = layout, total
    self.count = -(-total // layout.stride) if partial else total // layout.stride

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    stride = self.layout.stride
    return [("text", (row * stride - self.layout.before, min((row + 1) * stride, self.total)))]

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    return dict(tokens=found[0])


class PackedRows:
  """Of Packed, by the arrays of `packing.plan`."""

  def __init__(self, starts, lengths, rows):
    self.starts, self.lengths, self.rows, self.count = starts, lengths, rows, len(rows)

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    own = slice(int(self.rows[row - 1]) if row else 0, int(self.rows[row]))
    starts, lengths = self.starts[own].tolist(), self.lengths[own].tolist()
    return [("text", (start - 1, start + length)) for start, length in zip(starts, lengths)]

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    return dict(tokens=np.concatenate(found), pieces=np.array([len(one) for one in found], np.int32))


class SentenceRows:
  """Of Sentences, by the arrays of `sentence_plan`; `ends` are those of all sentences."""

  def __init__(self, lows, highs, ends, documents):
    self.lows, self.highs, self.ends, self.documents, self.count = lows, highs, ends, documents, len(lows)

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    return [("text", (int(self.lows[row]), int(self.highs[row])))]

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    low, high = int(self.lows[row]), int(self.highs[row])
    first, last = np.searchsorted(self.ends, (low, high), ("right"))
    inside = self.ends[first:last]
    bounds = np.concatenate([[low], inside[inside < high], [high]])
    return dict(tokens=found[0], sentences=np.diff(bounds).astype(np.int32))

  def document(self, row: int) -> int:
    return int(np.searchsorted(self.documents, self.lows[row], "right"))


class DocumentRows:
  """Of Documents: `ends` are those of each field's documents, each with its `end`."""

  def __init__(self, layout: Documents, ends: dict[str, np.ndarray]):
    self.fields, self.ends = layout.fields, ends
    self.count = len(next(iter(ends.values())))

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    found = []
    for field, length in self.fields:
      start, end = bounds(self.ends[field], row)
      found.append((field, (start, min(end - 1, start + length))))
    return found

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    return {field: tokens for (field, _), tokens in zip(self.fields, found)}


class ExampleRows:
  """Of Examples: `ends` are those of each field's arrays."""

  def __init__(self, ends: dict[str, np.ndarray]):
    self.ends, self.count = ends, len(next(iter(ends.values())))

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    return [(field, bounds(ends, row)) for field, ends in self.ends.items()]

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    return dict(zip(self.ends, found))


class PackedExampleRows:
  """Of Examples with a room, by the arrays of `packing.plan_examples`; `ends` are those of each field's arrays."""

  def __init__(self, layout: Examples, ends: dict[str, np.ndarray], order, rows):
    self.most, self.ends, self.order, self.rows, self.count = layout.room + 1, ends, order, rows, len(rows)

  def ranges(self, row: int) -> list[tuple[str, Range]]:
    found = []
    for example in self.order[int(self.rows[row - 1]) if row else 0 : int(self.rows[row])].tolist():
      for field, ends in self.ends.items():
        start, end = bounds(ends, example)
        found.append((field, (start, min(end, start + self.most))))
    return found

  def record(self, row: int, found: list[np.ndarray]) -> dict:
    columns = [found[number :: len(self.ends)] for number in range(len(self.ends))]
    record = {field: np.concatenate(arrays) for field, arrays in zip(self.ends, columns)}
    return record | dict(pieces=np.array([len(one) for one in columns[0]], np.int32))


def bounds(ends: np.ndarray, row: int) -> Range:
  return int(ends[row - 1]) if row else 0, int(ends[row])


def sentence_plan(sentences: np.ndarray, lengths: np.ndarray, layout: Sentences, seed: int = 0) -> dict:
  """{"lows", "highs"} of rows: the longest runs of whole sentences, one after the other; a longer sentence is cut.

  `sentences` and `lengths` are of a stream's sentences and documents; each document's `end` is a sentence.
  """
  ends = np.concatenate([[0], np.cumsum(sentences, dtype=np.int64)])
  documents = np.cumsum(lengths, dtype=np.int64)
  rng = np.random.default_rng(seed)
  lows, highs = [], []
  blocks = [(0, int(ends[-1]))]
  if not layout.across:
    blocks = zip((documents - lengths).tolist(), (documents - 1).tolist())
  for low, last in blocks:
    while low < last:
      length = layout.length
      if layout.short and rng.random() < layout.short:
        length = int(rng.integers(2, length, endpoint=True))
      high = low + length
      if high < last:
        whole = int(ends[np.searchsorted(ends, high, "right") - 1])
        high = whole if whole > low else high
      lows.append(low)
      highs.append(min(high, last))
      low = highs[-1]
  return dict(lows=np.array(lows, np.int64), highs=np.array(highs, np.int64))


def arrays(layout, lengths, sentences) -> dict[str, np.ndarray]:
  """What a layout's rows need and is worth keeping; {} where a row is arithmetic. `lengths` is of documents, or of
  the first arrays of examples."""
  match layout:
    case Examples(room=int(room)):
      return packing.plan_examples(lengths, room)
    case Packed():
      return packing.plan(np.asarray(lengths), layout.length)
    case Sentences():
      return sentence_plan(np.asarray(sentences), np.asarray(lengths), layout)
  return {}


def make(layout, made: dict, partial: bool, totals: dict, lengths, sentences):
  """The rows of a split; `made` is what `arrays` gave, `lengths` and `sentences` give the arrays of a field."""
  match layout:
    case Windows():
      return WindowRows(layout, totals["text"], partial)
    case Packed():
      return PackedRows(**made)
    case Sentences():
      ends = np.cumsum(sentences("text"), dtype=np.int64)
      return SentenceRows(**made, ends=ends, documents=np.cumsum(lengths("text"), dtype=np.int64))
  ends = {field: np.cumsum(lengths(field), dtype=np.int64) for field in fields_of(layout)}
  if isinstance(layout, Documents):
    return DocumentRows(layout, ends)
  return PackedExampleRows(layout, ends, **made) if made else ExampleRows(ends)


def fields_of(layout) -> tuple[str, ...]:
  """What of a document is stored, each in a stream of its own."""
  match layout:
    case Documents(fields=fields):
      return tuple(field for field, _ in fields)
    case Examples(encoder=encoder):
      return encoder.fields
  return ("text",)
