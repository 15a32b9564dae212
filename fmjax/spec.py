"""SPEC: how a command names a trained model. WORKDIR is its newest good step, WORKDIR@STEP another one."""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from fmjax import checkpoint, data, optim, workdir
from fmjax.config import Config, MeshConfig, from_config_dict
from fmjax.errors import FmjaxError
from fmjax.models import Model
from fmjax.sharding import make_mesh
from fmjax.step import abstract_state


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model of a run: its config, its pure functions, its parameters on `mesh`, its tokenizer, and the step."""

  config: Config
  model: Model
  params: Any
  tokenizer: Any
  mesh: jax.sharding.Mesh
  manifest: dict


def load(spec: str, mesh: MeshConfig | None = None) -> Trained:
  """The model that `spec` names, over all devices of this machine, whatever mesh it was trained on."""
  path, _, step = spec.partition("@")
  home = pathlib.Path(path)
  if step and not re.fullmatch(r"\d+", step):
    raise FmjaxError("USAGE", f"--model={spec}: the step after @ must be a number", fix=f"--model={path}@1000")
  if not (home / "config.json").is_file():
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"{path or spec} holds no run", where=home, expected="a --workdir of fmjax train",
      fix="give the folder that holds config.json and checkpoints/",
    )  # fmt: skip
  config = from_config_dict(workdir.read_json(home / "config.json"), str(home / "config.json"))
  tokenizer = data.load_tokenizer(home / "tokenizer")
  made = make_mesh(mesh or MeshConfig())
  with jax.set_mesh(made):
    model = Model(config.model, jnp.dtype(config.train.dtype))
    like = abstract_state(model=model, tx=optim.make(config.optimizer, model.declarations()))
    state, manifest = checkpoint.restore_step(home / "checkpoints", like, int(step) if step else None)
  return Trained(config, model, state["params"], tokenizer, made, manifest)
