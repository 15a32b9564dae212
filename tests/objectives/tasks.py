"""Small tokenizers and models for objectives of labelled records, and the laws that these have in common."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.data import tokenizers
from fmjax.objectives.objective import Refused
from fmjax.step import eval_step, loss_sums, place

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "data" / "golden_tokenizers"
BERT = dict(kind="encoder", D=32, L=1, N=4, F=32, max_positions=64, token_types=2, norm_place="post",
            embedding_norm=True, activation="gelu", init_std=0.3)  # fmt: skip


@functools.cache
def tokenizer(name: str):
  """A family's: "bert", "roberta", "gpt2", "llama", ...; or "bytes"."""
  if name == "bytes":
    return tokenizers.Bytes()
  return tokenizers.from_folder(GOLDEN / name, json.loads((GOLDEN / name / "config.json").read_text()))


def model_of(objective, name: str = "bert", **changes):
  """A small model as the objective wants it, of the vocabulary of `name`."""
  config = TransformerConfig(**{**BERT, "V": tokenizer(name).vocab_size, **objective.model_fields(), **changes})
  assert not list(objective.model_laws(config))
  return objective.model(config)


def read(objective, records: list[tuple], length: int, name: str = "bert") -> list[dict]:
  """The records of the rows that are made of `records`."""
  encoder = objective.layout(length, False).encoder
  made = encoder.encode(records, tokenizer(name).with_special(objective.needs(length)))
  rows = [dict(zip(encoder.fields, arrays, strict=True)) for examples in made for arrays in examples]
  for row in rows:
    assert all(array.dtype == np.int32 and array.ndim == 1 for array in row.values())
  return rows


def nothing(objective, length: int) -> dict:
  """The record of a row past the last."""
  return dict.fromkeys(objective.layout(length, False).encoder.fields, np.empty(0, np.int32))


def batch_of(objective, rows: list[dict], length: int, name: str = "bert") -> dict:
  """The rows' examples, which have what `batch_shapes` says; where `extent` finds room, nothing is cut."""
  vocabulary = tokenizer(name).vocabulary(objective.needs(length))
  every = [objective.transform(row, None, vocabulary=vocabulary, length=length) for row in rows]
  batch = {key: np.stack([one[key] for one in every]) for key in every[0]}
  promised = objective.batch_shapes(len(rows), length)
  assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {k: (x.shape, x.dtype) for k, x in promised.items()}
  return batch


def refused(objective, record: tuple, length: int = 64, name: str = "bert") -> Refused:
  """How the record is refused, behind `good` ones of the same kind."""
  with pytest.raises(Refused) as caught:
    read(objective, [record], length, name)
  assert caught.value.number == 0
  return caught.value


@functools.partial(jax.jit, static_argnames=("model", "objective"))
def everything(params, batch, model, objective):
  """(sums, gradient, what is predicted), without dropout."""
  run = functools.partial(loss_sums, model=model, objective=objective, train=False)
  (_, sums), gradient = jax.value_and_grad(run, has_aux=True)(params, batch, None)
  return sums, gradient, objective.predict(model, params, batch)


@functools.partial(jax.jit, static_argnames=("model", "objective"))
def sums_of(params, batch, model, objective):
  return eval_step(params, batch, model=model, objective=objective)


def same_on_eight_devices(objective, model, batch, on, meshes=(dict(fsdp=2, tensor=2, context=2), dict(fsdp=8))):
  """The loss, its gradient and the predictions, which it gives: (params, sums, predicted)."""
  with on():
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    expected = jax.device_get(everything(params, place(batch), model, objective))
  assert max(np.abs(x).max() for x in jax.tree.leaves(expected[1])) > 1e-3
  for mesh in meshes:
    with on(**mesh):
      found = jax.device_get(everything(params, place(batch), model, objective))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
  return params, expected[0], expected[2]


def padding_changes_nothing(objective, model, params, tight: dict, wide: dict, on):
  """The loss of the same records, with more padding and rows of no record."""
  with on():
    a, b = (jax.device_get(sums_of(params, place(batch), model, objective)) for batch in (tight, wide))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def log_softmax(z):
  z = np.asarray(z, np.float64)
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.sum(np.exp(z), -1, keepdims=True))


def laws_of(cls, **fields) -> list[str]:
  """The fields that are wrong."""
  with pytest.raises(ValueError) as caught:
    cls(**fields)
  return [key for key, *_ in caught.value.problems]
