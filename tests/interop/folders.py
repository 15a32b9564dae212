"""The golden folders: what they are called, and a mesh to load them on."""

import functools
import pathlib

import jax

from fmjax.interop import from_pretrained

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
FOLDERS = sorted(path.parent.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*/expected.safetensors"))
AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")


def mesh_of(fsdp: int = 1, tensor: int = 1):
  return jax.make_mesh((1, fsdp, tensor, 1, 1, 1), AXES, devices=jax.devices()[: fsdp * tensor])


@functools.cache
def on_one_device(folder: str):
  """The model of a golden folder, loaded once."""
  return from_pretrained(GOLDEN / folder, mesh=mesh_of())
