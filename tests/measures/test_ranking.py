"""Rankings by cosine, and their metrics, are those of scikit-learn and of plain loops."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
from sklearn.metrics.pairwise import cosine_similarity

from fmjax.errors import FmjaxError
from fmjax.measures import ranking
from tests.measures import resampling

B, M, D = 25, 60, 8


def data(most=4, documents=M, seed=0):
  """Queries near one of the documents that answer them, with gains of 1 to 3, and one of a document that does not."""
  rng = np.random.default_rng(seed)
  documents_MD = rng.normal(size=(documents, D)) * 3
  relevant = []
  for _ in range(B):
    picks = rng.permutation(documents)
    count = rng.integers(1, most + 1)
    relevant.append({int(pick): float(rng.integers(1, 4)) for pick in picks[:count]} | {int(picks[-1]): 0.0})
  near = documents_MD[[next(iter(gains)) for gains in relevant]]
  return near + 3 * rng.normal(size=(B, D)), documents_MD, relevant


def values(*columns):
  return {name: metric.value for name, metric in ranking.metrics(*columns).items()}


def gains_of(relevant, documents):
  gains_BM = np.zeros((len(relevant), documents))
  for row, gains in enumerate(relevant):
    gains_BM[row, list(gains)] = list(gains.values())
  return gains_BM


@pytest.mark.parametrize("documents", [6, M])
@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn_and_plain_loops(seed, documents):
  queries, documents_MD, relevant = data(4, documents, seed)
  cosines_BM, gains_BM = cosine_similarity(queries, documents_MD), gains_of(relevant, documents)
  order = np.argsort(-cosines_BM, 1)
  firsts, recalls = [], {1: [], 5: [], 10: []}
  for row, gains in zip(order, gains_BM):
    rank = 1 + next(place for place, one in enumerate(row) if gains[one] > 0)
    firsts.append(rank)
    for k, found in recalls.items():
      found.append(sum(gains[one] > 0 for one in row[:k]) / (gains > 0).sum())
  expected = {
    "accuracy@1": np.mean(np.array(firsts) == 1), "ndcg@10": ndcg_score(gains_BM, cosines_BM, k=10),
    "mrr@10": np.mean([1 / rank if rank <= 10 else 0 for rank in firsts]),
  }  # fmt: skip
  expected |= {f"recall@{k}": np.mean(found) for k, found in recalls.items()}
  assert values(queries, documents_MD, relevant) == pytest.approx(expected, rel=1e-12)


def test_mrr_of_one_answer_each_is_average_precision():
  queries, documents_MD, relevant = data(1, 10)
  cosines_BM, gains_BM = cosine_similarity(queries, documents_MD), gains_of(relevant, 10)
  expected = label_ranking_average_precision_score(gains_BM > 0, cosines_BM)
  assert values(queries, documents_MD, relevant)["mrr@10"] == pytest.approx(expected, rel=1e-12)


def test_resamples():
  queries, documents_MD, relevant = data()
  resampling.check(lambda queries, relevant: ranking.metrics(queries, documents_MD, relevant), queries, relevant)


def test_of_equal_documents_the_lower_row_comes_first(monkeypatch):
  documents = np.array([[0, 1], [2, 0], [1, 0], [0, 0], [0, 3], [1, 1]])
  expected = [[1, 2, 5, 0, 3, 4], [0, 4, 5, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
  for cells in (1, 12, 1 << 22):
    monkeypatch.setattr(ranking, "CELLS", cells)
    for k in range(1, 8):
      found = ranking.ranked([[5, 0], [0, 0.1], [0, 0]], documents, k)
      np.testing.assert_array_equal(found, np.array(expected)[:, :k])


def test_a_model_that_says_the_same_of_all_finds_one():
  """Ties do not help: of B queries with an answer each, the first alone meets its own."""
  found = values(np.ones((B, D)), np.ones((B, D)), [{row: 1.0} for row in range(B)])
  assert found["accuracy@1"] == 1 / B and found["recall@10"] == 10 / B


def test_cosines_of_pairs():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 9, D)).astype(np.float32)
  a[3] = 0
  np.testing.assert_allclose(ranking.cosines(a, b), np.diag(cosine_similarity(a, b)), atol=1e-6)
  np.testing.assert_allclose(ranking.cosines(a, 5 * a), [*[1] * 3, 0, *[1] * 5])


def test_what_cannot_be_ranked_is_refused():
  queries, documents_MD, relevant = data()
  with pytest.raises(FmjaxError, match="DATA_BAD.*query 2 has no document"):
    ranking.metrics(queries, documents_MD, [*relevant[:2], {5: 0.0}, *relevant[3:]])
  with pytest.raises(FmjaxError, match="DATA_BAD.*not finite"):
    ranking.metrics(queries * np.nan, documents_MD, relevant)
