"""SPEC: how a command names a trained model. WORKDIR is its newest good step, WORKDIR@STEP another one, and
hf:FOLDER a local folder in Hugging Face's layout."""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from fmjax import checkpoint, data, workdir
from fmjax.config import Config, MeshConfig, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.models import Model
from fmjax.sharding import make_mesh

HF = "hf:"
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


def load(spec: str, mesh: MeshConfig | None = None) -> Trained:
  """The model that `spec` names, over all devices of this machine, whatever mesh it was trained on."""
  if spec.startswith(HF):
    return published(spec.removeprefix(HF), mesh)
  path, _, step = spec.partition("@")
  home = pathlib.Path(path)
  if step and not re.fullmatch(r"\d+", step):
    raise FmjaxError("USAGE", f"--model={spec}: the step after @ must be a number", fix=f"--model={path}@1000")
  if not (home / "config.json").is_file():
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"{path or spec} holds no run", where=home, expected="a --workdir of fmjax train",
      fix="give the folder that holds config.json and checkpoints/",
    )  # fmt: skip
  tree = workdir.read_json(home / "config.json")
  if "model_type" in tree:
    raise FmjaxError("CHECKPOINT_MISSING", f"{path} holds no run, but a model in Hugging Face's layout", where=home,
                     fix=f"--model={HF}{path}")  # fmt: skip
  config = from_config_dict(tree, str(home / "config.json"))
  tokenizer = data.load_tokenizer(home / "tokenizer") if (home / "tokenizer").exists() or not kept(home) else None
  made = make_mesh(mesh or MeshConfig())
  with jax.set_mesh(made):
    model = config.objective.model(config.model, jnp.dtype(config.train.dtype))
    like = dict(params=jax.eval_shape(model.init, jax.random.key(0)))
    state, manifest = checkpoint.restore_step(home / "checkpoints", like, int(step) if step else None)
  return Trained(config, model, state["params"], tokenizer, made, manifest, *kept(home))


def kept(home: pathlib.Path) -> tuple[dict, ...]:
  """(config.json, generation_config.json) that an imported model came with; () of a run that began here."""
  if not (home / PUBLISHED).is_dir():
    return ()
  names = [home / PUBLISHED / name for name in ("config.json", "generation_config.json")]
  return tuple(workdir.read_json(name) if name.is_file() else {} for name in names)


def published(path: str, mesh: MeshConfig | None) -> Trained:
  """The model in a folder in Hugging Face's layout, as a run that has not begun."""
  from fmjax.interop import from_pretrained

  found = from_pretrained(path, mesh=make_mesh(mesh or MeshConfig()))
  config = config_of(found.config)
  return Trained(config, found.model, found.params, found.tokenizer, found.mesh, dict(step=0), found.hf_config,
                 found.generation_config)  # fmt: skip


def config_of(model) -> Config:
  """The config of a run of `model`, a TransformerConfig, with what a recipe would leave unset."""
  length = min(model.max_positions or LENGTH, LENGTH)
  objective = dict(name=OBJECTIVES[model.kind])
  return from_config_dict(dict(model=to_dict(model), objective=objective, data=dict(sequence_length=length)))
