"""From a recipe's file and the words of a command line to a tree that `config.from_config_dict` takes; and what
differs between the config that a run was started with and the one given now."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import sys

from fmjax.config import Config, branches, to_dict
from fmjax.errors import FmjaxError
from fmjax.laws import nearest
from fmjax.workdir import read_json

# What may change when a run is resumed: nothing here alters a batch, an update or the meaning of a number.
HARMLESS = (
  "train.steps",
  "train.epochs",
  "train.log_every",
  "train.eval_",
  "train.sample_",
  "train.remat",
  "train.profile",
  "train.stop",
  "train.on_nonfinite",
  "train.max_skips",
  "checkpoint.",
  "mesh.",
  "data.workers",
  "data.cache",
  "data.on_corrupt",
  "init_from",  # a path; what is there is compared by its fingerprint
  "distillation.teacher",  # as init_from, where a run has one
)
# What may change too, but alters the batches from the step on at which the run goes on.
EDITS = ("data.mixture", "data.temperature")  # fmt: skip


def parse_value(text: str):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def load_recipe(spec: str) -> dict:
  """The tree of a run's config.json, or what a recipe's get_config returns; `spec` is FILE or FILE:ARG.

  Runs a recipe's Python.
  """
  path, _, argument = spec.partition(":")
  if not pathlib.Path(path).is_file():
    near = sorted(str(p) for p in pathlib.Path(path).parent.glob("*.py"))
    raise FmjaxError(
      "CONFIG", f"there is no recipe {path}", fix=nearest(path, near) if near else "give a path to a recipe"
    )
  if path.endswith(".json"):  # of a run's folder
    return read_json(pathlib.Path(path))
  module = importlib.util.module_from_spec(loader := importlib.util.spec_from_file_location("recipe", path))
  folder = str(pathlib.Path(path).resolve().parent)
  sys.path.insert(0, folder)  # a recipe may derive from the one beside it
  try:
    loader.loader.exec_module(module)
    tree = module.get_config(argument) if argument else module.get_config()
    return tree.to_dict()
  except FmjaxError:
    raise
  except Exception as error:
    raise FmjaxError("CONFIG", f"the recipe {path} does not run", got=f"{type(error).__name__}: {error}") from error
  finally:
    sys.path.remove(folder)


def override(tree: dict, words: dict[str, str]) -> dict:
  """`tree` with `words` (dotted key -> text) laid over it; a changed `name` drops the fields its class lacks."""
  tree = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
  tables = branches()
  for key, text in sorted(words.items(), key=lambda word: not word[0].endswith(".name")):
    branch, _, field = key.partition(".")
    value = parse_value(text)
    if not field:
      tree[branch] = value
      continue
    if not isinstance(tree.setdefault(branch, {}), dict):
      continue
    if field == "name" and isinstance(tables.get(branch), dict) and value in tables[branch]:
      known = {f.name for f in dataclasses.fields(tables[branch][value])}
      tree[branch] = {name: old for name, old in tree[branch].items() if name in known}
    if field in ("steps", "epochs") and branch == "train":
      tree[branch].pop({"steps": "epochs", "epochs": "steps"}[field], None)
    put(tree[branch], field.split("."), value)
  return tree


def put(tree: dict, path: list[str], value):
  """Sets what lies at `path` in `tree`, whose inner dicts are copied; a list of named dicts is one by their names."""
  *above, last = path
  for name in above:
    inner = tree.get(name) or {}
    if isinstance(inner, (list, tuple)):
      inner = {one["name"]: one for one in inner}
    tree[name] = tree = dict(inner)
  tree[last] = value


def flatten(tree: dict, prefix: str = "") -> dict:
  flat = {}
  for name, value in tree.items():
    flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
  return flat


def differences(saved: Config, given: Config) -> list[tuple[str, object, object]]:
  """(key, saved, given) for every field in which two configs differ."""
  old, new = flatten(to_dict(saved)), flatten(to_dict(given))
  return [(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def allowed(key: str) -> bool:
  """Whether a resumed run may change the field `key`."""
  return harmless(key) or key in EDITS


def harmless(key: str) -> bool:
  """Whether no batch, no update and no number's meaning hangs on the field `key`."""
  return any(key == one or (one[-1] in "._" and key.startswith(one)) for one in HARMLESS)


def config_hash(config: Config) -> str:
  """Of all that may not change while a run lasts."""
  fixed = {key: value for key, value in flatten(to_dict(config)).items() if not allowed(key)}
  return hashlib.blake2b(json.dumps(fixed, sort_keys=True).encode(), digest_size=16).hexdigest()
