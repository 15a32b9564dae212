"""SPEC: how a command names a trained model. WORKDIR is its newest good step, WORKDIR@STEP another one, WORKDIR@best
the best one of a run with train.stop, and hf:FOLDER a local folder in Hugging Face's layout. peft:FOLDER is a LoRA
in PEFT's layout, merged into its base: the local folder that its base_model_name_or_path names, or
peft:FOLDER+hf:BASE another one. avg:SPEC,SPEC,... is the mean of the parameters of models of one shape."""

import dataclasses
import functools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import checkpoint, data, labels, metrics, workdir
from fmjax.adapt import Adaptation
from fmjax.config import Config, MeshConfig, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path, statehash
from fmjax.models import Model
from fmjax.sharding import make_mesh
from fmjax.stopping import Stopping

HF, PEFT, AVERAGE = "hf:", "peft:", "avg:"
PUBLISHED = "hf"  # the folder of a workdir that keeps the config.json that its model came with
LENGTH = 1024  # tokens an example, where a model's positions have no end
OBJECTIVES = dict(decoder="next_token", encoder="masked_token", encoder_decoder="seq2seq")  # of published models


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model of a run: its config, its pure functions, its parameters on `mesh`, its tokenizer, and the step.

  `hf_config` and `generation_config` are those of the folder that it was imported from, or None.
  """

  config: Config
  model: Model
  params: Any
  tokenizer: Any
  mesh: jax.sharding.Mesh
  manifest: dict
  hf_config: dict | None = None
  generation_config: dict | None = None
  fresh: frozenset[str] = frozenset()  # paths of parameters that a published folder lacks


class Parts(NamedTuple):
  """A run's parameters as they train, in two trees."""

  adaptation: Adaptation
  resting: dict
  training: dict

  def whole(self) -> dict:
    return self.adaptation.whole(self.resting, self.training) if self.resting else self.training


def load(spec: str, mesh: MeshConfig | None = None, **task) -> Trained:
  """The model that `spec` names, over all devices of this machine, whatever mesh it was trained on.

  A published one as its family's class for the `task` and its `classes`, where they are given.
  """
  if spec.startswith(AVERAGE):
    return averaged(parts_of(spec), mesh, **task)
  if (folders := folders_of(spec)) is not None:
    return published(*folders, mesh, **task)
  found, parts = opened(spec, mesh)
  with jax.set_mesh(found.mesh):
    return dataclasses.replace(found, params=parts.whole())


def parts_of(spec: str) -> list[str]:
  """The SPECs that `spec` is the average of, or `spec` alone; the config and the tokenizer are the first one's."""
  return spec.removeprefix(AVERAGE).split(",") if spec.startswith(AVERAGE) else [spec]


def averaged(names: list[str], mesh: MeshConfig | None, **task) -> Trained:
  """A soup of the models `names` (Wortsman et al. 2022, arXiv:2203.05482); of steps of one run, the average along its
  way (Izmailov et al. 2018, arXiv:1803.05407). CHECKPOINT_MISMATCH where their shapes or tokenizers differ."""
  first = load(names[0], mesh, **task)
  total, step = first.params, first.manifest["step"]
  for name in names[1:]:
    found = load(name, mesh, **task)
    check_alike(names[0], first, name, found)
    with jax.set_mesh(first.mesh):
      total = jax.tree.map(jnp.add, total, found.params)
    step = max(step, found.manifest["step"])
  with jax.set_mesh(first.mesh):
    params = jax.tree.map(lambda x: x / len(names), total)
  manifest = dict(first.manifest, step=step, statehash=statehash(params))
  return dataclasses.replace(first, params=params, manifest=manifest)


def check_alike(name: str, one: Trained, other_name: str, other: Trained):
  """CHECKPOINT_MISMATCH where the parameters of the two cannot be averaged."""
  (shapes, prints), (others, other_prints) = (
    ({path: x.shape for path, x in by_path(found.params).items()}, getattr(found.tokenizer, "fingerprint", None))
    for found in (one, other)
  )
  differing = sorted(path for path in shapes.keys() | others.keys() if shapes.get(path) != others.get(path))
  rows = [f"{path}: {shapes.get(path)} and {others.get(path)}" for path in differing[:3]]
  rows += [f"tokenizer: {prints} and {other_prints}"] if prints != other_prints else []
  if rows:
    raise FmjaxError("CHECKPOINT_MISMATCH", f"{name} and {other_name} are not of one shape", rows=rows,
                     where=other_name, fix="average runs of one config, or steps of one run")  # fmt: skip


