"""Laws of adapting a model: it begins as the base, what rests stays, merged == unmerged, any mesh == one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fmjax import optim
from fmjax.adapt import METHODS, Adaptation, joined
from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path, nested
from fmjax.models import Model
from fmjax.models.linear import Layer
from fmjax.objectives import NextToken, SequenceToSequence
from fmjax.step import place, started, train_step

SIZES = dict(V=100, D=64, L=2, N=4, max_positions=16)
MODELS = {
  "gpt": TransformerConfig(**SIZES),
  "llama": TransformerConfig(**SIZES, K=2, norm="rms", activation="silu", gated=True, bias=False, positions="rotary"),
  "t5": TransformerConfig(**SIZES, kind="encoder_decoder", norm="rms", bias=False, activation="relu",
                          positions="relative"),
  "encoder": TransformerConfig(**SIZES, kind="encoder", positions="rotary", norm_place="post", embedding_norm=True,
                               R=32),
  "scaled": TransformerConfig(**SIZES, kind="encoder", positions="rotary", embedding_scale=True),
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
  "prompt": dict(name="prompt", length=3),
  "mixout": dict(name="full", mixout=0.4),
}  # fmt: skip
MERGED = ("lora", "lora-all", "dora", "ia3", "mixout")
RATE = dict(learning_rate=np.float32(1e-2))


def cases(kinds):
  """(model, kind): every kind on one model, and one kind on every model; the others take minutes."""
  quick = {(model_for(kind), kind) for kind in kinds} | {(name, "lora-all") for name in MODELS}
  every = [(name, kind) for name in MODELS if name not in ("encoder", "scaled") for kind in kinds]
  return [pytest.param(*one, marks=() if one in quick else pytest.mark.slow) for one in every]


def model_for(kind: str) -> str:
  return "t5" if kind == "prompt" else "gpt"


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


@pytest.mark.parametrize(("name", "kind"), cases([kind for kind in KINDS if kind not in ("prefix", "prompt")]))
def test_an_adapted_model_begins_as_the_base(name, kind, one_device):
  adaptation, _, start = begun(name, kind)
  base = jax.jit(adaptation.model.init)(jax.random.key(0))
  state, resting = start(jax.random.key(1), by_path(base))
  whole = joined(resting, state["params"])
  assert all((x == by_path(whole)[path]).all() for path, x in by_path(base).items())
  np.testing.assert_allclose(hidden(adaptation.model, whole), hidden(adaptation.model, base), rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_rests_stays_and_all_that_trains_moves(kind, one_device):
  adaptation, step, start = begun(model_for(kind), kind)
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
@pytest.mark.parametrize("kind", ["lora-all", "dora", "bottleneck", "ia3", "prefix", "prompt", "mixout"])
def test_a_mesh_trains_what_one_device_does(kind, on):
  found = []
  for sizes in (dict(), dict(fsdp=2, tensor=2)):
    with on(**sizes):
      adaptation, step, start = begun("t5" if kind == "prompt" else "llama", kind)
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


def prompted(name: str, length: int = 3):
  """(model, its parameters, those with a prompt), of a model that is moved away from its first parameters."""
  model = Model(MODELS[name])
  adaptation = Adaptation(METHODS["prompt"](length=length), model)
  base = by_path(stirred(jax.jit(model.init)(jax.random.key(0))))
  return model, nested(base), joined(*jax.jit(adaptation.init)(jax.random.key(1), base)[::-1])


@pytest.mark.parametrize("name", ["t5", "encoder", "scaled"])
def test_a_prompt_is_tokens_before_each_text(name, one_device):
  """As if they were the rows of the table of embeddings that it began with, where a token has no position."""
  model, base, whole = prompted(name)
  stack = "encoder/" if name == "t5" else ""
  rows_PD = np.asarray(by_path(whole)[f"{stack}embed/prompt/rows"])
  table_VD = np.asarray(base["embed"]["tokens"])
  ids = [int(np.flatnonzero((table_VD == row).all(1))[0]) for row in rows_PD]  # it begins as tokens' embeddings
  given = place(of_texts(model))
  names = ("source_tokens", "source_segments") if stack else ("tokens", "segments")
  before = dict(zip(names, (np.full((8, 3), ids, np.int32), np.ones((8, 3), np.int32))))
  longer = given | place({key: np.concatenate([x, np.asarray(given[key])], 1) for key, x in before.items()})
  run = jax.jit(lambda params, batch: model.encode(params, batch)[0] if stack else model.apply(params, batch).hidden)
  found, plain = run(whole, given), run(base, given)
  assert np.abs(found - plain).max() > 0.01
  real = np.asarray(given[names[1]]) != 0
  expected = np.asarray(run(base, longer))[:, 3:]
  np.testing.assert_allclose(np.asarray(found)[real], expected[real], rtol=0, atol=2e-5)


def of_texts(model) -> dict:
  """Rows of texts of several lengths."""
  rows = batch(model)
  real = (np.arange(16) < np.arange(9, 17)[:, None]).astype(np.int32)
  return rows if model.config.kind == "encoder_decoder" else dict(tokens=rows["tokens"], segments=real)


def test_hidden_states_are_the_texts_alone_where_there_is_a_prompt(one_device):
  model, _, whole = prompted("encoder")
  found = jax.jit(lambda params, batch: model.apply(params, batch, hiddens=True))(whole, place(of_texts(model)))
  assert found.hidden.shape == (8, 16, 64) and found.hiddens.shape == (3, 8, 16, 64)
  np.testing.assert_array_equal(found.hiddens[-1], found.hidden)  # of a model with its norms behind


def test_a_step_of_mixout_is_of_other_entries_than_the_next(one_device):
  adaptation, _, start = begun("gpt", "mixout")
  state, resting = start(jax.random.key(0), {})
  model, whole = adaptation.model, joined(resting, stirred(state["params"]))
  rows = place(batch(model))
  run = jax.jit(lambda key, train: model.apply(whole, rows, key=key, train=train).hidden, static_argnums=1)
  one, other = run(jax.random.key(1), True), run(jax.random.key(2), True)
  still = [run(jax.random.key(key), False) for key in (1, 2)]
  assert np.abs(one - other).max() > 1e-3 and np.abs(one - still[0]).max() > 1e-3
  np.testing.assert_array_equal(*still)


def test_what_is_new_has_no_start_to_go_back_to(one_device):
  adaptation = Adaptation(method("mixout"), Model(MODELS["gpt"]), frozenset({"blocks/feedforward/up"}))
  beside = {path for path in adaptation.declarations() if "_mixout" in path}
  assert beside and not [path for path in beside if path.startswith("blocks/feedforward/up_")]


class Map(Layer):
  """Gives its own matrix, as it computes with it."""

  @nn.compact
  def __call__(self):
    return self.linear("up", "BTD,DF->BTF", jnp.eye(64)[None], bias=False)[0]


def test_mixout_takes_entries_back_to_the_start_and_keeps_the_mean(one_device):
  rate, rng = 0.4, np.random.default_rng(0)
  start, w = (rng.normal(size=(64, 256)).astype(np.float32) for _ in range(2))
  params = dict(up=w, up_mixout=dict(fixed=start), up_mixout_rate=dict(fixed=np.array([rate], np.float32)))

  def run(train, seed=0):
    layer = Map(MODELS["encoder"], train=train)
    return jax.jit(layer.apply)(dict(params=params), rngs=dict(dropout=jax.random.key(seed)))

  np.testing.assert_allclose(run(False), w, rtol=1e-6)
  found = np.stack([run(True, seed) for seed in range(100)])
  back = np.isclose(found, start, atol=1e-5)
  assert back.mean() == pytest.approx(rate, abs=0.002)
  moved = (w - rate * start) / (1 - rate)
  np.testing.assert_allclose(np.where(back, moved, found), np.broadcast_to(moved, found.shape), rtol=0, atol=1e-5)
  np.testing.assert_allclose(found.mean((0, 2)), w.mean(1), rtol=0, atol=0.05)


def test_a_target_that_is_nowhere_names_the_nearest(one_device):
  adaptation = Adaptation(METHODS["lora"](targets=("qq",)), Model(MODELS["gpt"]))
  with pytest.raises(FmjaxError, match="did you mean 'q'"):
    adaptation.declarations()


def test_a_pattern_chooses_by_the_whole_path(one_device):
  adaptation = Adaptation(METHODS["lora"](targets=(r"encoder/blocks/.*/[qv]",)), Model(MODELS["t5"]))
  paths = {path.split("_lora")[0] for path in adaptation.declarations() if "_lora/a" in path}
  assert paths == {"encoder/blocks/attention/q", "encoder/blocks/attention/v"}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["prefix", "bottleneck"])
def test_a_cached_step_sees_what_the_whole_pass_sees(kind, turned, one_device):
  adaptation, _, start = begun("llama", kind)
  state, resting = start(jax.random.key(0), {})
  model, params = adaptation.model, joined(resting, stirred(state["params"]))
  t_BT = jnp.asarray(batch(model)["tokens"][:, :6])
  own = model.for_decoding(params) if turned else params

  def both(params, own, t_BT):
    full = model.apply(params, dict(tokens=t_BT)).hidden
    empty = model.init_cache(8, 8, stacked=not turned)
    cache = model.apply(own, dict(tokens=t_BT[:, :5]), cache=empty).cache
    last = dict(tokens=t_BT[:, 5:], positions=jnp.full((8, 1), 5))
    return full[:, 5], model.apply(own, last, cache=cache).hidden[:, 0]

  full, step = jax.jit(both)(params, own, t_BT)
  np.testing.assert_allclose(step, full, rtol=0, atol=2e-5)
