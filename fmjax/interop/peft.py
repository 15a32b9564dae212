"""PEFT's folders of LoRA, read: adapter_config.json and adapter_model.safetensors, as peft 0.21 writes them.

An adapter is merged into its base's tensors one by one while they are read, so that the model with it takes no more
memory than its base. Which modules it changes, its tensors say; what its config says of targets is not needed.
"""

import dataclasses
import difflib
import functools
import json
import math
import pathlib
import re

import jax
import numpy as np

from fmjax.errors import FmjaxError
from fmjax.interop.family import OUTPUT, Family, Head, class_for, name_of, unsupported, with_head
from fmjax.interop.load import aliases, described, lay_out, listed, note
from fmjax.interop.safetensors import ADAPTER, Tensors, digest, read_metadata
from fmjax.interop.tensors import Slot, slots
from fmjax.models import Model

CONFIG = "adapter_config.json"
BEFORE = "base_model.model."  # stands before a module's name in a tensor's
ON = "+hf:"  # in peft:FOLDER+hf:BASE
PARTS = {"lora_A": "a", "lora_B": "b", "lora_magnitude_vector": "m"}
TASKS = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "QUESTION_ANS": "qa", "CAUSAL_LM": "lm", "SEQ_2_SEQ_LM": "lm",
         "FEATURE_EXTRACTION": "base"}  # fmt: skip
# The key of the base's fingerprint, its `digest`, in the header of the tensors: there peft passes over keys that it
# does not know, and warns of them in its config.
FINGERPRINT = "fmjax_base"

# What would change the computation, and the only value that is computed with.
LAWS = dict(
  bias="none", lora_bias=False, use_qalora=False, layer_replication=None, target_parameters=None, use_bdlora=None,
  trainable_token_indices=None, arrow_config=None, kasa_config=None, alora_invocation_tokens=None,
  monteclora_config=None,
)  # fmt: skip
# Ways to begin that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change it.
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
KNOWN = {
  *LAWS, "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "r",
  "inference_mode", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora",
  "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
  "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "use_dora",
  "velora_config", "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip


def read_config(folder) -> dict:
  """The folder's adapter_config.json; FmjaxError where it is not that of a LoRA that fmjax computes."""
  path = pathlib.Path(folder) / CONFIG
  if not path.is_file():
    raise FmjaxError("CHECKPOINT_MISSING", f"{folder} is not an adapter in PEFT's layout", where=path,
                     expected="peft:FOLDER, or peft:FOLDER+hf:BASE", fix="give a folder that peft saved")  # fmt: skip
  try:
    config = json.loads(path.read_text())
    kind = config.get("peft_type")
  except (ValueError, AttributeError) as error:
    raise FmjaxError("CONFIG", f"{CONFIG} cannot be read", where=path, got=error, fix="restore the file") from error
  merge = "where peft is: merge_and_unload().save_pretrained(OUT), and hf:OUT here"
  if kind != "LORA":
    raise FmjaxError("CONFIG", f"peft_type={kind!r} is not read, only 'LORA'", where=path, fix=merge)
  for key, only in LAWS.items():
    if config.get(key) not in (only, None, [], {}):
      what = f"{key}={config[key]!r} is a LoRA that fmjax does not compute (only {only!r})"
      raise FmjaxError("CONFIG", what, where=path, fix=merge)
  if (begun := config.get("init_lora_weights")) not in BEGINNINGS:
    what = f"init_lora_weights={begun!r} began by changing the base, which the folder does not hold"
    raise FmjaxError("CONFIG", what, where=path, fix=merge)
  return config


def base_of(text: str) -> tuple[str, str]:
  """(the base's folder, the adapter's) of FOLDER, which names its base, or of FOLDER+hf:BASE."""
  folder, plus, base = text.partition(ON)
  if plus:
    return base, folder
  name = read_config(folder).get("base_model_name_or_path")
  if not name or not (pathlib.Path(name) / "config.json").is_file():
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"the adapter's base is not here: {name or 'it names none'}",
      where=pathlib.Path(folder) / CONFIG,
      expected="base_model_name_or_path: a local folder in Hugging Face's layout",
      fix=f"download the base into a folder, and say peft:{folder}{ON}BASE",
    )  # fmt: skip
  return name, folder


