"""A run with a teacher, from its config to what is left of it: layers taken over, what is refused, what is saved."""

import dataclasses
import os
import random

import jax
import numpy as np
import pytest

from fmjax import checkpoint, metrics, spec, teacher
from fmjax.__main__ import main
from fmjax.config import MeshConfig, from_config_dict, to_dict
from fmjax.data import tokenizers
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path
from fmjax.sharding import make_mesh
from tests.test_train import RECIPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """With a text, and a run "big" of four layers."""
  path = tmp_path_factory.mktemp("teacher")
  os.environ["FMJAX_CACHE"] = str(path / "cache")
  choose = random.Random(0)
  (path / "text.txt").write_text(" ".join(choose.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(2000)))
  assert main(words(path, "big", "--config.model.L=4", "--config.model.D=32", steps=4)) == 0
  return path


def words(folder, name, *more, steps):
  return ["train", f"--config={RECIPE}", f"--workdir={folder / name}", f"--config.data.path={folder / 'text.txt'}",
          f"--config.train.steps={steps}", "--config.data.tokenizer=bytes", *more]  # fmt: skip


def config_of(folder, **fields):
  tree = dict(
    data=dict(source="text", path=str(folder / "text.txt"), tokenizer="bytes", sequence_length=16), **fields
  )
  return from_config_dict(dict(tree, init_from=str(folder / "big")))


def test_layers_of_a_model_become_another(folder):
  with jax.set_mesh(make_mesh(MeshConfig())):
    big = by_path(jax.device_get(spec.load(str(folder / "big")).params))
    for layers in ((0, 2), (3, 0, 3), (0, 1, 2, 3)):
      config = config_of(folder, init_layers=layers)
      assert config.model.L == len(layers) and config.model.D == 32
      begun = spec.start(config, config.objective.model(config.model))
      assert begun.params.keys() == big.keys() and not begun.fresh and not begun.left
      for path, x in begun.params.items():
        np.testing.assert_array_equal(x, big[path][list(layers)] if path.startswith("blocks/") else big[path])


def test_layers_that_are_none_are_refused(folder):
  with pytest.raises(FmjaxError, match="no such layers") as caught:
    config_of(folder, init_layers=(0, 4))
  assert caught.value.code == "CONFIG" and "0 to 3" in str(caught.value)
  with pytest.raises(FmjaxError, match="model.L=3 in number"):
    config_of(folder, init_layers=(0, 2), model=dict(L=3))
  with pytest.raises(FmjaxError, match="share"):
    spec.check_layers((0,), 4, shared=True)
  with pytest.raises(FmjaxError, match="shared_layers"):
    config_of(folder, init_layers=(0, 2), model=dict(shared_layers=True))
  whole = to_dict(config_of(folder, init_layers=(0, 2)))
  config = from_config_dict(whole | dict(init_layers=(0, 7)))  # as a run's config.json, which is not held against it
  with jax.set_mesh(make_mesh(MeshConfig())), pytest.raises(FmjaxError, match="no such layers"):
    spec.start(config, config.objective.model(config.model))


def test_layers_with_a_window_keep_it(folder):
  from fmjax.start import of_layers

  fields = dict(L=6, shared_layers=False, window_layers=(0, 1, 3, 4))
  assert of_layers(fields, (0, 2, 4)) == dict(L=3, window_layers=(0, 2))
  assert of_layers(dict(fields, window_layers=None), (1,)) == dict(L=1, window_layers=None)


def test_a_student_is_trained_resumed_and_read_without_its_teacher(folder, capsys):
  home, big = folder / "small", folder / "big"
  how = ("teacher=" + str(big), "hidden_weight=0.5", "weight=0.9")
  assert main(words(folder, "small", *(f"--config.distillation.{one}" for one in how), steps=2)) == 0
  last = metrics.read(home / "metrics.jsonl")[0]
  assert last["train/distillation"] > 0 and last["train/hidden"] > 0
  manifest = checkpoint.read_manifest(home / "checkpoints", 2)
  assert manifest["teacher"] == checkpoint.read_manifest(big / "checkpoints", 4)["statehash"]
  saved = checkpoint.orbax().load(home / "checkpoints" / "2")
  assert saved["params"]["projection"].shape == (16, 32)
  assert not [path for path in by_path(saved) if "teacher" in path]
  capsys.readouterr()
  assert main(["train", f"--workdir={home}", f"--config.distillation.teacher={big}@2"]) == 65
  assert "had another teacher" in capsys.readouterr().err
  big.rename(folder / "elsewhere")
  found = spec.load(str(home))
  assert found.params.keys() == saved["params"].keys() - {"projection"}
  capsys.readouterr()
  assert main(["train", f"--workdir={home}", "--config.train.steps=3"]) == 65
  assert "CHECKPOINT_MISSING" in capsys.readouterr().err
  (folder / "elsewhere").rename(big)
  assert main(["train", f"--workdir={home}", "--config.train.steps=3"]) == 0
  assert [row["step"] for row in metrics.read(home / "metrics.jsonl") if "train/hidden" in row] == [1, 2, 3]


