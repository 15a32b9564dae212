"""Span corruption, T5's objective: sentinels stand for the spans that are taken out of a text and become the target.

Raffel et al. 2020, arXiv:1910.10683, section 3.1.4, with the numbers and the rounding of T5's code. With spans a, b:

  text     Thank you [for inviting] me to your party [last] week [.]
  source   Thank you <sentinel_0> me to your party <sentinel_1> week <sentinel_2> <end>
  target   <sentinel_0> for inviting <sentinel_1> last <sentinel_2> . <end>
"""

import bisect
import dataclasses
import functools
import math

import numpy as np

from fmjax.laws import at_least
from fmjax.objectives.objective import Windows
from fmjax.objectives.seq2seq import Pairs
from fmjax.objectives.vocabulary import SENTINEL, Vocabulary

Noise = tuple[float, float | None]  # (share of the tokens that is taken out, mean length of a span); see `counts`


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Pairs):
  """A row is as long as its source then fills data.sequence_length: 568 tokens for 512, and 114 of the target."""

  name: str = "span_corruption"
  rate: float = 0.15
  mean_span: float = 3.0

  shortest = 3

  def laws(self):
    yield from super().laws()
    yield from noise_laws(self)

  @property
  def noise(self) -> Noise:
    return self.rate, self.mean_span

  def needs(self, length: int) -> tuple[str, ...]:
    return "pad", *sentinels(fitting((self.noise,), length)[2])

  def layout(self, length: int, packed: bool) -> Windows:
    return Windows(fitting((self.noise,), length)[0])

  def sizes(self, length: int) -> tuple[int, int]:
    return length, fitting((self.noise,), length)[1]

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    return self.pair(*corrupted(record["tokens"], self.noise, rng, vocabulary.sentinels), vocabulary, length)


def noise_laws(branch):
  """Of a branch with the fields `rate` and `mean_span`."""
  if not 0 < branch.rate < 1:
    yield "rate", branch.rate, "must lie in (0, 1)"
  yield from at_least(branch, 1, "mean_span")


def sentinels(count: int) -> tuple[str, ...]:
  """The names of the first `count`."""
  return tuple(f"{SENTINEL}{number}" for number in range(count))


def counts(tokens: int, noise: Noise) -> tuple[int, int]:
  """(tokens that are taken out of so many, spans that they come in): the nearest to the rate and to the mean.

  There is one of each at least, and a token that stays before each span; of a text of one token nothing is taken.
  A mean of None takes the text's last tokens, and no sentinel stands for them: 0 spans.
  """
  rate, mean_span = noise
  if tokens < 2:
    return 0, 0
  taken = min(max(round(tokens * rate), 1), tokens - 1)
  if mean_span is None:
    return taken, 0
  return taken, min(max(round(taken / mean_span), 1), taken, tokens - taken)


def lengths(tokens: int, noise: Noise) -> tuple[int, int]:
  """Of the source and the target of so many tokens, with sentinels and `end`. Neither shrinks with more tokens."""
  taken, spans = counts(tokens, noise)
  return tokens - taken + spans + 1, taken + spans + 1


@functools.lru_cache(maxsize=64)
def fitting(noises: tuple[Noise, ...], length: int) -> tuple[int, int, int]:
  """(tokens, of the longest target, most spans) of the longest text whose sources and targets fit into `length`."""
  limit = math.ceil((length + 1) / (1 - max(rate for rate, _ in noises)))
  longest = range(1, limit + 1)
  tokens = bisect.bisect(longest, length, key=lambda tokens: max(max(lengths(tokens, noise)) for noise in noises))
  return tokens, max(lengths(tokens, noise)[1] for noise in noises), max(counts(tokens, noise)[1] for noise in noises)


def corrupted(tokens: np.ndarray, noise: Noise, rng: np.random.Generator, sentinels: np.ndarray):
  """(source, target), without `end`. The text begins with a token that stays; each choice of spans is as likely."""
  taken, spans = counts(len(tokens), noise)
  stay = len(tokens) - taken
  if not spans:
    return tokens[:stay], tokens[stay:]
  kept, told = parts(stay, spans, rng), parts(taken, spans, rng)
  is_noise = np.repeat(np.arange(2 * spans) % 2 == 1, np.stack([kept, told], 1).ravel())
  source = np.insert(tokens[~is_noise], np.cumsum(kept), sentinels[:spans])
  return source, np.insert(tokens[is_noise], np.cumsum(told) - told, sentinels[:spans])


def parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
  """[count] sizes of 1 or more that sum to `total`; all such lists are equally likely."""
  cuts = 1 + np.sort(rng.choice(total - 1, count - 1, replace=False, shuffle=False))
  return np.diff(cuts, prepend=0, append=total)
