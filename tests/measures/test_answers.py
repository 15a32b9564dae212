"""Exact match and F1 of answers, by cases that the official scripts of SQuAD 1.1 and 2.0 were given too."""

import numpy as np
import pytest

from fmjax.errors import FmjaxError
from fmjax.measures import answers
from tests.measures import resampling


@pytest.mark.parametrize(
  "text, left",
  [
    ("The  Eiffel\tTower.", "eiffel tower"),
    ("a cat, an owl & the dog", "cat owl dog"),
    ("Athens theatre another", "athens theatre another"),  # articles are words
    ("the-end", "theend"),  # punctuation goes first, and leaves no space
    ("U.S.", "us"),
    ("A.", ""),
    (
      "\u00abThe\u00bb caf\u00e9 \u2013 \u00c9TAT\u2019S",
      "\u00ab \u00bb caf\u00e9 \u2013 \u00e9tat\u2019s",
    ),  # ASCII's punctuation alone
    ("\u00a0\u6771\u4eac\u3000", "\u6771\u4eac"),
    ("!?", ""),
    ("", ""),
  ],
)
def test_what_is_left_of_an_answer(text, left):
  assert answers.normalised(text) == left


# prediction, gold answers, (exact match, F1) by 1.1, by 2.0
CASES = [
  ("the Denver Broncos!", ["Denver Broncos"], (1, 1), (1, 1)),
  ("Broncos of Denver", ["Denver Broncos"], (0, 4 / 5), (0, 4 / 5)),  # a bag of words
  ("Denver", ["Denver Broncos", "Broncos", "Denver, Colorado city"], (0, 2 / 3), (0, 2 / 3)),
  ("red red blue", ["red blue blue"], (0, 2 / 3), (0, 2 / 3)),  # words as often as both have them
  ("red red", ["red red blue"], (0, 4 / 5), (0, 4 / 5)),
  ("red red red", ["red"], (0, 1 / 2), (0, 1 / 2)),
  ("green", ["red"], (0, 0), (0, 0)),
  ("\u6771\u4eac", ["\u6771\u4eac\u90fd"], (0, 0), (0, 0)),
  ("", ["Denver"], (0, 0), (0, 0)),
  ("the", ["Denver"], (0, 0), (0, 0)),
  ("", ["the", "an"], (1, 0), (1, 1)),  # 1.1 has no F1 of nothing
  ("", ["the", "Denver"], (1, 0), (0, 0)),  # 2.0 leaves such gold answers out
  ("The", ["a", "Denver"], (1, 0), (0, 0)),
]
UNANSWERABLE = [("", (1, 1)), ("the", (1, 1)), ("Denver", (0, 0))]


@pytest.mark.parametrize("prediction, golds, first, second", CASES)
def test_an_answer_meets_the_gold_that_is_nearest(prediction, golds, first, second):
  assert answers.score(prediction, golds, False) == pytest.approx(first)
  assert answers.score(prediction, golds, True) == pytest.approx(second)


@pytest.mark.parametrize("prediction, expected", UNANSWERABLE)
def test_a_question_without_an_answer_asks_for_none(prediction, expected):
  assert answers.score(prediction, [], True) == expected


def test_metrics_of_the_first_version():
  predictions, golds, first, _ = zip(*CASES)
  found = {name: metric.value for name, metric in answers.metrics(predictions, golds, False).items()}
  exact, f1 = 100 * np.mean(first, 0)
  assert found == pytest.approx(dict(exact_match=exact, f1=f1))
  with pytest.raises(FmjaxError, match="DATA_BAD.*no gold answer"):
    answers.metrics(["x"], [[]], False)


def test_metrics_of_the_second_version():
  predictions, golds, _, second = zip(*CASES)
  none, right = zip(*UNANSWERABLE)
  metrics = answers.metrics(predictions + none, golds + ([],) * len(none), True)
  found = {name: metric.value for name, metric in metrics.items()}
  every, some = 100 * np.mean(second + right, 0), 100 * np.mean(second, 0)
  assert found == pytest.approx({
    "exact_match": every[0], "f1": every[1], "has_answer/exact_match": some[0], "has_answer/f1": some[1],
    "no_answer/exact_match": 200 / 3,
  })  # fmt: skip
  assert "no_answer/exact_match" not in answers.metrics(predictions, golds, True)
  assert "has_answer/f1" not in answers.metrics(["x"], [[]], True)


def test_resamples():
  predictions, golds, *_ = zip(*CASES)
  resampling.check(lambda *both: answers.metrics(*both, False), predictions, golds)
  none = [prediction for prediction, _ in UNANSWERABLE] * 3
  both = list(predictions) + none, list(golds) + [[] for _ in none]
  resampling.check(lambda *both: answers.metrics(*both, True), *both)
