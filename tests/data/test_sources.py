"""A source's parts have every document once, split by name, and a wrong path says what is wrong."""

import gzip
import json
import pickle
import sysconfig
from pathlib import Path

import pytest
import xxhash

from fmjax.corpus import SourceConfig
from fmjax.data import documents, sources
from fmjax.errors import FmjaxError


def text_source(path, **fields):
  return SourceConfig(source="text", path=str(path), **fields)


def write_many(folder, names, text="text of {}"):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(name))


def read(source, fraction=0.1):
  """{name: (text, held)}; names are unique, parts can be sent to a process."""
  found = {}
  for part in pickle.loads(pickle.dumps(sources.parts(source, fraction))):
    for name, (text,), held in part.documents():
      assert name not in found
      found[name] = text, sources.held(name, fraction) if held is None else held
  return found


def split(source, fraction=0.1):
  """The texts of both splits, in order."""
  found = read(source, fraction).values()
  return [text for text, held in found if not held], [text for text, held in found if held]


def by_name(texts: dict, fraction: float):
  """The rule, told again: by the place of each name's hash, and neither side of several is empty."""
  place = {name: xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) / 2**64 for name in texts}
  held = {name for name in texts if place[name] < fraction}
  if len(texts) > 1:
    held = (held | {min(place, key=place.get)}) - {max(place, key=place.get)}
  return [texts[name] for name in sorted(texts) if name not in held], [texts[name] for name in sorted(held)]


def test_stdlib_is_this_pythons_own_source_without_tests():
  found = read(SourceConfig())
  root = Path(sysconfig.get_path("stdlib"))
  assert found["json/decoder.py"][0] == (root / "json/decoder.py").read_text()
  assert not {part for name in found for part in Path(name).parts} & sources.STDLIB_LEFT_OUT
  assert 5e6 < sum(len(text) for text, _ in found.values()) < 2e7
  assert "" not in {text for text, _ in found.values()}


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.3])
def test_stdlib_is_split_by_name(fraction):
  root = Path(sysconfig.get_path("stdlib"))
  names = read(SourceConfig())
  assert split(SourceConfig(), fraction) == by_name({name: (root / name).read_text() for name in names}, fraction)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_files_are_split_by_name_and_empty_ones_left_out(tmp_path, fraction):
  texts = {
    f"{folder}{number}.txt": f"{folder!a}{number}" for folder in ("", "a/", "a/b/", "\udcff/") for number in range(12)
  }
  write_many(tmp_path, ["empty.txt", *texts], "")
  for name, text in texts.items():
    (tmp_path / name).write_text(text)
  assert split(text_source(tmp_path / "**/*.txt"), fraction) == by_name(texts, fraction)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.37, 0.5, 0.64, 1 - 1e-9])
def test_one_file_is_cut_at_a_character(tmp_path, fraction, monkeypatch):
  monkeypatch.setattr(documents, "BLOCK", 5)
  text = "é漢字🙂\r\n" * 10 + "x"
  (tmp_path / "input.txt").write_bytes(text.encode())
  middle = int(len(text) * (1 - fraction))
  assert split(text_source(tmp_path / "input.txt"), fraction) == ([text[:middle]], [text[middle:]])
  assert read(text_source(tmp_path / "*.txt"), fraction) == read(text_source(tmp_path / "input.txt"), fraction)
  (tmp_path / "input.txt.gz").write_bytes(gzip.compress(text.encode()))
  assert split(text_source(tmp_path / "input.txt.gz"), fraction) == ([text[:middle]], [text[middle:]])


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_neither_split_of_two_files_is_empty(tmp_path, fraction):
  write_many(tmp_path, ["a.txt", "b.txt"])
  train, held = split(text_source(tmp_path / "?.txt"), fraction)
  assert len(train) == len(held) == 1


def test_several_files_keep_their_side_when_others_come_and_go(tmp_path):
  write_many(tmp_path, [f"{i}.txt" for i in range(40)] + ["deep/er.txt"])
  before = read(text_source(tmp_path / "**/*.txt"), 0.3)
  write_many(tmp_path, [f"new/{i}.txt" for i in range(40)])
  after = read(text_source(tmp_path / "**/*.txt"), 0.3)
  assert len(before) == 41 and before.items() < after.items()
  assert 0 < sum(held for _, held in before.values()) < 41


