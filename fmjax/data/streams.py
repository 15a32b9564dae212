"""The tokens of one field of a split, end to end, in ArrayRecord files that are read at random.

A record is a block of tokens, wherever documents begin and end in it: a row of a few hundred tokens touches one or
two records, however long its document is. A document's tokens are closed by `end`.
"""

import pathlib

import numpy as np

from fmjax.errors import FmjaxError

OPEN = 256  # files at once: a process may often have 1,024
BLOCK = 2048  # tokens a record: a larger one costs a read more bytes, a smaller one more records
VALUES = np.dtype("<i4")  # of what an Encoder made, on disk


def token_dtype(vocab_size: int) -> np.dtype:
  """Of tokens on disk."""
  return np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")


class Writer:
  """Writes the tokens it is given to the file `path`, block by block."""

  def __init__(self, path: pathlib.Path, dtype: np.dtype):
    from array_record.python.array_record_module import ArrayRecordWriter

    # One record a group: a random read touches one record. Uncompressed: 12 bits of 16 are noise to a compressor,
    # and the same tokens give the same bytes whatever version of one is installed.
    self.file = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    self.dtype, self.left, self.tokens = dtype, np.empty(0, dtype), 0

  def write(self, parts: list[np.ndarray]):
    self.left = np.concatenate([self.left, *parts], dtype=self.dtype, casting="unsafe")
    whole = len(self.left) - len(self.left) % BLOCK
    for start in range(0, whole, BLOCK):
      self.file.write(self.left[start : start + BLOCK].tobytes())
    self.left, self.tokens = self.left[whole:], self.tokens + whole

  def close(self) -> int:
    """The number of tokens in the file."""
    if len(self.left):
      self.file.write(self.left.tobytes())
      self.tokens += len(self.left)
    self.file.close()
    return self.tokens


class Stream:
  """`files` of `tokens` tokens each as one array of tokens; the one before its first is `end`."""

  def __init__(self, files: list[str], tokens: list[int], dtype: np.dtype, end: int):
    self.files, self.dtype, self.end = files, dtype, end
    firsts = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
    blocks = [np.arange(first, last, BLOCK) for first, last in zip(firsts[:-1], firsts[1:])]
    self.starts = np.concatenate([*blocks, firsts[-1:]])  # of each record, and where the last one ends
    self.firsts = np.cumsum([0, *map(len, blocks)])  # of each file, its first record's number
    self.readers = {}

  def __len__(self) -> int:
    return int(self.starts[-1])

  def read(self, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
    """int32 tokens [lo, hi) of each range; lo may be -1. DATA_BAD names the record that cannot be read."""
    ranges = np.asarray(ranges, np.int64).reshape(-1, 2)
    lows = np.maximum(ranges[:, 0], 0)
    first = np.searchsorted(self.starts, lows, "right") - 1
    last = np.searchsorted(self.starts, ranges[:, 1], "left")
    records = self.records([number for a, b in zip(first.tolist(), last.tolist()) for number in range(a, b)])
    found, done = [], 0
    for a, b, lo, hi in zip(first.tolist(), last.tolist(), ranges[:, 0].tolist(), ranges[:, 1].tolist()):
      own, start = records[done : done + b - a], int(self.starts[a])
      done += b - a
      tokens = np.frombuffer(own[0] if len(own) == 1 else b"".join(own), self.dtype)
      tokens = tokens[max(lo, 0) - start : hi - start].astype(np.int32)
      found.append(np.concatenate([[np.int32(self.end)], tokens]) if lo < 0 else tokens)
    return found

  def records(self, numbers: list[int]) -> list[bytes]:
    """Those of one file are read in one call: ArrayRecord's own data source takes a thread a record."""
    numbers = np.asarray(numbers, np.int64)
    files, found = np.searchsorted(self.firsts, numbers, "right") - 1, [b""] * len(numbers)
    for file in np.unique(files).tolist():
      places = np.flatnonzero(files == file)
      own = (numbers[places] - self.firsts[file]).tolist()
      for place, record in zip(places.tolist(), self.of_file(file, own)):
        found[place] = record
    return found

  def of_file(self, file: int, numbers: list[int]) -> list[bytes]:
    try:
      reader = self.readers.get(file) or self.open(file)
      return reader.read(numbers)
    except Exception as error:  # ArrayRecord raises what its C++ raised: no narrower type is promised
      raise self.damaged(file, numbers, error) from error

  def open(self, file: int):
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(self.files[file], "readahead_buffer_size:0")
    count, wanted = reader.num_records() if reader.ok() else 0, int(np.diff(self.firsts)[file])
    if count != wanted:
      raise ValueError(f"it has {count} records, not {wanted}")
    if len(self.readers) >= OPEN:
      self.readers.pop(next(iter(self.readers))).close()
    self.readers[file] = reader
    return reader

  def damaged(self, file: int, numbers: list[int], error: Exception) -> FmjaxError:
    """Which of the records cannot be read, or that the file cannot."""
    what = "a file of prepared data cannot be read"
    for number in numbers if file in self.readers else ():
      try:
        self.readers[file].read([number])
      except Exception as own:
        what, error = f"record {number} of prepared data cannot be read", own
        break
    folder = pathlib.Path(self.files[file]).parent
    return FmjaxError("DATA_BAD", what, where=self.files[file], got=f"{type(error).__name__}: {error}",
                      fix=f"delete the folder {folder}; the next run prepares it again"
                      " (data.on_corrupt=skip goes on without the record)")  # fmt: skip

  def __getstate__(self):
    return self.__dict__ | dict(readers={})  # a worker process opens the files itself
