import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax import optim
from fmjax.config import MESH_AXES
from fmjax.laws import Wrong
from fmjax.leaves import by_path
from fmjax.sharding import Declaration, stored

SIZES = dict(L=4, D=64, N=4, H=16, K=2, F=96, V=128)
DECLARATIONS = {
  "embed": Declaration("VD", "V", "D", "embedding"),
  "blocks/attention/q": Declaration("LDNH", "D", "NH", "matrix"),
  "blocks/attention/k": Declaration("LDKH", "D", "KH", "matrix"),
  "blocks/attention/o": Declaration("LNHD", "NH", "D", "matrix"),
  "blocks/attention/bias": Declaration("LNH", "", "NH", "vector"),
  "blocks/up": Declaration("LDF", "D", "F", "matrix"),
  "blocks/scale": Declaration("LD", "", "D", "vector"),
  "unembed": Declaration("DV", "D", "V", "matrix"),
}
ALL = [
  optim.AdamW(),
  optim.Lion(weight_decay=0.1),
  optim.SGD(weight_decay=0.1),
  optim.SGD(momentum=None, clip_norm=None),
  optim.Adafactor(weight_decay=0.1),
  optim.Muon(),
]


def named(config):
  return config.name if config.clip_norm else config.name + "-bare"


def tree(seed: int, scale: float = 1.0):
  """A tree of parameters (or gradients) as DECLARATIONS says, of host arrays."""
  rng, out = np.random.default_rng(seed), {}
  for path, declared in DECLARATIONS.items():
    *folders, name = path.split("/")
    place = out
    for folder in folders:
      place = place.setdefault(folder, {})
    place[name] = (scale * rng.normal(size=[SIZES[letter] for letter in declared.letters])).astype(np.float32)
  return out


def placed(params):
  """`params` at rest on the mesh that is set."""

  def place(declared, x):
    return jax.reshard(jnp.asarray(x), stored(declared.letters, x.shape))

  return optim.each(place, DECLARATIONS, params)


def updates(tx, gradients, params, learning_rate=0.01):
  """(parameters, last update, state) after one jitted step a gradient."""

  @jax.jit
  def step(params, state, g):
    u, state = tx.update(g, state, params)
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, u), u, state

  state = jax.jit(tx.init)(params)
  for g in gradients:
    params, u, state = step(params, state, g)
  return params, u, state


def reference(theirs, gradients, params):
  """The parameters after one jitted step a gradient of a whole optax optimizer."""
  params, state = jax.tree.map(jnp.asarray, params), theirs.init(params)

  @jax.jit
  def step(params, state, g):
    u, state = theirs.update(g, state, params)
    return optax.apply_updates(params, u), state

  for g in gradients:
    params, state = step(params, state, g)
  return params


def single(declared, x):
  """The declaration and tree of a model that is one weight."""
  return {"w": declared}, {"w": jnp.asarray(x)}


def close(a, b, **tolerance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def mesh_of(**sizes):
  shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
  return jax.make_mesh(shape, MESH_AXES, devices=jax.devices()[: np.prod(shape)])


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_adamw_is_optax_adamw(one_device, clip_norm):
  config = optim.AdamW(b2=0.98, eps=1e-6, weight_decay=0.2, clip_norm=clip_norm)
  matrices = optim.each(lambda declared, _: declared.kind != "vector", DECLARATIONS, tree(0))
  theirs = optax.adamw(0.01, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.2, mask=matrices)
  if clip_norm:
    theirs = optax.chain(optax.clip_by_global_norm(clip_norm), theirs)
  gradients, params = [tree(seed) for seed in range(1, 6)], jax.tree.map(jnp.asarray, tree(0))
  ours, _, _ = updates(optim.make(config, DECLARATIONS), gradients, params)
  close(ours, reference(theirs, gradients, params))


def test_lion_and_sgd_are_optax_lion_and_sgd(one_device):
  gradients = [tree(seed) for seed in range(1, 4)]
  for config, theirs in [
    (optim.Lion(b2=0.95, clip_norm=None), optax.lion(0.01, b2=0.95, weight_decay=0.0)),
    (optim.SGD(nesterov=True, clip_norm=None), optax.sgd(0.01, 0.9, nesterov=True)),
    (optim.SGD(momentum=None, clip_norm=None), optax.sgd(0.01)),
  ]:
    params = jax.tree.map(jnp.asarray, tree(0))
    ours, _, _ = updates(optim.make(config, DECLARATIONS), gradients, params)
    close(ours, reference(theirs, gradients, params))


@pytest.mark.parametrize("config", ALL, ids=named)
def test_decay_pulls_matrices_and_embeddings_only(one_device, config):
  params = jax.tree.map(jnp.asarray, tree(0))
  _, u, _ = updates(optim.make(config, DECLARATIONS), [tree(0, 0.0)], params)

  def law(declared, u, p):
    decayed = declared.kind in ("matrix", "embedding")
    np.testing.assert_allclose(u, config.weight_decay * p if decayed else jnp.zeros_like(p), atol=1e-7)

  optim.each(law, DECLARATIONS, u, params)


def test_clip_brings_the_global_norm_down_and_leaves_a_small_gradient(one_device):
  tx = optim.make(optim.SGD(momentum=None, clip_norm=2.0), DECLARATIONS)
  params = jax.tree.map(jnp.asarray, tree(0))
  norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(tree(1))))
  _, large, _ = updates(tx, [tree(1)], params)
  close(large, jax.tree.map(lambda g: g * 2.0 / norm, tree(1)))
  _, small, _ = updates(tx, [tree(1, 1e-4)], params)
  close(small, tree(1, 1e-4), rtol=0, atol=0)


