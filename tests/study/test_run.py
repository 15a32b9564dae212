"""Laws of a study: each member is the run that its config alone would be, on any mesh, through kills and failures."""

import functools
import json
import os
import random
import shutil

import jax
import numpy as np
import pytest
import scipy.stats

from fmjax import checkpoint, metrics, optim, workdir
from fmjax.__main__ import main
from fmjax.adapt import METHODS, Adaptation
from fmjax.config import MeshConfig
from fmjax.leaves import by_path
from fmjax.objectives import OBJECTIVES
from fmjax.step import started
from fmjax.study import members, stacked
from tests.objectives.tasks import model_of

MODEL = dict(kind="encoder", D=32, L=2, N=2, F=64, dropout=0.1)
ONE_MESH = "--config.mesh.fsdp=8"  # no axis takes the devices that are left: a study's mesh is a run's

pytestmark = pytest.mark.slow  # each run compiles its step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """With labelled texts, a recipe, and a run "base" to start from."""
  path = tmp_path_factory.mktemp("study")
  os.environ["FMJAX_CACHE"] = str(path / "cache")
  choose = random.Random(0)
  rows = [(choose.choice("ab"), choose.choices("cdef", k=6)) for _ in range(90)]
  lines = [json.dumps(dict(text=label * 2 + "".join(rest), label=label)) for label, rest in rows]
  (path / "rows.jsonl").write_text("\n".join(lines) + "\n")
  tree = dict(
    objective=dict(name="classification", labels=["a", "b"]), model=MODEL,
    data=dict(source="jsonl", path=str(path / "rows.jsonl"), tokenizer="bytes", sequence_length=16,
              eval_fraction=0.2),
    optimizer=dict(name="sgd", schedule="linear", warmup_steps=2, learning_rate=0.1),
    train=dict(steps=6, batch_size=8, log_every=1, eval_every=3), checkpoint=dict(every=2),
  )  # fmt: skip
  (path / "recipe.json").write_text(json.dumps(tree))
  assert (
    main(["train", f"--config={path / 'recipe.json'}", f"--workdir={path / 'base'}", "--config.train.steps=2"]) == 0
  )
  tree |= dict(init_from=str(path / "base"), adapt=dict(name="lora", rank=4, dropout=0.1))
  (path / "recipe.json").write_text(json.dumps(tree))
  return path


def study(folder, name, *more):
  return main(["study", f"--config={folder / 'recipe.json'}", f"--workdir={folder / name}", *more])


def solo(folder, name, *more):
  assert main(["train", f"--config={folder / 'recipe.json'}", f"--workdir={folder / name}", *more]) == 0
  return folder / name


def rows(home):
  """The numbers of each row that do not tell of time."""
  told = [{key: value for key, value in row.items() if key.startswith(("train/", "eval/", "step"))}
          for row in metrics.read(home / "metrics.jsonl")]  # fmt: skip
  return {(row["step"], "eval/loss" in row): row for row in told}


def saved(home):
  found = checkpoint.orbax().load(home / "checkpoints" / str(checkpoint.newest(home / "checkpoints")))
  return {path: np.asarray(x) for path, x in by_path(found).items()}


def statehash(home):
  return checkpoint.read_manifest(home / "checkpoints", checkpoint.newest(home / "checkpoints"))["statehash"]


def events(home, name):
  return [event for event in metrics.read(home / "events.jsonl") if event["event"] == name]


def same_rows(home, other, rtol):
  one, two = rows(home), rows(other)
  assert one.keys() == two.keys()
  for place, row in one.items():
    assert row.keys() == two[place].keys()
    for key, value in row.items():
      np.testing.assert_allclose(value, two[place][key], rtol=rtol, err_msg=f"{place} {key}")


def same_run(home, other, rtol):
  same_rows(home, other, rtol)
  one, two = saved(home), saved(other)
  assert one.keys() == two.keys()
  for path, x in one.items():
    if x.any():
      assert np.linalg.norm(x - two[path]) <= rtol * np.linalg.norm(x), path


@pytest.fixture(scope="module")
def whole(folder):
  """A study of seeds, rates and decays that nothing interrupted."""
  assert study(folder, "whole", ONE_MESH, "--seeds=0,3", "--learning_rates=0.1,0.03", "--weight_decays=0,0.3") == 0
  return folder / "whole"


