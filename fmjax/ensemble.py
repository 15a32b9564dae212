"""Several models that answer as one, by the mean of what they say or by a vote.

Averaged probabilities are those of deep ensembles (Lakshminarayanan et al. 2017, arXiv:1612.01474, section 2.4),
votes those of bagging (Breiman 1996), and of boosting where a model is trained on what those before it got wrong.
"""

import numpy as np

from fmjax.errors import FmjaxError

AVERAGE, VOTE = "average", "vote"


def weights_of(combine: str, models: int) -> np.ndarray:
  """[models], of sum 1: `combine` is average, vote, numbers with commas between them, or vote:numbers."""
  if combine in (AVERAGE, VOTE):
    return np.full(models, 1 / models)
  try:
    weights_M = np.array([float(one) for one in combine.removeprefix(f"{VOTE}:").split(",")])
  except ValueError:
    expected = "average, vote, or a weight for each --model: 0.5,0.3,0.2 or vote:3,2,1"
    raise FmjaxError("USAGE", "--combine is no way to combine models", got=combine, expected=expected) from None
  if len(weights_M) != models or not np.all(np.isfinite(weights_M) & (weights_M >= 0)) or not weights_M.sum() > 0:
    raise FmjaxError("USAGE", "--combine has no weight for each --model", got=combine,
                     expected=f"{models} numbers, of 0 or more and not all 0")  # fmt: skip
  return weights_M / weights_M.sum()


def combined(every: list[list[dict]], combine: str) -> list[dict]:
  """One answer to each example, of the `answers` of each model; DATA_BAD where they answered different examples."""
  weights_M = weights_of(combine, len(every))
  asked = [[(one["expected"], sorted(labels_of(one))) for one in answers] for answers in every]
  if any(other != asked[0] for other in asked[1:]):
    sizes = " and ".join(str(len(one)) for one in asked)
    raise FmjaxError("DATA_BAD", "the models answered different examples", got=f"{sizes} of them",
                     fix="give all the same data: --config.data.eval_path=FILE")  # fmt: skip
  if not every[0]:
    return []
  if "probabilities" in every[0][0]:
    return [of_classes(answers, weights_M, combine.startswith(VOTE)) for answers in zip(*every)]
  if combine.startswith(VOTE) or not isinstance(every[0][0]["predicted"], float):
    raise FmjaxError("USAGE", "these answers are not to be combined so", got=f"--combine={combine}",
                     expected="classes, or numbers and no vote")  # fmt: skip
  return [of_numbers(answers, weights_M) for answers in zip(*every)]


def boosted(every: list[list[dict]]) -> tuple[np.ndarray, np.ndarray]:
  """(weights [B] of the examples, of sum 1, for the next member to train by; the weight [M] of each member's say).

  SAMME (Hastie et al. 2009, Multi-class AdaBoost, algorithm 2) of the `answers` that each member, in their order,
  gave to the examples that all are trained on. USAGE where a member makes no mistake, or as many as chance would.
  """
  expected = [one["expected"] for one in every[0]]
  labels, says = len(labels_of(every[0][0])), []
  weights_B = np.full(len(expected), 1 / len(expected))
  for number, answers in enumerate(every):
    wrong_B = np.array([one["predicted"] != label for one, label in zip(answers, expected, strict=True)])
    error = float(weights_B @ wrong_B)
    if not 0 < error < 1 - 1 / labels:
      raise FmjaxError("USAGE", "a member is not to be boosted", got=f"model {number + 1} is wrong on {error:.1%}",
                       expected=f"an error between 0 and chance, {1 - 1 / labels:.1%}, by the weights of its turn",
                       fix="leave it out")  # fmt: skip
    says.append(np.log((1 - error) / error) + np.log(labels - 1))
    weights_B = weights_B * np.exp(says[-1] * wrong_B)
    weights_B /= weights_B.sum()
  return weights_B, np.array(says)


def of_classes(answers: tuple[dict, ...], weights_M, vote: bool) -> dict:
  """With `vote` a model gives all it has to one class; classes of as many votes are told apart by the mean."""
  first, labels = answers[0]["probabilities"], labels_of(answers[0])
  p_MC = np.array([[one["probabilities"][label] for label in labels] for one in answers], np.float64)
  mean_C = weights_M @ p_MC
  told_C = weights_M @ np.eye(len(labels))[p_MC.argmax(1)] if vote else mean_C
  best = max(range(len(told_C)), key=lambda label: (round(told_C[label], 9), mean_C[label]))
  told = list(map(float, told_C))
  return answers[0] | dict(predicted=labels[best], probabilities=dict(zip(labels, told)) if named(first) else told)


def labels_of(answer: dict) -> list:
  """What the probabilities of an answer are of: names, or places from 0."""
  p = answer.get("probabilities", ())
  return list(p if named(p) else range(len(p)))


def named(probabilities) -> bool:
  return isinstance(probabilities, dict)


def of_numbers(answers: tuple[dict, ...], weights_M) -> dict:
  return answers[0] | dict(predicted=float(weights_M @ [one["predicted"] for one in answers]))