def folders_of(spec: str) -> tuple[str, str | None] | None:
  """(the folder in Hugging Face's layout, that of a LoRA on it or None) that `spec` names; None: it names a run."""
  if spec.startswith(HF):
    return spec.removeprefix(HF), None
  if not spec.startswith(PEFT):
    return None
  from fmjax.interop.peft import base_of

  return base_of(spec.removeprefix(PEFT))


def opened(spec: str, mesh: MeshConfig | None = None) -> tuple[Trained, Parts]:
  """The run that `spec` names, without its params, and the parts that make them."""
  if spec.startswith(AVERAGE):
    raise FmjaxError("USAGE", "an average has no parts, but whole models", got=spec, fix="name one run")
  home, tree = read_config(spec)
  step = spec.partition("@")[2]
  config = from_config_dict(tree, str(home / "config.json"))
  tokenizer = data.load_tokenizer(home / "tokenizer") if (home / "tokenizer").exists() or not kept(home) else None
  made = make_mesh(mesh or MeshConfig())
  with jax.set_mesh(made):
    model = config.objective.model(config.model, jnp.dtype(config.train.dtype))
    here = dataclasses.replace(config, mesh=mesh or MeshConfig())  # where what the run started from is read too
    parts, manifest = trained(home, here, model, numbered(step, home, config))
  return Trained(config, model, None, tokenizer, made, manifest, *kept(home)), parts


def numbered(step: str, home: pathlib.Path, config: Config) -> int | None:
  """The step that a SPEC names after its @; None: the newest."""
  if step != "best":
    return int(step) if step else None
  rows = [row for row in metrics.read(home / metrics.ROWS) if "eval/loss" in row]
  best = Stopping(*(config.train.stop or (None, 0)), rows).best
  if best is None:
    raise FmjaxError("CHECKPOINT_MISSING", "the run has no best step", where=home,
                     fix="give a number after @, or train with train.stop")  # fmt: skip
  return best


def trained(home: pathlib.Path, config: Config, model, step: int | None) -> tuple[Parts, dict]:
  """(parameters, manifest) of a run's step."""
  begun = NOTHING if config.adapt.name == "full" else start(config, model)
  adaptation = Adaptation(config.adapt, model, begun.fresh)
  init = functools.partial(adaptation.init, jax.random.key(config.seed))
  name = "params" if config.train.ema is None else "ema"
  like = {name: jax.eval_shape(init, begun.params)[0]}
  state, manifest = checkpoint.restore_step(home / "checkpoints", like, step)
  check_base(home, manifest, begun)
  if begun is NOTHING:
    return Parts(adaptation, {}, state[name]), manifest
  resting = jax.jit(lambda given: init(given)[1])(begun.params)
  return Parts(adaptation, resting, state[name]), manifest


def check_base(home, manifest: dict, begun: "Start"):
  """CHECKPOINT_MISMATCH where the run in `home` has adapted another model than now, or had another teacher."""
  for name, now, what, key in (
    ("base", begun.fingerprint, "adapted another model", "init_from"),
    ("teacher", begun.teacher, "had another teacher", "distillation.teacher"),
  ):
    if now is not None and manifest.get(name) not in (None, now):
      raise FmjaxError("CHECKPOINT_MISMATCH", f"the run has {what}", where=home, got=now,
                       expected=f"parameters {manifest[name]}", fix=f"put that model where {key} says")  # fmt: skip


def read_config(spec: str) -> tuple[pathlib.Path, dict]:
  """(the folder of the run that `spec` names, its config.json)."""
  spec = parts_of(spec)[0]
  path, _, step = spec.partition("@")
  home = pathlib.Path(path)
  if step and not re.fullmatch(r"\d+|best", step):
    raise FmjaxError("USAGE", f"--model={spec}: after @ stands a number, or best", fix=f"--model={path}@1000")
  if not (home / "config.json").is_file():
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"{path or spec} holds no run", where=home, expected="a --workdir of fmjax train",
      fix="give the folder that holds config.json and checkpoints/",
    )  # fmt: skip
  tree = workdir.read_json(home / "config.json")
  if "model_type" in tree:
    raise FmjaxError("CHECKPOINT_MISSING", f"{path} holds no run, but a model in Hugging Face's layout", where=home,
                     fix=f"--model={HF}{path}")  # fmt: skip
  return home, tree


