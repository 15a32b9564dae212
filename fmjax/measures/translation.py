"""BLEU and chrF of translations, sacrebleu's own (Post 2018), 0 to 100; the extra `translation`.

Papineni et al. 2002; Popovic 2015.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fmjax.errors import FmjaxError, extra
from fmjax.measures.metric import Metric, check_examples


def metrics(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "") -> dict[str, Metric]:
  """bleu and chrf of a corpus, each with sacrebleu's signature.

  references: one or more for each prediction. language: the code of the target's; "zh", "ja" and "ko" have tokenizers
  of their own, of which the latter two need packages of their own.
  """
  check_examples("translation", len(predictions), len(references))
  if not all(references):
    raise FmjaxError("DATA_BAD", "a prediction has no reference", fix="give at least one for each")
  package = sacrebleu()
  try:
    bleu = package.BLEU(trg_lang=language)
  except RuntimeError as error:
    raise FmjaxError("USAGE", f"BLEU of language {language!r} needs a tokenizer that is not installed",
                     got=error, fix=f"pip install 'sacrebleu[{language}]'") from error  # fmt: skip
  scorers = dict(bleu=bleu, chrf=package.CHRF())
  return {name: metric(name, scorer, predictions, references) for name, scorer in scorers.items()}


def metric(name: str, scorer, predictions, references) -> Metric:
  """Counts of n-grams are summed over a corpus before anything is divided: the statistics of a sentence."""
  most = max(map(len, references))
  # sacrebleu reads a column of references at a time, None where a sentence has fewer.
  columns = list(zip(*([*texts, *[None] * (most - len(texts))] for texts in references)))
  statistics_BK = np.array(scorer._extract_corpus_statistics(predictions, columns), np.float64)
  return Metric(name, statistics_BK, partial(scores, scorer=scorer), scorer.get_signature().format())


def scores(sums: np.ndarray, scorer) -> np.ndarray:
  return np.apply_along_axis(lambda one: scorer._compute_score_from_stats(one.tolist()).score, -1, sums)


def sacrebleu():
  with extra("translation", "BLEU and chrF need the package sacrebleu"):
    import sacrebleu
  return sacrebleu
