"""From a folder's tensors to parameters at rest on a mesh, tensor by tensor: the host never holds the model twice."""

import dataclasses
import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.checkpoint import placed
from fmjax.errors import FmjaxError, message
from fmjax.interop.family import OUTPUT, Family, Head, Part, name_of
from fmjax.interop.safetensors import Tensors
from fmjax.interop.tensors import Slot, slots
from fmjax.leaves import by_path, nested
from fmjax.models import Model

ALIGNMENT = 64  # bytes; the CPU's runtime takes memory that is aligned so as it is, without a copy
TILE = 128  # rows of a map that are turned at once, so that they stay in the cache
BITE = 16 << 20  # bytes of a file after which its pages are let go
NAMES = 10  # that an error lists


def listed(names) -> str:
  names = sorted(names)
  more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
  return ", ".join(names[:NAMES]) + more


# Which tensor for which parameter.


@dataclasses.dataclass
class Plan:
  """Where each parameter of `model` lies in a folder, the paths that it lacks, and the tensors that are left over."""

  model: Model
  slots: dict[str, list[Slot]]
  fresh: list[str]
  left: list[str]


def prefixes(family: Family, head: Head) -> list[str]:
  """Where the family's own modules may stand: as the class has them, or as another of the family has them."""
  own = family.prefix if head.prefix is None else head.prefix
  others = {one.prefix for one in family.heads.values() if one.prefix is not None}
  return list(dict.fromkeys([own, family.prefix, "", *sorted(others)]))


@functools.lru_cache(4)  # of a second's work
def described(model: Model, mesh) -> tuple[dict, dict]:
  """({path: shape, dtype and sharding}, {path: Declaration}) of a model's parameters on the mesh, which is set."""
  shapes = by_path(jax.eval_shape(model.init, jax.random.key(0)))
  return {path: placed(like) for path, like in shapes.items()}, model.declarations()


def lay_out(family: Family, head: Head, model: Model, tensors: Tensors) -> tuple[str, dict]:
  """(prefix, {path: Slots}) with the prefix that most of the tensors have."""
  shapes, declarations = described(model, jax.sharding.get_mesh())
  made = {
    prefix: slots(family, head, model.config, declarations, shapes, prefix) for prefix in prefixes(family, head)
  }

  def found(prefix):
    return sum(slot.name in tensors for parts in made[prefix].values() for slot in parts)

  prefix = max(made, key=found)
  return prefix, made[prefix]


def aliases(family: Family, name: str, prefix: str) -> list[str]:
  """Other names of the tensor `name`."""
  bare = name.removeprefix(prefix)
  return [prefix + other for other in family.aliases.get(bare, ())] + list(family.aliases.get(name, ()))


def equal(tensors: Tensors, one: str, other: str) -> bool:
  same = tensors.shape(one) == tensors.shape(other) and np.array_equal(tensors[one], tensors[other])
  tensors.release(one)
  tensors.release(other)
  return same


def make_plan(family: Family, head: Head, config, dtype, tensors: Tensors, where) -> Plan:
  """The Plan of a folder; CHECKPOINT_MISMATCH where a parameter is missing or a tensor left over that must not be.

  As in transformers, tables that the config ties stay apart where the file has both and they differ, and one that
  is missing is the other.
  """
  model = Model(config, dtype)
  prefix, table = lay_out(family, head, model, tensors)
  twins, output = {}, None
  if head.task in OUTPUT and config.tied:
    token = table["embed/tokens"][0]
    token_name = next((n for n in (token.name, *aliases(family, token.name, prefix)) if n in tensors), token.name)
    output = name_of(family, head, "embed/outputs", prefix, config.gated).name
    if output in tensors and token_name in tensors and not equal(tensors, output, token_name):
      note(
        "the output layer is not tied, as the config says: the tables differ",
        [output, token_name],
        "kept both",
        where,
      )
      return make_plan(family, head, dataclasses.replace(config, tied=False), dtype, tensors, where)
    twins[token.name] = [output]
  used, fresh, missing = set(), [], []
  for path, parts in table.items():
    for number, slot in enumerate(parts):
      names = [slot.name, *aliases(family, slot.name, prefix), *twins.get(slot.name, ())]
      there = [name for name in names if name in tensors]
      used.update(there)
      if not there:
        (fresh if is_head(path) else missing).append(path if is_head(path) else slot.name)
      elif len(there) > 1 and not all(equal(tensors, there[0], other) for other in there[1:]):
        if path != "output/bias":
          missing.append(f"one tensor for {there[0]} and {there[1]}, which differ")
        there = there[1:]  # of two biases the output layer's own is the one that is computed with
      if there:
        parts[number] = dataclasses.replace(slot, name=there[0])
  left = [name for name in tensors if name not in used and not re.fullmatch(family.buffers, name)]
  known, modules = re.compile(other_heads(family, head)), {name.rpartition(".")[0] for name in used}
  strange = [name for name in left if not known.fullmatch(name) or name.rpartition(".")[0] in modules]
  check(table, fresh, missing, strange, tensors, where)
  return Plan(model, table, fresh, left)


def is_head(path: str) -> bool:
  """Whether a missing parameter is born anew: a checkpoint may have been made without this head."""
  return path.startswith(("output/", "pooler/", "head/")) or path == "embed/outputs"


def other_heads(family: Family, head: Head) -> str:
  """A pattern of the tensors that another class of the family has and this one does without."""
  modules = [one for other in family.heads.values() for one in other.modules.values()]
  modules += [one for path, one in family.modules.items() if path.startswith("pooler/")]
  names = [one.name if isinstance(one, Part) else one for one in modules]
  every = {prefix for one in family.heads for prefix in prefixes(family, family.heads[one])}
  before = "|".join(map(re.escape, sorted(every)))
  decoder = r"decoder\..*|" if head.base is not None else ""
  return rf"({before})({decoder}({'|'.join(map(re.escape, sorted(set(names))))})(\.weight|\.bias)?)"