@pytest.mark.parametrize(
  "declared, w",
  [
    (Declaration("DF", "D", "F", "matrix"), np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)),
    (Declaration("D", "", "D", "vector"), np.random.default_rng(1).normal(size=24).astype(np.float32)),
    (Declaration("D", "", "D", "vector"), np.zeros(24, np.float32)),
  ],
  ids=["matrix", "vector", "zero"],
)
def test_adafactor_of_a_plain_weight_is_optax_adafactor(one_device, declared, w):
  declarations, params = single(declared, w)
  # A gradient that grows makes an update larger than 1, which is clipped.
  sizes, rng = (1.0, 0.1, 30.0, 1e-4, 2.0), np.random.default_rng(2)
  gradients = [{"w": (size * rng.normal(size=w.shape)).astype(np.float32)} for size in sizes]
  ours, _, _ = updates(optim.make(optim.Adafactor(clip_norm=None), declarations), gradients, params)
  close(ours, reference(optax.adafactor(0.01, min_dim_size_to_factor=2), gradients, params))


@pytest.mark.parametrize("config", [optim.Adafactor(), optim.Muon()], ids=named)
def test_a_letter_shaped_weight_moves_as_its_matrix(one_device, config):
  rng = np.random.default_rng(0)
  w = rng.normal(size=(12, 4, 5)).astype(np.float32)
  gradients = [rng.normal(size=w.shape).astype(np.float32) for _ in range(3)]
  for declared, flat in [
    (Declaration("DNH", "D", "NH", "matrix"), (12, 20)),
    (Declaration("PKH", "PK", "H", "matrix"), (48, 5)),
    (Declaration("DdR", "D", "dR", "matrix"), (12, 20)),
  ]:
    declarations, params = single(declared, w)
    letters, _, _ = updates(optim.make(config, declarations), [{"w": g} for g in gradients], params)
    declarations, params = single(Declaration("DF", "D", "F", "matrix"), w.reshape(flat))
    plain, _, _ = updates(optim.make(config, declarations), [{"w": g.reshape(flat)} for g in gradients], params)
    np.testing.assert_allclose(letters["w"].reshape(flat), plain["w"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [optim.Adafactor(clip_norm=None), optim.Muon(clip_norm=None)], ids=named)
def test_stacked_layers_move_as_layers_apart(one_device, config):
  tx = optim.make(config, DECLARATIONS)
  # Layers of very different scale: a statistic that mixed them would show.
  scale = 10 ** np.arange(SIZES["L"], dtype=np.float32)

  def grow(block):
    return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)), block)

  params, gradients = {"blocks": grow(tree(0)["blocks"])}, [{"blocks": grow(tree(s)["blocks"])} for s in (1, 2)]
  stacked, _, _ = updates(tx, gradients, jax.tree.map(jnp.asarray, params))
  apart = {
    path: Declaration(declared.letters.replace("L", ""), declared.ins, declared.outs, declared.kind)
    for path, declared in DECLARATIONS.items()
  }
  for i in (0, SIZES["L"] - 1):
    first, second, start, end = (
      jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), t) for t in (*gradients, params, stacked)
    )
    alone, _, _ = updates(optim.make(config, apart), [first, second], start)
    close(end, alone, rtol=1e-4, atol=1e-4)


