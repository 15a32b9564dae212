"""Lines of JSON: whatever the ranges, each line is in one of them, and a wrong one is named by its byte."""

import gzip
import json

import pytest

from fmjax.corpus import SourceConfig
from fmjax.data import documents, files, sources
from fmjax.errors import FmjaxError
from fmjax.laws import Wrong


def source(path, **fields):
  return SourceConfig(source="jsonl", path=str(path), **fields)


def read(source):
  parts = sources.parts(source, 0.1)
  return [[(document.name, document.values) for document in part.documents()] for part in parts]


def as_lines(texts, end="\n"):
  return [json.dumps({"id": number, "text": text}, ensure_ascii=False) + end for number, text in enumerate(texts)]


TEXTS = ["", "a", "é漢字🙂", "x" * 300, "two\nlines\r\n", "\u2028\x85 are no line ends", "last"] * 5


@pytest.mark.parametrize("size", [1, 2, 7, 30, 31, 100, 299, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_ranges_of_any_size_have_every_line_once(tmp_path, monkeypatch, size, end, last):
  content = "".join(as_lines(TEXTS, end)).encode()
  content = content if last else content.removesuffix(end.encode())
  (tmp_path / "a.jsonl").write_bytes(content)
  monkeypatch.setattr(documents, "PART_BYTES", size)
  monkeypatch.setattr(documents, "BLOCK", 13)
  found = read(source(tmp_path / "a.jsonl"))
  starts = [0]
  for line in as_lines(TEXTS, end):
    starts.append(starts[-1] + len(line.encode()))
  assert [one for part in found for one in part] == [
    (f"a.jsonl@{start}", (text,)) for start, text in zip(starts, TEXTS)
  ]
  assert len(found) == -(-len(content) // size)
  parts = sources.parts(source(tmp_path / "a.jsonl"), 0.1)
  assert sum(part.bytes for part in parts) == len(content)
  assert len({part.name for part in parts}) == len(parts)


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
  (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n \r\n{"text": "b"}\n\n')
  assert [[texts for _, texts in part] for part in read(source(tmp_path / "a.jsonl"))] == [[("a",), ("b",)]]


def test_a_byte_is_counted_from_the_mark(tmp_path):
  (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "\xe9"}\n')
  with pytest.raises(FmjaxError, match="at byte 13"):
    read(source(tmp_path / "a.jsonl"))


def test_columns_come_in_the_order_asked_for(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"en": "hello", "id": 3, "de": "hallo"}\n')
  found = read(source(tmp_path / "a.jsonl", columns=("de", "en")))
  assert found == [[("a.jsonl@0", ("hallo", "hello"))]]


def test_a_folder_is_its_lines_of_json_at_any_depth(tmp_path):
  for name in ("b.jsonl", "deep/a.jsonl", "notes.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"text": "a"}\n')
  assert [name for part in read(source(tmp_path)) for name, _ in part] == ["b.jsonl@0", "deep/a.jsonl@0"]


def test_a_compressed_file_reads_as_what_was_compressed(tmp_path, monkeypatch):
  content = "".join(as_lines(TEXTS)).encode()
  (tmp_path / "a.jsonl").write_bytes(content)
  (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
  monkeypatch.setattr(documents, "PART_BYTES", 100)
  plain, packed = read(source(tmp_path / "a.jsonl")), read(source(tmp_path / "b.jsonl.gz"))
  assert [texts for part in packed for _, texts in part] == [texts for part in plain for _, texts in part]
  assert len(packed) == 1
  (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content)[:-20])
  with pytest.raises(FmjaxError, match=r"(?s)DATA_BAD  the file cannot be read.*b\.jsonl\.gz"):
    read(source(tmp_path / "b.jsonl.gz"))


def test_a_bucket_reads_as_a_folder_does(tmp_path, monkeypatch):
  fsspec = pytest.importorskip("fsspec")
  memory = fsspec.filesystem("memory")
  monkeypatch.setattr(documents, "PART_BYTES", 100)
  for name in ("a.jsonl", "deep/b.jsonl"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("".join(as_lines(TEXTS)))
    memory.pipe(f"/corpus/{name}", (tmp_path / name).read_bytes())
  here = read(source(tmp_path))
  assert len(here) > 10
  for there in ("memory://corpus", "memory://corpus/", "memory://corpus/**/*.jsonl"):
    assert read(source(there)) == here
  assert read(source("memory://corpus/deep/b.jsonl"))[0][0][0] == "b.jsonl@0"
  parts = sources.parts(source("memory://corpus"), 0.1)
  digest, stamp = sources.digest(parts), sources.stamp(parts)
  memory.pipe("/corpus/a.jsonl", (tmp_path / "a.jsonl").read_bytes().replace(b"last", b"lost"))
  assert sources.digest(parts) != digest and sources.stamp(parts) != stamp
  for there, words in [("memory://corpus/c.jsonl", "no such file"), ("memory://corpus/*.txt", "matches no file")]:
    with pytest.raises(FmjaxError, match=f"(?s)DATA_MISSING.*{words}"):
      read(source(there))


@pytest.mark.parametrize(
  "line, words",
  [
    (b"{'text': 1}", ["not JSON", "at byte 14", '{"text": TEXT}']),
    (b'{"text": "a"', ["not JSON", "at byte 14"]),
    (b"[" * 100_000, ["not JSON", "at byte 14"]),
    (b'{"txt": "a"}', ["no column 'text'", "at byte 14", "did you mean 'txt'"]),
    (b'{"text": null}', ["'text' holds no text", "at byte 14", "null"]),
    (b'{"text": ["a"]}', ["'text' holds no text", "at byte 14", "list"]),
    (b'["text"]', ["not an object", "at byte 14"]),
    (b'{"text": "\xe9"}', ["not UTF-8", "at byte 24", "0xe9"]),
    (b'{"text": "ab\\ud83d"}', ["surrogate", "at byte 14", "\\ud83d at its character 2"]),
  ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
  (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
  with pytest.raises(FmjaxError) as caught:
    read(source(tmp_path / "a.jsonl"))
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and len(message.splitlines()) <= 6
  assert all(word in message for word in ["a.jsonl", "fix:", *words]), message


def test_whole_surrogate_pairs_are_characters(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude42"}\n')
  assert read(source(tmp_path / "a.jsonl")) == [[("a.jsonl@0", ("🙂",))]]


def test_a_range_reads_no_more_than_its_own_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "PART_BYTES", 1000)
  monkeypatch.setattr(documents, "BLOCK", 100)
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + json.dumps({"text": "x" * 50_000}) + "\n")
  read_bytes = []
  opened = files.opened

  class Counted:
    def __init__(self, stream):
      self.stream = stream

    def seek(self, place):
      self.stream.seek(place)

    def readline(self, *limit):
      line = self.stream.readline(*limit)
      read_bytes.append(len(line))
      return line

  class Opened:
    def __init__(self, file):
      self.inner = opened(file)

    def __enter__(self):
      return Counted(self.inner.__enter__())

    def __exit__(self, *error):
      return self.inner.__exit__(*error)

  monkeypatch.setattr(documents, "opened", Opened)
  for part in sources.parts(source(tmp_path / "a.jsonl"), 0.1)[1:]:
    read_bytes.clear()
    assert not list(part.documents()) and sum(read_bytes) <= 1101


# --- values of any kind


def typed(source):
  return [document.values for part in sources.parts(source, 0.1, typed=True) for document in part.documents()]


RECORD = {
  "n": 3, "x": 0.1, "none": None, "yes": True, "a/b": "key", "list": [1, [2.5, "é"], None],
  "answers": {"text": ["one", "two"], "start": [4, 9]}, "turns": [{"role": "user"}, {"role": "model", "more": 1}],
}  # fmt: skip


def test_values_are_what_the_record_has(tmp_path):
  (tmp_path / "a.jsonl").write_text(json.dumps(RECORD) + "\n")
  names = ("n", "x", "none", "yes", "a/b", "list", "answers", "answers/start", "turns/role", "none/below")
  (found,) = typed(source(tmp_path / "a.jsonl", columns=names))
  assert found == (
    3,
    0.1,
    None,
    True,
    "key",
    [1, [2.5, "é"], None],
    RECORD["answers"],
    [4, 9],
    ["user", "model"],
    None,
  )
  assert [type(value) for value in found[:4]] == [int, float, type(None), bool]
  document = documents.Document("name", ("a", ["b", {"c": "d"}], 1, None))
  assert document.text == "a\nb\nd"


@pytest.mark.parametrize(
  "name, words",
  [
    ("anwers/text", ["no column 'anwers/text'", "did you mean 'answers'"]),
    ("answers/txt", ["no column 'answers/txt'", "did you mean 'answers/text'"]),
    ("turns/more", ["no column 'turns/more'", "did you mean 'turns/role'"]),
    ("x/y", ["no column 'x/y'", "did you mean 'x'"]),
  ],
)
def test_a_column_that_is_not_below_another_is_told(tmp_path, name, words):
  (tmp_path / "a.jsonl").write_text(json.dumps(RECORD) + "\n")
  with pytest.raises(FmjaxError) as caught:
    typed(source(tmp_path / "a.jsonl", columns=(name,)))
  assert all(word in str(caught.value) for word in ["DATA_BAD", "a.jsonl at byte 0", *words]), str(caught.value)


def test_half_a_character_is_found_at_any_depth(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": [1, {"b": "ab\\ud83d"}]}\n')
  with pytest.raises(FmjaxError, match=r"(?s)surrogate.*a\.jsonl at byte 0.*\\ud83d at its character 2"):
    typed(source(tmp_path / "a.jsonl"))


def test_texts_below_a_column_are_texts_too(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"translation": {"en": "a", "de": "b"}}\n')
  assert read(source(tmp_path / "a.jsonl", columns=("translation/de", "translation/en"))) == [
    [("a.jsonl@0", ("b", "a"))]
  ]


def test_a_template_makes_one_text_of_several_columns(tmp_path):
  rows = [dict(a="x", b=dict(c=7), d=True), dict(a="y", b=dict(c=0.5), d=False)]
  (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (found,) = read(source(tmp_path / "a.jsonl", columns=("a: {a} {{{b/c}}}", "{d}", "a")))
  assert [values for _, values in found] == [("a: x {7}", "True", "x"), ("a: y {0.5}", "False", "y")]


@pytest.mark.parametrize(
  "row, words",
  [
    (dict(a=None), ["'a' holds no text", "null"]),
    (dict(a=["x"]), ["'a' holds no text", "list"]),
    (dict(b="x"), ["no column 'a'"]),
  ],
)
def test_a_template_needs_its_values(tmp_path, row, words):
  (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
  with pytest.raises(FmjaxError) as caught:
    read(source(tmp_path / "a.jsonl", columns=("so {a}",)))
  assert caught.value.code == "DATA_BAD" and all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
  "column, kind, law",
  [
    ("{a", "jsonl", "is no template"),
    ("{}", "jsonl", "names no column"),
    ("{a} {}", "jsonl", "more in its braces"),
    ("{a:3}", "jsonl", "more in its braces"),
    ("{a!r}", "jsonl", "more in its braces"),
    ("{a}", "parallel", "no templates"),
  ],
)
def test_a_template_that_is_none_is_refused(column, kind, law):
  with pytest.raises(Wrong) as caught:
    SourceConfig(source=kind, path="{}", columns=(column,))
  assert any(law in told for _, _, told in caught.value.problems)
