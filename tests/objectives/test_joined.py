"""Several labelled examples in one row: each is seen on its own, and the batch's loss is what it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.config import from_config_dict
from fmjax.errors import FmjaxError
from fmjax.models import Model
from fmjax.objectives import OBJECTIVES
from fmjax.objectives.labelled import side_by_side
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.step import loss_sums, place

VOCABULARY = Vocabulary(size=64, end=63, special=dict(cls=60, sep=61, pad=62), continues=np.zeros(64, bool))
ENCODER = dict(V=64, D=32, L=2, N=2, F=64, kind="encoder", norm_place="post", embedding_norm=True, max_positions=16,
               token_types=2, classes=3)  # fmt: skip
RNG = np.random.default_rng(0)
SIZES = (5, 1, 9, 3, 12, 2, 7, 14)


def classification(**fields):
  return OBJECTIVES["classification"](labels=("a", "b", "c"), **fields)


def texts(pair: bool):
  records = [
    dict(text=RNG.integers(0, 50, size).astype(np.int32), label=np.array([size % 3], np.int32)) for size in SIZES
  ]
  return [record | dict(other=record["text"][:2]) for record in records] if pair else records


def words():
  return [
    dict(tokens=RNG.integers(0, 50, size).astype(np.int32), words=np.arange(size, dtype=np.int32),
         labels=(np.arange(size) % 3).astype(np.int32))
    for size in SIZES
  ]  # fmt: skip


def both(objective, config, records, join, mesh):
  """(loss and gradients of separate rows, those of joined ones)."""
  examples = [objective.transform(record, None, vocabulary=VOCABULARY, length=16) for record in records]
  separate = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  groups = [examples[start : start + join] for start in range(0, len(examples), join)]
  rows = [side_by_side(group, 64, getattr(objective, "pooling", "") == "last") for group in groups]
  joined = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  shapes = objective.joined_shapes(len(rows), 64, join)
  assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
    name: (x.shape, x.dtype) for name, x in joined.items()
  }
  with mesh:
    model = Model(config)
    params = jax.jit(model.init)(jax.random.key(0))
    found = []
    for batch in (separate, joined):
      how = dict(model=model, objective=objective, train=False)
      run = jax.jit(jax.value_and_grad(lambda p, b, how=how: loss_sums(p, b, None, **how), has_aux=True))
      found.append(jax.device_get(run(params, place(batch))))
  return found


@pytest.mark.parametrize(
  ("objective", "config", "records"),
  [
    (classification(), dict(head="sequence", pooler="tanh"), texts(False)),
    (classification(pooling="mean"), dict(head="sequence", pool="mean"), texts(False)),
    (classification(pair=True), dict(head="sequence"), texts(True)),
    (classification(pooling="last"), dict(head="sequence", pool="last", kind="decoder"), texts(False)),
    (OBJECTIVES["tagging"](labels=("O", "B-A", "I-A"), scheme=None), dict(head="token"), words()),
  ],
  ids=["first", "mean", "pair", "last", "tags"],
)
def test_a_batch_is_worth_the_same_joined_and_apart(objective, config, records, on):
  separate, joined = both(objective, TransformerConfig(**ENCODER | config), records, 4, on())
  for a, b in zip(jax.tree.leaves(separate), jax.tree.leaves(joined), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_on_a_mesh_too(on):
  config = TransformerConfig(**ENCODER, head="sequence", pooler="tanh")
  separate, joined = both(classification(), config, texts(False), 4, on(fsdp=2, context=2))
  for a, b in zip(jax.tree.leaves(separate), jax.tree.leaves(joined), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_an_empty_example_takes_no_room():
  none = dict(tokens=np.full(4, 62), segments=np.zeros(4, int), weights=np.float32(0))
  one = dict(tokens=np.array([1, 2, 3, 62]), segments=np.array([1, 1, 1, 0]), weights=np.float32(1))
  row = side_by_side([none, one, none], 6)
  assert row["tokens"].tolist() == [1, 2, 3, 62, 62, 62] and row["segments"].tolist() == [2, 2, 2, 0, 0, 0]
  assert row["positions"].tolist() == [0, 1, 2, 0, 0, 0] and row["weights"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
  ("branches", "words"),
  [
    (dict(data=dict(join=3)), ["data.join=3", "batch_size=16"]),
    (dict(objective=dict(name="next_token"), data=dict(join=4)), ["data.join=4", "next_token"]),
    (dict(data=dict(join=4, pool=4, buckets=(16,))), ["data.join=4", "data.pool"]),
    (
      dict(data=dict(join=4), distillation=dict(hidden_weight=1.0)),
      ["data.join=4", "row by row"],
    ),
  ],
)
def test_what_cannot_be_joined_is_refused(branches, words):
  base = dict(objective=dict(name="classification", labels=("a", "b")), model=dict(kind="encoder"))
  with pytest.raises(FmjaxError) as caught:
    from_config_dict(base | branches)
  assert all(word in str(caught.value) for word in words), str(caught.value)


def test_r_drop_and_smoothing_are_of_examples_too(on):
  objective = classification(r_drop=0.5)
  config = TransformerConfig(**dataclasses.asdict(TransformerConfig(**ENCODER, head="sequence")) | dict(dropout=0.1))
  examples = [objective.transform(record, None, vocabulary=VOCABULARY, length=16) for record in texts(False)]
  rows = [side_by_side(examples[:4], 64), side_by_side(examples[4:], 64)]
  batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  with on():
    model = Model(config)
    params = jax.jit(model.init)(jax.random.key(0))
    total, weight, sums = objective.loss(model, params, place(batch), jax.random.key(0), True)
  assert float(weight) == 8 and np.isfinite(total) and float(sums["r_drop"]) > 0
  assert jnp.ndim(total) == 0
