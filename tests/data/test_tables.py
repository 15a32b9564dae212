"""Tables, tokens a line and texts side by side: each record is in one part; a wrong line is told by its number."""

import gzip

import pytest

from fmjax.corpus import SourceConfig
from fmjax.data import sources, tables
from fmjax.errors import FmjaxError
from fmjax.laws import Wrong


def source(path, kind="csv", **fields):
  return SourceConfig(source=kind, path=str(path), **fields)


def read(source, typed=False):
  parts = sources.parts(source, 0.1, typed)
  assert len({part.name for part in parts}) == len(parts)
  return [[tuple(document) for document in part.documents()] for part in parts]


def values(source, typed=False):
  return [found for part in read(source, typed) for _, found, _ in part]


def told(source, typed=False) -> str:
  with pytest.raises(FmjaxError) as caught:
    read(source, typed)
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and len(message.splitlines()) <= 6 and "fix:" in message
  return message


# --- csv and tsv

QUOTED = '\ufefftext,id,label\r\n"a, ""b""",1,yes\r\n\r\n"two\r\nlines\n",2,no\r\né漢字🙂,3,\r\nlast,4,no'
WANTED = [("yes", 'a, "b"'), ("no", "two\r\nlines\n"), ("", "é漢字🙂"), ("no", "last")]


def test_a_csv_has_quotes_and_columns_in_the_order_asked_for(tmp_path):
  (tmp_path / "a.csv").write_bytes(QUOTED.encode())
  (found,) = read(source(tmp_path / "a.csv", columns=("label", "text")))
  assert [texts for _, texts, _ in found] == WANTED
  content = QUOTED.encode()
  starts = [content.index(word) for word in (b'"a, ', b'"two', "é".encode(), b"last")]
  assert [name for name, *_ in found] == [f"a.csv@{start}" for start in starts]
  (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content))
  (packed,) = read(source(tmp_path / "b.csv.gz", columns=("label", "text")))
  assert [texts for _, texts, _ in packed] == WANTED


def test_numbers_count_columns_where_there_is_no_header(tmp_path):
  (tmp_path / "a.csv").write_text("x,0,y\nz,1\n")
  assert values(source(tmp_path / "a.csv", columns=("1", "0"))) == [("0", "x"), ("1", "z")]
  (tmp_path / "b.csv").write_text("0,text\nx,y\n")
  assert values(source(tmp_path / "b.csv", columns=("0", "text"))) == [("x", "y")]


def test_a_long_value_is_no_error(tmp_path):
  long = "x" * 300_000
  (tmp_path / "a.csv").write_text(f'text\n"{long}\n"\n')
  assert values(source(tmp_path / "a.csv")) == [(long + "\n",)]


TEXTS = ["a", "é漢字🙂", "x" * 300, '"not quoted', "it's \u2028 \x85 one line", "a,b", "last"] * 5