def test_adafactor_statistics_are_a_row_and_a_column_a_layer(one_device):
  tx = optim.make(optim.Adafactor(), DECLARATIONS)
  _, _, state = updates(tx, [tree(1)], jax.tree.map(jnp.asarray, tree(0)))
  blocks = state[1].moments["blocks"]
  assert jax.tree.map(jnp.shape, blocks["attention"]["q"]) == dict(row=(4, 64), column=(4, 4, 16))
  assert jax.tree.map(jnp.shape, blocks["attention"]["o"]) == dict(row=(4, 4, 16), column=(4, 64))
  assert jax.tree.map(jnp.shape, blocks["scale"]) == dict(full=(4, 64))


def test_muon_makes_every_layer_nearly_orthogonal(one_device):
  tx = optim.make(optim.Muon(weight_decay=0.0), DECLARATIONS)
  _, u, _ = updates(tx, [tree(1), tree(2)], jax.tree.map(jnp.asarray, tree(0)))

  def law(declared, u):
    if declared.kind != "matrix" or "V" in declared.letters:
      return
    fan_in, fan_out = optim.sides(declared, u)
    values = np.linalg.svd(np.reshape(u, (SIZES["L"], fan_in, fan_out)), compute_uv=False)
    values /= 0.2 * np.sqrt(max(fan_in, fan_out))
    # A square matrix of noise has singular values near 0, which five rounds bring only part of the way.
    assert values.max() < 1.25 and np.quantile(values, 0.05 if fan_in == fan_out else 0) > 0.65, declared

  optim.each(law, DECLARATIONS, u)


def test_muon_update_has_the_size_of_an_adamw_update(one_device):
  tx = optim.make(optim.Muon(weight_decay=0.0), DECLARATIONS)
  _, u, _ = updates(tx, [tree(1)], jax.tree.map(jnp.asarray, tree(0)))
  for x in (u["blocks"]["attention"]["q"], u["blocks"]["attention"]["k"], u["blocks"]["up"]):
    assert 0.14 < float(jnp.sqrt(jnp.mean(x * x))) < 0.24


def test_newton_schulz_squares_the_smaller_side(one_device):
  for letters, ins, outs in (("LDNH", "D", "NH"), ("LNHD", "NH", "D")):
    x = jnp.zeros([dict(L=2, D=8, N=3, H=7)[letter] for letter in letters])
    program = jax.make_jaxpr(lambda x, d: optim.newton_schulz(d, x, 5, 1e-8), static_argnums=1)(
      x, Declaration(letters, ins, outs, "matrix"))  # fmt: skip
    shapes = re.sub(r"@(\w+|\(.*?\))", "", str(program))
    assert "[2,8,8]" in shapes and "[2,3,7,3,7]" not in shapes


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_of_a_plain_matrix_is_optax_muon(nesterov):
  rng = np.random.default_rng(0)
  w = rng.normal(size=(24, 40)).astype(np.float32)
  # optax corrects the bias of the two terms of Nesterov's sum apart, so only the first such update is the same.
  gradients = [{"w": rng.normal(size=w.shape).astype(np.float32)} for _ in range(1 if nesterov else 4)]
  theirs = optax.contrib.muon(0.01, nesterov=nesterov, weight_decay=0.1, consistent_rms=0.2)
  expected = reference(theirs, gradients, {"w": w})
  declarations, params = single(Declaration("DF", "D", "F", "matrix"), w)
  with jax.set_mesh(mesh_of()):
    tx = optim.make(optim.Muon(nesterov=nesterov, clip_norm=None), declarations)
    ours, _, _ = updates(tx, gradients, params)
  close(ours, expected)


def test_muon_leaves_what_is_no_hidden_matrix_to_adamw(one_device):
  gradients, params = [tree(1), tree(2)], jax.tree.map(jnp.asarray, tree(0))
  config = optim.Muon(adam_learning_rate=0.5, adam_b2=0.98)
  muon, _, _ = updates(optim.make(config, DECLARATIONS), gradients, params, learning_rate=0.02)
  adamw, _, _ = updates(optim.make(optim.AdamW(b2=0.98), DECLARATIONS), gradients, params, learning_rate=0.01)
  for pick in (lambda t: t["embed"], lambda t: t["unembed"], lambda t: t["blocks"]["scale"]):
    close(pick(muon), pick(adamw))
  assert not np.allclose(muon["blocks"]["up"], adamw["blocks"]["up"], atol=1e-3)


