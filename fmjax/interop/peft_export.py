"""A LoRA run as a folder in PEFT's layout: the adapter alone, whole or not at all.

A LoRA on parts of a fused tensor, as GPT-2's q, k and v are of c_attn, is one on the whole: with the rank of one part
where all have the same `a`, else with the sum of their ranks, and zeros where one part's rows meet another's columns.
"""

import collections
import math
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from fmjax.adapt import joined
from fmjax.errors import FmjaxError
from fmjax.interop.card import card
from fmjax.interop.export import config_json, tensors, write_json
from fmjax.interop.families import FAMILIES
from fmjax.interop.load import listed
from fmjax.interop.peft import BEFORE, CONFIG, FINGERPRINT, PARTS, TASKS
from fmjax.interop.run import whole
from fmjax.interop.safetensors import ADAPTER, write_file
from fmjax.interop.tensors import Slot, slots
from fmjax.leaves import by_path

# What peft adds to modules_to_save by itself, for a task; it saves each module whose name ends so.
ADDED = dict(sequence=("classifier", "score"), token=("classifier", "score"), qa=("qa_outputs",))


def export_adapter(out, method, model, trees, *, hf_config=None, tokenizer=None, base=None, fingerprint=None,
                   facts=None) -> pathlib.Path:  # fmt: skip
  """Writes what a run of `method`, a LoRA, has trained on `model` into the new folder `out`.

  `trees` are (what rests, what trains); `base` is the folder that the run started from, in Hugging Face's layout, and
  `fingerprint` is its; `hf_config` and `facts` are as `export.export` takes them.
  """
  if method.name != "lora":
    raise FmjaxError("USAGE", f"a run of adapt.name={method.name} has no LoRA to write", expected="adapt.name=lora",
                     fix="write the whole model, where all that was trained merges: --format=hf")  # fmt: skip
  model, params = model.alone(joined(*trees))
  hf = config_json(model.config, hf_config, tokenizer)
  family, name = FAMILIES[hf["model_type"]], hf["architectures"][0]
  head, flat = family.heads[name], by_path(params)
  with jax.set_mesh(next(iter(flat.values())).sharding.mesh):
    declarations = model.declarations()
  own = family.prefix if head.prefix is None else head.prefix
  table = slots(family, head, model.config, declarations, flat, own)
  pairs = make_pairs(flat, table, method.dora)
  every = tensors(family, name, model, params)
  entries, saved = modules_to_save(head, table, by_path(trees[1]), every)
  made = {f"{BEFORE}{tensor}": every[tensor] for tensor in saved}
  for module, pair in pairs.items():
    for part, key in PARTS.items():
      if (array := pair.get(key)) is not None:
        ending = "" if key == "m" else ".weight"
        made[f"{BEFORE}{module}.{part}{ending}"] = (array.dtype, array.shape, lambda array=array: array)
  turned = any(slot.kind == "conv1d" for parts in table.values() for slot in parts if module_of(slot) in pairs)
  config = config_of(method, pairs, {module_of(slot) for parts in table.values() for slot in parts}) | dict(
    modules_to_save=entries or None, fan_in_fan_out=turned, base_model_name_or_path=base,
    **task_of(hf["model_type"], name, head.task, model.config.kind),
  )  # fmt: skip
  count = sum(math.prod(shape) for _, shape, _ in made.values())
  what = f"LoRA for {name}, {count:,} parameters"
  with whole(out) as draft:
    write_json(draft / CONFIG, config)
    write_file(draft / ADAPTER, dict(sorted(made.items())), {} if fingerprint is None else {FINGERPRINT: fingerprint})
    (draft / "README.md").write_text(card(pathlib.Path(out).name, what, config, facts or {}, "peft"))
  return pathlib.Path(out)


def module_of(slot: Slot) -> str:
  return slot.name.rpartition(".")[0]


def task_of(model_type: str, name: str, task: str, kind: str) -> dict:
  """task_type, or where PEFT has none for the class, what it tells instead."""
  known = {ours: theirs for theirs, ours in TASKS.items()}
  known["lm"] = dict(decoder="CAUSAL_LM", encoder_decoder="SEQ_2_SEQ_LM").get(kind)
  if known.get(task):
    return dict(task_type=known[task], auto_mapping=None)
  folder = model_type.removesuffix("_text").replace("-", "_")
  mapping = dict(base_model_class=name, parent_library=f"transformers.models.{folder}.modeling_{folder}")
  return dict(task_type=None, auto_mapping=mapping)


# What is written of each module.


class Piece(NamedTuple):
  """One layer of a parameter, which is a module's map or a part of it: `a` [R, ins], `b` [outs, R], `m` [outs]."""

  slot: Slot
  a: np.ndarray | None
  b: np.ndarray | None
  m: np.ndarray | None


