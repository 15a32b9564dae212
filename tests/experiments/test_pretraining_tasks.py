"""The comparison of pretraining tasks: what is compared is equal, and what measures it is right."""

import functools
import importlib
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import recipe
from fmjax.architecture import TransformerConfig
from fmjax.config import from_config_dict
from fmjax.data.tokenizers import Bytes
from fmjax.models import Model

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "2026-11-pretraining-tasks"
TASKS = ("bert", "roberta", "albert", "t5", "electra", "gpt")
TINY = dict(V=300, D=16, L=1, N=2, max_positions=64)


@pytest.fixture
def room(monkeypatch):
  """Imports a module of the experiment by its name."""
  monkeypatch.syspath_prepend(str(FOLDER))
  return importlib.import_module


def config_of(task):
  return from_config_dict(recipe.load_recipe(f"{ROOT}/configs/pretrain.py:{task}"))


def test_the_models_are_of_one_size(room, one_device):
  def size(config):
    tree = recipe.to_dict(config.model) | dict(V=4096, scan_layers=True)
    params = jax.eval_shape(config.objective.model(TransformerConfig(**tree)).init, jax.random.key(0))
    return room("transfer").parameters(params)

  sizes = [size(config_of(task)) for task in TASKS]
  assert max(sizes) < 1.03 * min(sizes) and 4e6 < min(sizes), dict(zip(TASKS, sizes))


def test_the_models_see_as_much_of_the_same_text():
  configs = [config_of(task) for task in TASKS]
  differ = {key for one in configs for key, _, _ in recipe.differences(configs[0], one)}
  assert {key for key in differ if key.split(".")[0] not in ("model", "objective")} == {"data.packed"}


def test_another_task_is_refused_with_the_choice():
  with pytest.raises(Exception, match="choose from bert, roberta, albert, t5, electra, gpt"):
    config_of("xlnet")


@pytest.mark.parametrize("task", ["bert", "t5", "gpt"])
def test_sentences_look_as_the_models_texts_did(task, room):
  config = config_of(task)
  needs = config.objective.needs(config.data.sequence_length)
  tokenizer = Bytes().with_special(needs)
  rows = room("sst2").rows(["ab", "c" * 200], types.SimpleNamespace(config=config, tokenizer=tokenizer))
  special, end = tokenizer.special, tokenizer.end
  around = dict(bert=([special.get("cls")], [special.get("sep")]), t5=([], [end]), gpt=([end], []))[task]
  assert rows[0].tolist() == [*around[0], *b"ab", *around[1]]
  assert len(rows[1]) == 128 and rows[1].tolist() == [*around[0], *b"c" * (128 - len(sum(around, []))), *around[1]]


def test_batches_hold_every_row_once_and_rows_of_a_length_together(room):
  sst2, rng = room("sst2"), np.random.default_rng(0)
  rows = [np.arange(1, 1 + n) for n in rng.integers(1, 100, 1000)]
  assert sorted(np.concatenate(sst2.in_order(rows, 32))) == list(range(1000))
  found = sst2.shuffled(rows, 32, rng)
  assert len(found) == 31 and len(set(np.concatenate(found))) == 31 * 32
  spans = [np.ptp([len(rows[row]) for row in chosen]) for chosen in found]
  assert np.mean(spans) < 20
  assert np.sum(np.diff([len(rows[chosen[0]]) for chosen in found]) < 0) > 5, "long batches come before short ones"
  one = sst2.batch([rows[0], rows[1]], np.array([1, 0]), 4)
  assert one["tokens"].shape[1] % sst2.STEP == 0 and one["weights"].tolist() == [1, 1, 0, 0]
  assert one["segments"].sum(1).tolist() == [len(rows[0]), len(rows[1]), 0, 0]


