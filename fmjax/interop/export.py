"""A model as a folder in Hugging Face's layout, whole or not at all."""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from fmjax.errors import FmjaxError
from fmjax.interop.card import card
from fmjax.interop.families import FAMILIES, family_of
from fmjax.interop.family import OUTPUT, class_for, read_config, with_head, with_labels, write_config
from fmjax.interop.load import listed
from fmjax.interop.run import whole
from fmjax.interop.safetensors import write
from fmjax.interop.tensors import slots
from fmjax.leaves import by_path

MAX_SHARD_SIZE = 5_000_000_000  # bytes
SPECIAL = dict(bos="bos_token_id", eos="eos_token_id", pad="pad_token_id")


def export(out, model, params, *, tokenizer=None, hf_config=None, generation_config=None, labels=(), ids=None,
           facts=None, max_shard_size: int = MAX_SHARD_SIZE) -> pathlib.Path:  # fmt: skip
  """Writes `params` of `model` into the new folder `out`; FmjaxError where it is not empty or the disk refuses.

  `hf_config` is the config.json that the model came with; without one, the first family that says the model's config
  is taken. `labels` name the classes of a head, `ids` are special tokens by config.json's keys; `facts` are what the
  card says of the model's origin.
  """
  model, params = model.alone(params)
  check_whole(model, params)
  hf = config_json(model.config, hf_config, tokenizer) | (ids or {})
  if "decoder_start_token_id" in (ids or {}) and hf.get("forced_eos_token_id") is not None:
    hf["forced_eos_token_id"] = hf["eos_token_id"]
  name, family = hf["architectures"][0], FAMILIES[hf["model_type"]]
  if labels and family.heads[name].task in ("sequence", "token") and len(labels) == model.config.classes:
    hf = with_labels(hf, labels)
  what = f"{name}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters"
  with whole(out) as draft:
    write_json(draft / "config.json", {**hf, "dtype": str(jax.tree.leaves(params)[0].dtype)})
    write(draft, tensors(family, name, model, params), max_shard_size)
    if family.heads[name].task in OUTPUT and model.config.kind != "encoder":
      write_json(draft / "generation_config.json", generation_config or from_model_config(hf))
    if tokenizer is not None:
      tokenizer.save_pretrained(draft)
    (draft / "README.md").write_text(card(pathlib.Path(out).name, what, hf, facts or {}))
  return pathlib.Path(out)


def check_whole(model, params):
  """USAGE where parameters stand beside the model's own, as those of a run do whose adapter nothing merges."""
  flat = by_path(params)
  with jax.set_mesh(next(iter(flat.values())).sharding.mesh):
    beside = flat.keys() - model.declarations().keys()
  if beside:
    raise FmjaxError(
      "USAGE", "what this run put beside its model cannot be merged into the model's own parameters",
      got=listed(beside), expected="a run of which all merges: adapt.name=full, head, bitfit, lora or ia3",
      fix="keep the run itself, which eval and generate read; or train such a one",
    )  # fmt: skip


def write_json(path, tree: dict):
  path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def config_json(config, hf_config: dict | None, tokenizer) -> dict:
  """The config.json that says `config`: the one that it came with, where that still does."""
  if hf_config is not None:
    family, name = FAMILIES[hf_config["model_type"]], hf_config["architectures"][0]
    hf = {key: value for key, value in hf_config.items() if key not in ("torch_dtype", "_name_or_path", "auto_map")}
    if not config.tied and not family.tied_anyway:
      hf["tie_word_embeddings"] = False
    again = read_config(family, name, hf)
    if dataclasses.replace(again, tied=config.tied, **aside(config)) == config:
      return hf
  family, name = family_of(config)
  special = {} if tokenizer is None else {"eos": tokenizer.end, "bos": tokenizer.end, **tokenizer.special}
  ids = {SPECIAL[name]: token for name, token in special.items() if name in SPECIAL and not family.counts_tokens}
  return {key: value for key, value in write_config(family, name, config).items() if value is not None} | ids


def adapted(hf_config: dict, task: str, classes: int | None) -> dict:
  """The config.json of a model that was trained for `task` after it came with `hf_config`."""
  family = FAMILIES[hf_config["model_type"]]
  name = class_for(family, hf_config, task)
  return hf_config if name is None else with_head(family, hf_config, name, classes)


def aside(config) -> dict:
  """The fields that say how to train and compile, not what is computed."""
  return {name: getattr(config, name) for name in ("preset", "scan_layers", "dropout", "init_std")}


def from_model_config(hf: dict) -> dict:
  """The ids of config.json that generation needs."""
  return {"_from_model_config": True} | {
    key: hf[key]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")
    if hf.get(key) is not None
  }


def tensors(family, name: str, model, params) -> dict:
  """{name: (dtype, shape, make)} of every tensor, in order of their names, each made when it is written."""
  flat, head = by_path(params), family.heads[name]
  prefix = family.prefix if head.prefix is None else head.prefix
  places = {}
  with jax.set_mesh(next(iter(flat.values())).sharding.mesh):
    declarations = model.declarations()
  for path, parts in slots(family, head, model.config, declarations, flat, prefix).items():
    for number, slot in enumerate(parts):
      names = [slot.name]
      if not model.config.tied:  # transformers then ties no biases either
        names += family.aliases.get(slot.name, ()) if path == "output/bias" else ()
      for one in names:
        places.setdefault(one, []).append((path, number, slot))

  def make(parts):
    made = np.empty(parts[0][2].file_shape, flat[parts[0][0]].dtype)
    for path, number, slot in parts:
      leaf = np.asarray(flat[path])
      layer = leaf[number] if leaf.ndim > len(slot.shape) else leaf
      slot.view(made)[...] = layer[tuple(map(slice, slot.shape))]  # what pads V stays here
    return made

  made = {
    one: (flat[parts[0][0]].dtype, parts[0][2].file_shape, lambda parts=parts: make(parts))
    for one, parts in places.items()
  }
  made |= {one: (array.dtype, array.shape, lambda array=array: array)
           for one, array in family.computed(model.config, name).items()}  # fmt: skip
  return dict(sorted(made.items()))
