"""Two texts in rows of their own, whose embeddings' cosine is brought to their score."""

import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.objectives import Similarity
from fmjax.step import place
from tests.objectives import tasks

T = 16
MEAN, FIRST = Similarity(high=5.0), Similarity(high=5.0, pooling="first")
TEXTS = ["hello", "the king", "o romeo romeo", "deny thy father", "a", "refuse", "thy name", "thou art"]
RECORDS = [(a, b, n / 2) for n, (a, b) in enumerate(zip(TEXTS, TEXTS[1:] + TEXTS[:1]))]


def test_each_text_has_a_row_of_its_own():
  bert = tasks.tokenizer("bert")
  (row,) = tasks.read(MEAN, [("the king", "hello", "2.5")], T)
  batch = tasks.batch_of(MEAN, [row], T)
  for prefix, text in (("", "the king"), ("other_", "hello")):
    tokens = bert(text)["input_ids"][0].tolist()
    assert batch[f"{prefix}tokens"][0].tolist() == tokens + [bert.special["pad"]] * (T - len(tokens))
    assert batch[f"{prefix}segments"].sum() == len(tokens)
  assert batch["labels"].tolist() == [0.5]
  longest = max(len(bert(text)["input_ids"][0]) for text in ("the king", "hello"))
  assert MEAN.extent({name: len(x) for name, x in row.items()}) == longest
  nothing = tasks.batch_of(MEAN, [tasks.nothing(MEAN, T)], T)
  assert not any(nothing[name].any() for name in ("segments", "other_segments", "labels", "weights"))


def test_what_is_refused_and_laws():
  assert "out of range" in str(tasks.refused(MEAN, ("a", "b", 5.1)))
  assert "'score' holds no number" in str(tasks.refused(MEAN, ("a", "b", None)))
  assert tasks.laws_of(Similarity, low=2.0) == ["high"]
  assert [key for key, *_ in MEAN.model_laws(TransformerConfig(V=9))] == ["kind"]
  last = TransformerConfig(V=9, kind="encoder", pool="last")
  assert not list(MEAN.model_laws(last)) and [key for key, *_ in FIRST.model_laws(last)] == ["pool"]


@pytest.mark.parametrize("objective", [MEAN, FIRST])
def test_the_loss_is_that_of_plain_numpy_on_eight_devices_too(objective, on):
  rows = tasks.read(objective, RECORDS, T)
  batch, model = tasks.batch_of(objective, rows, T), tasks.model_of(objective)
  meshes = [dict(fsdp=2, tensor=2, context=2)]
  params, sums, predicted = tasks.same_on_eight_devices(objective, model, batch, on, meshes)
  embeddings = []
  for prefix in ("", "other_"):
    one = {name: batch[prefix + name] for name in ("tokens", "segments")}
    with on():
      hidden_BTD = np.asarray(model.apply(params, place(one)).hidden, np.float64)
    mask_BT1 = one["segments"][:, :, None]
    embeddings.append(hidden_BTD[:, 0] if objective is FIRST else (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in embeddings)
  cosine_B = np.sum(a * b, 1)
  np.testing.assert_allclose(predicted["cosine"], cosine_B, rtol=1e-4)
  assert sums["weight"] == 8 and sums["loss"] == pytest.approx(np.sum((cosine_B - np.arange(8) / 10) ** 2), rel=1e-4)
  answers = objective.answers(rows, predicted, None)
  assert [one["expected"] for one in answers] == [score for *_, score in RECORDS]
  np.testing.assert_allclose([one["predicted"] for one in answers], 5 * cosine_B, rtol=1e-4)
  wide = tasks.batch_of(objective, [*rows, tasks.nothing(objective, T)], 24)
  tasks.padding_changes_nothing(objective, model, params, batch, wide, on)
