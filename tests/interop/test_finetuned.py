"""Runs that adapt a model, from the command line: what goes out in either format computes what the run does."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax import metrics, spec
from fmjax.__main__ import main
from fmjax.interop import from_pretrained
from fmjax.step import place

RECIPE = """
import ml_collections

def get_config():
  return ml_collections.ConfigDict(dict(
    init_from="hf:{base}",
    objective=dict(name="classification", labels=("bad", "good"), pooling="last"),
    data=dict(source="csv", path="{rows}", eval_path="{rows}", columns=("text", "label"), sequence_length=16),
    optimizer=dict(schedule="constant", warmup_steps=0, learning_rate=1e-2),
    train=dict(steps=2, batch_size=8),
  ))
"""

pytestmark = pytest.mark.slow  # each run compiles its step


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A folder with a tiny GPT-2 in `base`, a recipe that adapts it, and runs of that."""
  home = tmp_path_factory.mktemp("finetuned")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(home / "cache"))
    patch.chdir(home)
    (home / "text.txt").write_text("".join(f"line {n} of a text about nothing\n" * 3 for n in range(60)))
    rows = "".join(f"film {n} was {word},{word}\n" for n in range(20) for word in ("bad", "good"))
    (home / "rows.csv").write_text("text,label\n" + rows)
    (home / "recipe.py").write_text(RECIPE.format(base="base", rows="rows.csv"))
    tiny = pathlib.Path(__file__).parents[1] / "recipes" / "tiny.py"
    words = ["--config.data.path=text.txt", "--config.train.steps=2", "--workdir=first"]
    assert main(["train", f"--config={tiny}", *words]) == 0
    assert main(["export", "--workdir=first", "--out=base"]) == 0
    config = json.loads((home / "base" / "config.json").read_text())
    (home / "base" / "config.json").write_text(json.dumps(config | dict(task_specific_params=dict(kept=True))))
    for name in ("full", "lora", "bottleneck"):
      assert main(["train", "--config=recipe.py", f"--config.adapt.name={name}", f"--workdir={name}"]) == 0
    yield home


def scores(found, ids) -> np.ndarray:
  batch = dict(tokens=ids, segments=np.ones_like(ids))
  with jax.set_mesh(found.mesh):
    hidden = found.model.apply(found.params, place(batch)).hidden
    return np.asarray(found.model.classify(found.params, hidden, place(batch)))


IDS = np.arange(8 * 7, dtype=np.int32).reshape(8, 7) + 60


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_goes_out_as_the_class_of_its_task(name, folders):
  assert main(["export", f"--workdir={name}", f"--out={name}-hf"]) == 0
  found, ran = from_pretrained(folders / f"{name}-hf"), spec.load(name)
  assert found.architecture == "GPT2ForSequenceClassification"
  assert found.hf_config["task_specific_params"] == dict(kept=True)  # of the model that the run started from
  assert found.hf_config["id2label"] == {"0": "bad", "1": "good"}
  assert found.hf_config["label2id"] == {"bad": 0, "good": 1}
  np.testing.assert_allclose(found(IDS).logits, scores(ran, IDS), rtol=0, atol=1e-5)
  assert np.abs(scores(ran, IDS)).max() > 1e-3
  card = (folders / f"{name}-hf" / "README.md").read_text()
  assert "| started from | hf:base |" in card and f"| adapted by | {name} |" in card


