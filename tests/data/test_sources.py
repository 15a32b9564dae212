"""A source is read whole, split by name, and a wrong path says what is wrong."""

import sysconfig
from pathlib import Path

import pytest

from fmjax.config import DataConfig
from fmjax.data import sources
from fmjax.errors import FmjaxError


def text_config(path, **fields):
  return DataConfig(source="text", path=str(path), **fields)


def write_many(folder, names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"text of {name}")


def test_stdlib_is_this_pythons_own_source_without_tests():
  texts = sources.stdlib()
  root = Path(sysconfig.get_path("stdlib"))
  assert texts["json/decoder.py"] == (root / "json/decoder.py").read_text()
  parts = {part for name in texts for part in Path(name).parts}
  assert not parts & sources.STDLIB_LEFT_OUT
  assert 5e6 < sum(map(len, texts.values())) < 2e7
  assert "" not in texts.values()


def test_stdlib_splits_into_about_the_fraction_asked_for():
  documents = sources.read(DataConfig(eval_fraction=0.1))
  share = len(documents.eval) / (len(documents.eval) + len(documents.train))
  assert 0.05 < share < 0.2
  assert not set(documents.train) & set(documents.eval)


def test_one_file_is_cut_at_a_character(tmp_path):
  text = "é漢字🙂\r\n" * 10 + "x"
  (tmp_path / "input.txt").write_bytes(text.encode())
  documents = sources.read(text_config(tmp_path / "input.txt"))
  assert documents.train + documents.eval == (text[:54], text[54:])
  assert sources.read(text_config(tmp_path / "*.txt")) == documents


def test_several_files_keep_their_side_when_others_come_and_go(tmp_path):
  write_many(tmp_path, [f"{i}.txt" for i in range(40)] + ["deep/er.txt"])
  before = sources.read(text_config(tmp_path / "**/*.txt", eval_fraction=0.3))
  write_many(tmp_path, [f"new/{i}.txt" for i in range(40)])
  after = sources.read(text_config(tmp_path / "**/*.txt", eval_fraction=0.3))
  assert set(before.train) < set(after.train) and set(before.eval) < set(after.eval)
  assert len(before.train) + len(before.eval) == 41 and before.eval


def test_documents_are_in_the_order_of_their_names(tmp_path):
  write_many(tmp_path, ["b.txt", "a/z.txt", "c.txt", "a.txt", "B.txt"])
  documents = sources.read(text_config(tmp_path / "**/*.txt", eval_fraction=1e-6))
  ordered = [f"text of {name}" for name in ["B.txt", "a.txt", "a/z.txt", "b.txt", "c.txt"]]
  assert documents.train == tuple(text for text in ordered if text not in documents.eval)


def test_one_files_side_does_not_depend_on_where_the_folder_lies(tmp_path):
  names = [f"{i}.txt" for i in range(20)]
  write_many(tmp_path / "a", names)
  write_many(tmp_path / "b/c", names)
  assert sources.read(text_config(tmp_path / "a/*.txt")) == sources.read(text_config(tmp_path / "b/c/*.txt"))


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_neither_split_of_two_files_is_empty(tmp_path, fraction):
  write_many(tmp_path, ["a.txt", "b.txt"])
  documents = sources.read(text_config(tmp_path / "?.txt", eval_fraction=fraction))
  assert len(documents.train) == len(documents.eval) == 1


@pytest.mark.parametrize(
  "path, content, code, words",
  [
    ("missing.txt", None, "DATA_MISSING", ["there is no such file", "missing.txt"]),
    ("*.none", None, "DATA_MISSING", ["matches no file", "*.none"]),
    ("no/folder/x.txt", None, "DATA_MISSING", ["there is no such file"]),
    (".", None, "DATA_BAD", ["is a folder", "*.txt"]),
    ("empty.txt", b"", "DATA_BAD", ["the text is empty", "empty.txt"]),
    ("latin.txt", b"caf\xe9 au lait", "DATA_BAD", ["not UTF-8", "latin.txt at byte 3", "0xe9"]),
  ],
)
def test_a_wrong_path_says_what_is_wrong(tmp_path, path, content, code, words):
  (tmp_path / "other.txt").write_text("a text")
  if content is not None:
    (tmp_path / path).write_bytes(content)
  with pytest.raises(FmjaxError) as caught:
    sources.read(text_config(tmp_path / path))
  message = str(caught.value)
  assert caught.value.code == code and "fix:" in message and len(message.splitlines()) <= 6
  assert all(word in message for word in words), message


def test_a_misspelt_file_names_its_neighbour(tmp_path):
  (tmp_path / "input.txt").write_text("a text")
  with pytest.raises(FmjaxError, match=r"(?s)no such file.*did you mean 'input.txt'"):
    sources.read(text_config(tmp_path / "inptu.txt"))


def test_an_unreadable_file_is_named(tmp_path):
  loop = tmp_path / "loop.txt"
  loop.mkdir()
  with pytest.raises(FmjaxError) as caught:
    sources.read_text(loop)
  assert caught.value.code == "DATA_BAD" and str(loop) in str(caught.value)
