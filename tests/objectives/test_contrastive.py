"""What contrastive learning reads, and that its loss is the cross-entropy of plain numpy, however B is cut."""

import functools

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.laws import Wrong
from fmjax.objectives.contrastive import Contrastive
from fmjax.objectives.objective import Documents
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.step import eval_step, loss_sums, place

SPECIAL = dict(pad=0, cls=1, sep=2)
END, SIZE, B, T = 3, 200, 16, 24
VOCABULARY = Vocabulary(SIZE, END, SPECIAL, np.zeros(SIZE, bool))
SIMCSE, PAIRS = Contrastive(), Contrastive(unsupervised=False, pooling="mean", temperature=0.1)
CONFIG = TransformerConfig(
  kind="encoder", V=SIZE, D=64, L=1, N=4, max_positions=T, norm_place="post", activation="gelu", pooler="tanh",
  dropout=0.1, init_std=0.3,
)  # fmt: skip
MODEL = SIMCSE.model(CONFIG)
EMPTY = (5, 14, 15)


def text(rng, tokens):
  return rng.integers(END + 1, SIZE, tokens, dtype=np.int32)


def batch_of(objective, empty=EMPTY):
  rng = np.random.default_rng(0)
  every = [{field: text(rng, rng.integers(1, T - 1)) for field in objective.fields} for _ in range(B)]
  for row in empty:
    every[row] = {field: np.empty(0, np.int32) for field in objective.fields}
  made = [objective.transform(one, rng, vocabulary=VOCABULARY, length=T) for one in every]
  return {name: np.stack([one[name] for one in made]) for name in made[0]}


def sums_of(objective, params, batch):
  found = jax.jit(functools.partial(eval_step, model=MODEL, objective=objective))(params, place(batch))
  return jax.tree.map(float, found)


@pytest.fixture(scope="module")
def alone(on):
  """(params, {objective: its sums}) of one device."""
  with on():
    params = jax.device_get(jax.jit(MODEL.init)(jax.random.key(0)))
    return params, {one: sums_of(one, params, batch_of(one)) for one in (SIMCSE, PAIRS)}


@pytest.mark.parametrize("objective", [SIMCSE, PAIRS])
def test_a_row_is_a_text_between_cls_and_sep(objective):
  rng = np.random.default_rng(0)
  layout = objective.layout(T, False)
  assert layout == Documents(tuple((field, T - 2) for field in objective.fields))
  record = {field: text(rng, n) for field, n in zip(objective.fields, (T - 2, 5))}
  example = objective.transform(record, rng, vocabulary=VOCABULARY, length=T)
  for prefix, tokens in zip(("", "other_"), record.values()):
    row = [SPECIAL["cls"], *tokens, SPECIAL["sep"]]
    assert example[f"{prefix}tokens"].tolist() == row + [SPECIAL["pad"]] * (T - len(row))
    assert example[f"{prefix}segments"].tolist() == [1] * len(row) + [0] * (T - len(row))
  for field in objective.fields:
    lacking = objective.transform(record | {field: text(rng, 0)}, rng, vocabulary=VOCABULARY, length=T)
    assert not any(array.any() for array in lacking.values())
  assert set(objective.needs(T)) == SPECIAL.keys()


@pytest.mark.parametrize("objective", [SIMCSE, PAIRS])
def test_an_example_has_the_shapes_that_are_promised(objective):
  batch, promised = batch_of(objective), objective.batch_shapes(B, T)
  assert {name: (one.shape, one.dtype) for name, one in promised.items()} == {
    name: (array.shape, array.dtype) for name, array in batch.items()
  }


def embeddings(objective, params, tokens, segments):
  batch = place(dict(tokens=tokens, segments=segments))
  hidden_BTD = MODEL.apply(params, batch).hidden
  if objective.pooling == "first":
    x_BD = np.asarray(MODEL.pooled(params, hidden_BTD, batch), np.float64)
  else:
    mask_BT = segments[:, :, None] / np.maximum(segments.sum(1), 1)[:, None, None]
    x_BD = np.sum(np.asarray(hidden_BTD, np.float64) * mask_BT, 1)
  return x_BD / np.maximum(np.linalg.norm(x_BD, axis=1, keepdims=True), 1e-9)