def test_a_member_is_the_run_of_its_config(folder, whole, capsys):
  names = {one["name"] for one in workdir.read_json(whole / "study.json")["members"]}
  assert len(names) == 8 and names == {path.name for path in whole.iterdir() if path.is_dir()}
  # Not the members of rate 0.03 and seed 3: the gradient of their bias cancels, and what is left is rounding.
  for seed, rate, decay in ((3, 0.1, 0.3), (0, 0.03, 0.0)):
    words = (f"--config.seed={seed}", f"--config.optimizer.learning_rate={rate}")
    alone = solo(folder, f"solo{seed}", ONE_MESH, *words, f"--config.optimizer.weight_decay={decay}")
    home = whole / f"seed{seed}-rate{rate:g}-decay{decay:g}"
    same_run(home, alone, 2e-6)
    assert workdir.read_json(home / "config.json") == workdir.read_json(alone / "config.json")
  one, two = (rows(whole / f"seed{seed}-rate0.1-decay0") for seed in (0, 3))
  assert abs(one[1, False]["train/loss"] - two[1, False]["train/loss"]) > 1e-4
  # It is a run by itself: it is judged, checked, shown, and goes on alone.
  capsys.readouterr()
  home = folder / "alone"
  shutil.copytree(whole / "seed3-rate0.1-decay0.3", home)
  assert main(["eval", f"--model={home}"]) == 0 and "accuracy" in capsys.readouterr().out
  assert main(["verify", str(home)]) == 0
  assert main(["train", f"--workdir={home}", "--config.train.steps=7"]) == 0
  assert main(["report", *map(str, whole.iterdir()), f"--out={folder / 'page.html'}"]) == 0


def test_what_a_kill_between_saves_leaves_goes_on_to_the_same_bits(folder, whole):
  home = folder / "killed"
  shutil.copytree(whole, home)
  every = sorted(path for path in home.iterdir() if path.is_dir())
  for path in every[:3]:
    shutil.rmtree(path / "checkpoints" / "6")
  with open(every[0] / "metrics.jsonl", "a") as file:
    file.write('{"step": 7, "train/lo')
  assert study(folder, "killed", ONE_MESH) == 0
  for path in every:
    assert [event["step"] for event in events(path, "restore")] == [4]
    assert rows(path) == rows(whole / path.name) and statehash(path) == statehash(whole / path.name)
  assert main(["study", f"--workdir={home}"]) == 0  # ... which has nothing left to do
  assert [rows(path) for path in every] == [rows(whole / path.name) for path in every]


HEAD = ("--config.adapt.name=head", "--config.model.dropout=0.0", "--config.data.seed=5",
        "--config.data.buckets=(12,)", "--config.optimizer.name=adamw", "--config.adapt.new_head=True")  # fmt: skip


def test_members_of_one_order_spread_over_the_devices(folder):
  assert study(folder, "head", *HEAD, "--seeds=1,2,3,4") == 0
  alone = solo(folder, "head3", *HEAD, "--config.seed=3")
  same_rows(folder / "head" / "seed3", alone, 1e-5)
  one, two = (rows(folder / "head" / f"seed{seed}") for seed in (3, 4))
  assert one[1, False]["train/loss"] != two[1, False]["train/loss"]  # their heads begin apart
  made = workdir.read_json(folder / "head" / "seed3" / "environment.json")["mesh"]
  assert made["members"] == 4 and made["fsdp"] == 2


def test_a_body_that_members_share_runs_once(one_device):
  """By the operations of the compiled steps, for a head on states that no dropout tells apart."""
  objective = OBJECTIVES["classification"](labels=("a", "b"))
  model = model_of(objective, D=64, F=256)
  adaptation = Adaptation(METHODS["head"](), model)
  tx = optim.make(optim.AdamW(), adaptation.declarations())
  make = functools.partial(started, adaptation=adaptation, tx=tx)
  mesh = stacked.make_mesh(MeshConfig(fsdp=1, data=len(jax.devices())), 4)
  with jax.set_mesh(mesh):
    given = by_path(jax.jit(model.init)(jax.random.key(0)))
    (first, resting), *others = [jax.jit(make)(jax.random.key(seed), given) for seed in range(4)]
    states = [first, *(state for state, _ in others)]
    rows = {name: np.zeros(x.shape, x.dtype) for name, x in objective.batch_shapes(8, 16).items()}

    def flops(count: int, shared: bool):
      batch = rows if shared else {name: np.stack([x] * count) for name, x in rows.items()}
      knobs = stacked.place(dict(learning_rate=np.zeros(count, np.float32)))
      seeds = stacked.place(dict(seeds=np.arange(count, dtype=np.uint32)))["seeds"]
      step = functools.partial(stacked.train_step, model=model, objective=objective, tx=tx, shared=shared)
      state = stacked.stack_states(states[:count])
      lowered = jax.jit(step).lower(state, stacked.place(batch, shared), knobs, seeds, resting)
      return lowered.compile().cost_analysis()["flops"]

    assert flops(4, True) < 1.2 * flops(1, True) < flops(4, False) / 3


def test_a_member_that_diverges_ends_alone(folder, whole):
  words = (ONE_MESH, "--seeds=0", "--learning_rates=0.1,1e30", "--weight_decays=0")
  assert study(folder, "diverged", *words, "--config.train.steps=6") == 0
  good, bad = (folder / "diverged" / f"seed0-rate{rate}-decay0" for rate in ("0.1", "1e+30"))
  same_run(good, whole / "seed0-rate0.1-decay0", 2e-6)
  assert (event := events(bad, "error")[0])["code"] == "DIVERGED" and list((bad / "incidents").iterdir())
  assert max(step for step, _ in rows(bad)) < 6 and not events(bad, "end")
  states = {one["name"]: one["status"] for one in workdir.read_json(folder / "diverged" / "study.json")["members"]}
  assert states == {good.name: "done", bad.name: "diverged"}, event
  before = rows(bad)
  assert study(folder, "diverged", "--config.train.log_every=2") == 0  # nobody waits for it
  assert rows(bad) == before and not events(bad, "restore")
  assert study(folder, "all", *words[:2], "--learning_rates=1e30") == 70


