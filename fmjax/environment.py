"""What a run is and where it runs: its parameters, its machine, its libraries, in the run's folder and in words."""

import math
import platform
from importlib import metadata

import jax

from fmjax import recipe, workdir
from fmjax.config import Config, to_dict

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "fmjax")


def parameter_rows(params):
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    held = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    axes = ", ".join("-" if axis is None else str(axis) for axis in x.sharding.spec)
    yield (
      jax.tree_util.keystr(path, simple=True, separator="/"),
      x.shape,
      x.dtype.name,
      axes,
      held,
      math.prod(x.shape),
    )


def versions() -> dict:
  return dict(python=platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES})


def facts(config: Config, prepared, **models: str | None) -> dict:
  """What a checkpoint's manifest says of its run; `models` are fingerprints of those that it hangs on, or None."""
  facts = dict(config_hash=recipe.config_hash(config), data_fingerprint=prepared.fingerprint, versions=versions())
  return facts | {name: one for name, one in models.items() if one is not None}


def write(home, config: Config, prepared, mesh, like, argv):
  """What the run is and where it runs, for people, for resuming, and for whoever takes the model from here."""
  if jax.process_index() != 0:
    return
  device = mesh.devices.flat[0]
  counts = [math.prod(x.shape) for x in jax.tree.leaves(like["params"])]
  facts = dict(
    versions=versions(), host=platform.node(), platform=device.platform, device_kind=device.device_kind,
    device_count=mesh.devices.size, process_count=jax.process_count(), mesh=dict(mesh.shape),
    parameters=sum(counts), data=prepared.facts, command=" ".join(argv),
  )  # fmt: skip
  workdir.write_json(home / "environment.json", facts)
  workdir.write_json(home / "config.json", to_dict(config))
  prepared.tokenizer.save(home / "tokenizer")
