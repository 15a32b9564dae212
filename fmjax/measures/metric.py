"""A number of a data set, and how far it would move with other examples: the percentile bootstrap (Efron 1979).

A metric is a function of how often each example is there. Once each gives its value; as often as chance draws them,
an interval, with no second way to compute it. B is the examples, K the statistics of one, R the resamples.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from fmjax.errors import FmjaxError

CELLS = 1 << 22  # float64 that are held at once, 32 MiB


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
  """What `of` makes of the sum over examples of statistics_BK.

  of: float64 [..., K] -> [...], of the sums of any number of resamples at once. signature: what else a reader must
  know to find the same number, as the version of the package that counts.
  """

  name: str
  statistics_BK: np.ndarray
  of: Callable[[np.ndarray], np.ndarray]
  signature: str = ""

  def __post_init__(self):
    check_examples(self.name, len(self))

  def __len__(self) -> int:
    return len(self.statistics_BK)

  @property
  def value(self) -> float:
    return float(self.of(self.statistics_BK.sum(0)))

  def of_counts(self, counts_RB: np.ndarray) -> np.ndarray:
    """Its values where example b is there counts_RB[r, b] times: [R]."""
    return self.of(counts_RB @ self.statistics_BK)


def mean(name: str, values_B, scale: float = 1.0, signature: str = "") -> Metric:
  values_B = np.asarray(values_B, np.float64)
  return fraction(name, values_B, np.ones_like(values_B), scale, signature)


def fraction(name: str, parts_B, wholes_B, scale: float = 1.0, signature: str = "") -> Metric:
  """`scale` times the sum of parts over that of wholes; 0 where there are no wholes."""
  statistics_BK = np.stack([np.asarray(parts_B, np.float64), np.asarray(wholes_B, np.float64)], 1)
  return Metric(name, statistics_BK, lambda sums: scale * ratio(sums[..., 0], sums[..., 1]), signature)


def interval(metric, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
  """(low, high) of a metric's values over resamples of its examples with replacement: `level` of them lie between.

  Resamples of which the metric is not defined are left out; where none is left both are nan. The resamples of a seed
  are the same for all metrics of as many examples.
  """
  return intervals([metric], resamples, seed, level)[0]


def intervals(metrics, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> list[tuple[float, float]]:
  """The `interval` of each of several metrics of the same examples, which are drawn once for all."""
  if not metrics:
    return []
  check_examples("intervals", *map(len, metrics))
  rng, size = np.random.default_rng(seed), len(metrics[0])
  rows, found = max(1, CELLS // size), [[] for _ in metrics]
  for start in range(0, resamples, rows):
    counts_RB = drawn(rng, min(rows, resamples - start), size)
    for values, one in zip(found, metrics):
      values.append(one.of_counts(counts_RB))
  return [quantiles(np.concatenate(values), level) for values in found]


def quantiles(values_R: np.ndarray, level: float) -> tuple[float, float]:
  values_R = values_R[~np.isnan(values_R)]
  if not len(values_R):
    return float("nan"), float("nan")
  low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def drawn(rng: np.random.Generator, resamples: int, size: int) -> np.ndarray:
  """counts_RB of `size` draws with replacement from as many examples: multinomial, and sooner than one by one."""
  picks_RB = rng.integers(size, size=(resamples, size))
  picks_RB += size * np.arange(resamples)[:, None]
  counts = np.bincount(picks_RB.ravel(), minlength=resamples * size)
  return counts.reshape(resamples, size).astype(np.float64)


def ratio(part, whole):
  """part / whole, 0 where whole is 0."""
  part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
  return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def check_examples(name: str, *sizes: int):
  """The columns of a data set are of one size, and hold something."""
  if len(set(sizes)) > 1:
    raise FmjaxError("DATA_BAD", f"{name}: the columns differ in their number of examples",
                     got=" and ".join(map(str, sizes)), fix="give one prediction for each example")  # fmt: skip
  if not sizes[0]:
    raise FmjaxError("DATA_BAD", f"{name}: there is no example to score", fix="give a data set that is not empty")