def test_an_encoder_decoders_stack_is_its_encoder(room, one_device):
  transfer = room("transfer")
  config = TransformerConfig(kind="encoder_decoder", positions="relative", norm="rms", bias=False, source_L=2, **TINY)
  whole = Model(config)
  params = whole.init(jax.random.key(0))
  tokens = jax.random.randint(jax.random.key(1), (8, 32), 0, 300)
  segments = (jnp.arange(32)[None] < jnp.arange(9, 33, 3)[:, None]).astype(jnp.int32)
  expected, _ = jax.jit(whole.encode)(params, dict(source_tokens=tokens, source_segments=segments))
  model, own = transfer.stack(config, params)
  got = jax.jit(model.apply)(own, dict(tokens=tokens, segments=segments)).hidden
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_rows_mean_state_does_not_see_the_padding(room, one_device):
  transfer = room("transfer")
  heads = dict(output_transform=True, head="sequence", classes=2, pooler="tanh")
  config = TransformerConfig(kind="encoder", **TINY, **heads)
  model, params = transfer.stack(config, Model(config).init(jax.random.key(0)))
  assert set(params) == {"embed", "blocks", "final_norm"}
  rng = np.random.default_rng(0)
  rows = [rng.integers(0, 256, n).astype(np.int32) for n in (5, 40)]
  x = transfer.features(model, params, rows)
  for row, got in zip(rows, x):
    one = dict(tokens=row[None])
    expected = jax.jit(model.apply)(params, one).hidden[0].mean(0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_probe_is_the_minimum_and_its_penalty_is_chosen_on_dev(room):
  transfer, rng = room("transfer"), np.random.default_rng(0)
  x, truth = rng.normal(size=(2000, 5)), np.array([2.0, -1.0, 0.5, 0.0, 0.0])
  labels = (rng.random(2000) < 1 / (1 + np.exp(-(x @ truth + 0.5)))).astype(np.int32)
  with_ones = np.column_stack([x, np.ones(2000)])
  w = transfer.regression(with_ones, labels, 1e-9)
  np.testing.assert_allclose(w, [*truth, 0.5], atol=0.25)

  def slope(w, l2):
    return with_ones.T @ (1 / (1 + np.exp(-with_ones @ w)) - labels) / 2000 + l2 * w * ([1] * 5 + [0])

  for l2 in (1e-9, 0.1):
    assert np.abs(slope(transfer.regression(with_ones, labels, l2), l2)).max() < 1e-5
  # Noise of many dimensions on few rows: the strongest penalty is the best on dev, and the test is told with it.
  noisy = {split: rng.normal(size=(n, 60)) for split, n in (("train", 80), ("dev", 4000), ("test", 4000))}
  answers = {
    split: (own[:, 0] + 0.5 * rng.normal(size=len(own)) > 0).astype(np.int32) for split, own in noisy.items()
  }
  found = transfer.probe(noisy, answers)
  assert found["l2"] == max(transfer.L2) and 0.7 < found["test"] < 0.95


def test_fine_tuning_learns_and_leaves_what_it_was_given(room, one_device):
  transfer, rng = room("transfer"), np.random.default_rng(0)
  config = TransformerConfig(kind="encoder", **TINY)
  model, params = transfer.stack(config, Model(config).init(jax.random.key(0)))
  before = jax.tree.map(jnp.copy, params)
  sizes = dict(train=640, dev=40, test=40)
  rows = {split: [rng.integers(0, 256, 20).astype(np.int32) for _ in range(n)] for split, n in sizes.items()}
  labels = {split: rng.integers(0, 2, n).astype(np.int32) for split, n in sizes.items()}
  for split, own in rows.items():
    for row, label in zip(own, labels[split]):
      row[rng.integers(20)] = 256 + label  # the one token that tells
  tune = transfer.Finetuning(model, params, rows, labels)
  first = tune(1e-2, 0)
  assert min(first.values()) > 0.9
  assert tune(1e-2, 0) == first
  jax.tree.map(np.testing.assert_array_equal, before, params)


def test_a_number_that_was_written_is_not_made_again(room, tmp_path):
  run, made = room("run"), []

  def make():
    made.append(1)
    return dict(dev=0.5)

  for _ in range(2):
    assert run.Results(tmp_path / "results.json").once("bert/probe", make) == dict(dev=0.5)
  assert len(made) == 1


def test_the_table_has_mean_and_standard_error_of_the_chosen_rate(room, tmp_path):
  run = room("run")
  results = run.Results(tmp_path / "results.json")
  results |= {
    "t5/parameters": 4_200_000, "t5/probe": dict(l2=0.1, dev=0.61, test=0.62), "t5/rate": 3e-4, "majority": 0.501,
    "t5/pretraining": dict(steps=1000, tokens=4_000_000, loss=2.5, seconds=300.0),
  }  # fmt: skip
  tests = functools.partial(dict, dev=0.0)
  results |= {f"t5/finetuned/0.0003/{seed}": tests(test=x) for seed, x in zip(run.SEEDS, (0.70, 0.72, 0.77))}
  results |= {f"t5/finetuned/0.001/{seed}": tests(test=0.1) for seed in run.SEEDS}
  assert run.is_measured("t5", results) and not run.is_measured("gpt", results)
  assert not run.is_measured("t5", {name: one for name, one in results.items() if not name.endswith("0.0003/2")})
  row, last = run.table(results, ["t5"]).splitlines()[2:]
  assert row == "| t5 | 4.20 M | 4.00 M | 1,000 | 2.500 | 300 | 61.0 | 62.0 | 0.0003 | 73.0 ± 2.1 |"
  assert "50.1" in last