@dataclasses.dataclass(frozen=True)
class Adapter:
  """What a folder holds: pairs by the module that they change, {"a", "b", "m": a tensor's name}, and whole tensors.

  `saved` is {the name that the adapted class gives a tensor: the name it has in the file}.
  """

  folder: pathlib.Path
  config: dict
  tensors: Tensors
  pairs: dict[str, dict[str, str]]
  saved: dict[str, str]

  def class_of(self, family: Family, hf: dict) -> dict:
    """config.json `hf` of the base, as the class that was adapted."""
    task = TASKS.get(self.config.get("task_type"))
    mapped = (self.config.get("auto_mapping") or {}).get("base_model_class")
    own = (hf.get("architectures") or list(family.heads))[0]
    name = class_for(family, hf, task) if task else mapped or own
    if name not in family.heads:
      raise unsupported(f"{family.model_type} has no class {name or self.config['task_type']} here")
    part = name_of(family, family.heads[name], "head/classes", "", False)
    rows = self.tensors.shape(self.saved[part.name])[0] if part and part.name in self.saved else None
    return {**hf, "architectures": [name]} if rows is None else with_head(family, hf, name, rows)

  def check_base(self, base):
    """CHECKPOINT_MISMATCH where the adapter says whose it is, and `base`, a folder, has other tensors."""
    wanted = read_metadata(self.folder / ADAPTER).get(FINGERPRINT)
    if wanted is not None and wanted != (got := digest(base)):
      what = "the adapter was made for another base: fingerprints differ"
      raise FmjaxError("CHECKPOINT_MISMATCH", what, where=base, expected=wanted, got=got,
                       fix="give its own base: peft:FOLDER+hf:BASE")  # fmt: skip

  def scale(self, module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r), of a module."""
    alpha = pattern(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

  def merged(self, module: str, array: np.ndarray, turned: bool) -> np.ndarray:
    """The map of a module with its pair, in float32; `turned`: it lies as [ins, outs]."""
    a, b, *m = (self.tensors[name].astype(np.float32) for _, name in sorted(self.pairs[module].items()))
    w = (array.T if turned else array).astype(np.float32)
    w += self.scale(module, len(a)) * (b @ a)
    if m:  # DoRA: Liu et al. 2024, arXiv:2402.09353, equation 5
      w *= (m[0].reshape(-1) / np.linalg.norm(w, axis=1))[:, None]
    return w.T if turned else w


def pattern(table: dict | None, module: str, usual):
  """The value of the first key that names the module, as peft matches it."""
  return next((value for key, value in (table or {}).items() if re.match(rf"(.*\.)?({key})$", module)), usual)


def read_adapter(folder) -> Adapter:
  folder, config = pathlib.Path(folder), read_config(folder)
  if unknown := [key for key, value in config.items() if key not in KNOWN and value not in (None, False, [], {})]:
    note(f"{CONFIG} has keys that fmjax does not know", unknown, "left them out", folder)
  tensors, pairs, saved, strange = Tensors(folder, ADAPTER), {}, {}, []
  rank = functools.partial(pattern, config.get("rank_pattern"), usual=config.get("r", 8))
  for name in tensors:
    known = re.fullmatch(rf"{re.escape(BEFORE)}(.+)\.({'|'.join(PARTS)})(\.weight)?", name)
    if known:
      pairs.setdefault(known[1], {})[PARTS[known[2]]] = name
    elif name.startswith(BEFORE) and "lora_" not in name:
      saved[name.removeprefix(BEFORE)] = name
    else:
      strange.append(name)
  parts = {"a", "b", "m"} if config.get("use_dora") else {"a", "b"}
  halves = [module for module, found in pairs.items() if found.keys() != parts]
  wrong = [
    module for module, found in pairs.items()
    if module not in halves and not fits(*(tensors.shape(found[part]) for part in "ab"), rank(module))
  ]  # fmt: skip
  faults = {"not of a matrix's LoRA": strange, f"without all of {', '.join(sorted(parts))}": halves,
            "not of the rank that the config says": wrong}  # fmt: skip
  refuse(faults, "the tensors are not those of the adapter's config", folder)
  return Adapter(folder, config, tensors, pairs, saved)


def fits(a: tuple, b: tuple, rank: int) -> bool:
  return len(a) == len(b) == 2 and a[0] == b[1] == rank


def refuse(faults: dict[str, list], what: str, where):
  rows = [f"{len(names)} {kind}: {listed(names)}" for kind, names in faults.items() if names]
  if rows:
    raise FmjaxError("CHECKPOINT_MISMATCH", what, rows=rows, where=where,
                     fix="give the folder as it was saved, and its own base: peft:FOLDER+hf:BASE")  # fmt: skip


# An adapter on its base.


class Merged:
  """The tensors of a base as the class that was adapted calls them, with the adapter merged in; as `Tensors` is.

  `names` is {a name: its name in the base's file}, `turned` the modules whose maps lie as [ins, outs].
  """

  def __init__(self, base: Tensors, names: dict[str, str], adapter: Adapter, turned: set[str]):
    self.base, self.names, self.adapter, self.turned = base, names, adapter, turned

  def __iter__(self):
    return iter({**self.names, **self.adapter.saved})

  def __contains__(self, name):
    return name in self.names or name in self.adapter.saved

  def __getitem__(self, name) -> np.ndarray:
    if name in self.adapter.saved:
      return self.adapter.tensors[self.adapter.saved[name]]
    array, module = self.base[self.names[name]], name.removesuffix(".weight")
    return self.adapter.merged(module, array, module in self.turned) if module in self.adapter.pairs else array

  def shape(self, name) -> tuple[int, ...]:
    adapter = self.adapter
    return adapter.tensors.shape(adapter.saved[name]) if name in adapter.saved else self.base.shape(self.names[name])

  def release(self, name):
    adapter = self.adapter
    adapter.tensors.release(adapter.saved[name]) if name in adapter.saved else self.base.release(self.names[name])


def put_on(adapter: Adapter, base: Tensors, family: Family, head: Head, model: Model) -> Merged:
  """The adapter on its base, of whose class `head` it is; CHECKPOINT_MISMATCH where that has no place for it."""
  prefix, there = lay_out(family, head, model, base)
  own = family.prefix if head.prefix is None else head.prefix
  shapes, declarations = described(model, jax.sharding.get_mesh())
  table, names = {}, {}
  for path, parts in slots(family, head, model.config, declarations, shapes, own).items():
    for slot, other in zip(parts, there[path]):
      table[slot.name] = slot
      spelt = zip([slot.name, *aliases(family, slot.name, own)], [other.name, *aliases(family, other.name, prefix)])
      names |= {name: found for name, found in spelt if found in base}
  renamed = set(names.values())
  names = {name: name for name in base if name not in renamed} | names
  if head.task in OUTPUT and model.config.tied:
    tie(adapter, family, head, own, table)
  check(adapter, table, names)
  turned = {name.removesuffix(".weight") for name, slot in table.items() if slot.kind == "conv1d"}
  return Merged(base, names, adapter, turned)


def tie(adapter: Adapter, family: Family, head: Head, own: str, table: dict[str, Slot]):
  """Lets a config's one table be two where the adapter has saved both."""
  token, output = (name_of(family, head, f"embed/{name}", own, False).name for name in ("tokens", "outputs"))
  one = [name for name in (token, output) if name in adapter.saved]
  if len(one) == 1:
    raise FmjaxError("CONFIG", f"the adapter has its own {one[0]}, which the base's config ties to another table",
                     where=adapter.folder, fix=f"save both {token} and {output} with the adapter")  # fmt: skip
  if one:
    table[output] = dataclasses.replace(table[token], name=output)


def check(adapter: Adapter, table: dict[str, Slot], names: dict[str, str]):
  maps = {name.removesuffix(".weight"): slot for name, slot in table.items() if slot.kind in ("linear", "conv1d")}
  unknown = [module for module in adapter.pairs if module not in maps]
  absent = [module for module in adapter.pairs if module in maps and f"{module}.weight" not in names]
  shapes, differing = adapter.tensors.shape, []
  for module, found in adapter.pairs.items():
    if module in maps:
      outs, ins = maps[module].file_shape[:: -1 if maps[module].kind == "conv1d" else 1]
      got = shapes(found["b"])[0], shapes(found["a"])[1]
      differing += [f"{module} {list(got)} for {[outs, ins]}"] if got != (outs, ins) else []
  for name, stored in adapter.saved.items():
    if name in table and shapes(stored) != table[name].file_shape:
      differing.append(f"{name} {list(shapes(stored))} for {list(table[name].file_shape)}")
  near = difflib.get_close_matches(unknown[0], maps, 1, 0.5) if unknown else []
  faults = {
    f"modules that it has no matrix for (near: {', '.join(near) or 'none'})": unknown,
    "modules that the base's file lacks": absent,
    "tensors that it has no place for": [name for name in adapter.saved if name not in table],
    "of another shape": differing,
  }
  refuse(faults, "the adapter does not fit its base", adapter.folder)
