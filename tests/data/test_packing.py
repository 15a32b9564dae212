"""Laws of the packing plan: nothing lost, nothing twice, no row too long, and rows nearly full."""

import numpy as np
import pytest

from fmjax.data import packing, sources


def slow_first_fit_decreasing(lengths, room):
  """As Johnson states it: the longest first, each into the first bin with room."""
  left, bins = [], {}
  for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
    bins[item] = next((place for place, free in enumerate(left) if free >= lengths[item]), len(left))
    left += [room] * (bins[item] == len(left))
    left[bins[item]] -= lengths[item]
  return [bins[item] for item in range(len(lengths))]


RNG = np.random.default_rng(0)
LENGTHS = {
  "log-normal": RNG.lognormal(5, 1.2, 20_000) + 1,
  "uniform": RNG.integers(1, 500, 5000),
  "all long": RNG.integers(2000, 9000, 300),
  "ones": np.ones(3000),
  "one": [700],
  "none": [],
  "just a row": np.full(100, 512),
  "one more than a row": np.full(100, 513),
}


def rows_of(plan):
  """[[(start, length), ...] of each row]."""
  pairs = list(zip(plan["starts"].tolist(), plan["lengths"].tolist()))
  return [pairs[a:b] for a, b in zip([0, *plan["rows"].tolist()], plan["rows"].tolist())]


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("room, window", [(512, packing.WINDOW), (64, 100), (1, 50)])
def test_each_token_is_in_one_row_and_no_row_is_too_long(name, room, window):
  lengths = np.asarray(LENGTHS[name], np.uint32)[: 40 * room]
  plan = packing.plan(lengths, room, window)
  rows = rows_of(plan)
  assert all(row for row in rows) and len(rows) == len(plan["rows"])
  assert all(sum(length for _, length in row) <= room for row in rows)
  pieces = sorted(pair for row in rows for pair in row)
  assert all(length > 0 for _, length in pieces)
  # End to end the pieces are the stream: no token lost, none twice.
  place = 0
  for start, length in pieces:
    assert start == place
    place += length
  assert place == int(lengths.sum())
  # No piece reaches over a document's end.
  ends = np.cumsum(lengths, dtype=np.int64)
  starts = np.array([start for start, _ in pieces], np.int64)
  sizes = np.array([length for _, length in pieces], np.int64)
  document = np.searchsorted(ends, starts, "right")
  assert np.all(starts + sizes <= ends[document]) if len(ends) else not pieces
  # A document longer than a row is cut into whole rows and a rest, in order.
  for own in range(0, len(lengths), max(1, len(lengths) // 100)):
    assert sizes[document == own].tolist() == [room] * (lengths[own] // room) + [lengths[own] % room] * bool(
      lengths[own] % room
    )


def test_first_fit_decreasing_is_what_its_name_says():
  rng = np.random.default_rng(1)
  for _ in range(60):
    room = int(rng.integers(1, 60))
    lengths = rng.integers(1, room + 1, int(rng.integers(0, 80)))
    assert packing.first_fit_decreasing(lengths, room).tolist() == slow_first_fit_decreasing(lengths.tolist(), room)


def test_a_window_is_packed_on_its_own():
  """So a plan is made in one pass, and rows follow the order of the documents from window to window."""
  lengths = np.random.default_rng(2).integers(1, 100, 1000).astype(np.uint32)
  plan = packing.plan(lengths, 128, 100)
  made, place = [], 0
  for first in range(0, 1000, 100):
    own = packing.plan(lengths[first : first + 100], 128, 100)
    made += [[(start + place, length) for start, length in row] for row in rows_of(own)]
    place += int(lengths[first : first + 100].sum())
  assert rows_of(plan) == made


def fill(lengths, room):
  return lengths.sum() / (len(packing.plan(lengths, room)["rows"]) * room)


def test_rows_are_nearly_full_of_documents_like_a_web_crawls():
  lengths = np.random.default_rng(3).lognormal(6, 1.1, 50_000).astype(np.uint32) + 1
  for room in (512, 1024, 2048):
    assert fill(lengths, room) >= 0.97, room


def test_rows_are_nearly_full_of_the_standard_library():
  files = sources.stdlib_files()
  for divide in (1, 4):  # tokens of one byte, and of about four as a trained tokenizer has them
    lengths = np.array([file.size // divide + 1 for file in files], np.uint32)
    for room in (256, 1024, 2048):
      assert fill(lengths, room) >= 0.97, (divide, room)
