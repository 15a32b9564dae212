"""Parquet files and saved Hugging Face data sets: parts have every row once, and wrong columns are told early."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmjax.corpus import SourceConfig
from fmjax.data import arrow, sources
from fmjax.errors import FmjaxError

STRING = pa.string()
TEXTS = [f"tëxt {number} " + "x" * (number % 7) * 20 for number in range(100)]


def table(texts=TEXTS, kind=STRING):
  other = pa.array([str(number) for number in range(len(texts))])
  return pa.table({"id": list(range(len(texts))), "text": pa.array(texts).cast(kind), "other": other})


def source(path, kind="parquet", **fields):
  return SourceConfig(source=kind, path=str(path), **fields)


def read(source):
  parts = sources.parts(source, 0.1)
  assert len({part.name for part in parts}) == len(parts)
  return [[tuple(document) for document in part.documents()] for part in parts]


def flat(found):
  return [one for part in found for one in part]


def save_to_disk(folder, texts=TEXTS, files=2, rows=7, kind=STRING):
  """The layout of `datasets.Dataset.save_to_disk`."""
  folder.mkdir(parents=True)
  whole, share = table(texts, kind), -(-len(texts) // files)
  names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
  for number, name in enumerate(names):
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
      writer.write_table(whole.slice(number * share, share), rows)
  (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
  (folder / "dataset_info.json").write_text("{}")
  return names


@pytest.mark.parametrize("size", [1, 500, 3000, 10**9])
@pytest.mark.parametrize(
  "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_row_groups_have_every_row_once(tmp_path, monkeypatch, size, kind):
  pq.write_table(table(kind=kind), tmp_path / "a.parquet", row_group_size=9)
  monkeypatch.setattr(arrow, "PART_BYTES", size)
  monkeypatch.setattr(arrow, "ROWS", 4)
  found = read(source(tmp_path / "a.parquet"))
  assert flat(found) == [(f"a.parquet#{number}", (text,), None) for number, text in enumerate(TEXTS)]
  assert {1: 12, 10**9: 1}.get(size, len(found)) == len(found)


def test_a_parquet_folder_gives_columns_in_the_order_asked_for(tmp_path):
  (tmp_path / "deep").mkdir()
  pq.write_table(table(["a"]), tmp_path / "deep/b.parquet")
  pq.write_table(table(["b"]), tmp_path / "a.parquet")
  found = flat(read(source(tmp_path, columns=("other", "text"))))
  assert found == [("a.parquet#0", ("0", "b"), None), ("deep/b.parquet#0", ("0", "a"), None)]


@pytest.mark.parametrize("size", [1, 500, 10**9])
def test_record_batches_have_every_row_once(tmp_path, monkeypatch, size):
  first, second = save_to_disk(tmp_path / "saved")
  monkeypatch.setattr(arrow, "PART_BYTES", size)
  monkeypatch.setattr(arrow, "ROWS", 4)
  found = read(source(tmp_path / "saved", "huggingface"))
  names = [f"{first}#{number}" for number in range(50)] + [f"{second}#{number}" for number in range(50)]
  assert flat(found) == [(name, (text,), None) for name, text in zip(names, TEXTS)]
  assert {1: 16, 10**9: 2}.get(size, len(found)) == len(found)


def save_splits(folder):
  save_to_disk(folder / "train", ["a", "b", "c"], 1)
  save_to_disk(folder / "test", ["d"], 1)
  (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def test_splits_of_a_saved_dict(tmp_path):
  save_splits(tmp_path / "saved")
  one = flat(read(source(tmp_path / "saved", "huggingface")))
  assert [(texts, held) for _, texts, held in one] == [(("a",), None), (("b",), None), (("c",), None)]
  both = flat(read(source(tmp_path / "saved", "huggingface", eval_split="test")))
  assert [(texts, held) for _, texts, held in both] == [
    (("d",), True),
    (("a",), False),
    (("b",), False),
    (("c",), False),
  ]
  assert both[0][0] == "test/data-00000-of-00001.arrow#0"
  save_to_disk(tmp_path / "other", ["e"], 1)
  paths = flat(read(source(tmp_path / "saved", "huggingface", eval_path=str(tmp_path / "other"))))
  assert [(texts, held) for _, texts, held in paths][:2] == [(("e",), True), (("a",), False)]


def test_a_bucket_reads_as_a_folder_does(tmp_path):
  fsspec = pytest.importorskip("fsspec")
  memory = fsspec.filesystem("memory")
  save_splits(tmp_path / "saved")
  pq.write_table(table(), tmp_path / "saved/a.parquet", row_group_size=9)
  memory.put(str(tmp_path / "saved"), "/arrow", recursive=True)
  for kind in ("huggingface", "parquet"):
    assert flat(read(source("memory://arrow", kind))) == flat(read(source(tmp_path / "saved", kind)))


def test_what_the_library_itself_saved(tmp_path):
  datasets = pytest.importorskip("datasets")
  saved = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": TEXTS}) for name in ("train", "test")})
  saved.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
  found = flat(read(source(tmp_path / "saved", "huggingface", eval_split="test")))
  assert [(text, held) for _, (text,), held in found] == [(t, True) for t in TEXTS] + [(t, False) for t in TEXTS]


@pytest.mark.parametrize("kind", ["parquet", "huggingface"])
@pytest.mark.parametrize(
  "texts, columns, words",
  [
    (["a"], ("txt",), ["no column 'txt'", "did you mean 'text'"]),
    (["a"], ("id",), ["'id' holds no text", "int64"]),
    (["a", None], ("text",), ["'text' holds no text", "row 1", "null"]),
  ],
)
def test_a_wrong_column_is_told(tmp_path, kind, texts, columns, words):
  if kind == "parquet":
    pq.write_table(table(texts), tmp_path / "a.parquet")
  else:
    save_to_disk(tmp_path / "saved", texts, 1)
  with pytest.raises(FmjaxError) as caught:
    read(source(tmp_path if kind == "parquet" else tmp_path / "saved", kind, columns=columns))
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and len(message.splitlines()) <= 6
  assert all(word in message for word in [str(tmp_path), "fix:", *words]), message


def damage(folder):
  pq.write_table(table(), folder / "a.parquet")
  (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-30])


def empty(folder):
  pq.write_table(table([]), folder / "a.parquet")


def no_state(folder):
  save_to_disk(folder / "data")
  (folder / "data/state.json").unlink()


def no_file(folder):
  (folder / save_to_disk(folder / "data")[1]).unlink(missing_ok=True)
  (folder / "data/data-00001-of-00002.arrow").unlink()


def cut_off(folder):
  names = save_to_disk(folder / "data", files=1)
  path = folder / "data" / names[0]
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  "kind, make, fields, code, words",
  [
    ("parquet", damage, {}, "DATA_BAD", ["damaged", "a.parquet"]),
    ("parquet", empty, {}, "DATA_BAD", ["the text is empty"]),
    ("parquet", lambda folder: None, {}, "DATA_MISSING", ["no such file", "*.parquet"]),
    ("huggingface", no_state, {}, "DATA_MISSING", ["save_to_disk", "state.json"]),
    ("huggingface", no_file, {}, "DATA_MISSING", ["data-00001-of-00002.arrow"]),
    ("huggingface", cut_off, {}, "DATA_BAD", ["damaged", "data-00000-of-00001.arrow"]),
    ("huggingface", lambda folder: save_splits(folder / "data"), dict(split="tran"), "DATA_MISSING",
     ["no split 'tran'", "did you mean 'train'"]),
    ("huggingface", lambda folder: save_splits(folder / "data"), dict(eval_split="train"), "CONFIG",
     ["the eval split is the train split"]),
    ("huggingface", lambda folder: save_to_disk(folder / "data"), dict(eval_split="test"), "DATA_MISSING",
     ["no split 'test'", "one split"]),
  ],
)  # fmt: skip
def test_a_wrong_file_is_named(tmp_path, kind, make, fields, code, words):
  make(tmp_path)
  with pytest.raises(FmjaxError) as caught:
    read(source(tmp_path if kind == "parquet" else tmp_path / "data", kind, **fields))
  message = str(caught.value)
  assert caught.value.code == code and len(message.splitlines()) <= 6
  assert all(word in message for word in ["fix:", *words]), message


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  (tmp_path / "a.parquet").write_bytes(b"PAR1")
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*pip install 'fmjax\[parquet\]'"):
    sources.parts(source(tmp_path), 0.1)


def labelled():
  answers = [{"text": ["a", "b"], "start": [1, 2]}, {"text": [], "start": []}, None]
  return pa.table({
    "text": [b"bytes", b"of", b"text"],
    "label": pa.array([2, None, 0], pa.int8()),
    "score": pa.array([0.5, 0.25, 0.1], pa.float32()),
    "answers": answers,
    "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
    "day": pa.array([0, 1, 2], pa.date32()),
  })  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "huggingface"])
def test_values_are_pythons_own(tmp_path, kind):
  if kind == "parquet":
    pq.write_table(labelled(), tmp_path / "a.parquet", row_group_size=2)
  else:
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, labelled().schema) as writer:
      writer.write_table(labelled(), 2)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
  columns = ("label", "answers/text", "text", "score", "answers/start", "kind")
  parts = sources.parts(source(tmp_path, kind, columns=columns), 0.1, typed=True)
  found = [document.values for part in parts for document in part.documents()]
  assert found == [
    (2, ["a", "b"], "bytes", 0.5, [1, 2], "x"),
    (None, [], "of", 0.25, [], "y"),
    (0, None, "text", float(pa.scalar(0.1, pa.float32()).as_py()), None, "x"),
  ]
  assert type(found[0][0]) is int and type(found[0][3]) is float
  for columns, words in (
    (("day",), ["'day' holds a value of no known kind", "row 0", "got:   date"]),
    (("answer/text",), ["no column 'answer'", "did you mean 'answers'"]),
    (("answers/texts",), ["no column 'answers/texts'", "row 0", "did you mean 'answers/text'"]),
  ):
    with pytest.raises(FmjaxError) as caught:
      list(sources.parts(source(tmp_path, kind, columns=columns), 0.1, typed=True)[0].documents())
    assert all(word in str(caught.value) for word in ["DATA_BAD", *words]), str(caught.value)
  with pytest.raises(FmjaxError, match="(?s)'answers/text' holds no text.*row 0.*got:   list"):
    read(source(tmp_path, kind, columns=("answers/text",)))
