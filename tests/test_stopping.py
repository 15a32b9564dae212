"""Laws of stopping early: the best row is found again from the rows alone, whichever way a metric is better."""

import pytest

from fmjax.errors import FmjaxError
from fmjax.stopping import Stopping


def rows(name, *values):
  return [{"step": 10 * (number + 1), f"eval/{name}": value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
  ("name", "best"), [("loss", 30), ("span_f1", 20), ("calibration_error", 30), ("bits_per_byte", 30)]
)
def test_the_best_is_the_lowest_of_losses_and_the_highest_of_scores(name, best):
  found = Stopping(name, 2, rows(name, 0.5, 0.9, 0.1, 0.9))
  assert found.best == best


def test_a_run_is_over_after_so_many_rows_that_are_not_better():
  found = Stopping("accuracy", 2, rows("accuracy", 0.5, 0.6, 0.6))
  assert not found.over and found.best == 20  # an equal one is no better
  assert not found.add({"step": 40, "eval/accuracy": 0.1}) and found.over
  assert found.add({"step": 50, "eval/accuracy": 0.7}) and not found.over


@pytest.mark.parametrize("nothing", [float("nan"), "nan"])
def test_what_is_no_number_is_never_best(nothing):
  """A correlation of answers that are all the same is nan, and the file of rows says so in words."""
  found = Stopping("spearman", 3, rows("spearman", nothing, 0.1, nothing, 0.5))
  assert found.best == 40 and not found.over
  assert Stopping("spearman", 2, rows("spearman", nothing, nothing)).over


def test_a_metric_that_a_row_lacks_is_told():
  with pytest.raises(FmjaxError, match="no metric 'acuracy'") as caught:
    Stopping("acuracy", 2, rows("accuracy", 0.5))
  assert caught.value.code == "CONFIG" and "accuracy" in str(caught.value)


def test_without_a_metric_nothing_is_best_and_nothing_ends():
  found = Stopping(None, 0, rows("loss", 1.0, 2.0))
  assert found.best is None and not found.over
