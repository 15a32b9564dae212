"""ArrayRecord files and TFDS data sets: parts have every record once; no TensorFlow; wrong names are told."""

import io
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from fmjax.corpus import SourceConfig
from fmjax.data import records, sources
from fmjax.errors import FmjaxError

# TFDS asks protobuf 6, which Apache Beam brings, for what that deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

TEXTS = [f"tëxt {number}" for number in range(100)]


def write(path, found):
  writer = ArrayRecordWriter(str(path), "group_size:1")
  for record in found:
    writer.write(record if isinstance(record, bytes) else record.encode())
  writer.close()


def source(path, kind="arrayrecord", **fields):
  return SourceConfig(source=kind, path=str(path), **fields)


def read(source):
  parts = sources.parts(source, 0.1)
  assert len({part.name for part in parts}) == len(parts)
  return [[tuple(document) for document in part.documents()] for part in parts]


def flat(found):
  return [one for part in found for one in part]


@pytest.mark.parametrize("own", [1, 3, 100, 1000])
def test_ranges_have_every_record_once(tmp_path, monkeypatch, own):
  write(tmp_path / "a.arrayrecord", TEXTS)
  size = (tmp_path / "a.arrayrecord").stat().st_size
  monkeypatch.setattr(records, "PART_BYTES", -(-own * size // len(TEXTS)))
  monkeypatch.setattr(records, "ROWS", 7)
  found = read(source(tmp_path / "a.arrayrecord"))
  assert flat(found) == [(f"a.arrayrecord#{number}", (text,), None) for number, text in enumerate(TEXTS)]
  assert len(found) == -(-len(TEXTS) // own)
  assert abs(sum(part.bytes for part in sources.parts(source(tmp_path / "a.arrayrecord"), 0.1)) - size) < 100


def test_a_record_is_an_object_where_it_looks_like_one(tmp_path):
  write(tmp_path / "a.arrayrecord", [json.dumps({"de": "hallo", "en": "hello"})])
  write(tmp_path / "b.array_record-00000-of-00001", [json.dumps({"de": "zwei", "en": "two"})])
  assert [texts for _, texts, _ in flat(read(source(tmp_path, columns=("en", "de"))))] == [
    ("hello", "hallo"), ("two", "zwei"),
  ]  # fmt: skip


@pytest.mark.parametrize(
  "content, fields, words",
  [
    (["a", b"\xe9"], {}, ["not UTF-8", "record 1 at byte 0"]),
    (["a", "{b"], {}, ["not JSON", "record 1"]),
    (['{"txt": "a"}'], {}, ["no column 'text'", "record 0", "did you mean 'txt'"]),
    (["a"], dict(columns=("en", "de")), ["one text", "record 0", "JSON"]),
    ([], {}, ["the text is empty"]),
  ],
)
def test_a_wrong_record_is_named(tmp_path, content, fields, words):
  write(tmp_path / "a.arrayrecord", content)
  with pytest.raises(FmjaxError) as caught:
    read(source(tmp_path / "a.arrayrecord", **fields))
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and "a.arrayrecord" in message and len(message.splitlines()) <= 6
  assert all(word in message for word in ["fix:", *words]), message


@pytest.mark.parametrize("spoil", ["text", "cut", "flip"])
def test_a_damaged_file_is_named(tmp_path, spoil):
  path = tmp_path / "a.arrayrecord"
  write(path, TEXTS)
  content = bytearray(path.read_bytes())
  content[120] ^= 1
  path.write_bytes(dict(text=b"hello world", cut=content[:-100], flip=content)[spoil])
  with pytest.raises(FmjaxError, match=r"(?s)DATA_BAD  the records cannot be read.*a\.arrayrecord"):
    read(source(path))


# --- TFDS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """A data set with columns that are no texts."""
  import tensorflow_datasets as tfds

  class SmallCorpus(tfds.core.GeneratorBasedBuilder):
    """Small."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      kinds = {"text": tfds.features.Text(), "title": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
      kinds["kind"] = tfds.features.ClassLabel(names=["even", "odd"])
      kinds["answers"] = tfds.features.Sequence({"text": tfds.features.Text(), "start": np.int32})
      kinds["scores"] = tfds.features.Tensor(shape=(2,), dtype=np.float32)
      kinds["picture"] = tfds.features.Image(shape=(1, 1, 3))  # whose bytes cannot be decoded
      return tfds.core.DatasetInfo(
        builder=self, description="Small.", features=tfds.features.FeaturesDict(kinds), disable_shuffling=True
      )

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(TEXTS), "test": self._generate_examples(["of the test"])}

    def _generate_examples(self, texts):
      for number, text in enumerate(texts):
        example = {"text": text, "title": f"title {number}", "label": number, "picture": io.BytesIO(b"no picture")}
        example["answers"] = {"text": [text] * (number % 3), "start": [*range(number % 3)]}
        yield (
          number,
          example | {"kind": ["even", "odd"][number % 2], "scores": np.float32([number, 0.5])},
        )

  folder = tmp_path_factory.mktemp("tfds")
  SmallCorpus(data_dir=folder, file_format="array_record").download_and_prepare()
  for cache in (records.builder_of, records.examples_of):
    cache.cache_clear()
  return str(folder)


def tfds_source(corpus, path="small_corpus:1.0.0", **fields):
  return source(path, "tfds", data_dir=corpus, **fields)


@pytest.mark.parametrize("own", [1, 30, 1000])
def test_ranges_have_every_example_once(corpus, monkeypatch, own):
  size = sum(file.size for file in sources.parts(tfds_source(corpus), 0.1)[0].files)
  monkeypatch.setattr(records, "PART_BYTES", -(-own * size // len(TEXTS)))
  monkeypatch.setattr(records, "ROWS", 7)
  found = read(tfds_source(corpus))
  assert flat(found) == [(f"small_corpus/1.0.0/train#{number}", (text,), None) for number, text in enumerate(TEXTS)]
  assert len(found) == -(-len(TEXTS) // own)
  assert "tensorflow" not in sys.modules


def test_splits_and_columns_of_a_data_set(corpus):
  found = flat(read(tfds_source(corpus, columns=("title", "text"), eval_split="test")))
  assert found[0] == ("small_corpus/1.0.0/test#0", ("title 0", "of the test"), True)
  assert found[1] == ("small_corpus/1.0.0/train#0", ("title 0", TEXTS[0]), False)
  assert len(found) == 101
  assert [texts[0] for _, texts, _ in flat(read(tfds_source(corpus, split="train[10:13]")))] == TEXTS[10:13]


def test_values_of_an_example_are_pythons_own(corpus):
  columns = ("text", "kind", "label", "scores", "answers/text", "answers/start")
  (part,) = sources.parts(tfds_source(corpus, columns=columns), 0.1, typed=True)
  found = [document.values for document in part.documents()]
  assert found == [
    (text, n % 2, n, [float(n), 0.5], [text] * (n % 3), [*range(n % 3)]) for n, text in enumerate(TEXTS)
  ]
  assert {tuple(type(value) for value in values) for values in found} == {(str, int, int, list, list, list)}
  assert {type(one) for *_, scores, texts, starts in found for one in (*scores, *texts, *starts)} == {float, str, int}
  assert part.where("small_corpus/1.0.0/train#7") == "small_corpus/1.0.0/train example 7"
  assert "tensorflow" not in sys.modules


def test_records_have_values_of_any_kind(tmp_path):
  write(tmp_path / "a.arrayrecord", [json.dumps({"text": "a", "label": 1, "more": {"x": [0.5]}}), "{}"])
  (part,) = sources.parts(source(tmp_path, columns=("label", "more/x")), 0.1, typed=True)
  found = part.documents()
  assert next(found).values == (1, [0.5])
  with pytest.raises(FmjaxError, match=r"(?s)no column 'label'.*a\.arrayrecord record 1"):
    next(found)
  assert part.where("a.arrayrecord#1") == f"{tmp_path / 'a.arrayrecord'} record 1"


def test_the_digest_is_of_the_split_and_the_files(corpus):
  others = dict(split="test"), dict(eval_split="test"), dict(columns=("title",)), dict(split="train[:50]")
  digests = {sources.digest(sources.parts(tfds_source(corpus, **fields), 0.1)) for fields in ({}, *others)}
  assert len(digests) == 5
  assert sources.digest(sources.parts(tfds_source(corpus), 0.1)) in digests


@pytest.mark.parametrize(
  "fields, code, words",
  [
    (dict(path="smal_corpus"), "DATA_MISSING", ["no such data set", "did you mean 'small_corpus'"]),
    (dict(path="small_corpus:2.0.0"), "DATA_MISSING", ["small_corpus:2.0.0", "version"]),
    (dict(path="small_corpus/large:1.0.0"), "DATA_MISSING", ["small_corpus/large"]),
    (dict(path="ag_news_subset:1.0.0"), "DATA_MISSING", ["not prepared", "file_format='array_record'"]),
    (dict(split="tran"), "DATA_MISSING", ["no split 'tran'", "did you mean 'train'"]),
    (dict(columns=("txt",)), "DATA_BAD", ["no column 'txt'", "did you mean 'text'"]),
    (dict(columns=("label",)), "DATA_BAD", ["'label' holds no text", "got:   int"]),
  ],
)
def test_a_wrong_name_is_told(corpus, fields, code, words):
  with pytest.raises(FmjaxError) as caught:
    read(tfds_source(corpus, **fields))
  message = str(caught.value)
  assert caught.value.code == code and len(message.splitlines()) <= 6
  assert all(word in message for word in ["fix:", *words]), message


def test_a_data_set_without_code_is_named_too(corpus, tmp_path):
  shutil.copytree(pathlib.Path(corpus) / "small_corpus", tmp_path / "one_of_mine")
  with pytest.raises(FmjaxError, match=r"(?s)no such data set.*did you mean 'one_of_mine'"):
    read(tfds_source(str(tmp_path), "one_of_mien"))


def test_files_that_need_tensorflow_say_how_to_prepare(corpus, tmp_path):
  shutil.copytree(pathlib.Path(corpus) / "small_corpus", tmp_path / "small_corpus")
  info = tmp_path / "small_corpus/1.0.0/dataset_info.json"
  info.write_text(info.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "tfrecord"'))
  with pytest.raises(
    FmjaxError, match=r"(?s)DATA_BAD.*without TensorFlow.*got:   tfrecord.*file_format='array_record'"
  ):
    read(tfds_source(str(tmp_path)))


def test_the_standard_library_as_a_data_set(tmp_path):
  from fmjax.data.stdlib_builder import PythonStdlib

  PythonStdlib(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  found = flat(read(tfds_source(str(tmp_path), "python_stdlib", eval_split="eval")))
  here = sources.parts(SourceConfig(), 0.1)
  own = {
    (texts, sources.held(name, 0.1) if held is None else held)
    for part in here for name, texts, held in part.documents()
  }  # fmt: skip
  assert {(texts, held) for _, texts, held in found} == own and len(found) >= len(own)
  assert "tensorflow" not in sys.modules