def has_tokenizer(folder: pathlib.Path) -> bool:
  from fmjax.data.huggingface import VOCABULARIES

  return any((folder / name).is_file() for name in VOCABULARIES)


def kept(home: pathlib.Path) -> tuple[dict, ...]:
  """(config.json, generation_config.json) that an imported model came with; () of a run that began here."""
  if not (home / PUBLISHED).is_dir():
    return ()
  names = [home / PUBLISHED / name for name in ("config.json", "generation_config.json")]
  return tuple(workdir.read_json(name) if name.is_file() else {} for name in names)


def origin(name: str | None) -> tuple[dict, ...]:
  """(config.json, generation_config.json) of the published model that the SPEC `name` goes back to; () where none is
  at hand."""
  if name is None:
    return ()
  name = parts_of(name)[0]
  from fmjax.interop.pretrained import read_hf

  if (folders := folders_of(name)) is not None:
    came = tuple(read_hf(folders[0], file) for file in ("config.json", "generation_config.json"))
    return came if came[0] else ()
  home = pathlib.Path(name.partition("@")[0])
  if not (home / "config.json").is_file():
    return ()
  return kept(home) or origin(read_config(name)[1].get("init_from"))


def sent(found: Trained) -> dict:
  """hf_config, generation_config, labels and ids of an export of `found`.

  Those that it came with, or those of the model that the run started from, as its family's class for the run's task.
  """
  from fmjax.interop.export import adapted

  objective, came = found.config.objective, (found.hf_config, found.generation_config)
  if found.hf_config is None and (there := origin(found.config.init_from)):
    came = adapted(there[0], objective.task, found.model.config.classes), there[1]
    if found.model.config.kind == "encoder_decoder" and objective.generates:
      came = tuple(answering(one, found) for one in came)
  ids = starts(found) if came[0] is None and found.model.config.kind == "encoder_decoder" else {}
  return dict(hf_config=came[0], generation_config=came[1], labels=getattr(objective, "labels", ()), ids=ids)


def starts(found: Trained) -> dict:
  """The ids that say how the targets of `found` begin, and what its padding is."""
  objective = found.config.objective
  known = found.tokenizer.vocabulary(objective.needs(found.config.data.sequence_length))
  return dict(decoder_start_token_id=objective.start(known), pad_token_id=known["pad"])


def answering(said: dict, found: Trained) -> dict:
  """A published config.json or generation_config.json, with how the targets of `found` begin since it was trained."""
  bart = found.config.objective.framing == "bart"
  kept = {key: value for key, value in said.items() if key != "forced_bos_token_id" or bart}
  return kept | starts(found) if said else said


def published(path: str, adapter: str | None, mesh: MeshConfig | None, **task) -> Trained:
  """The model in a folder in Hugging Face's layout, with a LoRA or without, as a run that has not begun."""
  from fmjax.interop import from_pretrained

  found = from_pretrained(path, mesh=make_mesh(mesh or MeshConfig()), adapter=adapter, **task)
  config = config_of(found.config)
  return Trained(config, found.model, found.params, found.tokenizer, found.mesh, dict(step=0), found.hf_config,
                 found.generation_config, found.fresh)  # fmt: skip


def config_of(model) -> Config:
  """The config of a run of `model`, a TransformerConfig, with what a recipe would leave unset."""
  length = min(model.max_positions or LENGTH, LENGTH)
  objective = dict(name=OBJECTIVES[model.kind])
  return from_config_dict(dict(model=to_dict(model), objective=objective, data=dict(sequence_length=length)))


# What a run starts from.


@dataclasses.dataclass(frozen=True)
class Start:
  """Parameters by path, on the mesh that is set; the paths that the new model has and they lack; their fingerprint.

  `left` are paths that the new model has no use for.
  """

  params: dict
  fresh: frozenset[str]
  left: tuple[str, ...]
  fingerprint: str | None
  teacher: str | None = None  # its parameters' fingerprint


NOTHING = Start({}, frozenset(), (), None)


