"""`fmjax import` and `fmjax export`, and what a SPEC makes of both."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax import checkpoint, spec
from fmjax.__main__ import main
from fmjax.config import to_dict
from fmjax.errors import FmjaxError
from fmjax.interop import from_pretrained
from fmjax.interop.run import facts_of, import_to
from tests.interop.folders import FOLDERS, GOLDEN


def same(one, other) -> bool:
  return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize(
  "folder", ["gemma2/Gemma2ForCausalLM", "t5/T5ForConditionalGeneration", "albert/AlbertModel"]
)
def test_a_published_model_becomes_a_workdir_and_goes_out_again(folder, tmp_path, capsys):
  assert main(["import", f"--model=hf:{GOLDEN / folder}", f"--out={tmp_path / 'run'}"]) == 0
  assert main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
  assert f"workdir {tmp_path / 'run'}" in capsys.readouterr().out
  came, went = load_file(GOLDEN / folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
  assert sorted(came) == sorted(went) and all(np.array_equal(came[name], went[name]) for name in came)
  went = json.loads((tmp_path / "out" / "config.json").read_text())
  assert went == json.loads((GOLDEN / folder / "config.json").read_text())


def test_a_workdir_holds_what_the_folder_did(tmp_path):
  found = spec.load(f"hf:{GOLDEN / 'gpt2/GPT2LMHeadModel'}")
  assert found.manifest["step"] == 0 and found.config.model == found.model.config
  again = spec.load(str(import_to(tmp_path / "run", found)))
  assert to_dict(again.config) == to_dict(found.config) and same(again.params, found.params)
  assert again.hf_config == found.hf_config and again.generation_config == found.generation_config
  assert [ok for _, ok, _ in checkpoint.verify(tmp_path / "run")] == [True]
  assert facts_of(again, tmp_path / "run") == {}


def test_nothing_is_written_over(tmp_path):
  (tmp_path / "mine").write_text("mine")
  assert main(["import", f"--model=hf:{GOLDEN / FOLDERS[0]}", f"--out={tmp_path}"]) == 64
  assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_of_hugging_face_s_without_hf(capsys):
  assert main(["export", f"--workdir={GOLDEN / FOLDERS[0]}", "--out=never"]) == 65
  assert f"--model=hf:{GOLDEN / FOLDERS[0]}" in capsys.readouterr().err


def test_a_folder_that_is_not_there():
  with pytest.raises(FmjaxError) as caught:
    spec.load("hf:nowhere")
  assert caught.value.code == "CHECKPOINT_MISSING"


def test_another_format():
  assert main(["export", "--model=hf:x", "--format=onnx", "--out=never"]) == 64


def test_what_was_trained_here_goes_out_with_its_tokenizer_and_its_numbers(tmp_path, monkeypatch):
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
  (tmp_path / "text.txt").write_text("".join(f"line {n} of a text about nothing\n" * 3 for n in range(60)))
  recipe = GOLDEN.parent / "recipes" / "tiny.py"
  words = [f"--config={recipe}", f"--config.data.path={tmp_path / 'text.txt'}", "--config.train.steps=3"]
  assert main(["train", *words, f"--workdir={tmp_path / 'run'}"]) == 0
  assert main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
  ran, found = spec.load(str(tmp_path / "run")), from_pretrained(tmp_path / "out")
  assert found.architecture == "GPT2LMHeadModel" and same(ran.params["blocks"], found.params["blocks"])
  ids = ran.tokenizer.encode("line 7")
  assert found.tokenizer.encode("line 7") == ids and found.hf_config["eos_token_id"] == ran.tokenizer.end
  with jax.set_mesh(ran.mesh):
    tokens_BT = np.array([ids], np.int32)
    z_BTV = ran.model.logits(ran.params, ran.model.apply(ran.params, dict(tokens=jnp.asarray(tokens_BT))).hidden)
  np.testing.assert_allclose(found(tokens_BT).logits[0], np.asarray(z_BTV)[0, :, : found.config.V], atol=1e-5)
  card = (tmp_path / "out" / "README.md").read_text()
  assert "| steps | 3 |" in card and "eval/loss" in card and "text.txt" in card
