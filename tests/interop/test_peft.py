"""An adapter that peft saved computes here what it does there; what is written is what peft would have written."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fmjax import spec
from fmjax.adapt import METHODS, Adaptation, joined
from fmjax.errors import FmjaxError
from fmjax.interop import from_pretrained
from fmjax.interop.peft import base_of, read_adapter
from fmjax.interop.peft_export import export_adapter
from fmjax.interop.tensors import slots
from fmjax.leaves import by_path, nested
from tests.interop.folders import GOLDEN, mesh_of

NAMES = sorted(path.parent.name for path in (GOLDEN / "peft").glob("*/logits.safetensors"))
TOLERANCE = 2e-5
# Of some layers alone, or beside whole tables of tokens: no LoRA of ours is such a one.
OURS = [name for name in NAMES if name not in ("bert-patterns", "llama-tables", "smollm2-tables")]
NUMBERS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "task_type", "auto_mapping",
           "fan_in_fan_out", "rank_pattern", "alpha_pattern", "peft_type", "base_model_name_or_path")  # fmt: skip


def config_of(name: str) -> dict:
  return json.loads((GOLDEN / "peft" / name / "adapter_config.json").read_text())


def on_its_base(name: str, folder=None):
  base = GOLDEN / config_of(name)["base_model_name_or_path"]
  return from_pretrained(base, adapter=folder or GOLDEN / "peft" / name, mesh=mesh_of())


@pytest.fixture
def copied(tmp_path):
  """`copied(NAME, **changes)`: a copy of a golden adapter whose adapter_config.json is changed."""

  def copy(name, **changes):
    to = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "peft" / name, to)
    (to / "adapter_config.json").write_text(json.dumps(config_of(name) | changes))
    return to

  return copy


def change(folder, add=(), drop=()):
  file = folder / "adapter_model.safetensors"
  save_file({name: array for name, array in load_file(file).items() if name not in drop} | dict(add), file)


# What is read.


@pytest.mark.parametrize("name", NAMES)
def test_an_adapted_model_computes_what_peft_does(name):
  held, found = load_file(GOLDEN / "peft" / name / "logits.safetensors"), on_its_base(name)
  inputs = {key.removeprefix("in/"): array for key, array in held.items() if key.startswith("in/")}
  got, mask = found(**inputs), inputs.get("decoder_attention_mask", inputs["attention_mask"])
  for key, expected in held.items():
    if key.startswith("out/"):
      logits = getattr(got, key.removeprefix("out/"))
      seen = mask == 1 if logits.shape[:2] == mask.shape else slice(None)
      np.testing.assert_allclose(logits[seen], expected[seen], rtol=0, atol=TOLERANCE)


def test_on_eight_devices_too():
  base = GOLDEN / config_of("gpt2-dora")["base_model_name_or_path"]
  spread = from_pretrained(base, adapter=GOLDEN / "peft" / "gpt2-dora", mesh=mesh_of(8, 1))
  alone = on_its_base("gpt2-dora").params
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), spread.params, alone)


# What is written.


def taken_apart(name: str):
  """(LoRA, what rests, what trains, the base as read) of a golden adapter, for what fmjax trains has its shape."""
  adapter, found, config = read_adapter(GOLDEN / "peft" / name), on_its_base(name), config_of(name)
  family, head = found.family, found.family.heads[found.architecture]
  flat, prefix = by_path(found.params), family.prefix if head.prefix is None else head.prefix
  with jax.set_mesh(found.mesh):
    declarations = found.model.declarations()
  training = {}
  for path, parts in slots(family, head, found.config, declarations, flat, prefix).items():
    one, module = parts[0], parts[0].name.removesuffix(".weight")
    if one.name in adapter.saved:
      training[path] = flat[path]
    if module in adapter.pairs:
      made = [pair_of(adapter, slot, config["r"]) for slot in parts]
      stacked = flat[path].ndim > len(one.shape)
      for part in made[0]:
        arrays = [pair[part] for pair in made]
        training[f"{path}_lora/{part}"] = np.stack(arrays) if stacked else arrays[0]
  how = dict(rank_stabilised=config["use_rslora"], dora=config["use_dora"])
  method = METHODS["lora"](rank=config["r"], alpha=config["lora_alpha"], **how)
  return method, {path: x for path, x in flat.items() if path not in training}, training, found


def pair_of(adapter, slot, rank: int) -> dict:
  names = adapter.pairs[slot.name.removesuffix(".weight")]
  array = {part: adapter.tensors[name] for part, name in names.items()}
  ins, outs = slot.shape[: slot.ins], slot.shape[slot.ins :]
  rows = slice(slot.index * int(np.prod(outs)), (slot.index + 1) * int(np.prod(outs)))
  pair = dict(a=array["a"].T.reshape(*ins, rank), b=array["b"][rows].T.reshape(rank, *outs))
  return pair | (dict(m=array["m"][rows].reshape(outs)) if "m" in array else {})


def matched(targets: list[str], module: str) -> bool:
  return any(module == one or module.endswith(f".{one}") for one in targets)


def ends_in(key: str, end: str) -> bool:
  """Whether peft saves a tensor: one of the modules that it lies in has a name that ends so."""
  modules = [key[: place.start()] for place in re.finditer(r"\.", key)]
  return any(module.endswith(end) for module in modules)


@pytest.mark.parametrize("name", OURS)
def test_what_peft_saved_goes_out_as_it_came(name, tmp_path):
  method, resting, training, found = taken_apart(name)
  how = dict(hf_config=found.hf_config, base=config_of(name)["base_model_name_or_path"])
  export_adapter(tmp_path / "out", method, found.model, (nested(resting), nested(training)), **how)
  came = load_file(GOLDEN / "peft" / name / "adapter_model.safetensors")
  went = load_file(tmp_path / "out" / "adapter_model.safetensors")
  assert sorted(came) == sorted(went)
  for key, array in came.items():
    np.testing.assert_array_equal(went[key], array, key)
  wrote, config = json.loads((tmp_path / "out" / "adapter_config.json").read_text()), config_of(name)
  assert {key: wrote[key] for key in NUMBERS} == {key: config[key] for key in NUMBERS}
  saved = {key for key in came if "lora_" not in key}
  assert saved == {key for key in came if any(ends_in(key, end) for end in wrote["modules_to_save"] or ())}
  # peft looks for the targets itself: of all matrices those and no others.
  pairs = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in came if "lora_" in key}
  family, head = found.family, found.family.heads[found.architecture]
  with jax.set_mesh(found.mesh):
    declarations, prefix = found.model.declarations(), family.prefix if head.prefix is None else head.prefix
  table = slots(family, head, found.config, declarations, by_path(found.params), prefix)
  modules = {slot.name.rpartition(".")[0] for parts in table.values() for slot in parts}
  assert {module for module in modules if matched(wrote["target_modules"], module)} == pairs


LORAS = {
  "gpt2/GPT2LMHeadModel": [
    dict(targets=("q", "v")), dict(targets=("q", "v", "o"), rank_stabilised=True),
    dict(targets=("k", "v", "up"), dora=True, alpha=3.0),
  ],
  "bert/BertForMaskedLM": [dict(targets=("down", "dense"), rank_stabilised=True, alpha=3.0)],
  "t5/T5ForConditionalGeneration": [dict(targets=("encoder/blocks/.*/[qv]", "up"), dora=True)],
  "albert/AlbertForSequenceClassification": [dict(targets=("q", "down"))],
}  # fmt: skip


@pytest.mark.parametrize("folder, fields", [(folder, one) for folder, every in LORAS.items() for one in every])
def test_an_export_imported_is_the_merged_run(folder, fields, golden, tmp_path):
  found, rng = golden(folder), np.random.default_rng(0)
  adaptation = Adaptation(METHODS["lora"](rank=3, **fields), found.model)
  with jax.set_mesh(found.mesh):
    training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
    drawn = {path: np.asarray(x) + 0.3 * rng.normal(size=x.shape) for path, x in by_path(training).items()}
    training = nested({path: jax.numpy.asarray(x, "float32") for path, x in drawn.items()})
    whole = by_path(adaptation.whole(resting, training))
  export_adapter(tmp_path / "out", adaptation.method, found.model, (resting, training), hf_config=found.hf_config)
  again = from_pretrained(GOLDEN / folder, adapter=tmp_path / "out", mesh=found.mesh)
  flat = by_path(again.params)
  assert max(np.abs(np.asarray(flat[path]) - x).max() for path, x in by_path(found.params).items()) > 0.1
  assert flat.keys() == whole.keys()
  for path, x in whole.items():
    np.testing.assert_allclose(flat[path], x, rtol=0, atol=2e-6, err_msg=path)


def test_parts_of_a_fused_tensor_have_the_sum_of_their_ranks(golden, tmp_path):
  found = golden("gpt2/GPT2LMHeadModel")
  adaptation = Adaptation(METHODS["lora"](rank=3, alpha=6.0, targets=("q", "v", "o")), found.model)
  with jax.set_mesh(found.mesh):
    training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
  export_adapter(tmp_path / "out", adaptation.method, found.model, (resting, training), hf_config=found.hf_config)
  config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
  ranks = {key: len(x) for key, x in load_file(tmp_path / "out" / "adapter_model.safetensors").items() if "_A" in key}
  assert sorted(set(ranks.values())) == [3, 6]
  assert {config["r"], *config["rank_pattern"].values()} == {3, 6}
  assert {config["lora_alpha"], *config["alpha_pattern"].values()} == {6, 12}
  assert config["target_modules"] == ["attn.c_proj", "c_attn"] and config["fan_in_fan_out"]


# What is refused.


def refused(code: str, call) -> str:
  with pytest.raises(FmjaxError) as caught:
    call()
  assert caught.value.code == code
  assert str(caught.value).count("\n") <= 5
  return str(caught.value)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(peft_type="IA3"), "peft_type='IA3'"),
    (dict(bias="all"), "bias='all'"),
    (dict(lora_bias=True), "lora_bias=True"),
    (dict(trainable_token_indices=[1]), "trainable_token_indices=[1]"),
    (dict(init_lora_weights="pissa"), "init_lora_weights='pissa'"),
  ],
)
def test_another_adapter_is_refused_by_name(changes, words, copied):
  said = refused("CONFIG", lambda: read_adapter(copied("bert", **changes)))
  assert words in said and "merge_and_unload" in said


def test_a_key_that_nobody_knows_is_told(copied, capsys):
  read_adapter(copied("bert", new_trick=3))
  assert "new_trick" in capsys.readouterr().err


def test_a_base_that_is_not_here(copied, monkeypatch):
  monkeypatch.chdir(GOLDEN)
  assert base_of("peft/bert") == ("bert/BertModel", "peft/bert")
  assert base_of("peft/bert+hf:roberta/RobertaModel") == ("roberta/RobertaModel", "peft/bert")
  for name in ("bert-base-uncased", None):
    folder = copied("bert", base_model_name_or_path=name)
    said = refused("CHECKPOINT_MISSING", lambda folder=folder: base_of(str(folder)))
    assert f"peft:{folder}+hf:BASE" in said and str(name or "names none") in said
    shutil.rmtree(folder)


def test_a_folder_without_an_adapter(tmp_path):
  assert "adapter_config.json" in refused("CHECKPOINT_MISSING", lambda: read_adapter(tmp_path))


def test_an_adapter_is_no_model():
  said = refused("CHECKPOINT_MISSING", lambda: from_pretrained(GOLDEN / "peft" / "bert"))
  assert f"peft:{GOLDEN / 'peft' / 'bert'}" in said


def test_pickled_tensors_are_never_opened(copied):
  folder = copied("bert")
  (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
  said = refused("CHECKPOINT_MISSING", lambda: read_adapter(folder))
  assert "adapter_model.bin" in said and "PeftModel" in said


A, B = (f"base_model.model.bert.encoder.layer.0.attention.self.query.lora_{part}.weight" for part in "AB")


@pytest.mark.parametrize(
  "add, drop, words",
  [
    ({}, [B], "1 without all of a, b: bert.encoder.layer.0.attention.self.query"),
    ({A: np.zeros((3, 24), np.float32)}, [], "1 not of the rank that the config says"),
    ({A: np.zeros((4, 23), np.float32)}, [], "[24, 23] for [24, 24]"),
    ({re.sub("query", "queri", one): np.zeros((4, 24) if one == A else (24, 4), np.float32) for one in (A, B)}, [],
     "near: bert.encoder.layer.0.attention.self.query"),
    ({"base_model.model.bert.embeddings.word_embeddings.lora_embedding_A": np.zeros((4, 99), np.float32)}, [],
     "1 not of a matrix's LoRA"),
    ({"base_model.model.scorer.weight": np.zeros((4, 24), np.float32)}, [], "no place for: scorer.weight"),
    ({"base_model.model.classifier.bias": np.zeros(3, np.float32)}, [], "classifier.bias [3] for [4]"),
  ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(add, drop, words, copied):
  folder = copied("bert")
  change(folder, add, drop)
  assert words in refused("CHECKPOINT_MISMATCH", lambda: on_its_base("bert", folder))


def test_a_class_that_the_family_has_not(copied):
  mapping = dict(base_model_class="BertForNothing", parent_library="transformers")
  assert "BertForNothing" in refused(
    "CONFIG", lambda: on_its_base("bert", copied("bert-choice", auto_mapping=mapping))
  )


def test_a_task_that_the_family_has_no_class_for(copied):
  folder = copied("bart", task_type="TOKEN_CLS")
  assert "TOKEN_CLS" in refused("CONFIG", lambda: on_its_base("bart", folder))


def test_one_of_two_tied_tables(copied):
  folder = copied("smollm2-tables")
  change(folder, drop=["base_model.model.lm_head.weight"])
  said = refused("CONFIG", lambda: on_its_base("smollm2-tables", folder))
  assert "model.embed_tokens.weight" in said and "lm_head.weight" in said


def test_another_base_has_another_fingerprint(golden, tmp_path):
  found = golden("bert/BertForMaskedLM")
  adaptation = Adaptation(METHODS["lora"](), found.model)
  with jax.set_mesh(found.mesh):
    training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
  from fmjax.interop.safetensors import digest

  how = dict(hf_config=found.hf_config, fingerprint=digest(GOLDEN / "bert/BertForMaskedLM"))
  export_adapter(tmp_path / "out", adaptation.method, found.model, (resting, training), **how)
  again = from_pretrained(GOLDEN / "bert/BertForMaskedLM", adapter=tmp_path / "out", mesh=found.mesh)
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  other = GOLDEN / "bert/BertForTokenClassification"
  assert "fingerprints differ" in refused(
    "CHECKPOINT_MISMATCH", lambda: from_pretrained(other, adapter=tmp_path / "out", mesh=found.mesh)
  )


def test_a_run_without_a_lora_has_none_to_write(golden, tmp_path):
  found = golden("bert/BertForMaskedLM")
  full = METHODS["full"]()
  said = refused(
    "USAGE",
    lambda: export_adapter(tmp_path / "out", full, found.model, ({}, found.params), hf_config=found.hf_config),
  )
  assert "--format=hf" in said and not (tmp_path / "out").exists()


def test_a_trained_output_layer_is_no_adapter(golden, tmp_path):
  found = golden("bert/BertForMaskedLM")
  adaptation = Adaptation(METHODS["lora"](), found.model, fresh=frozenset({"output/bias"}))
  with jax.set_mesh(found.mesh):
    training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
  assert joined(resting, training).keys() == found.params.keys()
  said = refused(
    "USAGE",
    lambda: export_adapter(
      tmp_path / "out", adaptation.method, found.model, (resting, training), hf_config=found.hf_config
    ),
  )
  assert "output/bias" in said and "--format=hf" in said


@pytest.mark.parametrize("folder", ["roberta/Roberta", "distilbert/DistilBert"])
def test_what_peft_saves_of_itself_is_there(folder, golden, tmp_path):
  """For this task peft looks for all of the classifier, also where a part of it rested."""
  found = golden(f"{folder}ForSequenceClassification")
  adaptation = Adaptation(METHODS["lora"](), found.model)
  with jax.set_mesh(found.mesh):
    training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
  export_adapter(tmp_path / "out", adaptation.method, found.model, (resting, training), hf_config=found.hf_config)
  went = load_file(tmp_path / "out" / "adapter_model.safetensors")
  whole = load_file(GOLDEN / f"{folder}ForSequenceClassification" / "model.safetensors")
  wanted = {f"base_model.model.{name}": array for name, array in whole.items() if "classifier" in name}
  assert len(wanted) == 4 and wanted.keys() == {key for key in went if "lora_" not in key}
  assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
  for key, array in wanted.items():
    np.testing.assert_array_equal(went[key], array)


def test_a_spec_s_fingerprint_is_that_of_both_folders(monkeypatch):
  monkeypatch.chdir(GOLDEN)
  names = ("hf:bert/BertModel", "peft:peft/bert", "peft:peft/bert+hf:bert/BertForMaskedLM", "peft:peft/bert-choice")
  assert len({spec.fingerprint(name, None) for name in names}) == 4
