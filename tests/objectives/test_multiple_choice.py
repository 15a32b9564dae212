"""Each choice has a row with the context, wherever its question lies, and a softmax is over the choices."""

import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.objectives import MultipleChoice
from fmjax.step import place
from tests.objectives import tasks

T = 16
LETTERS, THREE = MultipleChoice(labels=("A", "B"), question=True), MultipleChoice(labels=("0", "1", "2"))
RECORDS = [("romeo art thou", [f"thy {word}" for word in words.split()], n % 3)
           for n, words in enumerate(["name hello a", "king father refuse", "a b c", "art o thou"] * 2)]  # fmt: skip


def test_each_choice_has_a_row_with_the_context():
  bert = tasks.tokenizer("bert")
  for objective, record, seconds in (
    (THREE, ("thou art", ["a", "the king", "hello"], "1"), ["a", "the king", "hello"]),
    (LETTERS, ("thou art", "wherefore", ["a", "the king"], "B"), ["wherefore a", "wherefore the king"]),
  ):
    (row,) = tasks.read(objective, [record], T)
    batch = tasks.batch_of(objective, [row], T)
    assert batch["labels"].tolist() == [1]
    expected = bert(["thou art"] * len(seconds), seconds)
    mask = expected["attention_mask"] == 1
    for name, theirs in (("tokens", "input_ids"), ("token_types", "token_type_ids"), ("segments", "attention_mask")):
      found = batch[name].reshape(len(seconds), T)[:, : mask.shape[1]]
      np.testing.assert_array_equal(found[mask], expected[theirs][mask])
    assert batch["segments"].sum() == mask.sum()
    assert objective.extent({name: len(x) for name, x in row.items()}) == mask.sum(1).max()
  assert LETTERS.layout(T, False).encoder.texts(("c", "q", ["a", "b"], "B")) == ["c", "q", "a", "b"]
  nothing = tasks.batch_of(THREE, [tasks.nothing(THREE, T)], T)
  assert not any(nothing[name].any() for name in ("segments", "labels", "weights"))


def test_what_is_refused():
  assert tasks.refused(THREE, ("c", ["a", "b"], 0)).labels["got"] == 2
  assert "'choices' holds no list" in str(tasks.refused(THREE, ("c", 7, 0)))
  assert tasks.refused(THREE, ("c", "a\nb", 0)).labels["got"] == 2
  assert "not one of objective.labels" in str(tasks.refused(THREE, ("c", ["a", "b", "c"], 3)))
  assert "'question' holds no text" in str(tasks.refused(LETTERS, ("c", None, ["a", "b"], "A")))


def test_laws():
  assert tasks.laws_of(MultipleChoice, labels=("A",)) == ["labels"]
  fits = dict(kind="encoder", V=100, head="sequence", classes=1)
  for change, wrong in ((dict(), []), (dict(kind="decoder"), ["kind"]), (dict(classes=4), ["head"])):
    assert [field for field, *_ in THREE.model_laws(TransformerConfig(**{**fits, **change}))] == wrong


def test_the_loss_is_that_of_plain_numpy_on_eight_devices_too(on):
  rows = tasks.read(THREE, RECORDS, T)
  batch, model = tasks.batch_of(THREE, rows, T), tasks.model_of(THREE, pooler="tanh")
  params, sums, predicted = tasks.same_on_eight_devices(THREE, model, batch, on)
  apart = {name: x.reshape(24, T) for name, x in batch.items() if x.ndim == 2}
  with on():
    placed = place(apart)
    z_BC = np.asarray(model.classify(params, model.apply(params, placed).hidden, placed)).reshape(8, 3)
  logp_BC = tasks.log_softmax(z_BC)
  assert sums["loss"] == pytest.approx(-logp_BC[np.arange(8), batch["labels"]].sum(), rel=1e-5)
  answers = THREE.answers(rows, predicted, tasks.tokenizer("bert"))
  assert sum(one["predicted"] == one["expected"] for one in answers) == sums["accuracy"]
  assert [one["expected"] for one in answers] == [label for *_, label in RECORDS]
  np.testing.assert_allclose([one["probabilities"] for one in answers], np.exp(logp_BC), rtol=1e-4)
  wide = tasks.batch_of(THREE, [*rows, tasks.nothing(THREE, T)], 24)
  tasks.padding_changes_nothing(THREE, model, params, batch, wide, on)
