"""Sentences joined are the text, and end where a reader would end them."""

import pathlib

import pytest

from fmjax.data import sources
from fmjax.data.sentences import sentences

CASES = {
  "two": ("It rains. We stay in.", ["It rains. ", "We stay in."]),
  "marks": ("Really?! Yes! Go.", ["Really?! ", "Yes! ", "Go."]),
  "a quotation": ('"Stop." He did. (Why?) Nobody knew.', ['"Stop." ', "He did. ", "(Why?) ", "Nobody knew."]),
  "no space": ("See www.example.com or 3.14 of it", ["See www.example.com or 3.14 of it"]),
  "a small letter": ("He paid approx. ten and left", ["He paid approx. ten and left"]),
  "lines": ("def f():\n  return 1\n\n\nx = 2\n", ["def f():\n  ", "return 1\n\n\n", "x = 2\n"]),
  "cyrillic": ("Это дом. Он стар.", ["Это дом. ", "Он стар."]),
  "chinese": ("下雨了。我们不出去！好吗？", ["下雨了。", "我们不出去！", "好吗？"]),
  "nothing": ("", []),
  "spaces": (" \n \n", [" \n \n"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sentence_ends_where_a_reader_ends_it(name):
  text, expected = CASES[name]
  assert sentences(text) == expected


def test_joined_they_are_the_text():
  texts = [text for text, _ in CASES.values()]
  texts += [
    "a. B" * 100,
    ".\n.\n",
    "...",
    "A.\u00a0B. C",
    "\r\nX.\r\nY",
    "\U0001f600. \u201cQ.\u201d R",
    "x\ud800. Y",
  ]
  texts += [pathlib.Path(file.path).read_text(errors="replace") for file in sources.stdlib_files()[:40]]
  for text in texts:
    found = sentences(text)
    assert "".join(found) == text
    assert all(found)
