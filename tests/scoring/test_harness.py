"""lm-evaluation-harness asks fmjax and its own "hf" models the same: tasks in local files, with the same answers."""

import json
import os
import subprocess
import sys

import pytest

import fmjax
from fmjax.errors import FmjaxError
from tests.scoring import folders, tasks

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's, and those of what it imports
EXPECTED = json.loads((folders.HERE / "harness.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
  """No network, and the harness's caches in a folder of their own."""
  names = dict(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(tmp_path_factory.mktemp("hf")))
  with pytest.MonkeyPatch.context() as patch:
    for name, value in names.items():
      patch.setenv(name, value)
    yield


def close(found, expected):
  for name, task in expected.items():
    assert found[name]["metrics"] == pytest.approx(task["metrics"], rel=1e-4)
    for ours, theirs in zip(found[name]["answers"], task["answers"], strict=True):
      if name == "choices":
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
        assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
      elif name == "prose":
        assert ours == pytest.approx(theirs, rel=1e-6)
      else:
        assert ours == theirs


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_tasks_have_the_answers_of_the_harness_own_models(name, tmp_path, one_device):
  from fmjax.scoring.harness import Harness

  folder = folders.write(name, tmp_path / name)
  found = tasks.run(Harness(fmjax.from_pretrained(folder)), tasks.write(tmp_path / "tasks"))
  assert any(greedy for answers in found["choices"]["answers"] for _, greedy in answers)
  close(found, EXPECTED[name])


def test_a_mesh_and_small_batches_change_nothing(tmp_path, on):
  from fmjax.scoring.harness import Harness

  folder = folders.write("gpt2", tmp_path / "gpt2")
  with on(data=2, fsdp=4):
    found = tasks.run(Harness(fmjax.from_pretrained(folder), batch_size=3), tasks.write(tmp_path / "tasks"))
  close(found, EXPECTED["gpt2"])


def test_the_harness_command_knows_fmjax(tmp_path):
  folder = folders.write("gpt2", tmp_path / "gpt2")
  words = ["--model", "fmjax", "--model_args", f"model=hf:{folder}", "--batch_size", "auto", "--tasks", "choices"]
  words += ["--include_path", str(tasks.write(tmp_path / "tasks")), "--output_path", str(tmp_path / "out")]
  command = [sys.executable, "-m", "fmjax.scoring.harness", *words]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})
  assert done.returncode == 0, done.stderr[-2000:]
  (file,) = (tmp_path / "out").rglob("results*.json")
  metrics = json.loads(file.read_text())["results"]["choices"]
  assert metrics["acc_norm,none"] == pytest.approx(EXPECTED["gpt2"]["choices"]["metrics"]["acc_norm,none"])


def test_what_it_cannot_do_is_said(tmp_path, one_device):
  from fmjax.scoring.harness import Harness

  with pytest.raises(FmjaxError, match="scores decoders"):
    Harness(fmjax.from_pretrained(folders.write("t5", tmp_path / "t5")))
  model = fmjax.from_pretrained(folders.write("gpt2", tmp_path / "gpt2"))
  with pytest.raises(FmjaxError, match="a context no room"):
    list(Harness(model).generated([(0, [1, 2])], dict(until=["a"], max_gen_toks=96)))


def test_a_run_is_not_scored_on_two_beginnings(one_device):
  import jax
  from lm_eval.api.instance import Instance

  from fmjax import spec
  from fmjax.config import from_config_dict
  from fmjax.data import tokenizers
  from fmjax.models import Model
  from fmjax.scoring import likelihood as scoring
  from fmjax.scoring.harness import Harness

  config = from_config_dict(dict(model=dict(V=257, D=8, L=1, N=1, F=8), data=dict(sequence_length=20)))
  model = Model(config.model)
  params = jax.jit(model.init)(jax.random.key(0))
  run = spec.Trained(config, model, params, tokenizers.Bytes(), one_device, {})
  (found,) = Harness(run).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("At noon",), 0)], True)
  ids = list(b"At noon")
  ((_, (expected, _)),) = scoring.loglikelihoods(scoring.language_model(run), [([256], ids)], 20)
  assert found == pytest.approx(expected, rel=1e-6)


def test_a_draw_belongs_to_its_request(tmp_path, one_device):
  from lm_eval.api.instance import Instance

  from fmjax.scoring.harness import Harness

  model = fmjax.from_pretrained(folders.write("gpt2", tmp_path / "gpt2"))
  options = dict(until=["\n"], max_gen_toks=6, do_sample=True, temperature=1.0)
  requests = [Instance("generate_until", {}, (text, options), 0) for text in ("A ship", "A ship", "", "At noon")]
  texts = Harness(model).generate_until(requests, disable_tqdm=True)
  assert texts[0] != texts[1]
  assert texts == Harness(model, batch_size=2).generate_until(requests, disable_tqdm=True)
