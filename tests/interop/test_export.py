"""What was imported goes out as it came; what was trained here goes out as the family that says its config."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.interop import from_pretrained
from fmjax.interop.export import adapted, export
from fmjax.models import Model
from tests.interop.folders import FOLDERS, GOLDEN, mesh_of


def send(found, out, **how):
  how = dict(hf_config=found.hf_config, generation_config=found.generation_config, tokenizer=found.tokenizer) | how
  return export(out, found.model, found.params, **how)


def same(one, other) -> bool:
  return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
    jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one, other)
  )


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_goes_out_as_it_came(folder, golden, tmp_path):
  send(golden(folder), tmp_path / "out")
  came, went = load_file(GOLDEN / folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
  assert sorted(came) == sorted(went)
  for name, array in came.items():
    if not name.endswith("embed_positions.weight") or "marian" not in folder:  # sines, computed by either side
      np.testing.assert_array_equal(array, went[name], name)
  config = json.loads((GOLDEN / folder / "config.json").read_text())
  assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


@pytest.mark.parametrize("folder", sorted({folder.split("/")[0]: folder for folder in FOLDERS}.values()))
def test_import_of_export_is_the_identity(folder, golden, tmp_path):
  found = golden(folder)
  again = from_pretrained(send(found, tmp_path / "out"), mesh=found.mesh)
  assert again.config == found.config and again.architecture == found.architecture
  assert same(again.params, found.params)


@pytest.mark.parametrize("folder", ["gpt2/GPT2LMHeadModel", "bert/BertForMaskedLM", "t5/T5ForConditionalGeneration"])
def test_without_its_config_the_structure_names_the_family(folder, golden, tmp_path):
  found = golden(folder)
  again = from_pretrained(send(found, tmp_path / "out", hf_config=None), mesh=found.mesh)
  assert (again.config, again.architecture) == (found.config, found.architecture)
  assert same(again.params, found.params)


def test_another_head_keeps_its_family(golden, tmp_path):
  came = golden("xlm-roberta/XLMRobertaForMaskedLM").hf_config  # whose structure RoBERTa has too
  found = golden("xlm-roberta/XLMRobertaForSequenceClassification")
  how = dict(hf_config=adapted(came, "sequence", found.config.classes), labels=("a", "b", "c"))
  hf = json.loads((send(found, tmp_path / "out", **how) / "config.json").read_text())
  assert (hf["model_type"], hf["architectures"]) == ("xlm-roberta", ["XLMRobertaForSequenceClassification"])
  assert hf["id2label"] == {"0": "a", "1": "b", "2": "c"} and hf["label2id"] == {"a": 0, "b": 1, "c": 2}
  assert same(from_pretrained(tmp_path / "out", mesh=found.mesh).params, found.params)
  assert len(adapted(hf, "qa", 2)["id2label"]) == 2 and adapted(hf, "sequence", 3) == hf


def test_shards_and_eight_devices(golden, tmp_path):
  found = golden("llama/LlamaForCausalLM")
  spread = from_pretrained(GOLDEN / "llama/LlamaForCausalLM", mesh=mesh_of(4, 1))
  out = send(spread, tmp_path / "out", max_shard_size=20_000)
  files = sorted(path.name for path in out.glob("*.safetensors"))
  assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
  index = json.loads((out / "model.safetensors.index.json").read_text())
  assert set(index["weight_map"].values()) == set(files)
  assert same(from_pretrained(out, mesh=found.mesh).params, found.params)


def test_the_card_says_what_is_known(golden, tmp_path):
  facts = {"Trained on": {"data": "a | b"}, "Measured": {"eval/loss": "1.5"}}
  card = (send(golden("gpt2/GPT2LMHeadModel"), tmp_path / "out", facts=facts) / "README.md").read_text()
  assert card.startswith("---\nlicense:") and "| data | a \\| b |" in card and "| eval/loss | 1.5 |" in card
  assert "| n_embd |" in card


def test_a_folder_with_files_is_left_alone(golden, tmp_path):
  (tmp_path / "note").write_text("mine")
  with pytest.raises(FmjaxError, match="not empty") as caught:
    send(golden("gpt2/GPT2LMHeadModel"), tmp_path)
  assert caught.value.status == 64 and [path.name for path in tmp_path.iterdir()] == ["note"]


def test_what_fails_half_way_leaves_nothing(golden, tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("fmjax.interop.export.card", full)
  with pytest.raises(FmjaxError) as caught:
    send(golden("gpt2/GPT2LMHeadModel"), tmp_path / "out")
  assert caught.value.status == 74 and not list(tmp_path.iterdir())


def test_a_structure_of_no_family_is_refused_by_its_fields(on, tmp_path):
  config = TransformerConfig(V=99, D=24, L=1, N=3, max_positions=16, qk_norm=True)  # a GPT-2 with Qwen's norms
  model = Model(config)
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    with pytest.raises(FmjaxError) as caught:
      export(tmp_path / "out", model, params)
  assert caught.value.status == 78 and "model.qk_norm=True" in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_dropout_and_loops_are_no_structure(on, tmp_path):
  config = TransformerConfig(V=99, D=24, L=1, N=3, max_positions=16, dropout=0.3, init_std=0.02, scan_layers=False)
  model = Model(config)
  with on() as mesh:
    params = jax.jit(model.init)(jax.random.key(0))
    export(tmp_path / "out", model, params)
    again = from_pretrained(tmp_path / "out", mesh=mesh)
  assert again.architecture == "GPT2LMHeadModel" and again.config == dataclasses.replace(config, scan_layers=True)
