"""What is left out of a source, document by document: by length, by language, and what evaluation texts contain.

Contamination is an overlap of 13 words in a row with any of those texts, whatever their case, punctuation and spaces
(Brown et al. 2020, arXiv:2005.14165, App. C). The document is left out as a whole; there the 200 characters around
the overlap were, and what was left of the document stayed.
"""

import json

import numpy as np

from fmjax.cleaning import Cleaning
from fmjax.data.columns import Columns
from fmjax.data.documents import Document, lines, strings
from fmjax.data.files import File, decoded, listed, opened
from fmjax.data.words import runs, words
from fmjax.errors import FmjaxError, extra
from fmjax.laws import nearest

WORDS = 13
LANGUAGE_CHARACTERS = 2000  # of a text's beginning that its language is told by
PATTERNS = ("*.txt", "*.jsonl", "*.jsonl.gz")


class Filter:
  """Says of a document why `cleaning` leaves it out. Its state is small enough to have in every process."""

  def __init__(self, cleaning: Cleaning):
    self.cleaning = cleaning
    self.known = None if cleaning.decontaminate is None else evaluation_runs(cleaning.decontaminate)
    if cleaning.languages is not None:
      check_languages(cleaning.languages)

  def reason(self, document: Document) -> str | None:
    """One of "short", "long", "language" and "contaminated"; None where the document is kept.

    A document that is eval because its file is (held=True) may have what is evaluated.
    """
    wanted, text = self.cleaning, document.text
    if wanted.min_characters is not None and len(text) < wanted.min_characters:
      return "short"
    if wanted.max_characters is not None and len(text) > wanted.max_characters:
      return "long"
    if wanted.languages is not None and language(text) not in wanted.languages:
      return "language"
    if self.known is not None and not document.held and self.contaminated(text):
      return "contaminated"
    return None

  def contaminated(self, text: str) -> bool:
    found = runs(words(text), WORDS)
    where = np.searchsorted(self.known, found)
    return bool((self.known[np.minimum(where, len(self.known) - 1)] == found).any())


def evaluation_runs(paths: tuple[str, ...]) -> np.ndarray:
  """uint64 [n], sorted: the hash of each run of WORDS words in the texts of the files."""
  found = [runs(words(text), WORDS) for path in paths for file in listed(path, PATTERNS) for text in texts_of(file)]
  known = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
  if not len(known):
    raise FmjaxError("DATA_BAD", f"no text has {WORDS} words in a row", where=", ".join(paths),
                     fix="name files of evaluation texts in data.cleaning.decontaminate")  # fmt: skip
  return known


def texts_of(file: File):
  """Of JSON lines every text in a line, whatever it is called; of another file its text."""
  if not file.name.endswith((".jsonl", ".jsonl.gz")):
    with opened(file) as stream:
      yield decoded(stream.read(), file.path)
    return
  for part in lines(file, Columns(()), None):
    for offset, line in part.lines():
      try:
        yield from strings(json.loads(decoded(line, file.path, offset)) if line.strip() else None)
      except (ValueError, RecursionError) as error:
        raise FmjaxError("DATA_BAD", "a line is not JSON", where=f"{file.path} at byte {offset}", got=error,
                         fix="mend or remove it") from error  # fmt: skip


def identifier():
  with extra("languages", "data.cleaning.languages needs the package py3langid"):
    import py3langid
  return py3langid


def language(text: str) -> str:
  """Its ISO 639 code, by the naive Bayes of langid.py over byte n-grams (Lui and Baldwin 2012), retrained."""
  return identifier().classify(text[:LANGUAGE_CHARACTERS])[0]


def check_languages(wanted: tuple[str, ...]):
  known = sorted(code for code, _ in identifier().rank("a"))
  for code in wanted:
    if code not in known:
      raise FmjaxError("CONFIG", "a language that cannot be told", where="data.cleaning.languages", got=code,
                       fix=nearest(code, known))  # fmt: skip
