"""ROUGE of summaries (Lin 2004), by the package rouge-score, 0 to 1; the extra `summaries`."""

import importlib.metadata
from collections.abc import Sequence

from fmjax.errors import FmjaxError, extra
from fmjax.measures.metric import Metric, check_examples, mean

KINDS = {"rouge1": "rouge1", "rouge2": "rouge2", "rougel": "rougeL", "rougelsum": "rougeLsum"}  # ours: the package's


def metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Metric]:
  """rouge1, rouge2, rougel and rougelsum: means of F, each against the reference that it meets best, words stemmed.

  rougelsum takes a line for a sentence: put newlines between the sentences of both.
  """
  check_examples("summaries", len(predictions), len(references))
  if not all(references):
    raise FmjaxError("DATA_BAD", "a prediction has no reference", fix="give at least one for each")
  scorer = rouge_scorer().RougeScorer(list(KINDS.values()), use_stemmer=True)
  scores = [scorer.score_multi(texts, one) for one, texts in zip(predictions, references)]
  signature = f"stemmer:porter|version:{importlib.metadata.version('rouge-score')}"
  return {
    name: mean(name, [score[kind].fmeasure for score in scores], signature=signature) for name, kind in KINDS.items()
  }


def rouge_scorer():
  with extra("summaries", "ROUGE needs the package rouge-score"):
    from rouge_score import rouge_scorer
  return rouge_scorer
