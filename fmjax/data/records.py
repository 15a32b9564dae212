"""Parts of ArrayRecord files: plain ones, whose records are texts or JSON, and those of TFDS's data sets."""

import dataclasses
import functools
import os

from fmjax.data.columns import Columns, no_column
from fmjax.data.documents import PART_BYTES, Document, Part, number_of, values_of_json
from fmjax.data.files import File, decoded, listed, remote
from fmjax.errors import FmjaxError
from fmjax.laws import nearest

ROWS = 256  # records read at once


def ranges(count: int, size: int) -> list[tuple[int, int, int]]:
  """(first, behind the last, bytes) of runs of about PART_BYTES of `count` records that have `size` bytes in all."""
  own = max(1, PART_BYTES * count // max(size, 1))
  return [(at, min(at + own, count), size * (min(at + own, count) - at) // count) for at in range(0, count, own)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records(Part):
  """The records [start, stop) of an ArrayRecord file: JSON where one begins with {, and else a text."""

  columns: Columns
  start: int
  stop: int

  unit = "record"

  def documents(self):
    (file,) = self.files
    reader = reader_of(file)
    for start in range(self.start, self.stop, ROWS):
      try:
        found = reader.read(start, min(start + ROWS, self.stop))
      except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord's C++ raises
        raise damaged(file, error) from error
      for number, record in enumerate(found, start):
        where = f"{file.path} record {number}"
        yield Document(f"{file.name}#{number}", values_of_record(record, self.columns, where), self.held)


def values_of_record(record: bytes, columns: Columns, where: str) -> tuple:
  text = decoded(record, where)
  if record.startswith(b"{"):
    return values_of_json(text, columns, where)
  if len(columns.names) > 1 or columns.keys != columns.names:
    raise FmjaxError("DATA_BAD", "a record has one text", where=where,
                     expected=f"JSON with {', '.join(columns.names)}",
                     got=repr(text[:80]), fix="write records as JSON objects")  # fmt: skip
  return (text,)


def reader_of(file: File):
  from array_record.python.array_record_module import ArrayRecordReader

  if remote(file.path) and not file.path.startswith("gs://"):
    raise FmjaxError("USAGE", "ArrayRecord files are read here and on gs://", where=file.path,
                     fix="copy the files to this machine")  # fmt: skip
  reader = ArrayRecordReader(file.path, "readahead_buffer_size:0,max_parallelism:0")
  if not reader.ok():
    raise damaged(file, "not an ArrayRecord file, or one without its end")
  return reader


def damaged(file: File, why) -> FmjaxError:
  return FmjaxError("DATA_BAD", "the records cannot be read", where=file.path, got=why,
                    fix="make or download the file again")  # fmt: skip


def records(file: File, columns: Columns, held: bool | None) -> list[Part]:
  return [
    Records(name=f"{file.name}#{start}", bytes=size, files=(file,), held=held, columns=columns, start=start,
            stop=stop, reading=f"arrayrecord {columns.names}")
    for start, stop, size in ranges(reader_of(file).num_records(), file.size)
  ]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples(Part):
  """The examples [start, stop) of a split of a TFDS data set."""

  dataset: str
  data_dir: str | None
  split: str
  columns: Columns
  start: int
  stop: int

  def where(self, name):
    return f"{name.rpartition('#')[0]} example {number_of(name)}"

  def documents(self):
    source = examples_of(self.dataset, self.data_dir, self.split, self.columns)
    info = builder_of(self.dataset, self.data_dir).info
    name = f"{info.full_name}/{self.split}"
    called = {key: one.names for key, one in info.features.items() if getattr(one, "names", None)}  # of ClassLabel
    for start in range(self.start, self.stop, ROWS):
      numbers = list(range(start, min(start + ROWS, self.stop)))
      try:
        found = source.__getitems__(numbers)
      except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord's C++ raises
        where = f"{self.files[0].path} and beside it"
        raise FmjaxError("DATA_BAD", "the data set's examples cannot be read", where=where, got=error,
                         fix="prepare the data set again") from error  # fmt: skip
      for number, example in zip(numbers, found):
        yield Document(f"{name}#{number}", self.columns.of(example, f"{name} example {number}", called), self.held)


@functools.lru_cache(16)
def examples_of(dataset: str, data_dir: str | None, split: str, columns: Columns):
  """TFDS's data source of a split, in which only `columns` are decoded."""
  builder = builder_of(dataset, data_dir)
  features, wanted = builder.info.features, columns.tops(builder.info.features)
  decoders = {name: skipped(feature) for name, feature in features.items() if name not in wanted}
  return builder.as_data_source(split, decoders=decoders)


def skipped(feature):
  """The decoders that leave a feature as it is stored, in its own structure."""
  import tensorflow_datasets as tfds

  if isinstance(feature, tfds.features.Sequence):
    return skipped(feature.feature)
  if isinstance(feature, tfds.features.FeaturesDict):
    return {name: skipped(one) for name, one in feature.items()}
  return AsStored()


class AsStored:
  """A decoder for TFDS, whose own SkipDecoding knows no sequences."""

  def setup(self, *, feature):
    """Whatever the feature is, it is not looked at."""

  def decode_example_np(self, stored):
    return stored

  decode_batch_example_np = decode_ragged_example_np = decode_example_np


@functools.lru_cache(16)
def builder_of(dataset: str, data_dir: str | None):
  """TFDS's builder of a data set that is prepared in files that are read at random."""
  import tensorflow_datasets as tfds

  where = f"{dataset} in {data_dir or tfds.core.constants.DATA_DIR}"
  prepare = (f"tfds.builder({dataset!r}, data_dir={data_dir!r}, file_format='array_record').download_and_prepare()"
             " in a Python with `import tensorflow_datasets as tfds`")  # fmt: skip
  try:
    builder = tfds.builder(dataset, data_dir=data_dir)
  except tfds.core.registered.DatasetNotFoundError as error:
    names = {*tfds.list_builders(with_community_datasets=False), *prepared(data_dir)}
    name = dataset.split(":")[0].split("/")[0]
    fix = nearest(name, sorted(names)) if name not in names else "check its version and config, and data.data_dir"
    raise FmjaxError("DATA_MISSING", "TFDS has no such data set", where=where,
                     fix=fix if len(fix) < 200 else "check data.path and data.data_dir") from error  # fmt: skip
  except ImportError as error:
    raise FmjaxError("USAGE", "this data set's own code needs a package that is not here", where=where, got=error,
                     fix="give the version too (NAME:1.0.0), so that only its files are read") from error  # fmt: skip
  except (ValueError, AssertionError) as error:
    fix = "check data.path: NAME, NAME:VERSION, NAME/CONFIG or NAME/CONFIG:VERSION"
    raise FmjaxError("DATA_MISSING", "TFDS has no such version or config", where=where, got=error,
                     fix=fix) from error  # fmt: skip
  if not builder.is_prepared():
    raise FmjaxError("DATA_MISSING", "the data set is not prepared", where=where, expected=builder.data_path,
                     fix=prepare)  # fmt: skip
  formats = {one.value for one in builder.info.available_file_formats()}
  if not formats & {"array_record", "parquet"}:
    raise FmjaxError("DATA_BAD", "the data set's files cannot be read at random, or not without TensorFlow",
                     where=builder.data_path, expected="file_format='array_record'", got=", ".join(sorted(formats)),
                     fix=f"in another data_dir: {prepare}")  # fmt: skip
  return builder


def prepared(data_dir: str | None) -> list[str]:
  """Names of the data sets that lie in a folder of this machine."""
  return sorted(os.listdir(data_dir)) if data_dir and os.path.isdir(data_dir) else []


def examples(dataset: str, data_dir: str | None, split: str, columns: Columns, held) -> list[Part]:
  info = builder_of(dataset, data_dir).info
  try:
    about = info.splits[split]
  except (ValueError, KeyError) as error:
    raise FmjaxError("DATA_MISSING", f"the data set has no split {split!r}", where=info.full_name,
                     fix=f"data.split: {nearest(split, info.splits)}") from error  # fmt: skip
  for name in columns.tops(info.features):
    if name not in info.features:
      raise no_column(name, info.features, info.full_name)
  files = tuple(dataclasses.replace(listed(str(path))[0], name=f"{info.full_name}/{path.name}")
                for path in about.filepaths)  # fmt: skip
  return [
    Examples(name=f"{info.full_name}/{split}#{start}", bytes=size, files=files, held=held, dataset=dataset,
             data_dir=data_dir, split=split, columns=columns, start=start, stop=stop,
             reading=f"tfds {info.full_name} {split} {columns.names}")
    for start, stop, size in ranges(about.num_examples, sum(file.size for file in files))
  ]  # fmt: skip