@pytest.mark.parametrize("size", [1, 7, 31, 100, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_ranges_of_any_size_have_every_row_of_a_tsv_once(tmp_path, monkeypatch, size, end, header):
  content = ("\ufefftext\tid" + end) * header + "".join(f"{text}\t{n}{end}" for n, text in enumerate(TEXTS))
  (tmp_path / "a.tsv").write_bytes(content.removesuffix(end).encode())
  columns = ("id", "text") if header else ("1", "0")
  (whole,) = read(source(tmp_path / "a.tsv", columns=columns))
  assert [texts for _, texts, _ in whole] == [(str(n), text) for n, text in enumerate(TEXTS)]
  monkeypatch.setattr(tables, "PART_BYTES", size)
  found = read(source(tmp_path / "a.tsv", columns=columns))
  assert [one for part in found for one in part] == whole and len(found) == -(-sum_of(tmp_path, columns) // size)


def sum_of(folder, columns) -> int:
  """The bytes of the parts, which are those of the file without its header."""
  total = sum(part.bytes for part in sources.parts(source(folder / "a.tsv", columns=columns), 0.1))
  content = (folder / "a.tsv").read_bytes()
  assert total == len(content) - (content.index(b"\n") + 1 if columns[0] == "id" else 0)
  return total


def test_a_folder_is_its_tables(tmp_path):
  for name in ("b.csv", "deep/a.tsv", "notes.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text\nof " + name)
  (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(b"text\nof c\n"))
  (tmp_path / "dev.csv").write_text("text\nheld\n")
  assert values(source(tmp_path)) == [("of b.csv",), ("of c",), ("of deep/a.tsv",), ("held",)]
  one = read(source(tmp_path / "*.tsv.gz", eval_path=str(tmp_path / "dev.csv")))
  assert [(texts, held) for part in one for _, texts, held in part] == [(("held",), True), (("of c",), False)]


@pytest.mark.parametrize(
  "name, content, columns, words",
  [
    ("a.csv", "text,label\nx,1\ny\n", None, ["too few columns", "a.csv line 3", "as the first line has", "1: ['y']"]),
    ("a.csv", 'text,label\n"x\nx",1\n\ny,2,3\n', None, ["too many columns", "a.csv line 5", "got:   3"]),
    ("a.tsv", "text\tlabel\nx\t1\n\ny 2\n", None, ["too few columns", "a.tsv line 4", "got:   1: ['y 2']"]),
    ("a.tsv", "x\t1\ny\n", ("0", "1"), ["too few columns", "a.tsv line 2", "expected: 2 or more"]),
    ("a.csv", "txt,label\nx,1\n", None, ["no column 'text'", "a.csv line 1", "did you mean 'txt'"]),
    ("a.tsv", "\n\ntxt\tlabel\n", None, ["no column 'text'", "a.tsv line 3", "did you mean 'txt'"]),
    ("a.csv", 'text\nx\n"ab"c\n', None, ["not CSV", "a.csv line 3", "'\"'"]),
    ("a.csv", 'text\nx\n"ab\nc\n', None, ["not CSV", "a.csv line 3", "unexpected end"]),
    ("a.csv", b"text\nx\ny\xe9\n", None, ["not UTF-8", "a.csv line 3 at byte 1", "0xe9"]),
    ("a.tsv", b"text\nx\n\ny\xe9\n", None, ["not UTF-8", "a.tsv line 4 at byte 1", "0xe9"]),
    ("a.csv", "text\n", None, ["the text is empty"]),
  ],
)  # fmt: skip
@pytest.mark.parametrize("size", [4, 1 << 20])
def test_a_wrong_row_is_named_by_its_line(tmp_path, monkeypatch, name, content, columns, words, size):
  monkeypatch.setattr(tables, "PART_BYTES", size)
  monkeypatch.setattr(tables, "BLOCK", 3)
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  if words == ["the text is empty"]:
    assert values(source(tmp_path / name)) == []
    return
  message = told(source(tmp_path / name, columns=columns))
  assert all(word in message for word in words), message


# --- conll

SENTENCES = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
# NN  I-NP  O
1\u00a0000 CD I-NP O


-DOCSTART- -X- -X- O
. . O O"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n"])
def test_sentences_are_lists_of_what_their_tokens_have(tmp_path, end):
  text = SENTENCES.replace("\n\n", "\n \n").replace("\n", end) if end == "\r\n" else SENTENCES + end
  (tmp_path / "a.conll").write_bytes(text.encode())
  (found,) = read(source(tmp_path / "a.conll", "conll", columns=("3", "0")), typed=True)
  assert [texts for _, texts, _ in found] == [
    (["B-ORG", "O", "O"], ["EU", "#", "1\u00a0000"]),
    (["O"], ["."]),
  ]
  assert [name for name, *_ in found] == [
    f"a.conll@{text.encode().index(word)}" for word in (b"EU", b". . O O")
  ]  # fmt: skip


def test_universal_dependencies_have_comments_and_tokens_that_stand_for_several(tmp_path):
  lines = ["# text = du New York", "1-2\tdu\t_", "1\tde\tADP", "2\tle\tDET", "2.1\t_\t_", "3\tNew York\tPROPN", ""]
  (tmp_path / "a.conllu").write_text("\n".join(lines))
  assert values(source(tmp_path, "conll", columns=("1", "2")), True) == [
    (["de", "le", "New York"], ["ADP", "DET", "PROPN"])
  ]


def test_a_wrong_token_is_named_by_its_line(tmp_path):
  path = tmp_path / "a.conll"
  path.write_text("a O\n\nb O\nc\n")
  message = told(source(path, "conll", columns=("0", "1")), typed=True)
  assert all(word in message for word in ["too few columns", "a.conll line 4", "expected: 2 or more", "['c']"])
  path.write_bytes(b"a O\nb\xe9 O\n")
  assert "not UTF-8" in told(source(path, "conll", columns=("0", "1")), typed=True)
  assert "a.conll line 2 at byte 1" in told(source(path, "conll", columns=("0", "1")), typed=True)
  message = told(source(path, "conll", columns=("0", "1")))
  assert all(word in message for word in ["column '0' holds no text", "a list, a value for each token"])


@pytest.mark.parametrize(
  "fields, law",
  [
    (dict(source="conll"), "columns=None: source 'conll' has numbers for columns"),
    (dict(source="conll", columns=("0", "tag")), "source 'conll' has numbers for columns"),
    (dict(source="parallel"), "columns=None: source 'parallel' needs the names"),
    (dict(source="parallel", columns=("en", "de")), "path='a': needs {} in the place of a column's name"),
    (dict(source="parallel", columns=("en", "de"), path="a.{}", eval_path="b"), "eval_path='b': needs {}"),
    (dict(source="csv", path=None), "path=None: source 'csv' needs a file"),
    (dict(source="csv", eval_split="test"), "source 'csv' has no splits"),
  ],
)
def test_what_a_source_needs_is_a_law(fields, law):
  with pytest.raises(Wrong) as caught:
    SourceConfig(**dict(path="a") | fields)
  assert law in str(caught.value)


# --- parallel


def write_parallel(folder, count=50, name="train", end="\n", last=True):
  folder.mkdir(exist_ok=True)
  pairs = [(f"tëxt {n} " + "x" * (n % 7) * 5, "" if n % 11 == 10 else f"\u2028 {n}") for n in range(count)]
  for column, own in enumerate(("en", "de")):
    text = ("\ufeff" if column else "") + "".join(pair[column] + end for pair in pairs)
    (folder / f"{name}.{own}").write_bytes((text if last else text.removesuffix(end)).encode())
  return pairs


@pytest.mark.parametrize("size, block", [(1, 3), (300, 64), (300, 1 << 20), (10**9, 5)])
@pytest.mark.parametrize("end, last", [("\n", True), ("\r\n", False)])
def test_parts_have_every_line_of_both_files_once(tmp_path, monkeypatch, size, block, end, last):
  monkeypatch.setattr(tables, "PART_BYTES", size)
  monkeypatch.setattr(tables, "BLOCK", block)
  pairs = write_parallel(tmp_path, end=end, last=last)
  found = read(source(tmp_path / "train.{}", "parallel", columns=("en", "de")))
  assert [one for part in found for one in part] == [
    (f"train.en#{n}", pair, None) for n, pair in enumerate(pairs, 1)
  ]  # fmt: skip
  assert {1: 50, 10**9: 1}.get(size, len(found)) == len(found) and (size != 300 or len(found) > 4)
  for own in ("en", "de"):
    path = tmp_path / f"train.{own}"
    path.with_suffix(f".{own}.gz").write_bytes(gzip.compress(path.read_bytes()))
  (packed,) = read(source(tmp_path / "train.{}.gz", "parallel", columns=("en", "de")))
  assert [texts for _, texts, _ in packed] == pairs


def test_files_belong_together_by_what_a_wildcard_stands_for(tmp_path):
  for name in ("en", "x-en", "x", "x.1"):
    write_parallel(tmp_path, 3, name)
  wanted = [f"{name}.{own}" for own in ("de", "en") for name in ("en", "x", "x-en", "x.1")]
  assert sorted(file.name for file in tmp_path.iterdir()) == sorted(wanted)
  pairs = tables.beside(f"{tmp_path}/*.{{}}", ("en", "de"))
  assert sorted((one.name, other.name) for one, other in pairs) == [
    (f"{name}.en", f"{name}.de") for name in ("en", "x-en", "x.1", "x")
  ]
  for place in ("deep/en/a.txt", "deep/de/a.txt", "de/a.txt", "en/a.txt"):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("line\n")
  pairs = tables.beside(f"{tmp_path}/**/{{}}/[a-c].tx?", ("en", "de"))
  assert [(one.name, other.name) for one, other in pairs] == [
    ("deep/en/a.txt", "deep/de/a.txt"), ("en/a.txt", "de/a.txt"),
  ]  # fmt: skip
  (tmp_path / "x.1.de").unlink()
  with pytest.raises(
    FmjaxError, match=r"(?s)DATA_MISSING  no file of 'de' belongs to this one.*x\.1\.en.*data\.path"
  ):
    tables.beside(f"{tmp_path}/*.{{}}", ("en", "de"))


def test_splits_of_parallel_files(tmp_path):
  write_parallel(tmp_path, 4)
  write_parallel(tmp_path, 2, "dev")
  columns = dict(columns=("de", "en"), eval_path=str(tmp_path / "dev.{}"))
  found = [one for part in read(source(tmp_path / "train.{}", "parallel", **columns)) for one in part]
  assert [(name, held) for name, _, held in found] == [
    *((f"eval//dev.de#{n}", True) for n in (1, 2)), *((f"train.de#{n}", False) for n in (1, 2, 3, 4)),
  ]  # fmt: skip
  digests = {
    sources.digest(sources.parts(source(tmp_path / "train.{}", "parallel", **columns | fields), 0.1))
    for fields in ({}, dict(columns=("en", "de")), dict(eval_path=None))
  }
  assert len(digests) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_unequal_files_are_told_with_both_counts(tmp_path, packed):
  (tmp_path / "a.en").write_text("1\n2\n3\n4\n5")
  (tmp_path / "a.de").write_text("1\n2\n3\n")
  path = tmp_path / "a.{}"
  if packed:
    for own in ("en", "de"):
      (tmp_path / f"a.{own}.gz").write_bytes(gzip.compress((tmp_path / f"a.{own}").read_bytes()))
    path = tmp_path / "a.{}.gz"
  for columns in (("en", "de"), ("de", "en")):
    message = told(source(path, "parallel", columns=columns))
    assert "not the same number of lines" in message and str(tmp_path / "a.en") in message
    counts = [f"a.{name}{'.gz' * packed}: {count} lines" for name, count in (("en", 5), ("de", 3))]
    assert all(one in message for one in counts), message


def test_a_byte_that_is_no_text_is_named_by_its_line(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "PART_BYTES", 4)
  (tmp_path / "a.en").write_text("1\n2\n3\n")
  (tmp_path / "a.de").write_bytes(b"1\n2\n\xe9\n")
  message = told(source(tmp_path / "a.{}", "parallel", columns=("en", "de")))
  assert "not UTF-8" in message and f"{tmp_path / 'a.de'} line 3 at byte 0" in message


def test_a_bucket_reads_as_a_folder_does(tmp_path):
  fsspec = pytest.importorskip("fsspec")
  memory = fsspec.filesystem("memory")
  write_parallel(tmp_path / "here")
  (tmp_path / "here/a.csv").write_bytes(QUOTED.encode())
  (tmp_path / "here/a.tsv").write_text("text\nx\ny\n")
  memory.put(str(tmp_path / "here"), "/tables", recursive=True)
  for path, kind, columns in (
    ("*.{}", "parallel", ("en", "de")), ("train.{}", "parallel", ("en", "de")), ("", "csv", ("text",)),
  ):  # fmt: skip
    there, here = (source(f"{root}/{path}", kind, columns=columns) for root in ("memory://tables", tmp_path / "here"))
    assert read(there) == read(here)


@pytest.mark.parametrize("name, columns", [("a.csv", ("{title}: {text}", "label")), ("b.tsv", ("{2}: {0}", "{1}"))])
def test_a_template_of_a_tables_columns(tmp_path, name, columns):
  lines = ["text,label,title", "x,0,T", "y,1,U"]
  if name.endswith(".tsv"):
    lines = [line.replace(",", "\t") for line in lines[1:]]
  (tmp_path / name).write_text("\n".join(lines) + "\n")
  assert values(source(tmp_path / name, columns=columns)) == [("T: x", "0"), ("U: y", "1")]
