"""Exact match and F1 of answers, as the official scripts of SQuAD 1.1 and 2.0 compute them, in percent.

Rajpurkar et al. 2016 (arXiv:1606.05250), section 6.1; Rajpurkar et al. 2018 (arXiv:1806.03822).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fmjax.errors import FmjaxError
from fmjax.measures.metric import Metric, check_examples, fraction, mean

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII's alone, as in the scripts


def metrics(predictions: Sequence[str], golds: Sequence[Sequence[str]], unanswerable: bool) -> dict[str, Metric]:
  """exact_match and f1, each prediction against the gold answer that it meets best.

  unanswerable: the rules of SQuAD 2.0. An example without gold answers asks for the prediction "", and the metrics of
  the two kinds of examples are there too: has_answer/exact_match, has_answer/f1, no_answer/exact_match.
  """
  check_examples("answers", len(predictions), len(golds))
  scores = [score(one, list(gold), unanswerable) for one, gold in zip(predictions, golds)]
  exact_B, f1_B = np.array(scores, np.float64).T
  found = dict(exact_match=mean("exact_match", exact_B, scale=100), f1=mean("f1", f1_B, scale=100))
  has_B = np.array([bool(len(gold)) for gold in golds])
  parts = {"has_answer/exact_match": (exact_B, has_B), "has_answer/f1": (f1_B, has_B),
           "no_answer/exact_match": (exact_B, ~has_B)}  # fmt: skip
  if unanswerable:
    found |= {name: fraction(name, one_B * of_B, of_B, 100) for name, (one_B, of_B) in parts.items() if of_B.any()}
  return found


def score(prediction: str, golds: list[str], unanswerable: bool) -> tuple[float, float]:
  """(exact match, F1), each the best over gold answers, 0 to 1."""
  if unanswerable:
    golds = [gold for gold in golds if normalised(gold)] or [""]
  elif not golds:
    raise FmjaxError("DATA_BAD", "an example has no gold answer", fix="score the data set by the rules of SQuAD 2.0")
  exact = max(normalised(prediction) == normalised(gold) for gold in golds)
  return float(exact), max(f1(prediction, gold, unanswerable) for gold in golds)


def normalised(text: str) -> str:
  """Lower case without punctuation, articles and spare white space."""
  return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def f1(prediction: str, gold: str, unanswerable: bool) -> float:
  """F1 of the words of two answers as bags. Where one has no word left, SQuAD 2.0 asks whether both have none."""
  words, gold_words = normalised(prediction).split(), normalised(gold).split()
  if not words or not gold_words:
    return float(unanswerable and words == gold_words)
  common = sum((Counter(words) & Counter(gold_words)).values())
  return 2 * common / (len(words) + len(gold_words))
