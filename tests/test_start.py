"""Laws of a run that starts from a model: what it takes over, what rests, what it saves, and what it refuses."""

import json
import os
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax import labels, metrics, probe, spec, workdir
from fmjax.__main__ import main
from fmjax.config import MeshConfig, from_config_dict
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path
from fmjax.sharding import make_mesh

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODEL = ("kind='encoder'", "D=32", "L=2", "N=2", "token_types=2", "output_transform=True", "output_bias=True")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """With labelled texts, a recipe for them that starts from "base", that run, and another of its shape."""
  path, choose = tmp_path_factory.mktemp("start"), random.Random(0)
  os.environ["FMJAX_CACHE"] = str(path / "cache")
  words = dict(good=["sun", "warm", "glad"], poor=["rain", "cold", "sad"])
  for name, count in (("train", 48), ("dev", 16)):
    rows = [(" ".join(choose.choices(words[label], k=4)), label) for label in choose.choices([*words], k=count)]
    (path / f"{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
  (path / "text.txt").write_text("\n".join(row for _ in range(60) for row in ("sun and rain", "cold or warm day")))
  (path / "base.py").write_text(f"""
import ml_collections

def get_config():
  return ml_collections.ConfigDict(dict(
    objective=dict(name="masked_token"), model=dict({", ".join(MODEL)}), train=dict(steps=2, batch_size=8),
    data=dict(source="text", path="{path}/text.txt", tokenizer="bytes", sequence_length=32)))
""")
  (path / "task.py").write_text(f"""
import ml_collections

def get_config():
  return ml_collections.ConfigDict(dict(
    init_from="{path}/base", objective=dict(name="classification", labels=("poor", "good")),
    adapt=dict(name="lora", rank=2, dropout=0.1), optimizer=dict(learning_rate=1e-2, schedule="constant"),
    train=dict(steps=4, batch_size=8, eval_every=2, log_every=1),
    data=dict(source="csv", path="{path}/train.tsv", eval_path="{path}/dev.tsv", columns=("0", "1"),
              sequence_length=32, buckets=(24,))))
""")
  for seed, name in enumerate(("base", "other")):
    assert main(["train", f"--config={path}/base.py", f"--workdir={path}/{name}", f"--config.seed={seed}"]) == 0
  return path


def train(folder, name, *more):
  return main(["train", f"--config={folder}/task.py", f"--workdir={folder / name}", *more])


def rows(folder, name):
  clock = {"elapsed", "attempt", "tokens_per_second", "data_wait"}
  return [{k: v for k, v in row.items() if k not in clock} for row in metrics.read(folder / name / metrics.ROWS)]


def manifest(folder, name, step=4):
  return workdir.read_json(folder / name / "checkpoints" / str(step) / "manifest.json")


def params(name):
  return by_path(jax.device_get(spec.load(str(name)).params))


def test_what_trains_is_saved_alone_and_a_resumed_run_is_the_whole_one(folder):
  assert train(folder, "whole") == 0
  assert train(folder, "cut", "--config.train.steps=2") == 0
  assert train(folder, "cut", "--config.train.steps=4") == 0
  saved = manifest(folder, "whole")
  assert manifest(folder, "cut")["statehash"] == saved["statehash"] and rows(folder, "cut") == rows(folder, "whole")
  own = {path.removeprefix("params/") for path in saved["tree"] if path.startswith("params/")}
  lora = {f"blocks/attention/{name}_lora/{part}" for name in "qv" for part in "ab"}
  assert own == lora | {"head/classes", "head/classes_bias", "pooler/dense", "pooler/dense_bias"}
  assert saved["base"] == manifest(folder, "base", 2)["statehash"]


def test_the_body_is_the_base_but_for_what_was_merged(folder):
  assert train(folder, "whole") == 0
  base, found = params(folder / "base"), params(folder / "whole")
  assert {path for path in found if path not in base} == {
    path for path in found if path.startswith(("head", "pooler"))
  }
  changed = {path for path, x in found.items() if path in base and not np.array_equal(x, base[path])}
  assert changed == {"blocks/attention/q", "blocks/attention/v"}


def test_another_base_is_refused_by_name(folder, capsys):
  assert train(folder, "moved") == 0
  shutil.move(folder / "base", folder / "kept")
  shutil.copytree(folder / "other", folder / "base")
  try:
    for words in (["train", f"--workdir={folder}/moved"], ["eval", f"--workdir={folder}/moved"]):
      assert main(words) == 65
      assert "CHECKPOINT_MISMATCH  the run has adapted another model" in capsys.readouterr().err
  finally:
    shutil.rmtree(folder / "base")
    shutil.move(folder / "kept", folder / "base")


def test_a_head_of_another_task_is_left_and_one_of_this_that_does_not_fit_is_refused(folder, capsys):
  assert train(folder, "whole") == 0
  three = f"--config.objective.labels={('poor', 'good', 'fair')!r}"
  start = [f"--config.init_from={folder}/whole", "--config.adapt.name=full", three]
  assert train(folder, "three", *start) == 65
  said = capsys.readouterr().err
  assert "head/classes: has (32, 2), the model (32, 3)" in said and "adapt.new_head=True" in said
  with jax.set_mesh(make_mesh(MeshConfig())):
    for extra, fresh in ((dict(adapt=dict(new_head=True)), {"head/classes", "head/classes_bias"}), ({}, set())):
      labels = ("poor", "good") if not extra else ("poor", "good", "fair")
      objective = dict(name="classification", labels=labels)
      data = dict(source="csv", path="x.tsv", columns=("0", "1"), sequence_length=32)
      config = from_config_dict(dict(init_from=f"{folder}/whole", objective=objective, data=data, **extra))
      assert spec.start(config, config.objective.model(config.model)).fresh == fresh


def test_the_best_step_stays_and_the_run_ends_when_nothing_gets_better(folder, capsys):
  stop = ["--config.train.steps=40", "--config.train.eval_every=1", f"--config.train.stop={('loss', 3)!r}",
          "--config.optimizer.learning_rate=3.0", "--config.checkpoint.keep=1"]  # fmt: skip
  assert train(folder, "stopped", *stop) == 0
  losses = [row["eval/loss"] for row in rows(folder, "stopped") if "eval/loss" in row]
  best = int(np.argmin(losses)) + 1
  assert len(losses) < 40 and len(losses) == best + 3
  kept = sorted(int(path.name) for path in (folder / "stopped" / "checkpoints").iterdir())
  assert kept == [best, best + 3]
  assert spec.load(f"{folder}/stopped@best").manifest["step"] == best
  before = rows(folder, "stopped")
  assert main(["train", f"--workdir={folder}/stopped"]) == 0 and rows(folder, "stopped") == before
  assert train(folder, "unknown", *stop[:2], f"--config.train.stop={('acuracy', 1)!r}") == 78
  assert "there is no metric 'acuracy'" in capsys.readouterr().err


def test_features_are_fitted_without_a_step(folder):
  words = ["--config.adapt.name=features", "--config.objective.pooling=mean", "--config.optimizer.learning_rate=0.0"]
  assert train(folder, "features", *words) == 0
  (row,) = [row for row in rows(folder, "features") if "eval/loss" in row]
  assert row["step"] == 1 and row["eval/accuracy"] == 1.0
  assert main(["eval", f"--workdir={folder}/features"]) == 0
  answers = [json.loads(line) for line in (folder / "features/predictions/eval-1.jsonl").read_text().splitlines()]
  assert len(answers) == 16 and all(one["predicted"] == one["expected"] for one in answers)
  assert train(folder, "features", *words) == 0  # resumes: there is nothing left to do
  assert len(rows(folder, "features")) == 1


def test_the_regression_is_the_one_of_scikit_learn():
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import StandardScaler

  rng = np.random.default_rng(0)
  x_BD, labels_B = rng.normal(size=(200, 5)) * [1, 10, 0.1, 3, 1] + 4, rng.integers(0, 3, 200)
  x_BD[:, 0] += labels_B
  w_DC, b_C = probe.regression(x_BD, labels_B, 3, 1 / 200)
  theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
  scaled_BD = StandardScaler().fit_transform(x_BD)
  z_BC = x_BD @ w_DC + b_C
  want_BC = theirs.fit(scaled_BD, labels_B).decision_function(scaled_BD)
  np.testing.assert_allclose(z_BC - z_BC.mean(1, keepdims=True), want_BC, atol=2e-4)


def start_of(folder, **tree):
  """What the run of a recipe begins with, of the folder in Hugging Face's layout."""
  data = dict(source="csv", path="x.tsv", columns=("0", "1"), tokenizer="bytes", sequence_length=8)
  config = from_config_dict(dict(init_from=f"hf:{folder}", data=data, **tree))
  with jax.set_mesh(make_mesh(MeshConfig())):
    return spec.start(config, config.objective.model(config.model))


CLASSES = dict(name="classification", labels=("bad", "good", "so"))


def test_a_pooler_that_a_folder_has_is_read_whatever_its_class_is(tmp_path):
  """bert-base-uncased's config.json says BertForMaskedLM, and its file has a pooler all the same."""
  golden = GOLDEN / "bert" / "BertForPreTraining"
  shutil.copytree(golden, tmp_path / "own")
  hf = json.loads((golden / "config.json").read_text())
  (tmp_path / "own" / "config.json").write_text(json.dumps(hf | dict(architectures=["BertForMaskedLM"])))
  begun = start_of(tmp_path / "own", objective=CLASSES)
  assert begun.fresh == {"head/classes", "head/classes_bias"}
  expected = load_file(golden / "model.safetensors")["bert.pooler.dense.weight"]
  np.testing.assert_array_equal(np.asarray(begun.params["pooler/dense"]).T, expected)


def test_a_pooler_that_a_folder_lacks_is_new(tmp_path):
  begun = start_of(GOLDEN / "bert" / "BertForMaskedLM", objective=CLASSES)
  assert {"pooler/dense", "pooler/dense_bias"} <= begun.fresh and "pooler/dense" not in begun.params
  electra = start_of(GOLDEN / "electra" / "ElectraForPreTraining", objective=CLASSES)
  assert {"pooler/dense", "pooler/dense_bias"} <= electra.fresh  # its own dense layer tells tokens, not texts


def test_features_of_a_pooler_that_nobody_trained_are_refused(folder, capsys):
  words = ["--config.adapt.name=features", "--config.optimizer.learning_rate=0.0"]
  assert train(folder, "pooled", *words) == 78
  assert "objective.pooling=mean" in capsys.readouterr().err


def test_a_tagger_has_no_pooler(folder):
  data = dict(source="conll", path="x", columns=("0", "1"), sequence_length=32)
  for name in ("base", "whole"):
    assert name == "base" or train(folder, "whole") == 0
    tree = dict(init_from=f"{folder}/{name}", objective=dict(name="tagging", labels=("O", "B-X")), data=data)
    assert from_config_dict(tree).model.pooler is None


def test_a_head_of_other_labels_is_refused(folder, capsys):
  assert train(folder, "whole") == 0
  start = [f"--config.init_from={folder}/whole", "--config.adapt.name=full"]
  turned = f"--config.objective.labels={('good', 'poor')!r}"
  assert train(folder, "turned", *start, turned) == 65
  said = capsys.readouterr().err
  assert "in another order" in said and "poor, good" in said and "adapt.new_head" in said
  assert train(folder, "turned", *start, turned, "--config.adapt.new_head=True", "--config.train.steps=1") == 0


def test_an_adapted_run_is_read_on_any_mesh(folder):
  assert train(folder, "narrow", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.mesh.data=2") == 0
  assert train(folder, "whole") == 0
  assert main(["eval", f"--workdir={folder}/narrow"]) == 0
  for mesh in (MeshConfig(), MeshConfig(data=8, fsdp=1), MeshConfig(fsdp=4, tensor=2)):
    found = spec.load(str(folder / "narrow"), mesh)
    assert found.mesh.shape == make_mesh(mesh).shape
    for path, x in by_path(found.params).items():
      assert x.sharding.mesh.shape == found.mesh.shape, path


def test_a_metric_that_only_generated_texts_have_does_not_stop_a_run():
  tree = dict(
    objective=dict(name="seq2seq"), model=dict(kind="encoder_decoder", D=8, L=1, N=1), train=dict(eval_every=1),
    data=dict(source="jsonl", path="x"),
  )  # fmt: skip
  with pytest.raises(FmjaxError, match="train.stop"):
    from_config_dict(tree | dict(train=dict(eval_every=1, stop=("bleu", 2))))
  assert from_config_dict(tree | dict(train=dict(eval_every=1, stop=("loss", 2)))).train.stop == ("loss", 2)


def test_a_bart_frames_its_texts_as_it_was_pretrained():
  def framing(folder, **said):
    tree = dict(
      init_from=f"hf:{GOLDEN / folder}", objective=dict(name="seq2seq", **said), data=dict(sequence_length=32)
    )
    return from_config_dict(tree).objective.framing

  assert framing("bart/BartForConditionalGeneration") == "bart"
  assert framing("bart/BartForConditionalGeneration", framing="t5") == "t5"
  assert framing("t5/T5ForConditionalGeneration") == framing("marian/MarianMTModel") == "t5"


@pytest.mark.parametrize(
  "name, fields", [("prompt", 'name="prompt", length=3'), ("mixout", 'name="full", mixout=0.5')]
)
def test_a_run_with_something_beside_its_model_is_resumed_and_read(folder, capsys, name, fields):
  recipe = (folder / "task.py").read_text().replace('name="lora", rank=2, dropout=0.1', fields)
  (folder / f"{name}.py").write_text(recipe)

  def train(home, *more):
    return main(["train", f"--config={folder / name}.py", f"--workdir={folder / home}", *more])

  assert train(name) == 0
  assert train(f"{name}-again", "--config.train.steps=2") == 0 and train(f"{name}-again") == 0
  one, other = params(folder / name), params(folder / f"{name}-again")
  assert one.keys() == other.keys() and not [path for path in one if "mixout" in path]
  assert all(np.array_equal(x, other[path]) for path, x in one.items())
  assert rows(folder, name)[-1]["eval/loss"] == rows(folder, f"{name}-again")[-1]["eval/loss"]
  assert main(["eval", f"--model={folder / name}"]) == 0
  said = f"{rows(folder, name)[-1]['eval/loss']:.6f}"
  assert said in capsys.readouterr().out
  status = train(f"{name}-on", f"--config.init_from={folder / name}", "--config.train.steps=1")
  assert status == (65 if name == "prompt" else 0)
  assert ("would be lost" in capsys.readouterr().err) == (name == "prompt")


@pytest.mark.parametrize(
  "theirs, mine, published, other",
  [
    (("a", "b"), ("a", "b"), False, False),
    (("a", "b"), ("b", "a"), False, True),
    (("a", "b"), ("b", "a"), True, True),
    (("NO", "YES"), ("yes", "no"), True, True),
    (("NO", "YES"), ("no", "yes"), True, False),
    (("LABEL_0", "LABEL_1"), ("no", "yes"), True, False),
    (("LABEL_0", "LABEL_1"), ("no", "yes"), False, True),
    (None, ("no", "yes"), True, False),
  ],
)
def test_labels_are_told_apart_by_their_names_or_else_by_their_order(theirs, mine, published, other):
  assert labels.differ(theirs, mine, published) == other