def test_one_files_side_does_not_depend_on_where_the_folder_lies(tmp_path):
  names = [f"{i}.txt" for i in range(20)]
  write_many(tmp_path / "a", names)
  write_many(tmp_path / "b/c", names)
  assert read(text_source(tmp_path / "a/*.txt")) == read(text_source(tmp_path / "b/c/*.txt"))


def test_documents_are_in_the_order_of_their_names_and_grouped_in_parts(tmp_path, monkeypatch):
  names = ["b.txt", "a/z.txt", "c.txt", "a.txt", "B.txt"]
  write_many(tmp_path, names)
  whole = read(text_source(tmp_path / "**/*.txt"))
  assert list(whole) == sorted(names)
  monkeypatch.setattr(documents, "TEXT_BYTES", 26)
  parts = sources.parts(text_source(tmp_path / "**/*.txt"), 0.1)
  assert [len(part.files) for part in parts] == [1, 1, 2, 1] or [len(part.files) for part in parts] == [2, 1, 2]
  assert all(part.bytes == sum(file.size for file in part.files) <= 26 for part in parts)
  assert read(text_source(tmp_path / "**/*.txt")) == whole


def test_eval_files_are_eval_and_the_others_train(tmp_path):
  write_many(tmp_path, ["train/a.txt", "train/b.txt", "valid/a.txt"])
  found = read(text_source(tmp_path / "train/*.txt", eval_path=str(tmp_path / "valid/*.txt")))
  assert {(text, held) for text, held in found.values()} == {
    ("text of train/a.txt", False), ("text of train/b.txt", False), ("text of valid/a.txt", True),
  }  # fmt: skip
  assert [held for _, held in found.values()][0], "of duplicates the first stays: the one that is evaluated"


def test_the_digest_is_of_names_content_and_columns(tmp_path):
  def of(folder, **fields):
    found = sources.parts(SourceConfig(source="jsonl", path=str(folder / "*.jsonl"), **fields), 0.1)
    return sources.digest(found), sources.stamp(found)

  line = '{"text": "a", "other": "b"}\n'
  write_many(tmp_path / "one", ["a.jsonl", "b.jsonl"], line.replace("{", "{{").replace("}", "}}"))
  write_many(tmp_path / "two", ["a.jsonl", "b.jsonl"], line.replace("{", "{{").replace("}", "}}"))
  digest, stamp = of(tmp_path / "one")
  assert of(tmp_path / "one") == (digest, stamp) and of(tmp_path / "two")[0] == digest
  assert of(tmp_path / "two")[1] != stamp, "another folder, other times"
  assert of(tmp_path / "one", columns=("other",))[0] != digest
  (tmp_path / "one/b.jsonl").write_text(line.replace('"a"', '"x"'))
  assert of(tmp_path / "one")[0] != digest and of(tmp_path / "one")[1] != stamp
  (tmp_path / "two/b.jsonl").rename(tmp_path / "two/c.jsonl")
  assert of(tmp_path / "two")[0] != digest


def test_the_digest_does_not_depend_on_how_parts_are_cut(tmp_path, monkeypatch):
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 100)
  source = SourceConfig(source="jsonl", path=str(tmp_path / "a.jsonl"))
  whole = sources.parts(source, 0.1)
  monkeypatch.setattr(documents, "PART_BYTES", 100)
  assert sources.digest(whole) == sources.digest(sources.parts(source, 0.1)) and len(whole) == 1


def test_the_digest_of_one_text_is_of_where_it_is_cut(tmp_path):
  (tmp_path / "a.txt").write_text("abcdefgh")
  digests = [
    sources.digest(sources.parts(text_source(tmp_path / "a.txt"), fraction)) for fraction in (0.25, 0.3, 0.5)
  ]
  assert digests[0] != digests[2] and len(set(digests)) == 3