@pytest.mark.parametrize("config", ALL, ids=named)
def test_eight_devices_are_one(config):
  tx, results = optim.make(config, DECLARATIONS), []
  for mesh in (mesh_of(), mesh_of(data=2, fsdp=2, tensor=2)):
    with jax.set_mesh(mesh):
      params, _, state = updates(tx, [placed(tree(1)), placed(tree(2))], placed(tree(0)))
      at_rest = optim.each(lambda d, p: p.sharding.spec == stored(d.letters, p.shape), DECLARATIONS, params)
    assert all(jax.tree.leaves(at_rest))
    results.append(jax.tree.map(np.asarray, (params, state)))
  close(results[1], results[0], atol=1e-5)


@pytest.mark.parametrize("config", ALL, ids=named)
def test_state_rests_where_its_parameter_does(config):
  tx, found = optim.make(config, DECLARATIONS), set()

  def law(path, leaf, abstract, after):
    if not leaf.shape:
      return
    assert leaf.sharding.spec == abstract.sharding.spec == after.sharding.spec
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    for name, declared in DECLARATIONS.items():
      if path.endswith("/" + name):
        found.add(name)
        assert leaf.sharding.spec == stored(declared.letters, leaf.shape)

  with jax.set_mesh(mesh_of(fsdp=4, tensor=2)):
    params = placed(tree(0))
    state = jax.jit(tx.init)(params)
    after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p)[1], params, state, params)
    jax.tree.map_with_path(law, state, jax.eval_shape(tx.init, params), after)
  if isinstance(config, optim.Adafactor):
    q, embed = state[1].moments["blocks"]["attention"]["q"], state[1].moments["embed"]
    assert q["row"].sharding.spec == jax.P(None, "fsdp") and q["column"].sharding.spec == jax.P(None, "tensor", None)
    assert embed["row"].sharding.spec == jax.P("tensor") and embed["column"].sharding.spec == jax.P("fsdp")
  elif named(config) != "sgd-bare":
    assert found == set(DECLARATIONS)


