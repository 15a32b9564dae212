"""What models say together: means and votes that a person can compute by hand."""

import numpy as np
import pytest

from fmjax import ensemble
from fmjax.errors import FmjaxError


def answer(*shares, expected="a"):
  p = dict(zip("abc", shares))
  return dict(predicted=max(p, key=p.get), expected=expected, probabilities=p)


CERTAIN, DOUBTFUL, OTHER = answer(0.9, 0.1, 0.0), answer(0.4, 0.6, 0.0), answer(0.3, 0.5, 0.2)


def together(*answers, how="average"):
  (found,) = ensemble.combined([[one] for one in answers], how)
  return found


def test_an_average_weighs_how_sure_each_is_and_a_vote_does_not():
  mean = together(CERTAIN, DOUBTFUL, OTHER)
  assert mean["predicted"] == "a" and mean["expected"] == "a"
  assert mean["probabilities"] == pytest.approx(dict(a=1.6 / 3, b=1.2 / 3, c=0.2 / 3))
  vote = together(CERTAIN, DOUBTFUL, OTHER, how="vote")
  assert vote["predicted"] == "b" and vote["probabilities"] == pytest.approx(dict(a=1 / 3, b=2 / 3, c=0))


def test_votes_that_are_even_go_to_the_surer():
  assert together(DOUBTFUL, CERTAIN, how="vote")["predicted"] == "a"
  assert together(answer(0.45, 0.55, 0), answer(0.52, 0.48, 0), how="vote")["predicted"] == "b"


def test_weights_count_against_each_other():
  assert together(CERTAIN, OTHER, how="1,9")["probabilities"] == pytest.approx(dict(a=0.36, b=0.46, c=0.18))
  assert together(CERTAIN, OTHER, how="0,2")["probabilities"] == pytest.approx(OTHER["probabilities"])


def test_one_model_alone_says_what_it_says():
  assert together(OTHER) == OTHER


def test_a_vote_is_for_one_class_alone():
  undecided = answer(0.5, 0.5, 0.0)
  assert together(undecided, CERTAIN, how="vote")["probabilities"] == dict(a=1.0, b=0.0, c=0.0)


def test_labels_are_known_by_their_names():
  turned = OTHER | dict(probabilities=dict(reversed(OTHER["probabilities"].items())))
  assert together(CERTAIN, turned)["probabilities"] == pytest.approx(together(CERTAIN, OTHER)["probabilities"])


def test_choices_are_known_by_their_places():
  one = dict(predicted=1, expected=0, probabilities=[0.4, 0.6])
  other = dict(predicted=0, expected=0, probabilities=[0.9, 0.1])
  assert together(one, other) == dict(predicted=0, expected=0, probabilities=[0.65, 0.35])


def test_numbers_are_averaged():
  one, other = dict(predicted=1.0, expected=2.0), dict(predicted=4.0, expected=2.0)
  assert together(one, other, how="2,1") == dict(predicted=2.0, expected=2.0)


def test_a_mean_of_independent_models_is_better_than_each():
  rng = np.random.default_rng(0)
  right = rng.integers(3, size=400)

  def model():
    z = rng.normal(size=(400, 3)) + 1.0 * np.eye(3)[right]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return [answer(*row, expected="abc"[label]) for row, label in zip(p.tolist(), right)]

  def accuracy(answers):
    return np.mean([one["predicted"] == one["expected"] for one in answers])

  models = [model() for _ in range(7)]
  for how in ("average", "vote"):
    assert accuracy(ensemble.combined(models, how)) > max(map(accuracy, models)) + 0.1


@pytest.mark.parametrize(
  "every, how, code, what",
  [
    ([[CERTAIN], [OTHER]], "median", "USAGE", "no way to combine"),
    ([[CERTAIN], [OTHER]], "0.5", "USAGE", "no weight for each"),
    ([[CERTAIN], [OTHER]], "0,0", "USAGE", "no weight for each"),
    ([[CERTAIN], [OTHER]], "-1,2", "USAGE", "no weight for each"),
    ([[CERTAIN], [OTHER]], "nan,1", "USAGE", "no weight for each"),
    ([[CERTAIN], [OTHER | dict(expected="b")]], "average", "DATA_BAD", "different examples"),
    ([[CERTAIN], [OTHER, OTHER]], "average", "DATA_BAD", "different examples"),
    ([[CERTAIN], [OTHER | dict(probabilities=dict(a=1.0))]], "average", "DATA_BAD", "different examples"),
    ([[dict(predicted=["x"], expected=["x"])]] * 2, "average", "USAGE", "not to be combined so"),
    ([[dict(predicted=1.0, expected=1.0)]] * 2, "vote", "USAGE", "not to be combined so"),
  ],
)
def test_what_cannot_be_combined_is_refused(every, how, code, what):
  with pytest.raises(FmjaxError, match=what) as caught:
    ensemble.combined(every, how)
  assert caught.value.code == code


def test_of_no_answers_there_are_none():
  assert ensemble.combined([[], []], "average") == []
