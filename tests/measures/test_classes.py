"""Metrics of classification are scikit-learn's, of the data and of any resample."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from fmjax.errors import FmjaxError
from fmjax.measures import classes
from tests.measures import resampling

NAMES = ["no", "yes", "a b", "never", "3", "4", "5"]


def columns(kind: str, C: int, size: int = 60):
  rng = np.random.default_rng(size + C)
  predicted, gold = rng.integers(C, size=(2, size))
  if kind == "never":  # the last class does not occur, the first only in predictions
    predicted, gold = rng.integers(C - 1, size=size), rng.integers(1, max(C - 1, 2), size=size)
  elif kind == "constant":
    predicted = np.full(size, C - 1)
  elif kind == "right":
    predicted = gold.copy()
  elif kind == "one class":
    predicted = gold = np.ones(size, int)
  return predicted, gold


KINDS = ["random", "never", "constant", "right", "one class"]


@pytest.mark.parametrize("C", [2, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_as_scikit_learn(kind, C):
  predicted, gold = columns(kind, C)
  found = {name: metric.value for name, metric in classes.metrics(predicted, gold, NAMES[:C]).items()}

  def f1(**how):
    return sklearn.f1_score(gold, predicted, zero_division=0, **how)

  expected = dict(
    accuracy=sklearn.accuracy_score(gold, predicted), f1_macro=f1(average="macro"), f1_micro=f1(average="micro")
  )
  if kind != "one class":  # there scikit-learn warns, and says 0 as well
    expected["matthews"] = sklearn.matthews_corrcoef(gold, predicted)
  expected |= {f"f1/{name}": one for name, one in zip(NAMES, f1(average=None, labels=range(C)))}
  if C == 2:
    expected["f1"] = f1(average="binary")
  assert {**found, **expected} == pytest.approx(found, abs=1e-12)
  assert found.keys() == {*expected, "matthews"}
  np.testing.assert_array_equal(
    classes.confusion(predicted, gold, C), sklearn.confusion_matrix(gold, predicted, labels=range(C))
  )


def test_no_correlation_where_all_is_one_class():
  predicted, gold = columns("one class", 2)
  assert classes.metrics(predicted, gold, NAMES[:2])["matthews"].value == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("C", [2, 4])
def test_resamples(kind, C):
  resampling.check(lambda *both: classes.metrics(*both, NAMES[:C]), *columns(kind, C, 12))


def naive_calibration_error(probabilities, gold):
  """Equations 3 and 5 of Guo et al. 2017, bin by bin."""
  confidences, right = probabilities.max(1), probabilities.argmax(1) == gold
  total = 0.0
  for m in range(1, 16):
    inside = [n for n, one in enumerate(confidences) if (m - 1) / 15 < one <= m / 15]
    if inside:
      total += len(inside) / len(gold) * abs(right[inside].mean() - confidences[inside].mean())
  return total


def probabilities_of(rng, size, C):
  logits = rng.normal(size=(size, C)) * 3
  return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("C", [2, 5])
def test_calibration_is_the_papers(C):
  rng = np.random.default_rng(C)
  probabilities, gold = probabilities_of(rng, 200, C), rng.integers(C, size=200)
  probabilities[:3] = np.eye(C)[0]  # sure, on the edge of the last bin
  probabilities[3:6] = np.full(C, 1 / C)
  found = classes.calibration(probabilities, gold)
  assert found.value == pytest.approx(naive_calibration_error(probabilities, gold), rel=1e-12)
  resampling.check(lambda *both: dict(calibration_error=classes.calibration(*both)), probabilities, gold)


def test_an_edge_belongs_to_the_bin_below():
  """0.6 is an edge, and as sure as 0.55 it meets a wrong answer: one bin, whose errors cancel."""
  probabilities = np.array([[0.6, 0.4], [0.55, 0.45]])
  one_bin = abs(1 - (0.6 + 0.55)) / 2
  assert classes.calibration(probabilities, [0, 1]).value == pytest.approx(one_bin)
  assert classes.calibration(np.array([[0.601, 0.399], [0.55, 0.45]]), [0, 1]).value > 2 * one_bin


def test_a_model_that_is_as_often_right_as_sure_is_calibrated():
  probabilities = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 3)
  assert classes.calibration(probabilities, [0, 0, 0, 1, 0, 0, 0]).value == 0
  assert math.isclose(classes.calibration(probabilities, [1] * 7).value, (4 * 0.75 + 3 * 1.0) / 7)


@pytest.mark.parametrize("predicted, gold", [([0, 2], [0, 1]), ([0, 1], [0, -1])])
def test_what_is_no_class_is_refused(predicted, gold):
  with pytest.raises(FmjaxError, match=r"DATA_BAD.* example 1 is no class"):
    classes.metrics(predicted, gold, NAMES[:2])
