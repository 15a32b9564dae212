"""What an objective's transform must know of a tokenizer: numbers and one table, which travel to any process."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

SENTINEL = "sentinel_"  # sentinel_0, sentinel_1, ... stand for the spans that were taken out of a text


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """`special` has the ids of special tokens by name: pad, bos, cls, sep, mask, unk, sentinel_0, ...

  `continues` [size] tells of a token whether it goes on with the word that the token before it belongs to.
  """

  size: int
  end: int  # closes a document
  special: Mapping[str, int]
  continues: np.ndarray

  def __getitem__(self, name: str) -> int:
    return self.special[name]

  @functools.cached_property
  def sentinels(self) -> np.ndarray:
    """Their ids, int32, in the order in which they are used."""
    count = sum(name.startswith(SENTINEL) for name in self.special)
    return np.array([self.special[f"{SENTINEL}{number}"] for number in range(count)], np.int32)

  @property
  def ordinary(self) -> np.ndarray:
    """Bool [size]: the tokens that text is made of, no special ones."""
    mine = np.ones(self.size, bool)
    mine[[self.end, *self.special.values()]] = False
    return mine
