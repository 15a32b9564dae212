"""UL2's mixture of denoisers, which are span corruptions of several kinds (Tay et al. 2022, arXiv:2205.05131)."""

import dataclasses
from typing import Literal

import numpy as np

from fmjax.laws import Branch
from fmjax.objectives.objective import Windows
from fmjax.objectives.seq2seq import Pairs
from fmjax.objectives.span_corruption import Noise, corrupted, fitting, noise_laws, sentinels
from fmjax.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Denoiser(Branch):
  mode: Literal["r", "s", "x"]  # regular, sequential, extreme: the token mode_r, mode_s or mode_x begins its sources
  rate: float  # share of a text that is taken out of it
  mean_span: float | None  # None: its last tokens, as a prefix language model

  def laws(self):
    return noise_laws(self)

  @property
  def noise(self) -> Noise:
    return self.rate, self.mean_span


# Table 1. A mean span of L / 4 at a rate of 1 / 4, in one span at the end, is S.
TABLE = (
  Denoiser("r", 0.15, 3.0),
  Denoiser("r", 0.15, 8.0),
  Denoiser("s", 0.25, None),
  Denoiser("x", 0.5, 3.0),
  Denoiser("x", 0.5, 8.0),
  Denoiser("x", 0.15, 64.0),
  Denoiser("x", 0.5, 64.0),
)


@dataclasses.dataclass(frozen=True)
class Denoisers(Pairs):
  """Each row is given to one of the denoisers, all of which are equally likely.

  Rows are as long as fit all of them, 567 tokens where data.sequence_length is 512: the source that keeps the most
  fills it.
  """

  name: str = "ul2"
  denoisers: tuple[Denoiser, ...] = TABLE

  shortest = 4

  def laws(self):
    yield from super().laws()
    if not self.denoisers:
      yield "denoisers", self.denoisers, "is empty"

  def fitting(self, length: int) -> tuple[int, int, int]:
    return fitting(tuple(one.noise for one in self.denoisers), length - 1)  # without the mode's token

  def needs(self, length: int) -> tuple[str, ...]:
    modes = sorted({one.mode for one in self.denoisers})
    return "pad", *(f"mode_{mode}" for mode in modes), *sentinels(self.fitting(length)[2])

  def layout(self, length: int, packed: bool) -> Windows:
    return Windows(self.fitting(length)[0])

  def sizes(self, length: int) -> tuple[int, int]:
    return length, self.fitting(length)[1]

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    one = self.denoisers[rng.integers(len(self.denoisers))]
    source, target = corrupted(record["tokens"], one.noise, rng, vocabulary.sentinels)
    if len(source):
      source = np.append(vocabulary[f"mode_{one.mode}"], source)
    return self.pair(source, target, vocabulary, length)