def check(table, fresh, missing, strange, tensors, where):
  wrong = [
    f"{slot.name} {list(tensors.shape(slot.name))} for {list(slot.file_shape)}"
    for path, parts in table.items() for slot in parts
    if slot.name in tensors and tensors.shape(slot.name) != slot.file_shape
  ]  # fmt: skip
  faults = dict(missing=missing, unexpected=strange, shape=sorted(set(wrong)))
  rows = [f"{len(names)} {kind}: {listed(names)}" for kind, names in faults.items() if names]
  if rows:
    raise FmjaxError("CHECKPOINT_MISMATCH", "the tensors are not those of the config", rows=rows, where=where,
                     fix="give the config.json and the weights of one model")  # fmt: skip


def note(what: str, names, did: str, where):
  labels = dict(where=where, got=listed(names), did=did)
  print(message("note", "IMPORT", what, (), labels), file=sys.stderr, flush=True)


def tell(plan: Plan, where):
  if plan.left:
    note(f"{len(plan.left)} tensors belong to other heads", plan.left, "left them out", where)
  if plan.fresh:
    note(f"{len(plan.fresh)} parameters are not in the file", plan.fresh, "initialised them: train before use", where)


# The parameters.


def aligned(shape, dtype) -> np.ndarray:
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  memory = np.empty(size + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + size].view(dtype).reshape(shape)


def copy(to: np.ndarray, view: np.ndarray, index, row: int, release):
  """Fills `to` with the part `index` of a parameter as a file has it; what only pads V becomes 0.

  A map is turned in tiles of TILE of the file's rows, `row` bytes each; `release` lets pages go on the way.
  """
  part = view[tuple(slice(one.start, one.stop) for one in index)]  # ends where the file does
  if part.shape != to.shape:
    to[...] = 0
    to = to[tuple(slice(size) for size in part.shape)]
  if not part.size:
    return
  axis = int(np.argmax(part.strides))
  to, part = np.moveaxis(to, axis, 0), np.moveaxis(part, axis, 0)
  step, bitten = max(1, TILE * row // part.strides[0]), 0
  for start in range(0, len(part), step):
    to[start : start + step] = part[start : start + step]
    bitten += step * part.strides[0]
    if bitten > BITE:
      release()
      bitten = 0
  release()


def shard(tensors: Tensors, parts: list[Slot], shape, index, dtype) -> np.ndarray:
  """The part `index` of a parameter of `shape`, whose layers lie in `parts`, in memory that JAX can take as it is."""
  to = aligned([len(range(*one.indices(size))) for one, size in zip(index, shape, strict=True)], dtype)
  stacked = len(shape) > len(parts[0].shape)
  layers = parts[index[0]] if stacked else parts
  for slot, place in zip(layers, to if stacked else [to], strict=True):
    array = tensors[slot.name]
    release = functools.partial(tensors.release, slot.name)
    copy(place, slot.view(array), index[1:] if stacked else index, array.strides[0], release)
  return to


def assemble(tensors: Tensors, parts: list[Slot], like, dtype) -> jax.Array:
  """A parameter as `like` says, in `dtype`.

  On CPU its memory is filled and becomes the array's; elsewhere a stack is filled layer by layer where it lies, so
  that the host holds one tensor at a time.
  """
  if next(iter(like.sharding.device_set)).platform == "cpu":
    made, arrays = {}, []
    for device, index in like.sharding.addressable_devices_indices_map(like.shape).items():
      key = str(index)
      if key not in made:
        made[key] = shard(tensors, parts, like.shape, index, dtype)
      arrays.append(jax.device_put(made[key], device, may_alias=True))
    return jax.make_array_from_single_device_arrays(like.shape, like.sharding, arrays)
  if len(like.shape) == len(parts[0].shape):
    return jax.make_array_from_callback(
      like.shape, like.sharding, lambda index: shard(tensors, parts, like.shape, index, dtype)
    )
  return stream(tensors, parts, like, dtype)


def stream(tensors: Tensors, parts: list[Slot], like, dtype) -> jax.Array:
  """A stack filled where it lies, a layer at a time."""
  shape, spec = like.shape[1:], like.sharding.spec
  where = jax.NamedSharding(like.sharding.mesh, jax.P(*spec[1:]))
  leaf = jax.jit(functools.partial(jnp.zeros, like.shape, dtype), out_shardings=like.sharding)()
  for number, slot in enumerate(parts):
    layer = jax.make_array_from_callback(
      shape, where, lambda index, slot=slot: shard(tensors, [slot], shape, index, dtype)
    )
    leaf = jax.block_until_ready(put_layer(leaf, layer, number))
  return leaf


@functools.partial(jax.jit, donate_argnums=0)
def put_layer(leaf, layer, number):
  return jax.lax.dynamic_update_index_in_dim(leaf, layer, number, 0)


def load_params(plan: Plan, tensors: Tensors, dtype) -> dict:
  """The parameters of a Plan, at rest on the mesh that is set."""
  likes, _ = described(plan.model, jax.sharding.get_mesh())
  flat = {path: assemble(tensors, plan.slots[path], likes[path], dtype) for path in likes if path not in plan.fresh}
  if plan.fresh:
    made = jax.jit(lambda key: {path: by_path(plan.model.init(key))[path].astype(dtype) for path in plan.fresh})
    flat |= made(jax.random.key(0))
  return nested(flat)
