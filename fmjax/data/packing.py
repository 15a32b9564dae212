"""The packing plan: which pieces of documents share a row, made once from their lengths.

First-fit decreasing (Johnson 1973) within windows of pieces that follow each other, so that a plan of any size is
made in one pass, window after window. A document longer than a row is cut into pieces of a row's length and a rest.
"""

import numpy as np

WINDOW = 4096  # pieces that are sorted together


def pieces(lengths: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
  """(starts, lengths) of the pieces of at most `room` of documents that lie end to end."""
  count = -(-lengths.astype(np.int64) // room)
  ends = np.cumsum(lengths, dtype=np.int64)
  number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # of a piece in its document
  start = np.repeat(ends - lengths, count) + number * room
  return start, np.minimum(np.repeat(ends, count) - start, room)


def first_fit_decreasing(lengths: np.ndarray, room: int) -> np.ndarray:
  """The bin of each length: the first with room, the longest length first; bins are numbered from 0 on."""
  left = np.full(len(lengths), room, np.int64)
  bins = np.empty(len(lengths), np.int64)
  used = 0
  for item in np.argsort(-lengths, kind="stable").tolist():
    length = lengths[item]
    # Bins are opened in order, and the first unopened one takes anything.
    place = int(np.argmax(left[: used + 1] >= length))
    left[place] -= length
    bins[item] = place
    used = max(used, place + 1)
  return bins


def plan_examples(lengths: np.ndarray, room: int, window: int = WINDOW) -> dict[str, np.ndarray]:
  """{"order"} of examples in the order of their rows, and "rows": where each row's examples end.

  An example of n tokens takes n - 1 of a row's `room`, or all where it is cut; one without a target is left out.
  """
  targets = np.minimum(np.asarray(lengths, np.int64) - 1, room)
  real, orders, rows = np.flatnonzero(targets > 0), [], []
  for first in range(0, len(real), window):
    own = real[first : first + window]
    bins = first_fit_decreasing(targets[own], room)
    orders.append(own[np.argsort(bins, kind="stable")])
    rows.append(np.bincount(bins))
  none = np.empty(0, np.int64)
  return dict(order=np.concatenate([none, *orders]), rows=np.cumsum(np.concatenate([none, *rows])))


def plan(lengths: np.ndarray, room: int, window: int = WINDOW) -> dict[str, np.ndarray]:
  """{"starts", "lengths"} of pieces in the order of their rows, and "rows": where each row's pieces end."""
  start, length = pieces(lengths, room)
  orders, rows = [], []
  for first in range(0, len(length), window):
    bins = first_fit_decreasing(length[first : first + window], room)
    orders.append(first + np.argsort(bins, kind="stable"))
    rows.append(np.bincount(bins))
  order = np.concatenate([np.empty(0, np.int64), *orders])
  return dict(
    starts=start[order],
    lengths=length[order].astype(np.int32),
    rows=np.cumsum(np.concatenate([np.empty(0, np.int64), *rows])),
  )
