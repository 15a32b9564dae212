"""Metrics of regression: Pearson's and Spearman's correlation, and the mean squared error."""

import dataclasses
from functools import cached_property

import numpy as np

from fmjax.measures.metric import Metric, check_examples, mean

FLAT = 1e-13  # of a variance beside its column's mean square: what rounding leaves of a constant


def metrics(predicted_B, gold_B) -> dict:
  """pearson, spearman and mse of two columns of numbers. A constant has no correlation: nan."""
  predicted_B, gold_B = np.asarray(predicted_B, np.float64), np.asarray(gold_B, np.float64)
  check_examples("correlation", len(predicted_B), len(gold_B))
  return dict(
    pearson=pearson(predicted_B, gold_B), spearman=RankCorrelation("spearman", predicted_B, gold_B),
    mse=mean("mse", (predicted_B - gold_B) ** 2),
  )  # fmt: skip


def pearson(x_B: np.ndarray, y_B: np.ndarray) -> Metric:
  x_B, y_B = x_B - x_B.mean(), y_B - y_B.mean()  # about 0, sums of squares lose nothing
  statistics_BK = np.stack([np.ones_like(x_B), x_B, y_B, x_B * x_B, y_B * y_B, x_B * y_B], 1)
  return Metric("pearson", statistics_BK, correlation)


def correlation(sums: np.ndarray) -> np.ndarray:
  """Of sums [..., 6] over 1, x, y, x x, y y and x y: [...], nan where x or y is constant."""
  n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
  x_spread, y_spread = n * xx - x * x, n * yy - y * y
  spread = (x_spread > FLAT * n * xx) & (y_spread > FLAT * n * yy)
  both = np.sqrt(np.where(spread, x_spread, 1)) * np.sqrt(np.where(spread, y_spread, 1))
  return np.where(spread, np.clip((n * xy - x * y) / both, -1, 1), np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class RankCorrelation:
  """Spearman's: Pearson's of ranks, where equal values share the mean of theirs. Has all that a `Metric` has.

  A rank depends on the other examples of a resample, so that no sum over statistics gives it.
  """

  name: str
  x_B: np.ndarray
  y_B: np.ndarray
  signature: str = ""

  def __post_init__(self):
    check_examples(self.name, len(self.x_B), len(self.y_B))

  def __len__(self) -> int:
    return len(self.x_B)

  @property
  def value(self) -> float:
    return float(self.of_counts(np.ones((1, len(self))))[0])

  def of_counts(self, counts_RB: np.ndarray) -> np.ndarray:
    middle = (counts_RB.sum(1, keepdims=True) + 1) / 2  # the mean of all ranks
    x_RB, y_RB = (ranks(counts_RB, *groups) - middle for groups in self.groups)
    xx, yy, xy = ((counts_RB * a * b).sum(1) for a, b in ((x_RB, x_RB), (y_RB, y_RB), (x_RB, y_RB)))
    zero = np.zeros_like(xx)
    return np.where(self.finite, correlation(np.stack([counts_RB.sum(1), zero, zero, xx, yy, xy], -1)), np.nan)

  @property
  def finite(self) -> bool:
    return bool(np.isfinite(self.x_B).all() and np.isfinite(self.y_B).all())

  @cached_property
  def groups(self):
    """Of x and y: (examples in the order of their values, where each value begins there, the value of each)."""
    return [grouped(values_B) for values_B in (self.x_B, self.y_B)]


def grouped(values_B: np.ndarray):
  _, starts, values = np.unique(np.sort(values_B), return_index=True, return_inverse=True)
  order = np.argsort(values_B, kind="stable")
  numbers_B = np.empty(len(values_B), np.int64)
  numbers_B[order] = values
  return order, starts, numbers_B


def ranks(counts_RB, order, starts, numbers_B) -> np.ndarray:
  """The rank of each example, from 1, where it is there counts_RB times: float64 [R, B]."""
  equal = np.add.reduceat(counts_RB[:, order], starts, axis=1)  # examples of each value
  return (np.cumsum(equal, 1) - (equal - 1) / 2)[:, numbers_B]
