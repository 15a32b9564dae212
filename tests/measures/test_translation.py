"""BLEU and chrF of a corpus and of any resample of it are sacrebleu's."""

import sys

import numpy as np
import pytest

from fmjax.errors import FmjaxError
from fmjax.measures import translation
from tests.measures import resampling

sacrebleu = pytest.importorskip("sacrebleu")

WORDS = "the cat , sat . on Mat ! \u00e9t\u00e9 stra\u00dfe \u6771\u4eac \U0001f642 1,000.5 don't (so) -".split()


def sentence(rng, longest=12):
  return " ".join(WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(1, longest)))


def corpus(most, size=20):
  """Predictions that share words with their references, 1 to `most` of them; one says nothing."""
  rng = np.random.default_rng(most)
  references = [[sentence(rng) for _ in range(rng.integers(1, most + 1))] for _ in range(size)]
  predictions = [f"{texts[0][: rng.integers(3, 40)]} {sentence(rng, 5)}" for texts in references]
  predictions[1] = ""
  return predictions, references


def expected(predictions, references, **bleu):
  most = max(map(len, references))
  columns = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
  scorers = dict(bleu=sacrebleu.BLEU(**bleu), chrf=sacrebleu.CHRF())
  return {
    name: (one.corpus_score(predictions, columns).score, str(one.get_signature())) for name, one in scorers.items()
  }


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("language", ["", "zh"])
def test_as_sacrebleu(most, language):
  predictions, references = corpus(most)
  found = translation.metrics(predictions, references, language)
  values = expected(predictions, references, trg_lang=language)
  assert values["bleu"][0] > 5
  assert {name: (metric.value, metric.signature) for name, metric in found.items()} == values
  assert f"tok:{language or '13a'}" in found["bleu"].signature


@pytest.mark.parametrize("predictions", [["", ""], ["x y", "z"], ["the cat sat on the mat", "a"]])
def test_of_small_corpora(predictions):
  references = [["the cat sat on the mat"], ["a b"]]
  found = translation.metrics(predictions, references)
  values = expected(predictions, references)
  assert {name: (metric.value, metric.signature) for name, metric in found.items()} == values


def test_a_prediction_that_is_its_reference_has_100():
  texts = ["the cat sat on the mat ."] * 2
  found = translation.metrics(texts, [[text] for text in texts])
  assert [metric.value for metric in found.values()] == pytest.approx([100, 100])


def test_resamples():
  resampling.check(translation.metrics, *corpus(2))


def test_every_prediction_has_a_reference():
  with pytest.raises(FmjaxError, match="DATA_BAD.*no reference"):
    translation.metrics(["a", "b"], [["a"], []])


def test_without_the_package_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sacrebleu", None)
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*pip install 'fmjax\[translation\]'"):
    translation.metrics(["a"], [["a"]])


def test_without_a_languages_tokenizer_its_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "MeCab", None)
  monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*pip install 'sacrebleu\[ja\]'"):
    translation.metrics(["a"], [["a"]], "ja")
