"""Parts of a data set by what its examples are, so that it is seen whom a model serves worse; and what it confuses.

A metric is a sum over examples before it is anything else: of a part it is the same metric of those examples alone.
"""

import dataclasses
from collections import Counter
from typing import NamedTuple

import numpy as np

from fmjax.measures.metric import Metric
from fmjax.measures.spans import spans

PARTS = 4  # of a number: its quartiles
VALUES = 12  # of a column: the most frequent; the others are one part
# What an answer says of itself; a column of another name is the data's.
OWN = {"example", "text", "length", "id", "words", "predicted", "expected", "probabilities", "margin"}
NONE = "none"  # the type of no span


class Slice(NamedTuple):
  by: str
  name: str
  rows: np.ndarray  # the places of its answers

  def of(self, metric: Metric) -> Metric:
    return dataclasses.replace(metric, statistics_BK=metric.statistics_BK[self.rows])


def slices(answers: list[dict], labels: list | None = None) -> list[Slice]:
  """By the length of the input, by `labels` (what is right of each answer), and by each column that is the data's."""
  found = []
  if all(isinstance(one.get("length"), int) for one in answers):
    found += by_number("length", [one["length"] for one in answers], " tokens")
  if labels is not None:
    found += by_value("label", labels) if isinstance(labels[0], str) else by_number("what is right", labels)
  for column in dict.fromkeys(key for one in answers for key in one if key not in OWN):
    values = [one.get(column) for one in answers]
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    if numbers and len(set(values)) > VALUES:
      found += by_number(column, values)
    elif not any(isinstance(one, (list, dict)) for one in values):
      found += by_value(column, ["" if one is None else str(one) for one in values])
  return found


def by_number(by: str, values, unit: str = "") -> list[Slice]:
  """Four parts of about as many examples; fewer where many values are equal, and none where all are."""
  values = np.asarray(values)
  edges = np.quantile(values, np.arange(1, PARTS) / PARTS, method="lower")
  parts = np.searchsorted(edges, values)
  found = []
  for part in np.unique(parts):
    rows = np.flatnonzero(parts == part)
    low, high = values[rows].min(), values[rows].max()
    name = in_words(low) if low == high else f"{in_words(low)} to {in_words(high)}"
    found.append(Slice(by, name + unit, rows))
  return found if len(found) > 1 else []


def in_words(value) -> str:
  return f"{value:,}" if np.issubdtype(value.dtype, np.integer) else f"{value:.4g}"


def by_value(by: str, values: list[str]) -> list[Slice]:
  """A part for each value in their order, "" for the examples that have none; nothing where all have one."""
  counts = Counter(values)
  chosen = [value for value, _ in counts.most_common(VALUES)] if len(counts) > VALUES + 1 else [*counts]
  values, found = np.array(values, object), []
  for value in sorted(chosen):
    found.append(Slice(by, value or "not said", np.flatnonzero(values == value)))
  if len(chosen) < len(counts):
    found.append(Slice(by, f"{len(counts) - len(chosen):,} others", np.flatnonzero(~np.isin(values, chosen))))
  return found if len(found) > 1 else []


def span_confusion(predicted: list[list[str]], gold: list[list[str]]) -> tuple[list[str], np.ndarray]:
  """(types, int64 [C, C]): of the spans of each gold type (row), as which type they are predicted.

  A span without one of the same beginning and end on the other side is confused with none, the last type.
  """
  counts = Counter()
  for one, other in zip(predicted, gold):
    told, true = ({(begin, end): kind for kind, begin, end in spans(tags)} for tags in (one, other))
    counts.update((true.get(place, NONE), told.get(place, NONE)) for place in {*told, *true})
  types = [*sorted({kind for pair in counts for kind in pair} - {NONE}), NONE]
  place = {kind: number for number, kind in enumerate(types)}
  matrix = np.zeros((len(types), len(types)), np.int64)
  for (true, told), count in counts.items():
    matrix[place[true], place[told]] = count
  return types, matrix
