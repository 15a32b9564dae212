"""Correlations are scipy's, of the data and of any resample, with ties and where columns are constant."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_squared_error

from fmjax.measures import correlation
from fmjax.measures.metric import interval
from tests.measures import resampling


def columns(kind: str, size: int = 40):
  rng = np.random.default_rng(size)
  gold = rng.normal(size=size)
  predicted = gold + rng.normal(size=size)
  if kind == "ties":
    predicted, gold = np.round(predicted), np.round(2 * gold) / 2
  elif kind == "two values":
    predicted, gold = (predicted > 0) * 1.0, (gold > 0) * 0.1
  elif kind == "far from 0":
    predicted, gold = predicted + 1e7, 1e-6 * gold - 3
  elif kind == "the same":
    predicted = 3 * gold - 1
  elif kind == "float32":
    predicted, gold = predicted.astype(np.float32), gold.astype(np.float32)
  return predicted, gold


KINDS = ["random", "ties", "two values", "far from 0", "the same", "float32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 40, 1001])
def test_as_scipy(kind, size):
  predicted, gold = columns(kind, size)
  found = {name: metric.value for name, metric in correlation.metrics(predicted, gold).items()}
  wide = predicted.astype(float), gold.astype(float)
  expected = dict(pearson=stats.pearsonr(*wide)[0], spearman=stats.spearmanr(*wide)[0])
  assert found == pytest.approx(dict(expected, mse=mean_squared_error(*wide)), rel=1e-8, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5, 40])
def test_resamples(kind, size):
  predicted, gold = columns(kind, size)
  resampling.check(correlation.metrics, predicted, gold, resamples=30)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1])
def test_a_constant_has_no_correlation(value):
  gold = np.arange(1003.0)
  for both in ((np.full(1003, value), gold), (gold, np.full(1003, value))):
    metrics = correlation.metrics(*both)
    for name in ("pearson", "spearman"):
      assert np.isnan(metrics[name].value) and np.isnan(interval(metrics[name])).all()
    assert metrics["mse"].value > 0


def test_a_resample_of_one_value_has_none_either():
  x = np.array([0.1, 0.2, 0.30000001])
  for metric in list(correlation.metrics(x, x).values())[:2]:
    np.testing.assert_array_equal(metric.of_counts(3 * np.eye(3)), np.full(3, np.nan))


def test_a_prediction_that_is_not_finite_shows():
  metrics = correlation.metrics(np.array([1.0, np.nan, 2.0]), np.arange(3.0))
  assert all(np.isnan(metric.value) for metric in metrics.values())
