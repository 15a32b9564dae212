"""One alphabet: the same letter names a tensor's axis, writes the einsum and chooses the sharding.

  B batch               T time (query positions)   S source (key positions)   D model width
  N query heads         K key/value heads          G query heads per K        H head width
  F feed-forward hidden V vocabulary               L layers (the stack)       E experts
  C classes, channels   P patches                  R low rank                 M micro-batches
  X, Y image sides      U expert capacity          J experts per token

Two tables and no third place say where things live: STORED, how weights rest, and FLOWING, how activations move.
A letter that a table does not name is whole on every device. A key may also be a tensor's whole name, such as
"BTD", with a tuple of one entry an axis, where that tensor must differ.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from fmjax.config import MESH_AXES, Config, MeshConfig
from fmjax.errors import FmjaxError
from fmjax.laws import divisors

STORED = dict(D="fsdp", F="tensor", N="tensor", K="tensor", V="tensor")
FLOWING = dict(B=("data", "fsdp", "expert"), T="context", F="tensor", N="tensor", K="tensor", V="tensor")

# jax 0.12 on CPU rounds a normal differently in a shard whose innermost axis is narrower than this many lanes;
# an axis that would be cut narrower rests whole, so that a model's initial bits do not depend on the mesh.
MIN_INNERMOST = 16


@dataclasses.dataclass(frozen=True)
class Declaration:
  """What a parameter says of itself: its letters (L first where layers are stacked), and its view as a matrix."""

  letters: str  # "LDNH"
  ins: str  # the letters its einsum sums over: "D"
  outs: str  # those it makes: "NH"
  kind: str  # "matrix" | "embedding" | "vector"


def spec(table: dict, letters: str, shape) -> jax.P:
  """Where a tensor of these letters and shape lives on the mesh that is set. Axes that do not divide stay whole."""
  sizes = jax.sharding.get_abstract_mesh().shape
  named = table.get(letters) if len(letters) > 1 else None
  entries = named or tuple(table.get(letter) for letter in letters)
  kept = []
  for place, (axes, size) in enumerate(zip(entries, shape, strict=True)):
    ways = math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes or ()))
    narrow = table is STORED and ways > 1 and place == len(shape) - 1 and size // ways < MIN_INNERMOST
    kept.append(None if size % ways or narrow else axes)
  return jax.P(*kept)


def stored(letters: str, shape) -> jax.P:
  return spec(STORED, letters, shape)


def flowing(letters: str, shape) -> jax.P:
  return spec(FLOWING, letters, shape)


def flow(x, letters: str):
  """`x` brought to where FLOWING wants a tensor of these letters: the gather of a weight at rest, on use."""
  return jax.reshard(x, flowing(letters, x.shape))


def einsum(equation: str, *operands, precision=None, accumulate=None):
  """`jnp.einsum` whose letters also place its operands and its result as FLOWING says.

  `accumulate` is the dtype of the sums, where it differs from that of the operands.
  """
  inputs, output = equation.split("->")
  names = inputs.split(",")
  sizes = {letter: size for name, x in zip(names, operands, strict=True) for letter, size in zip(name, x.shape)}
  operands = [flow(x, name) for name, x in zip(names, operands)]
  where = flowing(output, [sizes[letter] for letter in output])
  return jnp.einsum(equation, *operands, precision=precision, preferred_element_type=accumulate, out_sharding=where)


def take(table, ids, name: str, letters: str):
  """Rows of `table`, of letters `name`, by `ids`: `take(e_VD, t_BT, "VD", "BTD")`."""
  return flow(table, name).at[ids].get(out_sharding=flowing(letters, (*ids.shape, *table.shape[1:])))


def dropout(x, letters: str, rate: float, key):
  """Zeroes a share `rate` of `x` and scales the rest (Srivastava et al. 2014); the mask is born where `x` lives.

  `rate` is a number, or a traced one.
  """
  if key is None or (not isinstance(rate, jax.Array) and not rate):
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape, out_sharding=flowing(letters, x.shape))
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def make_mesh(config: MeshConfig, devices=None):
  """The mesh the config asks for, with Explicit axes, over `devices` (default: all); else FmjaxError MESH."""
  devices = jax.devices() if devices is None else devices
  sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
  fixed = math.prod(size for size in sizes.values() if size is not None)
  free = next((axis for axis, size in sizes.items() if size is None), None)
  asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size not in (1, None)) or "one device"
  if free and len(devices) % fixed == 0:
    sizes[free] = len(devices) // fixed
  elif free or fixed != len(devices):
    raise FmjaxError(
      "MESH", f"the mesh does not fit {len(devices)} devices", where="mesh", got=f"{asked} = {fixed}",
      expected=f"a divisor of {len(devices)}: {divisors(len(devices), fixed)}" if free else f"{len(devices)} in all",
      fix="leave one axis None (mesh.fsdp is, by default): it takes the devices that are left",
    )  # fmt: skip
  return jax.make_mesh(tuple(sizes.values()), MESH_AXES, devices=devices)


def check_divides(config: Config, mesh):
  """FmjaxError MESH, before anything compiles, where the heads or the batch do not divide over the mesh."""
  model, train, tensor = config.model, config.train, mesh.shape["tensor"]
  for name in ("N", "K"):
    if (heads := getattr(model, name)) % tensor:
      raise FmjaxError(
        "MESH", f"model.{name}={heads} heads do not divide over mesh.tensor={tensor}", where="mesh.tensor",
        fix=f"set mesh.tensor to {divisors(math.gcd(model.N, model.K), tensor)}",
      )  # fmt: skip
  ways = math.prod(mesh.shape[axis] for axis in FLOWING["B"])
  part = train.batch_size // train.accumulate
  if part % ways:
    low = max(part // ways, 1) * ways * train.accumulate
    each = " in each of the parts" if train.accumulate > 1 else ""
    raise FmjaxError(
      "MESH", f"train.batch_size={train.batch_size} does not divide", where="train.batch_size",
      got=f"{part} examples{each} over {ways} ways (mesh axes {', '.join(FLOWING['B'])})",
      fix=f"set train.batch_size to {low} or {low + ways * train.accumulate}",
    )  # fmt: skip
