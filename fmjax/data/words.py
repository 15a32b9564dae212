"""The words of a text as 64-bit hashes, and runs of n of them, by arithmetic on whole arrays.

A word is a run of letters, marks and digits, whatever its case; all else only parts words. In scripts that are
written without spaces each character is a word.
"""

import functools
import re
import sys
import unicodedata

import numpy as np

BLOCK = 1 << 20  # characters of a text that are looked at together
SPACE = re.compile(r"\s")
WITHOUT_SPACES = (
  (0x0E00, 0x0EFF),  # Thai, Lao
  (0x1000, 0x109F),  # Burmese
  (0x1780, 0x17FF),  # Khmer
  (0x3040, 0x30FF),  # Japanese
  (0x3400, 0x4DBF),
  (0x4E00, 0x9FFF),  # Chinese characters, here and in the planes that are theirs
  (0xF900, 0xFAFF),
  (0x20000, 0x3FFFF),
)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@functools.cache
def kinds() -> np.ndarray:
  """uint8, of each code point: 0 parts words, 1 is of a word, 2 is a word."""
  found = np.array([unicodedata.category(chr(code))[0] in "LMN" for code in range(sys.maxunicode + 1)], np.uint8)
  for first, last in WITHOUT_SPACES:
    found[first : last + 1] *= 2
  return found


def mixed(z: np.ndarray) -> np.ndarray:
  """uint64 -> uint64, in place: one bit changes about half of all (splitmix64, Steele et al. 2014)."""
  z ^= z >> np.uint64(30)
  z *= np.uint64(0xBF58476D1CE4E5B9)
  z ^= z >> np.uint64(27)
  z *= np.uint64(0x94D049BB133111EB)
  z ^= z >> np.uint64(31)
  return z


def words(text: str) -> np.ndarray:
  """uint64 [words]."""
  found, start = [np.empty(0, np.uint64)], 0
  while start < len(text):
    space = SPACE.search(text, start + BLOCK)
    stop = space.start() if space else len(text)
    found.append(words_of_block(text[start:stop]))
    start = stop
  return np.concatenate(found)


def words_of_block(text: str) -> np.ndarray:
  text = unicodedata.normalize("NFKC", text).casefold()
  code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
  kind = kinds()[code]
  begins = kind > 0
  begins[1:] &= (kind[:-1] != 1) | (kind[1:] == 2)
  inside = kind > 0
  code, begins = code[inside], begins[inside]
  starts = np.flatnonzero(begins)
  if not len(starts):
    return np.empty(0, np.uint64)
  # A word's hash is the sum of one of each pair (character, its place in the word).
  place = np.arange(len(code)) - np.repeat(starts, np.diff(starts, append=len(code)))
  pairs = place.astype(np.uint64) << np.uint64(21) | code
  return mixed(np.add.reduceat(mixed(pairs), starts))


def runs(words_W: np.ndarray, n: int) -> np.ndarray:
  """uint64 [W - n + 1]: the hash of each run of n words; of fewer than n words there is none."""
  count = max(0, len(words_W) - n + 1)
  total = np.zeros(count, np.uint64)
  for k in range(n):
    total *= MULTIPLIER
    total += words_W[k : k + count]
  return mixed(total)
