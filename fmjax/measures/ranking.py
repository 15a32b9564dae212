"""Metrics of sentence embeddings: cosine similarity, and how well documents are found by it."""

from collections.abc import Mapping, Sequence

import numpy as np

from fmjax.errors import FmjaxError
from fmjax.measures.metric import CELLS, Metric, check_examples, mean

DEPTH = 10  # of MRR and nDCG
RECALLS = (1, 5, 10)
DECIMALS = 12  # of a cosine: what is below is the matrix product's rounding, and decides no rank


def metrics(queries_BD, documents_MD, relevant: Sequence[Mapping[int, float]]) -> dict[str, Metric]:
  """accuracy@1, mrr@10, ndcg@10 and recall@1, 5, 10 of queries that rank the documents by cosine similarity.

  relevant: for each query the gain of each document that answers it, by its row; more than one such document is fine.
  nDCG is that of Jarvelin and Kekalainen 2002 with gains as they are, over log2(1 + rank).
  """
  check_examples("ranking", len(queries_BD), len(relevant))
  ideal_BK = np.zeros((len(relevant), DEPTH))
  for number, gains in enumerate(relevant):
    best = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:DEPTH]
    if not best:
      raise FmjaxError("DATA_BAD", f"query {number} has no document that answers it", fix="leave such queries out")
    ideal_BK[number, : len(best)] = best
  found_BK = ranked(queries_BD, documents_MD, DEPTH)
  gains_BK = np.array([[gains.get(one, 0.0) for one in row] for gains, row in zip(relevant, found_BK.tolist())])
  hits_BK = gains_BK > 0
  answers_B = np.array([sum(gain > 0 for gain in gains.values()) for gains in relevant])
  first_B = np.where(hits_BK.any(1), 1 / (1 + hits_BK.argmax(1)), 0.0)
  discount_K = 1 / np.log2(np.arange(2, DEPTH + 2))
  dcg_B = gains_BK @ discount_K[: gains_BK.shape[1]]
  values = {"accuracy@1": hits_BK[:, 0], f"mrr@{DEPTH}": first_B, f"ndcg@{DEPTH}": dcg_B / (ideal_BK @ discount_K)}
  values |= {f"recall@{k}": hits_BK[:, :k].sum(1) / answers_B for k in RECALLS}
  return {name: mean(name, values_B) for name, values_B in values.items()}


def cosines(a_BD, b_BD) -> np.ndarray:
  """The cosine similarity of each row of a with that row of b: float64 [B], 0 where one is all zeros."""
  check_examples("cosines", len(a_BD), len(b_BD))
  return (unit(a_BD) * unit(b_BD)).sum(1)


def ranked(queries_BD, documents_MD, k: int) -> np.ndarray:
  """The k documents next to each query by cosine, next first: int64 [B, min(k, M)]; of equal ones the lower row."""
  queries_BD, documents_MD = unit(queries_BD), unit(documents_MD)
  check_examples("documents", len(documents_MD))
  k, rows = min(k, len(documents_MD)), max(1, CELLS // len(documents_MD))
  found_BK = np.empty((len(queries_BD), k), np.int64)
  for start in range(0, len(queries_BD), rows):
    away_BM = -np.round(queries_BD[start : start + rows] @ documents_MD.T, DECIMALS)
    last_B = np.partition(away_BM, k - 1, axis=1)[:, k - 1]
    for number, (away_M, last) in enumerate(zip(away_BM, last_B), start):
      near = np.flatnonzero(away_M <= last)
      found_BK[number] = near[np.argsort(away_M[near], kind="stable")[:k]]
  return found_BK


def unit(x_BD) -> np.ndarray:
  """Rows of length 1, in float64."""
  x_BD = np.asarray(x_BD, np.float64)
  if not np.isfinite(x_BD).all():
    raise FmjaxError("DATA_BAD", "an embedding is not finite", fix="look at the run that trained the model")
  lengths_B1 = np.linalg.norm(x_BD, axis=1, keepdims=True)
  return x_BD / np.where(lengths_B1 > 0, lengths_B1, 1)