@pytest.mark.parametrize(
  "path, content, code, words",
  [
    ("missing.txt", None, "DATA_MISSING", ["there is no such file", "missing.txt"]),
    ("*.none", None, "DATA_MISSING", ["matches no file", "*.none"]),
    ("no/folder/x.txt", None, "DATA_MISSING", ["there is no such file"]),
    (".", None, "DATA_BAD", ["is a folder", "*.txt"]),
    ("empty.txt", b"", "DATA_BAD", ["the text is empty", "empty.txt"]),
    ("latin.txt", b"caf\xe9 au lait", "DATA_BAD", ["not UTF-8", "latin.txt at byte 3", "0xe9"]),
    ("late.txt", b"a text, and in its eval part: caf\xe9", "DATA_BAD", ["not UTF-8", "late.txt at byte 33", "0xe9"]),
    ("nowhere://x", None, "DATA_MISSING", ["no such kind of address", "nowhere://x"]),
    ("gs://bucket/x.txt", None, "USAGE", ["gs://bucket/x.txt", "pip install gcsfs"]),
  ],
)
def test_a_wrong_path_says_what_is_wrong(tmp_path, path, content, code, words):
  (tmp_path / "other.txt").write_text("a text")
  if content is not None:
    (tmp_path / path).write_bytes(content)
  with pytest.raises(FmjaxError) as caught:
    read(text_source(path if "://" in path else tmp_path / path))
  message = str(caught.value)
  assert caught.value.code == code and "fix:" in message and len(message.splitlines()) <= 6
  assert all(word in message for word in words), message


def test_a_misspelt_file_names_its_neighbour(tmp_path):
  (tmp_path / "input.txt").write_text("a text")
  with pytest.raises(FmjaxError, match=r"(?s)no such file.*did you mean 'input.txt'"):
    sources.parts(text_source(tmp_path / "inptu.txt"), 0.1)


def test_a_text_file_has_no_second_column(tmp_path):
  (tmp_path / "a.txt").write_text("a text")
  with pytest.raises(FmjaxError, match=r"(?s)one text.*jsonl"):
    sources.parts(text_source(tmp_path / "a.txt", columns=("source", "target")), 0.1)


def test_an_unreadable_file_is_named(tmp_path):
  loop = tmp_path / "loop.txt"
  loop.mkdir()
  with pytest.raises(FmjaxError) as caught:
    sources.read_text(loop)
  assert caught.value.code == "DATA_BAD" and str(loop) in str(caught.value)


def test_files_are_found_sorted_by_path(tmp_path):
  write_many(tmp_path, ["b.txt", "a/z.txt", "a.txt"])
  assert sources.find(str(tmp_path / "**/*.txt")) == [tmp_path / name for name in ("a.txt", "a/z.txt", "b.txt")]


@pytest.mark.parametrize("glob", ["", "/part-*.jsonl"])
def test_a_missing_shard_is_noticed(tmp_path, glob):
  for number in (0, 2, 3):
    (tmp_path / f"part-{number:05d}-of-00005.jsonl").write_text(json.dumps(dict(text="x" * number)) + "\n")
  with pytest.raises(FmjaxError, match=r"(?s)2 of 5 shards.*no part-00001-of-00005\.jsonl") as caught:
    sources.parts(SourceConfig(source="jsonl", path=f"{tmp_path}{glob}"), 0.1)
  assert caught.value.code == "DATA_MISSING"
  for number in (1, 4):
    (tmp_path / f"part-{number:05d}-of-00005.jsonl").write_text("")
  assert len(sources.parts(SourceConfig(source="jsonl", path=f"{tmp_path}{glob}"), 0.1)) == 3


def test_shards_with_a_hash_of_their_own_are_one_set(tmp_path):
  for number, own in enumerate(("a3ecf92756993583", "0a1804bcb6ae68c6")):
    (tmp_path / f"train-{number:05d}-of-00002-{own}.jsonl").write_text(json.dumps(dict(text="x")) + "\n")
  assert len(sources.parts(SourceConfig(source="jsonl", path=str(tmp_path)), 0.1)) == 2
  (tmp_path / "train-00000-of-00002-a3ecf92756993583.jsonl").unlink()
  with pytest.raises(FmjaxError, match="1 of 2 shards"):
    sources.parts(SourceConfig(source="jsonl", path=str(tmp_path)), 0.1)


@pytest.mark.parametrize("name, count", [("part-00002-of-00005.jsonl", 1), ("part-0000[23]-of-00005.jsonl", 2)])
def test_shards_may_be_chosen(tmp_path, name, count):
  for number in (2, 3):
    (tmp_path / f"part-{number:05d}-of-00005.jsonl").write_text(json.dumps(dict(text="x")) + "\n")
  assert len(sources.parts(SourceConfig(source="jsonl", path=f"{tmp_path}/{name}"), 0.1)) == count
