"""Members of a study side by side: their states, batches and knobs stacked in a first axis, and the step over it.

A member's lane computes what its own step does: what differs between members has the axis, what they share, such as
parameters that rest, has not and is computed once. The axis lies over the mesh's axis MEMBERS, which no letter names.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import data, evaluate, sharding, step
from fmjax.config import MESH_AXES, MeshConfig

MEMBERS = "members"


def make_mesh(config: MeshConfig, members: int):
  """A mesh as the config asks for it, once for each share of the members.

  Where an axis of the config takes the devices that are left, as many shares as can be have devices of their own.
  """
  devices = jax.devices()
  sizes = [getattr(config, axis) for axis in MESH_AXES]
  left = len(devices) // math.prod(size for size in sizes if size is not None) if None in sizes else 1
  ways = math.gcd(members, left) if jax.process_count() == 1 else 1
  own = sharding.make_mesh(config, devices[: len(devices) // ways])
  return jax.make_mesh((ways, *own.shape.values()), (MEMBERS, *MESH_AXES), devices=devices)


def moved(tree, mesh):
  """`tree`, of arrays on a mesh without MEMBERS, on `mesh`."""
  return jax.tree.map(lambda x: jax.device_put(x, jax.NamedSharding(mesh, x.sharding.spec)), tree)


def lead() -> str | None:
  """Where the first axis of what is stacked lies."""
  return MEMBERS if jax.sharding.get_abstract_mesh().shape[MEMBERS] > 1 else None


@jax.jit
def stack(*trees):
  def joined(*leaves):
    x = jnp.stack(leaves)
    return jax.reshard(x, jax.P(lead(), *jax.typeof(x).sharding.spec[1:]))

  return jax.tree.map(joined, *trees)


@jax.jit
def unstack(tree) -> list:
  """The members' own trees."""
  whole = jax.tree.map(lambda x: jax.reshard(x, jax.P(None, *jax.typeof(x).sharding.spec[1:])), tree)
  return [jax.tree.map(operator.itemgetter(number), whole) for number in range(len(jax.tree.leaves(tree)[0]))]


def stack_states(states: list[dict]) -> dict:
  """Of states of one step."""
  return dict(step=states[0]["step"], **stack(*map(own, states)))


def unstack_states(state: dict) -> list[dict]:
  return [dict(step=state["step"], **tree) for tree in unstack(own(state))]


def own(state: dict) -> dict:
  """What each member has of its own of a state: all but the step."""
  return {name: tree for name, tree in state.items() if name != "step"}


def each(one, ins, outs):
  """`one` of each member; `ins` and `outs` say of its arguments and results whether they have the axis: 0 or None.

  A share of the members sees its own devices alone, so that a kernel inside may place what it likes over them.
  """
  many = jax.vmap(one, in_axes=ins, out_axes=outs)
  if lead() is None:
    return many

  def places(axes):
    return jax.tree.map(lambda axis: jax.P(*[MEMBERS] * (axis == 0)), axes, is_leaf=lambda axis: axis is None)

  how = dict(in_specs=places(ins), out_specs=places(outs), axis_names={MEMBERS})
  return jax.shard_map(many, **how, check_vma=False)  # as the kernels' own


def train_step(state: dict, batch: dict, knobs: dict, seeds, resting: dict, *, shared: bool, **what):
  """One update of each member: (state, [metrics of each]); see `step.train_step`.

  `seeds` are uint32 [members], or one of all; `shared`: the batch is one of all. Each knob is [members].
  """

  def one(state, batch, knobs, seed, resting):
    return step.train_step(state, batch, knobs, resting, seed=seed, **what)

  axes = {name: None if name == "step" else 0 for name in state}
  ins = axes, None if shared else 0, 0, 0 if seeds.ndim else None, None
  state, numbers = each(one, ins, (axes, 0))(state, batch, knobs, seeds, resting)
  return state, unstack(numbers)


def eval_step(model, objective):
  """shared -> the jitted step: (params, batch, resting) -> (sums, predictions) of all members."""
  one = evaluate.step_of(model, objective)

  @functools.cache
  def jitted(shared: bool):
    return jax.jit(each(one, (0, None if shared else 0, None), 0))

  return jitted


def place(rows: dict, shared: bool = False) -> dict:
  """Arrays [members, B, ...], this host's rows of each member's batch, or knobs [members], onto the mesh that is set.

  A `shared` batch has no axis of the members.
  """
  if shared:
    return step.place(rows)

  def put(x):
    return jax.make_array_from_process_local_data(where(x.shape), np.asarray(x), whole(x.shape))

  return {name: put(x) for name, x in rows.items()}


def whole(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape over all hosts of what has `shape` on each."""
  return shape if len(shape) < 2 else (shape[0], shape[1] * jax.process_count(), *shape[2:])


def where(shape: tuple[int, ...]) -> jax.NamedSharding:
  own = whole(shape)[1:]
  return jax.NamedSharding(jax.sharding.get_mesh(), jax.P(lead(), *sharding.flowing("BT"[: len(own)], own)))


def flowing(shapes: dict, members: int) -> dict:
  """A stacked batch's shapes with their shardings, for compiling before there is a batch; `shapes` are a member's."""

  def placed(x):
    shape = (members, *x.shape)
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=where(shape))

  return {name: placed(x) for name, x in shapes.items()}


def same(batches: list[dict]) -> bool:
  first, *others = batches
  return all(np.array_equal(x, other[name]) for other in others for name, x in first.items())


class Batches(data.Batches):
  """Those of several members as one: [members, B, ...]. Their batches of a step must be of one length."""

  def __init__(self, members: list[data.Batches]):
    self.members, self.end, self.workers = members, members[0].end, members[0].workers

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    every = [batches[number] for batches in self.members]
    return {name: np.stack([batch[name] for batch in every]) for name in every[0]}
