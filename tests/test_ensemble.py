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


def test_votes_may_weigh_differently():
  vote = together(CERTAIN, DOUBTFUL, OTHER, how="vote:5,1,3")
  assert vote["predicted"] == "a" and vote["probabilities"] == pytest.approx(dict(a=5 / 9, b=4 / 9, c=0))
  assert together(CERTAIN, DOUBTFUL, OTHER, how="vote:3,1,3")["predicted"] == "b"
  for how in ("vote:1,2", "vote:a,b,c", "votes", "vote:"):
    with pytest.raises(FmjaxError, match="USAGE"):
      together(CERTAIN, DOUBTFUL, OTHER, how=how)


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


def told(wrong: str, labels="ab"):
  """Answers to "a" each, wrong where `wrong` has an x."""
  return [answer(*([0.2, 0.8] if mark == "x" else [0.8, 0.2]), *[0.0] * (len(labels) - 2)) for mark in wrong]


def test_a_member_is_weighed_by_its_error_and_an_example_by_who_was_wrong_on_it():
  """By hand: an error of 1/4 has the odds of 3, so what is wrong counts three times; then it is half of all."""
  weights_B, says_M = ensemble.boosted([told("x...")])
  np.testing.assert_allclose(weights_B, [1 / 2, 1 / 6, 1 / 6, 1 / 6])
  np.testing.assert_allclose(says_M, [np.log(3)])
  weights_B, says_M = ensemble.boosted([told("x..."), told(".x..")])
  np.testing.assert_allclose(weights_B, np.array([3, 5, 1, 1]) / 10)  # an error of 1/6: odds of 5
  np.testing.assert_allclose(says_M, np.log([3, 5]))
  _, says_M = ensemble.boosted([told("x...", labels="abc")])
  np.testing.assert_allclose(says_M, [np.log(3) + np.log(2)])


def test_boosting_of_stumps_is_that_of_scikit_learn():
  from sklearn.ensemble import AdaBoostClassifier
  from sklearn.tree import DecisionTreeClassifier

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(300, 4)), rng.integers(3, size=300)
  x[np.arange(300), y] += 1
  theirs = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=5, random_state=0).fit(x, y)
  every = [
    [dict(predicted="abc"[p], expected="abc"[label], probabilities=dict(a=0, b=0, c=0)) for p, label in zip(own, y)]
    for own in (one.predict(x) for one in theirs.estimators_)
  ]
  weights_B, says_M = ensemble.boosted(every)
  np.testing.assert_allclose(says_M, theirs.estimator_weights_, rtol=1e-6)
  assert weights_B.sum() == pytest.approx(1)


@pytest.mark.parametrize("wrong", ["....", "xx..", "xxxx"])
def test_a_member_that_is_perfect_or_no_better_than_chance_is_not_boosted(wrong):
  with pytest.raises(FmjaxError, match=f"wrong on {wrong.count('x') * 25}"):
    ensemble.boosted([told(wrong)])


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
