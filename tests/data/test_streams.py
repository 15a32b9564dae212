"""Laws of a stream of tokens on disk: any range reads as the array that was written, and damage is named."""

import pathlib
import pickle
import re

import numpy as np
import pytest

from fmjax.data import streams
from fmjax.errors import FmjaxError

END = 7


def write(path, tokens, cuts=(), dtype="<u2"):
  """A file of `tokens`, handed to the writer in pieces that begin at `cuts`."""
  writer = streams.Writer(path, np.dtype(dtype))
  for piece in np.split(np.asarray(tokens), list(cuts)):
    writer.write([piece[: len(piece) // 2], piece[len(piece) // 2 :]])
  assert writer.close() == len(tokens)
  return str(path)


@pytest.fixture
def stream(tmp_path, monkeypatch):
  """(a stream of files of 0, 1, 3 and more blocks of 16 tokens, whole or not; its tokens)."""
  monkeypatch.setattr(streams, "BLOCK", 16)
  sizes = [16, 5, 48, 1, 33, 160]
  tokens = np.random.default_rng(0).integers(0, 1 << 16, sum(sizes))
  parts = np.split(tokens, np.cumsum(sizes)[:-1])
  files = [write(tmp_path / f"{n}.arrayrecord", part, cuts=(n, 3 * n)) for n, part in enumerate(parts)]
  return streams.Stream(files, sizes, np.dtype("<u2"), END), tokens


def test_any_range_is_that_of_the_tokens(stream):
  stream, tokens = stream
  assert len(stream) == len(tokens)
  rng = np.random.default_rng(1)
  edges = [0, 1, 15, 16, 17, 20, 21, 22, 68, 69, 70, 71, 102, 103, 104, 262, 263]
  ranges = [(low, high) for low in edges for high in edges if low <= high]
  ranges += [tuple(sorted(pair)) for pair in rng.integers(0, len(tokens) + 1, (200, 2)).tolist()]
  for low, high in ranges:
    (found,) = stream.read([(low, high)])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, tokens[low:high])


def test_many_ranges_at_once_come_in_their_order(stream):
  stream, tokens = stream
  rng = np.random.default_rng(2)
  for count in (0, 1, 2, 9, 50):
    ranges = [tuple(sorted(pair)) for pair in rng.integers(0, len(tokens) + 1, (count, 2)).tolist()]
    found = stream.read(ranges)
    assert len(found) == count
    for (low, high), one in zip(ranges, found):
      np.testing.assert_array_equal(one, tokens[low:high])


def test_before_the_first_token_stands_an_end(stream):
  stream, tokens = stream
  for high in (0, 1, 16, 40, len(tokens)):
    alone, _, other = stream.read([(-1, high), (3, 5), (-1, 1)])
    np.testing.assert_array_equal(alone, [END, *tokens[:high]])
    np.testing.assert_array_equal(other, [END, tokens[0]])


def test_a_range_touches_no_record_that_it_does_not_need(stream, monkeypatch):
  stream, _ = stream
  asked = []
  monkeypatch.setattr(stream, "records", lambda numbers: asked.append(numbers) or [b"\0\0" * 16 for _ in numbers])
  for low, high, records in [
    (0, 16, [0]),
    (15, 17, [0, 1]),
    (-1, 1, [0]),
    (16, 21, [1]),
    (21, 21, []),
    (69, 70, [5]),
  ]:
    stream.read([(low, high)])
    assert asked.pop() == records, (low, high)


def test_pieces_of_any_size_write_the_same_bytes(tmp_path):
  tokens = np.random.default_rng(3).integers(0, 1 << 16, 3 * streams.BLOCK + 10)
  made = [
    write(tmp_path / f"{n}", tokens, cuts)
    for n, cuts in enumerate([(), (1,), (2047, 2048, 2049), range(0, 6000, 700)])
  ]
  contents = [pathlib.Path(path).read_bytes() for path in made]
  assert len(set(contents)) == 1


def test_ids_of_a_large_vocabulary_survive(tmp_path):
  assert [streams.token_dtype(size) for size in (2, 1 << 16, (1 << 16) + 1)] == ["<u2", "<u2", "<i4"]
  tokens = np.array([0, 65535, 65536, 250_000])
  path = write(tmp_path / "0.arrayrecord", tokens, dtype="<i4")
  (found,) = streams.Stream([path], [4], np.dtype("<i4"), END).read([(0, 4)])
  np.testing.assert_array_equal(found, tokens)


def test_another_process_opens_the_files_itself(stream):
  stream, tokens = stream
  stream.read([(0, 3)])
  copy = pickle.loads(pickle.dumps(stream))
  assert copy.readers == {}
  np.testing.assert_array_equal(copy.read([(10, 80)])[0], tokens[10:80])


def test_every_flipped_bit_of_a_record_is_found_and_named(stream, tmp_path):
  intact, tokens = stream
  block = tokens[21 + 16 : 21 + 32].astype("<u2").tobytes()  # record 1 of the third file
  path = tmp_path / "2.arrayrecord"
  content = path.read_bytes()
  place = content.index(block)
  rng = np.random.default_rng(4)
  for byte, bit in zip(rng.integers(0, len(block), 24).tolist(), rng.integers(0, 8, 24).tolist()):
    damaged = bytearray(content)
    damaged[place + byte] ^= 1 << bit
    path.write_bytes(damaged)
    broken = streams.Stream(intact.files, [16, 5, 48, 1, 33, 160], np.dtype("<u2"), END)
    with pytest.raises(
      FmjaxError, match=f"(?s)DATA_BAD  record 1 of prepared data.*where: {re.escape(str(path))}\n"
    ) as e:
      broken.read([(21, 60)])
    assert f"delete the folder {tmp_path}" in str(e.value)
    with pytest.raises(FmjaxError, match="record 1 of"):
      broken.read([(40, 41)])
    # Its neighbours are as they were.
    for low, high in [(0, 37), (53, len(tokens))]:
      np.testing.assert_array_equal(broken.read([(low, high)])[0], tokens[low:high])


def test_a_file_that_is_gone_or_cut_is_named(stream, tmp_path):
  intact, _ = stream
  path = tmp_path / "4.arrayrecord"
  content = path.read_bytes()
  for damaged in (content[: len(content) // 2], b"", None):
    path.write_bytes(damaged) if damaged is not None else path.unlink()
    broken = streams.Stream(intact.files, [16, 5, 48, 1, 33, 160], np.dtype("<u2"), END)
    with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD.*{re.escape(str(path))}"):
      broken.read([(0, len(broken))])


def test_more_files_than_may_be_open_are_read(stream, monkeypatch):
  monkeypatch.setattr(streams, "OPEN", 2)
  intact, tokens = stream
  copy = pickle.loads(pickle.dumps(intact))
  for _ in range(2):
    np.testing.assert_array_equal(copy.read([(0, len(copy))])[0], tokens)
  assert len(copy.readers) == 2 < len(copy.files)
