"""A slice's metric is that of its examples alone, and slices of one kind are the whole data set, cut."""

import numpy as np
import pytest

from fmjax.measures import classes, spans
from fmjax.measures.slices import NONE, by_number, by_value, slices, span_confusion

LABELS = ("no", "yes", "perhaps")
TYPES = ("PER", "LOC")


def answers(count=200, seed=0) -> list[dict]:
  rng = np.random.default_rng(seed)
  return [
    dict(example=n, predicted=LABELS[rng.integers(3)], expected=LABELS[rng.integers(3)], probabilities={},
         length=int(rng.integers(3, 40)), text=str(n), dialect=str(rng.choice(["north", "south"])),
         age=float(rng.normal(40, 9)), same="x", deep=[n])
    for n in range(count)
  ]  # fmt: skip


def tags(rng, size):
  return [str(rng.choice(["O", *(f"{mark}-{kind}" for mark in "BI" for kind in TYPES)])) for _ in range(size)]


def test_what_answers_are_cut_by():
  told = answers()
  found = slices(told, [one["expected"] for one in told])
  assert list(dict.fromkeys(part.by for part in found)) == ["length", "label", "dialect", "age"]
  assert [part.name for part in found if part.by == "dialect"] == ["north", "south"]
  for by in ("length", "label", "dialect", "age"):
    rows = np.concatenate([part.rows for part in found if part.by == by])
    assert sorted(rows) == list(range(len(told)))
  for part in found:
    if part.by == "label":
      assert {told[row]["expected"] for row in part.rows} == {part.name}


def test_a_metric_of_a_part_is_that_of_its_examples():
  told = answers()
  predicted, gold = (np.array([LABELS.index(one[side]) for one in told]) for side in ("predicted", "expected"))
  every = classes.metrics(predicted, gold, LABELS)
  for part in slices(told):
    alone = classes.metrics(predicted[part.rows], gold[part.rows], LABELS)
    for name, metric in every.items():
      assert part.of(metric).value == pytest.approx(alone[name].value, rel=1e-12)
      assert len(part.of(metric)) == len(part.rows)


def test_quarters_hold_about_as_many_and_equal_values_stay_together():
  sizes = [len(part.rows) for part in by_number("n", list(range(100)))]
  assert sizes == [25, 25, 25, 25]
  parts = by_number("n", [1] * 60 + [2] * 30 + [3] * 10, " tokens")
  assert [(part.name, len(part.rows)) for part in parts] == [("1 tokens", 60), ("2 tokens", 30), ("3 tokens", 10)]
  assert by_number("n", [5] * 9) == [] and by_value("n", ["a"] * 9) == []


def test_rare_values_of_a_column_are_one_part():
  values = [str(n) for n in range(40) for _ in range(50 - n)]
  parts = by_value("n", values)
  assert len(parts) == 13 and parts[-1].name == "28 others"
  assert sum(len(part.rows) for part in parts) == len(values)
  assert {part.name for part in by_value("n", ["a", "", "b"])} == {"a", "b", "not said"}


def test_spans_are_confused_with_spans_of_the_same_place():
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 9, size=60)
  predicted, gold = ([tags(rng, size) for size in sizes] for _ in range(2))
  types, matrix = span_confusion(predicted, gold)
  counts = classes.threes(spans.metrics(predicted, gold)["f1"].statistics_BK.sum(0))
  assert types == [*sorted(TYPES), NONE] and matrix[-1, -1] == 0
  np.testing.assert_array_equal(np.diag(matrix)[:-1], counts[:, 0])
  np.testing.assert_array_equal(matrix.sum(0)[:-1], counts[:, 1])
  np.testing.assert_array_equal(matrix.sum(1)[:-1], counts[:, 2])
  _, (row, *_) = span_confusion([["B-LOC", "O", "B-PER"]], [["B-PER", "O", "O"]])
  assert list(row) == [0, 0, 0]
  assert span_confusion([["O"]], [["O"]])[0] == [NONE]
