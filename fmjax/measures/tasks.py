"""What a task's answers are worth: its objective's metrics, each with the interval that resampling gives it."""

from typing import NamedTuple

import numpy as np

from fmjax.measures import answers as spans_of_text
from fmjax.measures import classes, correlation, metric, spans, summaries, translation


class Score(NamedTuple):
  name: str
  value: float
  low: float  # of the 95 % interval of the bootstrap over examples
  high: float
  examples: int
  signature: str  # of libraries whose number depends on their version and settings


def metrics(objective, answers: list[dict]) -> dict:
  """{name: metric} of the answers that `objective` gave, in the order of its `judged_by`, the calibration last."""
  made = {}
  for make, names in GROUPS:
    asked = {own: key for own, key in names(objective).items() if own in objective.judged_by}
    if asked:
      found = make(objective, answers)
      made |= {own: found[key] for own, key in asked.items() if key in found}
  chosen = {name: made[name] for name in objective.judged_by}
  if answers and "probabilities" in answers[0]:
    chosen["calibration_error"] = calibration(objective, answers)
  return chosen


def scores(objective, answers: list[dict]) -> list[Score]:
  return scored(metrics(objective, answers))


def scored(metrics: dict) -> list[Score]:
  """Of metrics of the same examples, by name."""
  bounds = metric.intervals([*metrics.values()])
  return [
    Score(name, float(one.value), low, high, len(one), one.signature)
    for (name, one), (low, high) in zip(metrics.items(), bounds)
  ]


def both(answers: list[dict]) -> tuple[list, list]:
  return [one["predicted"] for one in answers], [one["expected"] for one in answers]


# Each makes a module's metrics; beside it: the names that objectives have for them.


def of_classes(objective, answers):
  predicted, expected = (np.array([objective.labels.index(one) for one in side], int) for side in both(answers))
  return classes.metrics(predicted, expected, objective.labels)


def of_choices(objective, answers):
  return dict(accuracy=classes.accuracy(*map(np.array, both(answers))))


def of_spans(objective, answers):
  if objective.scheme is None:
    return dict(accuracy=spans.tag_accuracy(*both(answers)))
  return spans.metrics(*both(answers))


def of_answers(objective, answers):
  predicted, expected = both(answers)
  golds = [[one] if isinstance(one, str) else one for one in expected]
  return spans_of_text.metrics(predicted, golds, getattr(objective, "no_answer", False))


def of_numbers(objective, answers):
  return correlation.metrics(*map(np.array, both(answers)))


def of_translations(objective, answers):
  predicted, expected = both(answers)
  return translation.metrics(predicted, [[one] for one in expected], getattr(objective, "language", ""))


def of_summaries(objective, answers):
  predicted, expected = both(answers)
  return summaries.metrics(predicted, [[one] for one in expected])


def named(names: dict, *tasks: str):
  """The names where the objective's task is one of `tasks`; of none of them, of any."""
  return lambda objective: names if not tasks or objective.task in tasks else {}


def same(*names: str) -> dict[str, str]:
  return dict(zip(names, names))


GROUPS = [
  (of_classes, named(same("accuracy", "f1", "f1_macro", "matthews"), "sequence")),
  (of_choices, named(same("accuracy"), "choice")),
  (of_spans, named(dict(span_f1="f1", accuracy="accuracy"), "token")),
  (of_answers, named(dict(answer_f1="f1", exact_match="exact_match"))),
  (of_numbers, named(same("pearson", "spearman", "mse"))),
  (of_translations, named(same("bleu", "chrf"))),
  (of_summaries, named(same("rouge1", "rougel"))),
]


def calibration(objective, answers):
  """Of the probabilities, which are by label, or in order."""

  def row(probabilities):
    return [*probabilities.values()] if isinstance(probabilities, dict) else probabilities

  probabilities_BC = np.array([row(one["probabilities"]) for one in answers])
  labels = getattr(objective, "labels", None)
  golds = [one["expected"] for one in answers]
  gold_B = np.array([labels.index(gold) if isinstance(gold, str) else gold for gold in golds], int)
  return classes.calibration(probabilities_BC, gold_B)