def test_a_published_classifier_is_evaluated_by_a_recipe_that_says_the_task(folders, capsys):
  assert main(["export", "--workdir=full", "--out=published"]) == 0
  capsys.readouterr()
  told = []
  for words in (["--model=full"], ["--model=hf:published", "--config=recipe.py"]):
    assert main(["eval", *words, f"--predictions={len(told)}.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    loss = [float(line.split()[1]) for line in lines if line.startswith("eval/loss")]
    rest = [line for line in lines if not line.startswith("eval/loss")]
    told.append((loss, rest, metrics.read(folders / f"{len(told)}.jsonl")))
  (loss, own, answers), (other, published, others) = told
  assert len(loss) == 1 and other == pytest.approx(loss, abs=2e-6)  # it is printed to six places
  assert published == own and "accuracy" in "".join(own)
  for one, other in zip(answers, others, strict=True):
    assert one | dict(probabilities=None) == other | dict(probabilities=None)
    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
  (folders / "tags.py").write_text((folders / "recipe.py").read_text().replace('"classification"', '"tagging"'))
  assert main(["eval", "--model=hf:published", "--config=tags.py"]) == 65
  assert "for another task than tagging" in capsys.readouterr().err
  shutil.copytree(
    folders / "published", folders / "mute", ignore=shutil.ignore_patterns("*token*", "vocab*", "merges*")
  )
  assert main(["eval", "--model=hf:mute", "--config=recipe.py"]) == 65
  assert "TOKENIZER_BAD" in capsys.readouterr().err
  turned = '--config.objective.labels=("GOOD", "bad")'
  assert main(["eval", "--model=hf:published", "--config=recipe.py", turned]) == 65
  assert "labels" in capsys.readouterr().err
  assert main(["eval", "--model=hf:base", "--config=recipe.py"]) == 0  # by what it finds likely
  assert "accuracy" in capsys.readouterr().out


def test_a_lora_goes_out_alone_and_is_a_spec(folders, capsys):
  assert main(["export", "--workdir=lora", "--format=peft", "--out=adapter"]) == 0
  assert sorted(path.name for path in (folders / "adapter").iterdir()) == [
    "README.md", "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
  config = json.loads((folders / "adapter" / "adapter_config.json").read_text())
  assert config["base_model_name_or_path"] == "base" and config["task_type"] == "SEQ_CLS"
  assert config["modules_to_save"] == ["score"] and config["target_modules"] == ["c_attn"] and config["r"] == 16
  ran = spec.load("lora")
  for name in ("peft:adapter", "peft:adapter+hf:base"):
    found = spec.load(name)
    assert found.hf_config["architectures"] == ["GPT2ForSequenceClassification"]
    np.testing.assert_allclose(scores(found, IDS), scores(ran, IDS), rtol=0, atol=1e-5)
  assert main(["import", "--model=peft:adapter", "--out=imported"]) == 0
  np.testing.assert_allclose(scores(spec.load("imported"), IDS), scores(ran, IDS), rtol=0, atol=1e-5)
  assert main(["export", "--model=peft:adapter", "--out=merged"]) == 0
  merged, other = (load_file(folders / name / "model.safetensors") for name in ("merged", "base"))
  assert not np.array_equal(merged["transformer.h.0.attn.c_attn.weight"], other["transformer.h.0.attn.c_attn.weight"])
  assert main(["export", "--model=peft:adapter+hf:merged", "--out=never"]) == 65
  assert "fingerprints differ" in capsys.readouterr().err


def test_a_run_starts_from_an_adapter(folders):
  assert main(["export", "--workdir=lora", "--format=peft", "--out=start"]) == 0
  words = ["--config=recipe.py", "--config.init_from=peft:start", "--config.train.steps=1", "--workdir=on"]
  assert main(["train", *words, "--config.adapt.name=lora", "--config.optimizer.learning_rate=1e-12"]) == 0
  np.testing.assert_allclose(scores(spec.load("on"), IDS), scores(spec.load("lora"), IDS), rtol=0, atol=1e-5)
  assert main(["export", "--workdir=on", "--format=peft", "--out=second"]) == 0
  assert json.loads((folders / "second" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
  assert main(["export", "--workdir=on", "--out=on-hf"]) == 0
  assert from_pretrained(folders / "on-hf").architecture == "GPT2ForSequenceClassification"


def test_what_does_not_merge_is_refused(folders, capsys):
  assert main(["export", "--workdir=bottleneck", "--out=never"]) == 64
  assert "adapt.name=full, head, bitfit, lora or ia3" in capsys.readouterr().err
  for name in ("bottleneck", "full"):
    assert main(["export", f"--workdir={name}", "--format=peft", "--out=never"]) == 64
    assert "--format=hf" in capsys.readouterr().err
  assert main(["export", "--model=hf:base", "--format=peft", "--out=never"]) == 65
  assert not (folders / "never").exists()
