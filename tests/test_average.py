"""Averages of parameters: over the steps of a run (ema), and over models (avg:)."""

import functools

import jax
import numpy as np
import pytest

from fmjax import optim, spec
from fmjax.__main__ import main
from fmjax.adapt import METHODS, Adaptation
from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path
from fmjax.metrics import read
from fmjax.models import Model
from fmjax.objectives import NextToken
from fmjax.step import judged, place, started, train_step

MODEL = Model(TransformerConfig(V=40, D=32, L=1, N=2, max_positions=8))
EMA = 0.6


def batch(number):
  tokens = np.random.default_rng(number).integers(0, 40, (8, 9), dtype=np.int32)
  return dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((8, 8), np.float32))


def states(count, rate=1e-2, poison=None):
  """The state before each step and after the last."""
  tx = optim.make(optim.AdamW(), MODEL.declarations())
  make = functools.partial(started, adaptation=Adaptation(METHODS["full"](), MODEL), tx=tx, ema=EMA)
  state = jax.jit(make)(jax.random.key(0), {})[0]
  step = jax.jit(functools.partial(train_step, model=MODEL, objective=NextToken(), tx=tx, ema=EMA))
  found = [state]
  for number in range(count):
    rows = batch(number)
    rows["weights"] *= np.float32(np.nan if number == poison else 1)
    state, _ = step(state, place(rows), dict(learning_rate=np.float32(rate)))
    found.append(state)
  return [jax.device_get(one) for one in found]


def test_the_average_over_steps_is_what_the_formula_says(one_device):
  found = states(12)
  average = by_path(found[0]["params"])
  for number, state in enumerate(found[1:]):
    keep = min(EMA, (1 + number) / (10 + number))
    average = {path: keep * average[path] + (1 - keep) * x for path, x in by_path(state["params"]).items()}
  for path, x in by_path(judged(found[-1])).items():
    np.testing.assert_allclose(x, average[path], rtol=1e-4, atol=1e-6)
    assert x.ndim < 2 or not np.allclose(x, by_path(found[-1]["params"])[path], atol=1e-4), path


def test_the_average_of_what_does_not_move_is_that_bit_for_bit(one_device):
  first, *_, last = states(5, rate=0.0)
  for path, x in by_path(last["ema"]).items():
    np.testing.assert_array_equal(x, by_path(first["params"])[path])


def test_a_bad_gradient_leaves_the_average_alone(one_device):
  found = states(3, poison=2)
  for name in ("params", "ema"):
    for path, x in by_path(found[3][name]).items():
      np.testing.assert_array_equal(x, by_path(found[2][name])[path])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Two runs of one shape with an ema, and one of another shape."""
  folder = tmp_path_factory.mktemp("average")
  (folder / "text.txt").write_text("the sea and the light of day " * 60)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(folder / "cache"))
    base = ["train", "--config=tests/recipes/tiny.py", f"--config.data.path={folder}/text.txt"]
    for name, more in dict(a=[], b=["--config.seed=1"], wide=["--config.model.D=32"]).items():
      assert main([*base, f"--workdir={folder / name}", "--config.train.ema=0.5", *more]) == 0
    yield folder


def params(name):
  return {path: np.asarray(x) for path, x in by_path(spec.load(str(name)).params).items()}


def test_what_a_run_is_used_by_is_its_average(runs):
  found = spec.load(str(runs / "a"))
  from fmjax.checkpoint import restore_step

  like = {name: jax.eval_shape(lambda x: x, found.params) for name in ("params", "ema")}
  with jax.set_mesh(found.mesh):
    state, _ = restore_step(runs / "a" / "checkpoints", like, None)
  differ = 0
  for path, x in by_path(found.params).items():
    np.testing.assert_array_equal(x, by_path(state["ema"])[path])
    differ += not np.array_equal(x, by_path(state["params"])[path])
  assert differ
  last = [row for row in read(runs / "a" / "metrics.jsonl") if "eval/loss" in row][-1]["eval/loss"]
  assert last == pytest.approx(evaluated(runs / "a"), abs=1e-6)


def evaluated(name) -> float:
  from fmjax import judging

  row = dict(line.split() for line in judging.judge([str(name)], {}, None, None).splitlines())
  return float(row["eval/loss"])


def test_a_soup_is_the_mean_of_its_models(runs):
  one, other, both = params(runs / "a"), params(runs / "b"), params(f"avg:{runs}/a,{runs}/b")
  for path, x in both.items():
    np.testing.assert_allclose(x, (one[path] + other[path]) / 2, rtol=1e-6, atol=1e-8)
  assert any(not np.allclose(one[path], both[path]) for path in both)


def test_steps_of_a_run_make_a_soup_too(runs):
  way = [params(f"{runs}/a@{step}") for step in (4, 6)]
  for path, x in params(f"avg:{runs}/a@4,{runs}/a@6").items():
    np.testing.assert_allclose(x, (way[0][path] + way[1][path]) / 2, rtol=1e-6, atol=1e-8)


def test_models_of_other_shapes_make_no_soup(runs):
  with pytest.raises(FmjaxError, match="not of one shape") as caught:
    spec.load(f"avg:{runs}/a,{runs}/wide")
  assert caught.value.code == "CHECKPOINT_MISMATCH" and caught.value.rows


def test_a_soup_starts_a_run(runs):
  name = f"avg:{runs}/a,{runs}/b"
  words = ["train", "--config=tests/recipes/tiny.py", f"--config.data.path={runs}/text.txt", f"--workdir={runs}/next"]
  assert (
    main([*words, f"--config.init_from={name}", "--config.train.steps=2", "--config.optimizer.learning_rate=0"]) == 0
  )
  soup = params(name)
  for path, x in params(runs / "next").items():
    np.testing.assert_array_equal(x, soup[path])
