"""Laws of adapting a model: it begins as the base, what rests stays, merged == unmerged, any mesh == one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import optim
from fmjax.adapt import METHODS, Adaptation, joined
from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path, nested
from fmjax.models import Model
from fmjax.objectives import NextToken, SequenceToSequence
from fmjax.step import place, started, train_step

SIZES = dict(V=100, D=64, L=2, N=4, max_positions=16)
MODELS = {
  "gpt": TransformerConfig(**SIZES),
  "llama": TransformerConfig(**SIZES, K=2, norm="rms", activation="silu", gated=True, bias=False, positions="rotary"),
  "t5": TransformerConfig(**SIZES, kind="encoder_decoder", norm="rms", bias=False, activation="relu",
                          positions="relative"),
  "albert": TransformerConfig(**SIZES, shared_layers=True, R=32),
}  # fmt: skip
ALL = ("q", "k", "v", "o", "up", "down")
KINDS = {
  "head": dict(name="head"),
  "bitfit": dict(name="bitfit"),
  "lora": dict(name="lora", rank=4),
  "lora-all": dict(name="lora", rank=4, targets=ALL, rank_stabilised=True, alpha=3.0),
  "dora": dict(name="lora", rank=4, targets=ALL, dora=True),
  "bottleneck": dict(name="bottleneck", width=8),
  "pfeiffer": dict(name="bottleneck", width=8, after=("down",), norms=False),
  "ia3": dict(name="ia3"),
  "prefix": dict(name="prefix", length=3),
}  # fmt: skip
MERGED = ("lora", "lora-all", "dora", "ia3")
RATE = dict(learning_rate=np.float32(1e-2))


def cases(kinds):
  """(model, kind): every kind on one model, and one kind on every model; the others take minutes."""
  quick = {("gpt", kind) for kind in kinds} | {(name, "lora-all") for name in MODELS}
  every = [(name, kind) for name in MODELS for kind in kinds]
  return [pytest.param(*one, marks=() if one in quick else pytest.mark.slow) for one in every]


def method(kind: str):
  fields = dict(KINDS[kind])
  return METHODS[fields.pop("name")](**fields)


def batch(model: Model) -> dict:
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 100, (8, 17), dtype=np.int32)
  rows = dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((8, 16), np.float32))
  if model.config.kind == "encoder_decoder":
    rows |= dict(source_tokens=rng.integers(0, 100, (8, 16), dtype=np.int32))
    rows |= dict(source_segments=(np.arange(16) < rng.integers(8, 16, (8, 1))).astype(np.int32))
  return rows


def objective(model: Model):
  return SequenceToSequence() if model.config.kind == "encoder_decoder" else NextToken()


@functools.cache
def begun(name: str, kind: str):
  """(adaptation, tx, train_step's and started's jits) of a model and a way to adapt it."""
  model = Model(MODELS[name])
  adaptation = Adaptation(method(kind), model)
  tx = optim.make(optim.AdamW(), adaptation.declarations())
  step = functools.partial(train_step, model=model, objective=objective(model), tx=tx)
  return adaptation, jax.jit(step), jax.jit(functools.partial(started, adaptation=adaptation, tx=tx))


def stirred(params, size=0.1):
  """`params` moved a little, each its own way: what begins at zero is something now."""
  flat = by_path(params)
  rngs = {path: np.random.default_rng(sum(path.encode())) for path in flat}
  return nested({
    path: x + jax.device_put(size * rngs[path].normal(size=x.shape).astype(np.float32), x.sharding)
    for path, x in flat.items()
  })  # fmt: skip


def hidden(model, params):
  return jax.jit(lambda params, batch: model.apply(params, batch).hidden)(params, place(batch(model)))


@pytest.mark.parametrize(("name", "kind"), cases([kind for kind in KINDS if kind != "prefix"]))
def test_an_adapted_model_begins_as_the_base(name, kind, one_device):
  adaptation, _, start = begun(name, kind)
  base = jax.jit(adaptation.model.init)(jax.random.key(0))
  state, resting = start(jax.random.key(1), by_path(base))
  whole = joined(resting, state["params"])
  assert all((x == by_path(whole)[path]).all() for path, x in by_path(base).items())
  np.testing.assert_allclose(hidden(adaptation.model, whole), hidden(adaptation.model, base), rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_rests_stays_and_all_that_trains_moves(kind, one_device):
  adaptation, step, start = begun("gpt", kind)
  state, resting = start(jax.random.key(0), {})
  before, kept = jax.device_get((state["params"], resting))
  state = dict(state, params=stirred(state["params"]))  # at zero, b gives a no gradient
  moved = jax.device_get(state["params"])
  for _ in range(2):
    state, numbers = step(state, place(batch(adaptation.model)), RATE, resting)
  assert np.isfinite(numbers["loss"])
  assert not by_path(before).keys() & by_path(kept).keys()
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), kept, jax.device_get(resting)))
  still = [path for path, x in by_path(state["params"]).items() if (np.asarray(x) == by_path(moved)[path]).all()]
  assert not still


@pytest.mark.parametrize(("name", "kind"), cases(MERGED))
def test_merged_equals_unmerged(name, kind, one_device):
  adaptation, _, start = begun(name, kind)
  state, resting = start(jax.random.key(0), {})
  training = stirred(state["params"])
  model, whole = adaptation.model, joined(resting, training)
  merged = adaptation.whole(resting, training)
  assert by_path(merged).keys() == model.declarations().keys()
  base, apart, together = (hidden(model, params) for params in (joined(resting, state["params"]), whole, merged))
  assert np.abs(apart - base).max() > 0.01
  np.testing.assert_allclose(together, apart, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora-all", "dora", "bottleneck", "ia3", "prefix"])
def test_a_mesh_trains_what_one_device_does(kind, on):
  found = []
  for sizes in (dict(), dict(fsdp=2, tensor=2)):
    with on(**sizes):
      adaptation, step, start = begun("llama", kind)
      state, resting = start(jax.random.key(0), {})
      first = jax.device_get(state["params"])
      state = dict(state, params=stirred(state["params"]))
      state, numbers = step(state, place(batch(adaptation.model)), RATE, resting)
      found.append((first, float(numbers["loss"]), float(numbers["grad_norm"])))
      jax.clear_caches()
  one, many = found
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), one[0], many[0])) or kind == "dora"
  np.testing.assert_allclose(one[1:], many[1:], rtol=1e-5)


def test_a_prefix_is_keys_and_values_that_all_see(one_device):
  """As keys of the text that stand before it, when no position tells them apart and none of them is a query."""
  adaptation, _, start = begun("llama", "prefix")
  state, resting = start(jax.random.key(0), {})
  model = adaptation.model
  own = hidden(model, joined(resting, state["params"]))
  more = hidden(model, joined(resting, stirred(state["params"], 3.0)))
  assert np.abs(own - more).max() > 0.01
  t = batch(model)["tokens"]
  short = jax.jit(lambda params, t: model.apply(params, dict(tokens=t)).hidden)(
    joined(resting, state["params"]), place(dict(tokens=t[:, :5]))["tokens"]
  )
  np.testing.assert_allclose(short, own[:, :5], rtol=0, atol=1e-5)  # causal all the same


def test_lora_drops_its_input_only_while_it_trains(one_device):
  model = Model(MODELS["gpt"])
  adaptation = Adaptation(METHODS["lora"](rank=4, dropout=0.5), model)
  params, resting = jax.jit(adaptation.init)(jax.random.key(0), {})
  whole, rows = joined(resting, stirred(params)), place(batch(model))
  run = jax.jit(lambda key, train: model.apply(whole, rows, key=key, train=train).hidden, static_argnums=1)
  one, other = run(jax.random.key(1), True), run(jax.random.key(2), True)
  assert np.abs(one - other).max() > 1e-3
  assert (run(jax.random.key(1), False) == run(jax.random.key(2), False)).all()


def test_a_target_that_is_nowhere_names_the_nearest(one_device):
  adaptation = Adaptation(METHODS["lora"](targets=("qq",)), Model(MODELS["gpt"]))
  with pytest.raises(FmjaxError, match="did you mean 'q'"):
    adaptation.declarations()


def test_a_pattern_chooses_by_the_whole_path(one_device):
  adaptation = Adaptation(METHODS["lora"](targets=(r"encoder/blocks/.*/[qv]",)), Model(MODELS["t5"]))
  paths = {path.split("_lora")[0] for path in adaptation.declarations() if "_lora/a" in path}
  assert paths == {"encoder/blocks/attention/q", "encoder/blocks/attention/v"}


@pytest.mark.parametrize("kind", ["prefix", "bottleneck"])
def test_a_cached_step_sees_what_the_whole_pass_sees(kind, one_device):
  adaptation, _, start = begun("llama", kind)
  state, resting = start(jax.random.key(0), {})
  model, params = adaptation.model, joined(resting, stirred(state["params"]))
  t_BT = jnp.asarray(batch(model)["tokens"][:, :6])

  def both(params, t_BT):
    full = model.apply(params, dict(tokens=t_BT)).hidden
    cache = model.apply(params, dict(tokens=t_BT[:, :5]), cache=model.init_cache(8, 8)).cache
    last = dict(tokens=t_BT[:, 5:], positions=jnp.full((8, 1), 5))
    return full[:, 5], model.apply(params, last, cache=cache).hidden[:, 0]

  full, step = jax.jit(both)(params, t_BT)
  np.testing.assert_allclose(step, full, rtol=0, atol=2e-5)
