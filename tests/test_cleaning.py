"""Filters are off by default, and one that could leave nothing in or out is refused."""

import pytest

from fmjax.cleaning import Cleaning
from fmjax.laws import Wrong


def test_all_is_off_by_default():
  assert not any(vars(Cleaning()).values())


@pytest.mark.parametrize(
  "fields, words",
  [
    (dict(min_characters=0), "at least 1"),
    (dict(max_characters=0), "at least 1"),
    (dict(min_characters=10, max_characters=9), "min_characters=10"),
    (dict(languages=()), "is empty"),
    (dict(languages=("en", "English")), "ISO 639"),
    (dict(decontaminate=()), "is empty"),
    (dict(near_duplicates=0.0), "Jaccard"),
    (dict(near_duplicates=1.1), "Jaccard"),
  ],
)
def test_a_broken_law_is_told(fields, words):
  with pytest.raises(Wrong, match=words):
    Cleaning(**fields)


def test_a_sound_one_is_taken():
  found = Cleaning(
    min_characters=10, max_characters=10, languages=("en", "yue"), near_duplicates=1.0, decontaminate=("a.txt",)
  )
  assert found.languages == ("en", "yue") and found.near_duplicates == 1.0