def test_a_member_that_has_learnt_enough_stops_alone(folder):
  words = ("--config.train.eval_every=1", "--config.train.stop=('loss',2)", "--config.train.steps=8")
  assert study(folder, "stop", ONE_MESH, *words, "--learning_rates=0.1,0") == 0
  for rate in ("0", "0.1"):
    alone = solo(folder, f"stop{rate}", ONE_MESH, *words, f"--config.optimizer.learning_rate={rate}")
    home = folder / "stop" / f"seed0-rate{rate}"
    same_run(home, alone, 1e-5)
    assert checkpoint.steps(home / "checkpoints")[-1] == checkpoint.steps(alone / "checkpoints")[-1]
  assert max(step for step, _ in rows(folder / "stop" / "seed0-rate0")) == 3
  states = [one["status"] for one in workdir.read_json(folder / "stop" / "study.json")["members"]]
  assert states[1] == "stopped"


def test_the_mean_its_error_and_its_interval(tmp_path):
  values = {name: np.random.default_rng(number).normal(size=3) for number, name in enumerate("abcd")}
  for name, every in values.items():
    (tmp_path / name).mkdir()
    lines = [dict(step=step + 1, elapsed=1.0, **{"eval/loss": float(x)}) for step, x in enumerate(every)]
    lines += [{"step": 3, "train/loss": "nan"}] if name == "a" else [{"step": 3, "train/loss": 2.0}]
    (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  every = [members.Member(name, 0, 0.1, 0.0) for name in values]
  every.append(members.Member("e", 0, 0.2, 0.0))
  one, other = members.write(tmp_path, every)["groups"]
  assert one["members"] == list("abcd") and other["members"] == ["e"] and not other["rows"]
  for step, row in enumerate(one["rows"]):
    x = np.array([own[step] for own in values.values()])
    found = row["eval/loss"]
    low, high = scipy.stats.t.interval(0.95, 3, x.mean(), x.std(ddof=1) / 2)
    np.testing.assert_allclose([found["mean"], found["error"], found["low"], found["high"]],
                               [x.mean(), x.std(ddof=1) / 2, low, high], rtol=1e-4)  # fmt: skip
    assert (found["n"], found["least"], found["most"]) == (4, x.min(), x.max())
  assert one["rows"][2]["train/loss"]["n"] == 3
  assert members.told([1.0]) == dict(mean=1.0, error=None, low=None, high=None, n=1, least=1.0, most=1.0)
  assert any("±" in line for line in members.table(workdir.read_json(tmp_path / "study.json")))


REFUSED = {
  "orders of their own": (["--config.data.buckets=(8,)", "--seeds=0,1"], 78, "data.seed=0"),
  "no steps": (["--config.adapt.name=features"], 78, "features"),
  "other members": (["--seeds=0,4"], 78, "0, 3"),
  "a word": (["--seeds=a"], 64, "numbers"),
  "one folder": (["--learning_rates=0.1,0.10000001"], 64, "six digits"),
  "a rate below zero": (["--learning_rates=-1"], 78, "at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_study_is_refused(name, folder, whole, capsys):
  words, status, word = REFUSED[name]
  assert study(folder, "whole" if name == "other members" else f"none-{status}", *words) == status
  assert word in capsys.readouterr().err and not (folder / f"none-{status}" / "study.json").exists()


def test_there_must_be_a_study_to_resume(tmp_path, capsys):
  assert main(["study", f"--workdir={tmp_path / 'none'}"]) == 64
  assert "no study" in capsys.readouterr().err


def test_members_that_stopped_early_count_in_the_table(tmp_path):
  """Each with its own last evaluation: the mean is not that of those which lasted longest."""
  accuracies = dict(a=[0.2, 0.4], b=[0.3, 0.5, 0.9])
  for name, every in accuracies.items():
    (tmp_path / name).mkdir()
    lines = [{"step": 10 * (n + 1), "eval/loss": 1.0, "eval/accuracy": x} for n, x in enumerate(every)]
    (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  tree = members.write(tmp_path, [members.Member(name, 0, 0.1, 0.0) for name in accuracies])
  (group,) = tree["groups"]
  assert group["last"]["steps"] == [20, 30] and group["last"]["eval/accuracy"]["mean"] == pytest.approx(0.65)
  (line,) = [line for line in members.table(tree) if "eval/accuracy" in line]
  assert line.startswith("20 .. 30") and "0.6500" in line and line.endswith("2")
