"""A filter leaves out what it is asked to, says why, and nothing else."""

import json
import pickle
import sys

import numpy as np
import pytest

from fmjax.cleaning import Cleaning
from fmjax.data.documents import Document
from fmjax.data.filters import WORDS, Filter
from fmjax.errors import FmjaxError

ENGLISH = "The children are playing in the garden while the old dog sleeps under a tree near the river."
GERMAN = "Die Kinder spielen im Garten, während der alte Hund unter einem Baum am Fluss schläft."


def reasons(cleaning, *documents):
  """By the filter as a process gets it."""
  found = pickle.loads(pickle.dumps(Filter(cleaning)))
  return [found.reason(Document("a", texts if isinstance(texts, tuple) else (texts,))) for texts in documents]


def test_with_all_off_everything_stays():
  assert reasons(Cleaning(), "", "x" * 10**6, GERMAN) == [None] * 3


def test_length_is_counted_in_characters_of_all_columns():
  cleaning = Cleaning(min_characters=3, max_characters=5)
  texts = ["", "é🙂", "é🙂漢", "abcde", "abcdef", ("a", "b"), ("", "a"), ("ab", "cde")]
  assert reasons(cleaning, *texts) == ["short", "short", None, None, "long", None, "short", "long"]


def test_only_the_languages_asked_for_stay():
  assert reasons(Cleaning(languages=("en",)), ENGLISH, GERMAN) == [None, "language"]
  assert reasons(Cleaning(languages=("de", "en")), ENGLISH, GERMAN) == [None, None]


def test_a_language_that_is_not_known_names_the_nearest():
  with pytest.raises(FmjaxError, match=r"(?s)CONFIG.*got: +xx"):
    Filter(Cleaning(languages=("xx",)))


def test_without_the_package_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "py3langid", None)
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*pip install 'fmjax\[languages\]'"):
    Filter(Cleaning(languages=("en",)))


def vocabulary(rng, count):
  return [f"w{number}" for number in rng.integers(0, 5000, count)]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
  """Folder, and the words of its texts: a text file, and JSON lines with a text under a name of its own."""
  folder, rng = tmp_path_factory.mktemp("evaluation"), np.random.default_rng(0)
  first, second = vocabulary(rng, 400), vocabulary(rng, 300)
  (folder / "a.txt").write_text(" ".join(first))
  lines = [{"id": 7, "question": {"choices": ["short", " ".join(second)]}}, {"text": "too short to count"}]
  (folder / "b.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
  (folder / "notes.md").write_text(" ".join(vocabulary(rng, 100)))
  return folder, first, second


def cleaning_of(folder):
  return Cleaning(decontaminate=(str(folder / "*.txt"), str(folder / "*.jsonl")))


def planted(rng, words, at):
  filler = vocabulary(rng, 200)
  return " ".join(filler[:at] + words + filler[at:])


def test_thirteen_words_in_a_row_are_found_wherever_they_stand_and_twelve_are_not(evaluation):
  folder, first, second = evaluation
  rng, texts, expected = np.random.default_rng(1), [], []
  for words in (first, second):
    for start in (0, 100, len(words) - WORDS):
      for at in (0, 77, 200):
        run = words[start : start + WORDS]
        texts += [planted(rng, run, at), planted(rng, run[:-1], at), planted(rng, run[:6] + ["x"] + run[6:], at)]
        expected += ["contaminated", None, None]
  assert reasons(cleaning_of(folder), *texts) == expected


def test_nothing_else_is_found(evaluation):
  folder, *_ = evaluation
  rng = np.random.default_rng(2)
  texts = [" ".join(vocabulary(rng, 500)) for _ in range(200)]
  assert reasons(cleaning_of(folder), *texts, "", "a few words") == [None] * 202


def test_case_punctuation_and_spaces_do_not_hide_it(evaluation):
  folder, first, _ = evaluation
  hidden = "...\n\n".join(word.upper() for word in first[50 : 50 + WORDS])
  assert reasons(cleaning_of(folder), hidden, ("apart", hidden)) == ["contaminated"] * 2


def test_an_evaluation_document_keeps_what_is_evaluated(evaluation):
  folder, first, _ = evaluation
  clean = Filter(cleaning_of(folder))
  text = " ".join(first)
  assert [clean.reason(Document("a", (text,), held)) for held in (True, False, None)] == [
    None, "contaminated", "contaminated",
  ]  # fmt: skip


def test_a_folder_is_its_texts_and_lines(evaluation):
  folder, first, second = evaluation
  assert Filter(Cleaning(decontaminate=(str(folder),))).known.tolist() == Filter(cleaning_of(folder)).known.tolist()
  assert len(Filter(cleaning_of(folder)).known) == len(first) + len(second) - 2 * (WORDS - 1)


@pytest.mark.parametrize(
  "name, content, code, words",
  [
    ("none.txt", None, "DATA_MISSING", "no such file"),
    ("a.txt", b"only a few words", "DATA_BAD", "no text has 13 words"),
    ("a.jsonl", b'{"text": "a"}\n{\n', "DATA_BAD", "not JSON.*at byte 14"),
    ("a.txt", b"caf\xe9", "DATA_BAD", "not UTF-8"),
  ],
)
def test_wrong_evaluation_texts_are_told(tmp_path, name, content, code, words):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(FmjaxError, match=f"(?s){code}.*{words}"):
    Filter(Cleaning(decontaminate=(str(tmp_path / name),)))