def test_the_loss_is_that_of_plain_numpy(alone, on):
  params, found = alone
  for objective, sums in found.items():
    batch = batch_of(objective)
    with on():
      own = embeddings(objective, params, batch["tokens"], batch["segments"])
      other = own
      if objective is PAIRS:
        other = embeddings(objective, params, batch["other_tokens"], batch["other_segments"])
    real = np.setdiff1d(np.arange(B), EMPTY)
    own, other = own[real], other[real]
    z = own @ other.T / objective.temperature
    nll = np.log(np.sum(np.exp(z), 1)) - np.diag(z)
    apart = np.sum(np.square(own[:, None] - other[None]), -1)
    n = len(real)
    assert sums["weight"] == n == 13
    assert sums["loss"] == pytest.approx(nll.sum(), rel=1e-4)
    assert sums["accuracy"] == np.sum(np.argmax(z, 1) == np.arange(n))
    assert sums["alignment"] == pytest.approx(np.trace(apart), rel=1e-4, abs=1e-5)
    potential = np.sum(np.exp(-2 * apart)[~np.eye(n, dtype=bool)])
    assert sums["potential"] == (pytest.approx(potential, rel=1e-4), n * (n - 1))
  assert found[SIMCSE]["accuracy"] == 13 and found[SIMCSE]["alignment"] == 0
  assert found[PAIRS]["alignment"] > 1


@pytest.mark.parametrize("mesh", [dict(fsdp=8), dict(data=2, context=2, tensor=2)])
def test_the_loss_is_the_same_on_eight_devices(alone, on, mesh):
  """All rows are negatives, wherever they lie."""
  params, found = alone
  for objective, expected in found.items():
    with on(**mesh):
      sums = sums_of(objective, params, batch_of(objective))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), sums, expected)


def trained_on(objective, params, batch, key=0):
  run = functools.partial(loss_sums, model=MODEL, objective=objective, train=True)
  (_, sums), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(params, place(batch), jax.random.key(key))
  return jax.device_get((sums, gradient))


def test_a_step_is_the_same_on_eight_devices(alone, on):
  params, _ = alone
  with on():
    expected = trained_on(SIMCSE, params, batch_of(SIMCSE))
  with on(data=2, fsdp=4):
    found = trained_on(SIMCSE, params, batch_of(SIMCSE))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)
  assert np.abs(expected[1]["pooler"]["dense"]).max() > 0


def test_dropout_makes_two_views_of_a_text(alone, on):
  params, _ = alone
  batch = batch_of(SIMCSE)
  with on():
    sums, _ = trained_on(SIMCSE, params, batch)
    views = functools.partial(SIMCSE.views, MODEL, params, place(batch))
    own, other = views(jax.random.key(0), True)
    still, same = views(jax.random.key(0), False)
  real = np.setdiff1d(np.arange(B), EMPTY)
  assert float(sums["alignment"]) / len(real) > 1e-3
  assert (np.abs(np.asarray(own - other))[real].max(1) > 1e-3).all()
  assert (np.asarray(still) == np.asarray(same)).all()
  assert np.abs(np.asarray(own - still)).max() > 1e-3


def test_empty_rows_are_neither_anchors_nor_negatives(alone, on):
  """What stands in them, and that they are there, changes nothing; of rows that are all empty nothing is NaN."""
  params, found = alone
  for objective, expected in found.items():
    batch = batch_of(objective)
    kept = [row for row in range(B) if row not in EMPTY]
    with on():
      less = sums_of(objective, params, {name: array[kept] for name, array in batch.items()})
      none = sums_of(objective, params, batch_of(objective, range(B)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), less, expected)
    assert all(value == 0 for value in jax.tree.leaves(none))
  with on():
    _, gradient = trained_on(PAIRS, params, batch_of(PAIRS, range(B)))
  assert all((array == 0).all() for array in jax.tree.leaves(gradient))


def test_the_model_must_fit():
  assert not list(SIMCSE.model_laws(CONFIG))
  for objective, change, field in (
    (SIMCSE, dict(dropout=0.0), "dropout"),
    (SIMCSE, dict(pool="last"), "pool"),
    (PAIRS, dict(kind="decoder"), "kind"),
  ):
    config = TransformerConfig(**{**dict(kind="encoder", V=SIZE, dropout=0.1), **change})
    assert [name for name, *_ in objective.model_laws(config)] == [field]
  assert not list(PAIRS.model_laws(TransformerConfig(kind="encoder", V=SIZE)))
  with pytest.raises(Wrong, match="temperature"):
    Contrastive(temperature=0.0)


def test_a_batch_of_equal_texts_is_told_by_chance(alone, on):
  """Where all embeddings are one, the loss is log B and one row in B is right."""
  params, _ = alone
  batch = {name: np.repeat(array[:1], B, 0) for name, array in batch_of(SIMCSE).items()}
  with on():
    sums = sums_of(SIMCSE, params, batch)
  assert sums["loss"] == pytest.approx(B * np.log(B), rel=1e-4) and sums["accuracy"] == 1
  assert sums["potential"][0] == pytest.approx(sums["potential"][1], rel=1e-4)
