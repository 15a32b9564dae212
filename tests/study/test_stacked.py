"""Laws of what is stacked: a member's lane computes what its own step does, whatever members differ in."""

import functools

import jax
import numpy as np
import pytest

from fmjax import optim
from fmjax.adapt import METHODS, Adaptation
from fmjax.architecture import TransformerConfig
from fmjax.config import MeshConfig
from fmjax.leaves import by_path
from fmjax.models import Model
from fmjax.objectives import NextToken
from fmjax.step import place, started, train_step
from fmjax.study import stacked

MODEL = Model(TransformerConfig(V=100, D=64, L=1, N=4, max_positions=16, dropout=0.1))
SEEDS = (0, 5, 2**32 - 1, 7)
RATES = np.float32([1e-2, 3e-3, 1e-2, 0.0])
DECAYS = np.float32([0.0, 0.5, 0.5, 0.1])
ALONE = (1, 2)  # what takes a step by itself, for comparison


def batch(number):
  tokens = np.random.default_rng(number).integers(0, 100, (8, 17), dtype=np.int32)
  return dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((8, 16), np.float32))


def both(config: MeshConfig, optimizer, shared: bool, same_seed: bool, accumulate: int = 1, kind: str = "full"):
  """({member: its numbers and parameters after two steps of its own}, those of each lane, the mesh)."""
  seeds = [5] * 4 if same_seed else SEEDS
  mesh = stacked.make_mesh(config, 4)
  with jax.set_mesh(mesh):
    adaptation = Adaptation(METHODS[kind](), MODEL)
    how = dict(model=MODEL, objective=NextToken(), accumulate=accumulate)
    tx = optim.make(optimizer(0.7), adaptation.declarations())  # the knob is instead of it
    make = jax.jit(functools.partial(started, adaptation=adaptation, tx=tx))
    begun = [make(jax.random.key(seed), {}) for seed in seeds]
    resting, alone = begun[0][1], {}
    batches = [batch(0)] * 4 if shared else [batch(number) for number in range(4)]
    for member in ALONE:
      own, (state, _) = optim.make(optimizer(float(DECAYS[member])), adaptation.declarations()), begun[member]
      step = jax.jit(functools.partial(train_step, tx=own, seed=seeds[member], **how))
      for _ in range(2):
        state, numbers = step(state, place(batches[member]), dict(learning_rate=RATES[member]), resting)
      alone[member] = jax.device_get((numbers, state["params"]))
    rows = batches[0] if shared else {name: np.stack([one[name] for one in batches]) for name in batches[0]}
    rows, knobs = stacked.place(rows, shared), stacked.place(dict(learning_rate=RATES, weight_decay=DECAYS))
    given = np.uint32(seeds[0]) if same_seed else np.uint32(seeds)
    seeds = stacked.place(dict(seeds=given), same_seed)["seeds"]
    step = jax.jit(functools.partial(stacked.train_step, tx=tx, shared=shared, **how))
    state = stacked.stack_states([state for state, _ in begun])
    for _ in range(2):
      state, numbers = step(state, rows, knobs, seeds, resting)
    lanes = jax.device_get([(own, state["params"]) for own, state in zip(numbers, stacked.unstack_states(state))])
  return alone, lanes, mesh


def sgd(decay):
  return optim.SGD(weight_decay=decay)


def muon(decay):
  return optim.Muon(weight_decay=decay)


CASES = {
  "side by side": (dict(fsdp=8), sgd, False, False),
  "spread, in parts": (dict(tensor=2), sgd, False, False, 2),
  "of one order": (dict(tensor=2), muon, True, False),
  "of one seed": (dict(fsdp=8), sgd, True, True, 1, "lora"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lane_computes_what_the_step_does(case):
  sizes, *how = CASES[case]
  alone, lanes, mesh = both(MeshConfig(**sizes), *how)
  assert mesh.shape["members"] == (1 if "fsdp" in sizes else 4)
  for member, (numbers, params) in alone.items():
    own, lane = lanes[member]
    for name, value in numbers.items():
      np.testing.assert_allclose(own[name], value, rtol=1e-5, err_msg=name)
    for path, x in by_path(params).items():
      if not path.endswith("k_bias"):  # whose gradient is zero but for rounding
        assert np.linalg.norm(x - by_path(lane)[path]) <= 1e-5 * np.linalg.norm(x), path
  assert len({float(own["loss"]) for own, _ in lanes}) >= 3


def test_a_state_is_stacked_and_taken_apart(on):
  mesh = stacked.make_mesh(MeshConfig(tensor=2), 2)
  with jax.set_mesh(mesh):
    tx = optim.make(optim.AdamW(), MODEL.declarations())
    make = jax.jit(functools.partial(started, adaptation=Adaptation(METHODS["full"](), MODEL), tx=tx))
    states = [make(jax.random.key(seed), {})[0] for seed in (0, 1)]
    together = stacked.stack_states(states)
    apart = stacked.unstack_states(together)
    for path, x in by_path(states[1]).items():
      np.testing.assert_array_equal(x, by_path(apart[1])[path])
      assert x.sharding.spec == by_path(apart[1])[path].sharding.spec
      held = by_path(together)[path]
      assert path == "step" or (held.shape == (2, *x.shape) and held.sharding.spec[0] == "members")


@pytest.mark.parametrize(
  "members, sizes, ways",
  [(8, dict(), 8), (6, dict(), 2), (3, dict(), 1), (8, dict(tensor=2), 4), (8, dict(fsdp=8), 1)],
)
def test_members_take_the_devices_that_are_left(members, sizes, ways):
  mesh = stacked.make_mesh(MeshConfig(**sizes), members)
  assert mesh.shape["members"] == ways and mesh.size == 8
