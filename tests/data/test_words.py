"""Words are what a regular expression finds, and their hashes tell them and their order apart."""

import re
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from fmjax.data import words as words_of
from fmjax.data.words import kinds, mixed, runs, words

TEXTS = [
  "",
  " \n",
  "a",
  "A, b... c-d_e f2g\n\n\tÉté",
  "n'est-ce pas?",
  "漢字かな交じり文 and English漢words",
  "हिन्दी में लिखा",
  "🙂 x🙂y",
]


def by_regex(text):
  """Each character of a script without spaces, or a run of other letters, marks and digits."""
  return re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u4e00-\u9fff]+", text)


@pytest.mark.parametrize("text", [text for text in TEXTS if "ह" not in text])
def test_there_are_as_many_words_as_a_regular_expression_finds(text):
  assert len(words(text)) == len(by_regex(text))


def test_equal_words_are_equal_and_others_are_not():
  text = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text() * 2
  assert text.isascii()
  found, expected = words(text), by_regex(text.casefold())
  assert len(found) == len(expected) > 10_000
  seen = dict(zip(expected, found.tolist()))
  assert [seen[word] for word in expected] == found.tolist()
  assert len(set(seen.values())) == len(seen) > 500


def test_case_composition_and_what_stands_between_do_not_matter():
  same = ["Été: “naïve”\r\nSTRASSE", "été naïve straße", unicodedata.normalize("NFD", "ÉTÉ -- naïve/Strasse")]
  assert len({words(text).tobytes() for text in same}) == 1
  assert words("ab c").tolist() != words("a bc").tolist() and words("ab").tolist() != words("ba").tolist()


def test_a_vowel_sign_does_not_part_a_word():
  assert len(words("हिन्दी में लिखा")) == 3


@pytest.mark.parametrize("block", [1, 5, 64])
def test_a_long_text_is_read_in_blocks(monkeypatch, block):
  text = " ".join(TEXTS) * 3
  whole = words(text)
  monkeypatch.setattr(words_of, "BLOCK", block)
  np.testing.assert_array_equal(words(text), whole)


def test_runs_are_told_by_their_words_and_order():
  a, b, c, d = words("a b c d")
  found = runs(np.array([a, b, c, d, a, b, c, b, a, b]), 3)
  assert len(found) == 8 and found[0] == found[4] and len(set(found.tolist())) == 7
  for count in range(4):
    assert len(runs(words("a b c d")[:count], 4)) == 0
  assert len(runs(words("a b c d"), 4)) == 1


def test_mixing_one_bit_changes_half_of_all():
  seed = np.random.default_rng(0).integers(0, 1 << 64, 200, np.uint64)
  changed = [
    np.bitwise_count(mixed(seed.copy()) ^ mixed(seed ^ np.uint64(1 << bit))).mean() / 64 for bit in range(64)
  ]
  assert abs(np.array(changed) - 0.5).max() < 0.02  # 64 x 200 bits each: a standard deviation is 0.0044


def test_the_table_knows_every_code_point():
  assert len(kinds()) == 0x110000 and set(np.unique(kinds())) == {0, 1, 2}
  assert kinds()[ord("_")] == kinds()[ord("'")] == 0 and kinds()[ord("z")] == kinds()[ord("7")] == 1
  assert kinds()[0x4E2D] == 2
