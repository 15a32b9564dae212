"""ROUGE is the mean of rouge-score's F, of the data and of any resample."""

import sys

import numpy as np
import pytest

from fmjax.errors import FmjaxError
from fmjax.measures import summaries
from tests.measures import resampling

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

WORDS = "the cats , running ran. happily happiness \u00e9t\u00e9 \u6771\u4eac 12 3.5 U.S. \n".split(" ")


def text(rng):
  return " ".join(WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(0, 25)))


def corpus(most, size=15):
  rng = np.random.default_rng(most)
  predictions = [text(rng) for _ in range(size)]
  predictions[2] = ""
  references = [[text(rng) for _ in range(rng.integers(1, most + 1))] for _ in range(size)]
  references[3] = ["!\n"]
  return predictions, references


@pytest.mark.parametrize("most", [1, 3])
def test_as_rouge_score(most):
  predictions, references = corpus(most)
  found = summaries.metrics(predictions, references)
  for name, kind in dict(rouge1="rouge1", rouge2="rouge2", rougel="rougeL", rougelsum="rougeLsum").items():
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    best = [
      max(scorer.score(reference, one)[kind].fmeasure for reference in texts)
      for one, texts in zip(predictions, references)
    ]
    assert found[name].value == pytest.approx(np.mean(best)) and 0 < found[name].value < 1
  assert len({metric.value for metric in found.values()}) == 4
  assert all("stemmer:porter" in metric.signature for metric in found.values())


def test_words_are_stemmed_and_lines_are_sentences():
  found = summaries.metrics(["running dogs\nthe cats"], [["the cat\nrun dog"]])
  assert [round(found[name].value, 3) for name in ("rouge1", "rouge2", "rougel", "rougelsum")] == [1, 0.667, 0.5, 1]


def test_resamples():
  resampling.check(summaries.metrics, *corpus(2))


def test_every_prediction_has_a_reference():
  with pytest.raises(FmjaxError, match="DATA_BAD.*no reference"):
    summaries.metrics(["a", "b"], [["a"], []])


def test_without_the_package_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "rouge_score", None)
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*pip install 'fmjax\[summaries\]'"):
    summaries.metrics(["a"], [["a"]])
