"""A bootstrap interval is what resampling by hand gives, and what theory says of a mean."""

import numpy as np
import pytest
from scipy import stats

from fmjax.errors import FmjaxError
from fmjax.measures import metric as metrics
from fmjax.measures.classes import accuracy
from fmjax.measures.correlation import RankCorrelation
from fmjax.measures.metric import Metric, drawn, fraction, interval, mean


def noise(size, seed=0):
  return np.random.default_rng(seed).normal(size=size)


def test_counts_are_those_of_draws_with_replacement():
  picks = np.random.default_rng(3).integers(11, size=(40, 11))
  expected = np.stack([np.bincount(row, minlength=11) for row in picks])
  np.testing.assert_array_equal(drawn(np.random.default_rng(3), 40, 11), expected)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_an_interval_is_that_of_resampling_by_indices(level):
  x, y = noise(30), noise(30, 1)
  picks = np.random.default_rng(7).integers(30, size=(500, 30))
  naive = {
    "mean": (mean("mean", x), [x[row].mean() for row in picks]),
    "spearman": (RankCorrelation("spearman", x, y), [stats.spearmanr(x[row], y[row])[0] for row in picks]),
  }
  for found, values in naive.values():
    expected = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    np.testing.assert_allclose(interval(found, 500, seed=7, level=level), expected, rtol=1e-9)


def test_an_interval_does_not_depend_on_how_much_is_held_at_once(monkeypatch):
  found = mean("mean", noise(50))
  expected = interval(found, 101)
  for cells in (1, 49, 350):
    monkeypatch.setattr(metrics, "CELLS", cells)
    assert interval(found, 101) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("right", [0.05, 0.5, 0.83])
def test_the_interval_of_an_accuracy_is_the_binomial_one(right):
  size = 2000
  gold = np.zeros(size, int)
  predicted = (np.arange(size) >= right * size).astype(int)
  expected = stats.binom.ppf([0.025, 0.975], size, right) / size
  deviation = np.sqrt(right * (1 - right) / size)
  assert np.abs(np.array(interval(accuracy(predicted, gold), 4000)) - expected).max() < 0.2 * deviation


def test_an_interval_holds_the_truth_as_often_as_it_says():
  rng, truth, held = np.random.default_rng(0), 0.7, []
  for _ in range(400):
    low, high = interval(mean("accuracy", rng.random(200) < truth), 400, seed=int(rng.integers(1 << 31)), level=0.9)
    held.append(low <= truth <= high)
  assert 0.85 < np.mean(held) < 0.94


def test_metrics_of_a_seed_see_the_same_resamples():
  right = noise(100) > 0
  low, high = interval(mean("right", right))
  assert interval(mean("wrong", ~right)) == pytest.approx((1 - high, 1 - low), rel=1e-12)
  assert interval(mean("noise", noise(100)), seed=1) != interval(mean("noise", noise(100)))


def test_resamples_without_a_value_are_left_out():
  x = np.array([0.0, 0.0, 1.0])
  low, high = interval(RankCorrelation("spearman", x, x))
  assert low == high == pytest.approx(1.0)
  assert np.isnan(interval(RankCorrelation("spearman", x, np.ones(3)))).all()


def test_a_fraction_is_of_sums_and_0_of_nothing():
  found = fraction("half", [1.0, 0.0, 3.0], [2, 0, 6], scale=100)
  assert found.value == 50 and len(found) == 3
  assert fraction("none", [0, 0], [0, 0]).value == 0


def test_a_data_set_has_examples_and_a_prediction_for_each():
  with pytest.raises(FmjaxError, match="DATA_BAD.*no example"):
    Metric("empty", np.zeros((0, 2)), lambda sums: sums[..., 0])
  with pytest.raises(FmjaxError, match=r"(?s)DATA_BAD.*got: +2 and 3"):
    accuracy([0, 1], [0, 1, 1])
