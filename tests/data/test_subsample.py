"""Laws of a subsample: the same rows in every epoch, each epoch in another order, a bootstrap's statistics."""

from collections import Counter

import numpy as np
import pytest

from fmjax.corpus import Subsample
from fmjax.data.loader import Order
from fmjax.errors import FmjaxError
from fmjax.laws import Wrong

ROWS = 1000


def epochs(subsample, seed=0, count=2, rows=ROWS):
  order = Order(rows, seed, 0, subsample)
  return [[order[epoch * order.examples + n] for n in range(order.examples)] for epoch in range(count)]


@pytest.mark.parametrize("subsample", [Subsample(), Subsample(0.3), Subsample(0.3, replace=False)], ids=str)
def test_every_epoch_has_the_rows_that_were_drawn_in_an_order_of_its_own(subsample):
  first, second = epochs(subsample)
  assert Counter(first) == Counter(second) and first != second
  assert len(first) == round(ROWS * subsample.fraction) and 0 <= min(first) and max(first) < ROWS


def test_a_bootstrap_sample_has_two_thirds_of_the_rows():
  """1 - 1/e of them, each as often as a Poisson number of mean 1 says (Breiman 1996, section 1)."""
  drawn = [epochs(Subsample(), seed, 1)[0] for seed in range(50)]
  shares = [len(set(one)) / ROWS for one in drawn]
  assert np.mean(shares) == pytest.approx(1 - 1 / np.e, abs=0.005)
  often = Counter(times for one in drawn for times in Counter(one).values())
  total = 50 * ROWS
  assert [often[k] / total for k in (1, 2, 3)] == pytest.approx([0.368, 0.184, 0.0613], abs=0.008)
  hits = np.sum([np.bincount(one, minlength=ROWS) for one in drawn], 0)
  assert hits.min() > 20 and hits.max() < 85  # no row is favoured: 50 +- 5 standard deviations of 7


def test_without_replacement_no_row_comes_twice():
  (rows,) = epochs(Subsample(0.5, replace=False), count=1)
  assert len(set(rows)) == len(rows) == ROWS // 2


@pytest.mark.parametrize("replace", [True, False])
def test_a_subsamples_own_seed_draws_the_same_rows_in_the_order_of_each_run(replace):
  one, other = (epochs(Subsample(0.4, replace, seed=7), seed, 1)[0] for seed in (1, 2))
  assert Counter(one) == Counter(other) and one != other
  assert Counter(one) != Counter(epochs(Subsample(0.4, replace, seed=8), 1, 1)[0])
  free = [epochs(Subsample(0.4, replace), seed, 1)[0] for seed in (1, 2)]
  assert Counter(free[0]) != Counter(free[1])


def test_one_row_is_left_of_few():
  assert [len(one) for one in epochs(Subsample(0.01, replace=False), rows=3)] == [1, 1]


def weighted(tmp_path, weights, **how):
  np.save(tmp_path / "weights.npy", weights)
  return Subsample(weights=str(tmp_path / "weights.npy"), **how)


def test_rows_are_drawn_by_their_weights(tmp_path):
  weights = np.arange(10.0) * (np.arange(10) != 4)
  first, second = epochs(weighted(tmp_path, weights, fraction=2000.0), rows=10)
  assert Counter(first) == Counter(second) and first != second
  shares = np.bincount(first, minlength=10) / 20_000
  np.testing.assert_allclose(shares, weights / weights.sum(), rtol=0, atol=0.012)  # 3.5 standard deviations
  assert not shares[[0, 4]].any()


@pytest.mark.parametrize("weights", [[1.0] * 9, [1.0] * 9 + [-1.0], [0.0] * 10, [1.0] * 9 + [np.nan], [["a"] * 10]])
def test_weights_that_are_none_are_refused(tmp_path, weights):
  with pytest.raises(FmjaxError, match="DATA_BAD.*(weights of the rows|array of numbers)"):
    Order(10, 0, 0, weighted(tmp_path, weights))


def test_a_file_of_weights_that_is_not_there_is_told():
  with pytest.raises(FmjaxError, match="DATA_MISSING"):
    Order(10, 0, 0, Subsample(weights="nowhere.npy"))
  with pytest.raises(Wrong, match="replace=True"):
    Subsample(weights="nowhere.npy", replace=False)