@pytest.mark.parametrize("sizes", [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_muon_swaps_layers_for_widths_between_devices(sizes):
  """Each weight's momentum goes to Newton-Schulz and comes back in one all-to-all, not by being copied whole."""
  declared = DECLARATIONS["blocks/up"]
  tx = optim.make(optim.Muon(), {"up": declared})
  with jax.set_mesh(mesh_of(**sizes)):
    shape = (8, SIZES["D"], SIZES["F"])
    params = {"up": jnp.zeros(shape, out_sharding=stored(declared.letters, shape))}
    compiled = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
  assert compiled.as_text().count(" all-to-all(") == 2


def test_changing_steps_does_not_recompile(one_device):
  tx, traces = optim.make(optim.AdamW(), DECLARATIONS), []

  @jax.jit
  def step(params, state, g, knobs):
    traces.append(1)
    u, state = tx.update(g, state, params)
    return jax.tree.map(lambda p, u: p - knobs["learning_rate"] * u, params, u), state

  params, g = jax.tree.map(jnp.asarray, tree(0)), jax.tree.map(jnp.asarray, tree(1))
  state, seen = jax.jit(tx.init)(params), []
  for steps in (100, 1000):
    rate = optim.schedule(optim.AdamW(schedule="cosine", warmup_steps=3), steps)
    for n in (0, 2, 50):
      seen.append(rate(n))
      params, state = step(params, state, g, dict(learning_rate=rate(n)))
  assert len(set(seen)) == 4 and len(traces) == 1


PEAK = 0.02


def rates(steps=100, **fields):
  return [optim.schedule(optim.SGD(learning_rate=PEAK, **fields), steps)(n) for n in range(steps + 3)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd", "inverse_sqrt"])
@pytest.mark.parametrize("warm", [0, 1, 20])
def test_schedules_warm_up_then_never_rise(name, warm):
  values = rates(schedule=name, warmup_steps=warm)
  assert all(type(value) is float for value in values)
  np.testing.assert_allclose(values[:warm], PEAK * np.arange(1, warm + 1) / max(warm, 1))
  assert max(values) == pytest.approx(PEAK) == values[max(warm - 1, 0)]
  assert all(a >= b for a, b in zip(values[warm:], values[warm + 1 :]))


def test_schedules_at_their_corners():
  def at(n, **fields):
    return pytest.approx(rates(**fields)[n])

  for name in ("linear", "cosine", "wsd"):
    for n in (100, 102):  # at the end, and where a run goes on past it
      assert PEAK * 0.25 == at(n, schedule=name, end_fraction=0.25, warmup_steps=10)
  assert PEAK * 0.5 == at(60, schedule="linear", warmup_steps=20, end_fraction=0.0)
  assert PEAK * 0.5 == at(60, schedule="cosine", warmup_steps=20, end_fraction=0.0)
  assert PEAK * (0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2) == at(40, schedule="cosine", warmup_steps=20)
  assert PEAK == at(80, schedule="wsd", warmup_steps=20) and PEAK * 0.55 == at(90, schedule="wsd", warmup_steps=20)
  assert PEAK == at(60, schedule="wsd", decay_steps=40) and PEAK * 0.55 == at(80, schedule="wsd", decay_steps=40)
  assert PEAK == at(100, schedule="constant")
  assert PEAK / 2 == at(79, schedule="inverse_sqrt", warmup_steps=20) and PEAK / 10 == at(99, schedule="inverse_sqrt")


def test_schedules_survive_a_run_that_is_all_warm_up():
  for name in ("linear", "cosine", "wsd"):
    values = rates(5, schedule=name, warmup_steps=5)
    assert values[4] == pytest.approx(PEAK) and np.isfinite(values).all()


@pytest.mark.parametrize(
  "cls, fields, key",
  [
    (optim.AdamW, dict(b2=1.0), "b2"),
    (optim.AdamW, dict(decay_steps=10), "decay_steps"),
    (optim.AdamW, dict(clip_norm=0.0), "clip_norm"),
    (optim.AdamW, dict(end_fraction=1.5), "end_fraction"),
    (optim.Lion, dict(b1=-0.1), "b1"),
    (optim.SGD, dict(momentum=None, nesterov=True), "nesterov"),
    (optim.Adafactor, dict(decay_rate=0.0), "decay_rate"),
    (optim.Adafactor, dict(clip_rms=-1.0), "clip_rms"),
    (optim.Muon, dict(iterations=0), "iterations"),
    (optim.Muon, dict(adam_b2=2.0), "adam_b2"),
  ],
)
def test_a_wrong_optimizer_cannot_exist(cls, fields, key):
  with pytest.raises(Wrong) as wrong:
    cls(**fields)
  assert [problem[0] for problem in wrong.value.problems] == [key]


DEPTHS = {"embed": 5, "blocks/attention/q": (4, 3, 2, 1), "blocks/scale": (4, 3, 2, 1), "unembed": 0}


def one_update(config, count=1):
  """The last of `count` updates of SGD, whose gradients are 1, by path."""
  params = placed(tree(0))
  tx, ones = optim.make(config, DECLARATIONS), jax.tree.map(jnp.ones_like, params)
  state = tx.init(params)
  for _ in range(count):
    updates, state = tx.update(ones, state, params)
  return by_path(updates)


PLAIN = dict(momentum=None, clip_norm=None)


def test_each_layer_down_learns_slower_by_the_same_factor(one_device):
  found = one_update(optim.SGD(**PLAIN, layer_decay=0.5))
  for path, depths in DEPTHS.items():
    want = 0.5 ** np.reshape(depths, (-1, *(1 for _ in found[path].shape[1:])) if np.ndim(depths) else ())
    np.testing.assert_allclose(found[path], np.broadcast_to(want, found[path].shape), rtol=1e-6)


def test_layers_thaw_from_the_top(one_device):
  for count in (1, 3, 5, 11):  # the count of updates done before the last is one less
    found = one_update(optim.SGD(**PLAIN, unfreeze_every=2), count)
    for path, depths in DEPTHS.items():
      open_ = (
        np.reshape(depths, (-1, *(1 for _ in found[path].shape[1:])) if np.ndim(depths) else ()) * 2 <= count - 1
      )
      np.testing.assert_array_equal(found[path], np.broadcast_to(open_, found[path].shape).astype(np.float32))


def test_the_norm_that_is_clipped_is_of_what_trains(one_device):
  every = {path: x for path, x in one_update(optim.SGD(momentum=None, clip_norm=1.0, unfreeze_every=5)).items()}
  norm = np.sqrt(sum(float(jnp.sum(x * x)) for x in every.values()))
  np.testing.assert_allclose(norm, 1.0, rtol=1e-5)
  assert not np.any(every["embed"]) and np.all(every["unembed"])


def test_a_decay_to_the_start_pulls_back_there(one_device):
  start, moved = placed(tree(0)), placed(tree(1))
  tx = optim.make(optim.SGD(**PLAIN, start_decay=0.1), DECLARATIONS)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, start), tx.init(start), moved)
  for path, u in by_path(updates).items():
    np.testing.assert_allclose(u, 0.1 * (by_path(moved)[path] - by_path(start)[path]), rtol=1e-5, atol=1e-6)
