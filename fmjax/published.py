"""A published model with a head, on the task of a recipe: for `fmjax eval --model=hf:FOLDER --config=RECIPE`."""

import pathlib
import sys

import jax

from fmjax import data, spec
from fmjax.assembly import sized
from fmjax.config import from_config_dict
from fmjax.errors import FmjaxError, message
from fmjax.leaves import nested
from fmjax.objectives import OBJECTIVES
from fmjax.sharding import make_mesh

TASKS = ("sequence", "token", "qa", "choice")  # of heads that answer labelled records


def task_of(name: str) -> str | None:
  """What the head of the published model `name` is for, as `interop.family` calls it; None: it is a run."""
  if (folders := spec.folders_of(name)) is None:
    return None
  from fmjax.interop.families import find_family
  from fmjax.interop.family import find_head
  from fmjax.interop.peft import read_adapter
  from fmjax.interop.pretrained import read_folder

  folder, hf = read_folder(folders[0])
  family = find_family(hf, folder / "config.json")
  if folders[1] is not None:
    hf = read_adapter(folders[1]).class_of(family, hf)
  return find_head(family, hf)[1].task


def opened(name: str, tree: dict):
  """(the model, its data) on the task that `tree`, branches of a recipe, says.

  FmjaxError where its head, its labels or its tokenizer are not those of the task.
  """
  task, asked = task_of(name), tree.get("objective", {}).get("name")
  if asked in OBJECTIVES and OBJECTIVES[asked].task != task:
    raise FmjaxError("CHECKPOINT_MISMATCH", f"the model's head is for another task than {asked}", where=name,
                     expected=OBJECTIVES[asked].task, got=task, fix="give a recipe of the head's task")  # fmt: skip
  config = from_config_dict(dict(tree, init_from=name), "the task's config")
  objective = config.objective
  if not spec.has_tokenizer(pathlib.Path(spec.folders_of(name)[0])) and "tokenizer" not in tree.get("data", {}):
    raise FmjaxError("TOKENIZER_BAD", "the model has no tokenizer", where=name,
                     fix="put its tokenizer.json beside config.json, or set data.tokenizer")  # fmt: skip
  prepared = data.prepare(config.data, objective)
  config = sized(config, prepared)
  mesh = make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    model = objective.model(config.model)
    begun = spec.start(config, model, prepared.tokenizer)
  if begun.fresh or begun.left:
    lost = [f"{path}: the task has no use for it" for path in begun.left]
    raise FmjaxError("CHECKPOINT_MISMATCH", "the model computes something else than the recipe", where=name,
                     rows=[*(f"{path}: the model has none" for path in sorted(begun.fresh)), *lost][:3],
                     fix="read the text as the model does: objective.pooling")  # fmt: skip
  if config.model.pool == "last":
    print(message("note", "POOLING", "texts are closed by an end, whose state is told from", labels=dict(
      where=name, fix="a model that was fine-tuned elsewhere may have read the last token of the text instead",
    )), file=sys.stderr, flush=True)  # fmt: skip
  return spec.Trained(config, model, nested(begun.params), prepared.tokenizer, mesh, dict(step=0)), prepared
