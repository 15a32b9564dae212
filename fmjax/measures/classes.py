"""Metrics of classification: accuracy, F1, Matthews correlation, as scikit-learn counts them; calibration.

Their statistics are, for each class, whether an example is (correct, predicted, gold): float64 [B, 3 C].
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fmjax.errors import FmjaxError
from fmjax.measures.metric import Metric, check_examples, mean, ratio

BINS = 15  # Guo et al. 2017, section 5


def metrics(predicted_B, gold_B, names: Sequence[str]) -> dict[str, Metric]:
  """accuracy, f1_macro, f1_micro, matthews, f1/NAME of each class, and of two classes f1, that of the second.

  Classes are numbers below len(names). f1_macro is the mean over those that occur, in predictions or in gold: what
  scikit-learn does where no labels are named. What is not defined counts as 0.
  """
  counts_BK = counts(predicted_B, gold_B, len(names))
  found = dict(accuracy=accuracy(predicted_B, gold_B))
  if len(names) == 2:
    found["f1"] = Metric("f1", counts_BK, partial(class_f1, number=1))
  for name, of in dict(f1_macro=macro_f1, f1_micro=micro_f1, matthews=matthews).items():
    found[name] = Metric(name, counts_BK, of)
  for number, name in enumerate(names):
    found[f"f1/{name}"] = Metric(f"f1/{name}", counts_BK, partial(class_f1, number=number))
  return found


def accuracy(predicted_B, gold_B) -> Metric:
  check_examples("accuracy", len(predicted_B), len(gold_B))
  return mean("accuracy", np.asarray(predicted_B) == np.asarray(gold_B))


def calibration(probabilities_BC, gold_B) -> Metric:
  """The expected calibration error of the top class (Guo et al. 2017), over 15 bins of equal width, closed above."""
  probabilities_BC, gold_B = np.asarray(probabilities_BC, np.float64), np.asarray(gold_B)
  check_examples("calibration_error", len(probabilities_BC), len(gold_B))
  confidence_B, correct_B = probabilities_BC.max(1), probabilities_BC.argmax(1) == gold_B
  bins_B = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence_B)
  statistics = np.zeros((len(gold_B), BINS, 3))
  statistics[np.arange(len(gold_B)), bins_B] = np.stack([correct_B, confidence_B, np.ones(len(gold_B))], 1)
  return Metric("calibration_error", statistics.reshape(-1, BINS * 3), calibration_error, f"bins:{BINS}")


def confusion(predicted_B, gold_B, classes: int) -> np.ndarray:
  """How many examples of each gold class (row) are predicted as each class (column): int64 [C, C]."""
  predicted_B, gold_B = checked(predicted_B, gold_B, classes)
  return np.bincount(gold_B * classes + predicted_B, minlength=classes**2).reshape(classes, classes)


def counts(predicted_B, gold_B, classes: int) -> np.ndarray:
  predicted_B, gold_B = checked(predicted_B, gold_B, classes)
  every = np.arange(len(gold_B))
  statistics = np.zeros((len(gold_B), classes, 3))
  statistics[every, predicted_B, 1] = 1
  statistics[every, gold_B, 2] = 1
  statistics[..., 0] = statistics[..., 1] * statistics[..., 2]
  return statistics.reshape(len(gold_B), classes * 3)


def checked(predicted_B, gold_B, classes: int):
  check_examples("classification", len(predicted_B), len(gold_B))
  columns = dict(prediction=np.asarray(predicted_B), label=np.asarray(gold_B))
  for what, ids in columns.items():
    wrong = np.flatnonzero((ids < 0) | (ids >= classes))
    if len(wrong):
      raise FmjaxError("DATA_BAD", f"the {what} of example {wrong[0]} is no class", got=ids[wrong[0]],
                       expected=f"0 to {classes - 1}")  # fmt: skip
  return columns.values()


def threes(sums: np.ndarray) -> np.ndarray:
  """[..., 3 C] -> [..., C, 3]."""
  return sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3)


def f1(counts: np.ndarray) -> np.ndarray:
  """The harmonic mean of precision and recall, of counts [..., 3] of what is correct, predicted and gold."""
  return ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def class_f1(sums, number: int):
  return f1(threes(sums)[..., number, :])


def micro_f1(sums):
  return f1(threes(sums).sum(-2))


def macro_f1(sums):
  counts = threes(sums)
  occurs = (counts[..., 1] + counts[..., 2]) > 0
  return ratio(f1(counts).sum(-1), occurs.sum(-1))


def matthews(sums):
  """The correlation of prediction and gold (Matthews 1975), of any number of classes (Gorodkin 2004)."""
  correct, predicted, gold = np.moveaxis(threes(sums), -1, 0)
  examples = gold.sum(-1)
  together = correct.sum(-1) * examples - (predicted * gold).sum(-1)
  apart = (examples**2 - (predicted**2).sum(-1)) * (examples**2 - (gold**2).sum(-1))
  return ratio(together, np.sqrt(apart))


def calibration_error(sums):
  correct, confidence, examples = np.moveaxis(threes(sums), -1, 0)
  return ratio(np.abs(correct - confidence).sum(-1), examples.sum(-1))
