"""Parts of Arrow tables: row groups of Parquet files, and record batches of data sets that Hugging Face's `datasets`

saved with `save_to_disk`.
"""

import contextlib
import dataclasses
import json

from fmjax.data.columns import Columns, no_column, not_text
from fmjax.data.documents import PART_BYTES, Document, Part
from fmjax.data.files import File, listed, opened, remote
from fmjax.errors import FmjaxError, extra
from fmjax.laws import nearest

ROWS = 1024  # turned into Python's strings at once


def pyarrow():
  with extra("parquet", "Parquet and Arrow files need the package pyarrow"):
    import pyarrow
    import pyarrow.parquet
  return pyarrow


@contextlib.contextmanager
def whole(file: File):
  """What Arrow complains of, told as DATA_BAD."""
  try:
    yield
  except (pyarrow().ArrowException, UnicodeDecodeError) as error:  # some of the first are a ValueError or an OSError
    raise FmjaxError("DATA_BAD", "the file is damaged, or of another format", where=file.path, got=error,
                     fix="make or download it again; check data.source") from error  # fmt: skip


def check(schema, columns: Columns, file: File):
  """DATA_BAD where a column is missing or holds no texts; of a nested one each record is looked at later."""
  types = pyarrow().types
  for name in columns.tops(schema.names):
    if name not in schema.names:
      raise no_column(name, schema.names, file.path)
    if columns.typed or name not in columns.names:
      continue
    kind = schema.field(name).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    if not any(is_one(kind) for is_one in texts):
      raise not_text(name, str(kind), file.path)


def rows(batch, columns: Columns, file: File, first: int, held):
  """The documents of a record batch whose first row is row `first` of the file."""
  tops = columns.tops(batch.schema.names)
  for start in range(0, batch.num_rows, ROWS):
    values = [batch.column(name).slice(start, ROWS).to_pylist() for name in tops]
    for number, own in enumerate(zip(*values), first + start):
      found = columns.of(dict(zip(tops, own)), f"{file.path} row {number}")
      yield Document(f"{file.name}#{number}", found, held)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowGroups(Part):
  """The row groups [start, stop) of a Parquet file; `first` is the first row's number."""

  columns: Columns
  start: int
  stop: int
  first: int

  unit = "row"

  def documents(self):
    (file,) = self.files
    first = self.first
    with opened(file) as stream, whole(file):
      table = pyarrow().parquet.ParquetFile(stream)
      wanted = list(self.columns.tops(table.schema_arrow.names))
      for group in range(self.start, self.stop):
        for batch in table.iter_batches(ROWS, [group], wanted, use_threads=False):
          yield from rows(batch, self.columns, file, first, self.held)
          first += batch.num_rows


def row_groups(file: File, columns: Columns, held: bool | None) -> list[Part]:
  with opened(file) as stream, whole(file):
    table = pyarrow().parquet.ParquetFile(stream)
    check(table.schema_arrow, columns, file)
    wanted = columns.tops(table.schema_arrow.names)
    about = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    sizes = [
      (group.num_rows, sum(
        chunk.total_uncompressed_size
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in wanted
      ))
      for group in about
    ]  # fmt: skip
  return [
    RowGroups(name=f"{file.name}#{first}", bytes=size, files=(file,), held=held, columns=columns, start=start,
              stop=stop, first=first, reading=f"parquet {columns.names}")
    for start, stop, first, size in grouped(sizes)
  ]  # fmt: skip


def grouped(sizes: list[tuple[int, int]]):
  """(first, behind the last, first row, bytes) of runs of PART_BYTES of things that have (rows, bytes)."""
  start = first = row = total = 0
  for number, (count, size) in enumerate(sizes):
    if total and total + size > PART_BYTES:
      yield start, number, first, total
      start, first, total = number, row, 0
    row, total = row + count, total + size
  if row > first:
    yield start, len(sizes), first, total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(Part):
  """The record batches [start, stop) of a file in Arrow's streaming format; `first` is the first row's number."""

  columns: Columns
  start: int
  stop: int | None
  first: int

  unit = "row"

  def documents(self):
    (file,) = self.files
    first = self.first
    for number, batch in enumerate(batches(file)):
      if number == self.stop:
        return
      if number >= self.start:
        with whole(file):
          yield from rows(batch, self.columns, file, first, self.held)
        first += batch.num_rows


def batches(file: File):
  """Of a file of this machine they are mapped, so that one that is passed over is not read."""
  with opened(file) as stream, whole(file):
    yield from pyarrow().ipc.open_stream(stream if remote(file.path) else pyarrow().memory_map(file.path))


def record_batches(file: File, columns: Columns, held: bool | None) -> list[Part]:
  """Of a file in a bucket one part, for to find the batches is to read it."""
  with opened(file) as stream, whole(file):
    schema = pyarrow().ipc.open_stream(stream).schema
    check(schema, columns, file)
  if remote(file.path):
    found = [(0, None, 0, file.size)]
  else:
    sizes = [
      (batch.num_rows, sum(batch.column(name).nbytes for name in columns.tops(schema.names)))
      for batch in batches(file)
    ]
    found = grouped(sizes)
  return [
    Batches(name=f"{file.name}#{first}", bytes=size, files=(file,), held=held, columns=columns, start=start,
            stop=stop, first=first, reading=f"huggingface {columns.names}")
    for start, stop, first, size in found
  ]  # fmt: skip


def saved_files(path: str, split: str) -> list[File]:
  """The Arrow files of a saved Dataset, or of the folder `split` of a saved DatasetDict, in its order."""
  found = {file.name: file for file in listed(path, ("*.arrow", "*.json"))}
  place = ""
  if "dataset_dict.json" in found:
    splits = content_of(found["dataset_dict.json"])["splits"]
    if split not in splits:
      raise FmjaxError("DATA_MISSING", f"the data set has no split {split!r}", where=path,
                       fix=f"data.split: {nearest(split, splits)}")  # fmt: skip
    place = f"{split}/"
  if f"{place}state.json" not in found:
    raise FmjaxError("DATA_MISSING", "no data set that was saved with save_to_disk", where=path,
                     expected=f"{place}state.json", got=", ".join(sorted(found)[:5]),
                     fix="data.path must be the folder that was given to save_to_disk")  # fmt: skip
  state = content_of(found[f"{place}state.json"])
  if not place and split not in ("train", state.get("_split")):  # the first is data.split's default
    raise FmjaxError("DATA_MISSING", f"the data set has no split {split!r}", where=path, got="a Dataset, one split",
                     fix="save a DatasetDict, or set data.eval_path to another saved Dataset")  # fmt: skip
  names = [place + one["filename"] for one in state["_data_files"]]
  for name in names:
    if name not in found:
      raise FmjaxError("DATA_MISSING", "a file of the data set is missing", where=f"{path}/{name}",
                       fix="save or copy the data set again")  # fmt: skip
  return [found[name] for name in names]


def content_of(file: File) -> dict:
  with opened(file) as stream:
    try:
      return json.load(stream)
    except ValueError as error:
      raise FmjaxError("DATA_BAD", "the file is not JSON", where=file.path, got=error,
                       fix="save or copy the data set again") from error  # fmt: skip