def test_an_adapted_student_of_its_own_teachers_layers(folder):
  big = folder / "big"
  more = (f"init_from={big}", "init_layers=(0, 2)", f"distillation.teacher={big}", "adapt.name=lora", "adapt.rank=2")
  assert main(words(folder, "adapted", *(f"--config.{one}" for one in more), "--config.model.D=32", steps=2)) == 0
  manifest = checkpoint.read_manifest(folder / "adapted" / "checkpoints", 2)
  assert manifest["teacher"] == manifest["base"]
  saved = checkpoint.orbax().load(folder / "adapted" / "checkpoints" / "2")
  assert all("_lora/" in path for path in by_path(saved["params"]))
  found, base = spec.load(str(folder / "adapted")), spec.load(str(big))
  own, theirs = (jax.device_get(by_path(one.params)) for one in (found, base))
  assert own.keys() == theirs.keys()
  for path, x in theirs.items():
    x = x[[0, 2]] if path.startswith("blocks/") else x
    assert (x == own[path]).all() != path.endswith(("/q", "/v"))


def test_a_teacher_that_is_not_there_is_told_at_the_door(folder, capsys):
  for name in (folder / "none", f"hf:{folder}"):
    assert main(words(folder, "new", f"--config.distillation.teacher={name}", steps=2)) == 65
    assert "CHECKPOINT_MISSING" in capsys.readouterr().err and not (folder / "new").exists()


def test_a_head_that_is_fitted_without_a_step_has_no_teacher(folder):
  with pytest.raises(FmjaxError, match="distillation.teacher=.*adapt.name=features"):
    config_of(folder, adapt=dict(name="features"), distillation=dict(teacher=str(folder / "big")))


def test_a_teacher_of_another_vocabulary_is_one_message(folder, capsys):
  more = f"--config.distillation.teacher={folder / 'big'}", "--config.data.tokenizer=characters"
  assert main([*words(folder, "new", steps=2), *more, "--config.data.sequence_length=32"]) == 65
  error = capsys.readouterr().err
  assert "CHECKPOINT_MISMATCH" in error and "cannot teach" in error
  assert "positions: the teacher has 16, data.sequence_length=32" in error and "token 0 is b'\\x00'" in error
  assert "set model.V=257" in error


LABELS = ("no", "yes")


def task(**objective):
  tree = dict(objective=dict(dict(name="classification", labels=LABELS), **objective))
  return from_config_dict(dict(tree, model=dict(kind="encoder", V=300, D=16, L=1, N=2)))


def rows(own, found, hf=None):
  """What is told of the run of the config `found` as a teacher for that of `own`; `hf` makes it a published one."""
  made = spec.Trained(found, found.objective.model(found.model), {}, tokenizers.Bytes(), None, {}, hf)
  made_from = list(teacher.task_rows(own, made, made.model.config))
  with jax.set_mesh(make_mesh(MeshConfig())):
    return [row.split(":")[0] for row in [*made_from, *teacher.text_rows(own, made, found.model, tokenizers.Bytes())]]


def test_a_teacher_of_another_task_is_told(folder):
  own, tags = task(), task(name="tagging", scheme=None)
  assert rows(own, own) == [] == rows(tags, tags)
  assert rows(own, task(labels=("yes", "no"))) == ["labels"] == rows(own, task(labels=("a", "b")))
  assert rows(own, task(labels=("a", "b", "c"))) == ["classes"] and rows(own, tags) == ["task"]
  small = dataclasses.replace(own.model, V=200, N=3, H=5, K=3)
  assert rows(own, dataclasses.replace(own, model=small)) == ["vocabulary"]
  hf = dict(model_type="bert", architectures=["BertForSequenceClassification"])
  for names, wrong in ((("LABEL_0", "LABEL_1"), []), (("yes", "no"), ["labels"]), (("no", "yes"), [])):
    assert rows(own, own, dict(hf, id2label={str(n): name for n, name in enumerate(names)})) == wrong
  assert rows(tags, tags, dict(hf, id2label={"0": "a", "1": "b"})) == ["task"]
