"""What is left out of a source before anything learns from it."""

import dataclasses
import re

from fmjax.laws import Branch, at_least


@dataclasses.dataclass(frozen=True)
class Cleaning(Branch):
  """Each filter is off by default; `data/filters.py` and `data/duplicates.py` say what each one does."""

  min_characters: int | None = None
  max_characters: int | None = None
  languages: tuple[str, ...] | None = None  # ISO 639 codes of those that stay, such as ("en", "de")
  exact_duplicates: bool = False  # of several equal documents the first stays
  near_duplicates: float | None = None  # Jaccard similarity from which a document is one (Lee et al. 2022: 0.8)
  decontaminate: tuple[str, ...] | None = None  # files, globs or folders of texts that must not be trained on

  def laws(self):
    yield from at_least(self, 1, "min_characters", "max_characters")
    low, high = self.min_characters, self.max_characters
    if low is not None and high is not None and high < low:
      yield "max_characters", high, f"must be at least data.cleaning.min_characters={low}"
    for name in ("languages", "decontaminate"):
      if getattr(self, name) == ():
        yield name, (), "is empty: name one or more, or set None to leave the filter off"
    for code in self.languages or ():
      if not re.fullmatch("[a-z]{2,3}", code):
        yield "languages", code, "must be an ISO 639 code of two or three small letters, such as 'en'"
    if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
      yield "near_duplicates", self.near_duplicates, "is a Jaccard similarity: it must lie in (0, 1]"
