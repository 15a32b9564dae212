"""What a config takes from the model that its run starts from, before anything runs."""

from fmjax import spec
from fmjax.config import to_dict
from fmjax.errors import FmjaxError

OUTPUT = dict(output_transform=False, output_bias=False)  # what only a model that tells tokens needs


def fields_of(name: str, objective: str, layers=None) -> dict:
  """{"model", "data", "objective"}: fields of a config for `objective` that the SPEC `name` decides, if unset.

  `layers` is what the config says as init_layers.
  """
  from fmjax.objectives import OBJECTIVES

  task = OBJECTIVES[objective].task if objective in OBJECTIVES else "lm"
  found = of_model(name, objective, task)
  if isinstance(layers, (list, tuple)) and all(isinstance(layer, int) for layer in layers):
    found["model"] |= of_layers(found["model"], tuple(layers))
  return found


def of_layers(model: dict, layers: tuple[int, ...]) -> dict:
  """The fields of a model that is made of `layers` of one that has the fields `model`."""
  spec.check_layers(layers, model["L"], model["shared_layers"])
  local = model["window_layers"]
  if local is not None:
    local = tuple(number for number, layer in enumerate(layers) if layer in local)
  return dict(L=len(layers), window_layers=local)


def check_there(name: str):
  """Raises FmjaxError where the SPEC `name` leads nowhere."""
  from fmjax.interop.pretrained import read_folder

  for one in spec.parts_of(name):
    if (folders := spec.folders_of(one)) is None:
      spec.read_config(one)
    else:
      read_folder(folders[0])


def of_model(name: str, objective: str, task: str) -> dict:
  """`fields_of` of a whole model."""
  name = spec.parts_of(name)[0]
  if (folders := spec.folders_of(name)) is not None:
    return of_folder(folders[0], objective, task)
  home, tree = spec.read_config(name)
  model = dict(tree["model"], preset=None)
  if tree["objective"]["name"] != objective:
    model |= dict(head=None, classes=None)
    if task in ("sequence", "choice") and model["kind"] == "encoder":
      model["pooler"] = model["pooler"] or "tanh"
    if task not in ("lm", "pretraining"):
      model |= OUTPUT
    if task in ("token", "qa"):
      model["pooler"] = None  # is of one token
  framed = objective == "seq2seq" and tree["objective"]["name"] == objective
  if framed and (came := spec.kept(home)) and came[0].get("model_type") == "bart":
    tree["objective"]["framing"] = "bart"  # one that was imported, and has not been trained
  own = dict(framing=tree["objective"].get("framing", "t5")) if framed else {}
  return dict(model=model, data=dict(tokenizer=str(home / "tokenizer")), objective=own)


def of_folder(path: str, objective: str, task: str) -> dict:
  """`fields_of` of a folder in Hugging Face's layout: those of its family's class for the task."""
  from fmjax.interop.families import find_family
  from fmjax.interop.family import class_for, read_config
  from fmjax.interop.pretrained import read_folder

  folder, hf = read_folder(path)
  family = find_family(hf, folder / "config.json")
  name = class_for(family, hf, task)
  if name is None:
    raise FmjaxError("CONFIG", f"{family.model_type} has no class for the task {task!r}", where="init_from",
                     fix="start from another family, or choose another objective")  # fmt: skip
  model = to_dict(read_config(family, name, hf))
  framed = objective == "seq2seq" and family.model_type == "bart"
  fields = dict(model=model, data={}, objective=dict(framing="bart") if framed else {})
  if spec.has_tokenizer(folder):
    fields["data"]["tokenizer"] = str(folder)
  return fields