def start(config: Config, model, tokenizer=None) -> Start:
  """What the run of `config` starts from, on the mesh that is set, as far as `model` has a place for it.

  CHECKPOINT_MISMATCH where a parameter of both has another shape; TOKENIZER_BAD where `tokenizer`, which the run's
  data has, is not the one that was learnt, with at most special tokens after its own.
  """
  if config.init_from is None:
    return NOTHING
  found = load(config.init_from, config.mesh, task=config.objective.task, classes=config.model.classes)
  check_tokens(found.tokenizer, tokenizer)
  alone, params = found.model.alone(found.params)
  given, wanted = by_path(params), by_path(jax.eval_shape(model.init, jax.random.key(0)))
  given = {path: x for path, x in given.items() if path not in found.fresh}
  if not same_task(config, found) or config.adapt.new_head:
    given = {path: x for path, x in given.items() if not path.startswith("head/")}
  if config.init_layers is not None:
    given = of_layers(given, config.init_layers, found.model.config)
  common = {path: x for path, x in given.items() if path in wanted}
  check_beside(config, given.keys() - common.keys() - alone.declarations().keys())
  if differing := [path for path, x in common.items() if x.shape != wanted[path].shape]:
    raise mismatch(config, differing, common, wanted)
  if any(path.startswith("head/") for path in common):
    labels.check(config, found)
  fresh = frozenset(wanted.keys() - common.keys())
  return Start(common, fresh, tuple(sorted(given.keys() - common.keys())), fingerprint(config.init_from, found))


def check_beside(config: Config, beside: set[str]):
  """CHECKPOINT_MISMATCH where parameters stand beside the model that a run starts from, which cannot be merged."""
  if beside:
    raise FmjaxError("CHECKPOINT_MISMATCH", f"what {config.init_from} has put beside its model would be lost",
                     where=config.init_from, got=", ".join(sorted(beside)[:3]),
                     expected="a run of which all merges: adapt.name=full, head, bitfit, lora or ia3")  # fmt: skip


def check_tokens(learnt, own):
  if learnt is None or own is None:
    return
  if learnt.bare != own.bare or learnt.added != own.added[: len(learnt.added)]:
    raise FmjaxError(
      "TOKENIZER_BAD", "the data has another tokenizer than the model that the run starts from",
      where="data.tokenizer", expected=learnt.fingerprint, got=own.fingerprint,
      fix="leave data.tokenizer out: it is then the model's",
    )  # fmt: skip


def of_layers(given: dict, layers: tuple[int, ...], model) -> dict:
  """`given`, the parameters by path of a model of the config `model`, with `layers` of its (decoder's) stack."""
  check_layers(layers, model.L, model.shared_layers)
  at = np.array(layers)
  return {
    path: x.at[at].get(out_sharding=jax.typeof(x).sharding) if path.startswith("blocks/") else x
    for path, x in given.items()
  }


def check_layers(layers: tuple[int, ...], L: int, shared: bool):
  """CONFIG where a model of L layers has none of these numbers, or none apart."""
  if shared:
    raise FmjaxError("CONFIG", "all layers of the model share their parameters", where="init_layers", got=layers,
                     fix="leave init_layers out, and set model.L")  # fmt: skip
  if not all(0 <= layer < L for layer in layers):
    raise FmjaxError("CONFIG", "the model that init_from names has no such layers", where="init_layers", got=layers,
                     expected=f"numbers from 0 to {L - 1}")  # fmt: skip


def same_task(config: Config, found) -> bool:
  """Whether the head that `found` has does what the objective of `config` wants one for."""
  if found.hf_config is None:
    return found.config.objective.name == config.objective.name
  return task_of(found) == config.objective.task


def task_of(found) -> str:
  """What the head that `found` has is for, as `interop.family` calls it."""
  if found.hf_config is None:
    return found.config.objective.task
  from fmjax.interop.families import find_family
  from fmjax.interop.family import find_head

  return find_head(find_family(found.hf_config, "config.json"), found.hf_config)[1].task


def mismatch(config, differing, given, wanted) -> FmjaxError:
  heads = all(path.startswith("head/") for path in differing)
  fix = "for a new head set adapt.new_head=True" if heads else "leave the model's sizes to init_from"
  return FmjaxError(
    "CHECKPOINT_MISMATCH", f"{config.init_from} does not fit the model of the config",
    rows=[f"{path}: has {given[path].shape}, the model {wanted[path].shape}" for path in sorted(differing)[:4]],
    where=config.init_from, fix=fix,
  )  # fmt: skip


def fingerprint(name: str, found) -> str:
  """Of the parameters: a run's is its checkpoint's, that of folders their tensors' files'."""
  if (folders := folders_of(name)) is None:
    return found.manifest["statehash"]
  from fmjax.interop.safetensors import digest

  return digest(*filter(None, folders))