def make_pairs(flat: dict, table: dict[str, list[Slot]], dora: bool) -> dict[str, dict[str, np.ndarray]]:
  """module -> {"a" [R, ins], "b" [outs, R], "m" [outs]}."""
  groups = collections.defaultdict(list)
  targets = {module_of(slot) for path, parts in table.items() if f"{path}_lora/a" in flat for slot in parts}
  for path, parts in table.items():
    for number, slot in enumerate(parts):
      if slot.kind in ("linear", "conv1d") and module_of(slot) in targets:
        groups[module_of(slot)].append(piece(flat, path, number, slot, dora))
  shared = all(len({p.a.tobytes() for p in pieces if p.a is not None}) == 1 for pieces in groups.values())
  return {module: put_together(pieces, shared, dora) for module, pieces in groups.items()}


def piece(flat: dict, path: str, number: int, slot: Slot, dora: bool) -> Piece:
  def layer(name):
    array = np.asarray(flat[name], np.float32)
    return array[number] if flat[path].ndim > len(slot.shape) else array

  ins = math.prod(slot.shape[: slot.ins])
  if f"{path}_lora/a" not in flat:  # its outputs keep their lengths
    return Piece(slot, None, None, np.linalg.norm(layer(path).reshape(ins, -1), axis=0) if dora else None)
  a, b = layer(f"{path}_lora/a"), layer(f"{path}_lora/b")
  rank = a.shape[-1]
  m = layer(f"{path}_lora/m").reshape(-1) if dora else None
  return Piece(slot, a.reshape(ins, rank).T, b.reshape(rank, -1).T, m)


def put_together(pieces: list[Piece], shared: bool, dora: bool) -> dict[str, np.ndarray]:
  """One module's pair; `shared`: all of its pieces have one `a`."""
  adapted = [one for one in pieces if one.a is not None]
  a = adapted[0].a if shared else np.concatenate([one.a for one in adapted])
  outs, rank = math.prod(pieces[0].slot.shape[pieces[0].slot.ins :]), len(adapted[0].a)
  b = np.zeros((outs * pieces[0].slot.of, len(a)), np.float32)
  for number, one in enumerate(adapted):
    columns = slice(None) if shared else slice(number * rank, (number + 1) * rank)
    b[one.slot.index * outs : (one.slot.index + 1) * outs, columns] = one.b
  if not dora:
    return dict(a=a, b=b)
  return dict(a=a, b=b, m=np.concatenate([one.m for one in sorted(pieces, key=lambda one: one.slot.index)]))


def config_of(method, pairs: dict[str, dict], modules: set[str]) -> dict:
  """adapter_config.json of the pairs, as far as they say it; `modules` are all that the class has."""
  ranks = {module: len(pair["a"]) for module, pair in pairs.items()}
  usual = collections.Counter(ranks.values()).most_common(1)[0][0]

  def alpha(rank):
    found = method.scale * (math.sqrt(rank) if method.rank_stabilised else rank)
    return int(found) if found == int(found) else found

  others = {module: rank for module, rank in ranks.items() if rank != usual}
  left = modules - pairs.keys()
  return dict(
    peft_type="LORA", r=usual, lora_alpha=alpha(usual), lora_dropout=method.dropout, bias="none",
    target_modules=sorted({ending(module, left) for module in pairs}), use_rslora=method.rank_stabilised,
    use_dora=method.dora, rank_pattern=others, init_lora_weights=True, inference_mode=True,
    alpha_pattern={module: alpha(rank) for module, rank in others.items()},
  )  # fmt: skip


def ending(module: str, others: set[str]) -> str:
  """The fewest last parts of a module's name that none of `others` ends with."""
  parts = module.split(".")
  ends = [".".join(parts[-count:]) for count in range(1, len(parts))]
  return next((end for end in ends if not any(f".{one}".endswith(f".{end}") for one in others)), module)


def modules_to_save(head, table, trained: dict, every: dict) -> tuple[list[str], list[str]]:
  """(the entries of modules_to_save, the names of the tensors that peft then looks for)."""
  paths = [path for path in table if path in trained]
  if strange := [path for path in paths if path.startswith("output/")]:
    raise FmjaxError("USAGE", "the run trained parts of an output layer that PEFT saves with the table of tokens",
                     got=listed(strange), fix="write the whole model: --format=hf")  # fmt: skip
  modules = {module_of(slot) for path in paths for slot in table[path]}
  added = [end for end in ADDED.get(head.task, ()) if any(holds(name, end) for name in every)]
  entries = added + sorted(one for one in modules if not any(holds(f"{one}.", end) for end in added))
  return entries, [name for name in every if any(holds(name, end) for end in entries)]


def holds(tensor: str, end: str) -> bool:
  """Whether a tensor lies in a module whose name ends with `end`."""
  parts = tensor.split(".")[:-1]
  return any(".".join(parts[:count]).endswith(end) for count in range(1, len(parts) + 1))
