"""Losses are those of transformers' classes: of the logits that it computed for the golden folders."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax.objectives import Classification, MultipleChoice, QuestionAnswering, Tagging
from fmjax.step import place
from tests.interop.folders import GOLDEN, on_one_device
from tests.objectives.tasks import log_softmax, sums_of

LABELS = tuple("abcde")
TASKS = {
  "ForSequenceClassification": Classification(labels=LABELS[:3]),
  "ForTokenClassification": Tagging(labels=LABELS, scheme=None),
  "ForQuestionAnswering": QuestionAnswering(),
  "ForMultipleChoice": MultipleChoice(labels=LABELS[:3]),
}


def nll(logits, labels):
  """Of the last axis; a label may be anything where the loss has no weight."""
  return -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]


def labels_and_loss(name: str, held: dict, rng):
  """(what a batch has beside its tokens, the sum of the loss) as the class of transformers computes it."""
  mask = held["in/attention_mask"]
  weights = np.arange(1, len(mask) + 1, dtype=np.float32)
  if name == "ForQuestionAnswering":
    # Padding takes no part, so that no loss depends on it; there the class leaves it in.
    ends = {key: rng.integers(mask.sum(-1)).astype(np.int32) for key in ("starts", "ends")}
    logits = [np.where(mask == 1, held[f"out/{key}_logits"], -1e30) for key in ("start", "end")]
    losses = sum(nll(z, ends[key]) for z, key in zip(logits, ends)) / 2
    return dict(**ends, weights=weights), np.sum(weights * losses)
  logits = held["out/logits"]
  labels = rng.integers(logits.shape[-1], size=logits.shape[:-1]).astype(np.int32)
  if name == "ForTokenClassification":
    weights = mask.astype(np.float32)
  return dict(labels=labels, weights=weights), np.sum(weights * nll(logits, labels))


@pytest.mark.parametrize("family", ["bert/Bert", "roberta/Roberta"])
@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_that_of_the_published_class(family, name):
  folder = family + name
  held, model = load_file(GOLDEN / folder / "expected.safetensors"), on_one_device(folder)
  told, expected = labels_and_loss(name, held, np.random.default_rng(0))
  names = dict(input_ids="tokens", attention_mask="segments", token_type_ids="token_types")
  batch = {ours: held[f"in/{theirs}"] for theirs, ours in names.items() if f"in/{theirs}" in held}
  batch = {key: x.reshape(len(x), -1).astype(np.int32) for key, x in batch.items()}
  batch.setdefault("token_types", np.zeros_like(batch["tokens"]))
  if family.startswith("bert"):
    assert not list(TASKS[name].model_laws(model.config))
  with jax.set_mesh(model.mesh):
    sums = jax.device_get(sums_of(model.params, place(batch | told), model.model, TASKS[name]))
  assert sums["loss"] == pytest.approx(expected, rel=1e-5)
