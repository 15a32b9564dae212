"""Laws of every kind of text family: the same numbers scanned, unrolled and unstacked, on one device and on eight;

who sees whom; what the heads stand on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.laws import Wrong
from fmjax.models import Model
from fmjax.objectives import NextToken

SIZES = dict(V=99, D=48, L=3, N=6, H=8, max_positions=32)
ENCODER = dict(kind="encoder", norm_place="post", token_types=2, embedding_norm=True, output_transform=True)
ROTARY = dict(norm="rms", positions="rotary", bias=False, gated=True, activation="silu")
FAMILIES = {
  "bert": dict(**ENCODER, output_bias=True, pooler="tanh", head="sequence", classes=2),
  "albert": dict(**ENCODER, R=16, shared_layers=True),
  "qwen": dict(**ROTARY, K=2, qkv_bias=True, qk_norm=True, rotary_scaling=(8.0, 1.0, 4.0, 16.0)),
  "mistral": dict(**ROTARY, K=2, window=4, tied=False),
  "gemma": dict(**ROTARY | dict(norm="rms_plus_one"), K=2, norm_place="both", window=4, window_layers=(0, 2),
                rotary_local_base=100.0, attention_softcap=5.0, output_softcap=3.0, embedding_scale=True),
  "t5": dict(kind="encoder_decoder", source_L=2, norm="rms", positions="relative", bias=False, attention_scale=1.0,
             output_scale=0.2, relative_buckets=8, relative_distance=10),
  "bart": dict(kind="encoder_decoder", norm_place="post", first_position=2, embedding_norm=True, output_bias=True),
  "marian": dict(kind="encoder_decoder", norm_place="post", positions="sinusoidal", embedding_scale=True),
}  # fmt: skip
FAMILIES = {name: TransformerConfig(**SIZES, **fields) for name, fields in FAMILIES.items()}


def batch_of(config, rows=4, T=12, S=7):
  rng = np.random.default_rng(0)
  batch = dict(tokens=rng.integers(0, 99, (rows, T), dtype=np.int32))
  if config.kind == "encoder_decoder":
    lengths = rng.integers(2, S + 1, (rows, 1))
    batch["source_tokens"] = rng.integers(0, 99, (rows, S), dtype=np.int32)
    batch["source_segments"] = (np.arange(S)[None] < lengths).astype(np.int32)
  return batch


def parameters(config):
  """Large ones: at init biases and some maps are too near zero to be missed."""
  model = Model(config)

  def make(key):
    return jax.tree.map(
      lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), model.init(key)
    )

  return jax.device_get(jax.jit(make)(jax.random.key(0)))


@pytest.fixture(scope="module")
def found(on):
  """name -> (parameters, hidden of one device and scanned layers), made once."""
  made = {}

  def of(name):
    if name not in made:
      with on():
        params = parameters(FAMILIES[name])
        hidden = jax.jit(Model(FAMILIES[name]).apply)(params, batch_of(FAMILIES[name])).hidden
        made[name] = params, np.asarray(hidden)
    return made[name]

  return of


@pytest.mark.parametrize("name", FAMILIES)
def test_scanned_equals_unrolled_equals_unstacked(name, found, on):
  config, (params, expected) = FAMILIES[name], found(name)
  unrolled = Model(dataclasses.replace(config, scan_layers=False))
  with on():
    for model, tree in ((unrolled, params), (Model(config), unrolled.unstack(params))):
      got = jax.jit(model.apply)(tree, batch_of(config)).hidden
      np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_on_eight_devices_equals_one(name, found, on):
  config, params = FAMILIES[name], found(name)[0]
  model, batch = Model(config), batch_of(config)
  batch |= dict(targets=np.roll(batch["tokens"], -1, 1), weights=np.ones((4, 12), np.float32))
  step = jax.value_and_grad(lambda p: NextToken().loss(model, p, batch, None, False)[0])
  with on():
    run, noise = jax.jit(step), np.random.default_rng(0)
    alone = jax.device_get(run(params))
    ulps = jax.tree.map(lambda x: np.float32(1 + noise.uniform(-(2**-24), 2**-24, x.shape)), params)
    nudged = jax.device_get(run(jax.tree.map(lambda x, ulp: np.asarray(x) * ulp, params, ulps)))[1]
  with on(data=2, fsdp=2, tensor=2):
    mesh, like = jax.sharding.get_mesh(), jax.eval_shape(model.init, jax.random.key(0))
    at_rest = jax.tree.map(lambda x: jax.NamedSharding(mesh, x.sharding.spec), like)
    together = jax.jit(step)(jax.device_put(params, at_rest))
    jax.tree.map(
      lambda x, where: np.testing.assert_(x.sharding.is_equivalent_to(where, x.ndim)), together[1], at_rest
    )
  np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)

  def same(a, b, nudged):  # beyond 1e-4, by no more than twice what rounding the parameters anew changes
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 + 2 * np.abs(nudged - b).max())

  jax.tree.map(same, jax.device_get(together[1]), alone[1], nudged)


@pytest.mark.parametrize("name", FAMILIES)
def test_declarations_name_every_parameter(name, found, on):
  leaves = jax.tree_util.tree_leaves_with_path(found(name)[0])
  shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
  with on():
    table = Model(FAMILIES[name]).declarations()
  assert set(table) == set(shapes)
  assert all(len(table[path].letters) == len(shapes[path]) for path in shapes)
  stacked = [path for path, one in table.items() if "blocks/" in path and one.letters[0] == "L"]
  assert bool(stacked) != (name == "albert")


def reached(name, found, position, what="tokens"):
  """The places of `what` on which the hidden state at `position` of the first row depends."""
  config, (params, _) = FAMILIES[name], found(name)
  batch = batch_of(config, rows=1)
  model, places = Model(config), batch[what].shape[1]

  state = jax.jit(lambda ids: model.apply(params, {**batch, what: ids}).hidden[0, position])

  changed = np.repeat(batch[what], places, 0)
  changed[np.arange(places), np.arange(places)] = (changed[np.arange(places), np.arange(places)] + 1) % 99
  base = np.asarray(state(batch[what]))
  return [place for place in range(places) if np.abs(state(changed[place : place + 1]) - base).max() > 1e-6]


def test_who_sees_whom(found, on):
  with on():
    assert reached("bert", found, 4) == list(range(12))
    assert reached("qwen", found, 4) == list(range(5))
    assert reached("t5", found, 4) == list(range(5))
    # Three layers that each look three tokens back.
    assert reached("mistral", found, 11) == list(range(2, 12))
    # A layer without a window among them sees all.
    assert reached("gemma", found, 11) == list(range(12))
    real = int(batch_of(FAMILIES["t5"], rows=1)["source_segments"].sum())
    for name in ("t5", "bart", "marian"):
      assert reached(name, found, 4, "source_tokens") == list(range(real)), name


def test_a_source_is_encoded_once(found, on):
  config, (params, expected) = FAMILIES["bart"], found("bart")
  model, batch = Model(config), batch_of(FAMILIES["bart"])
  with on():
    source, _ = jax.jit(model.encode)(params, batch)
    given = dict(tokens=batch["tokens"], source=source, source_segments=batch["source_segments"])
    np.testing.assert_allclose(jax.jit(model.apply)(params, given).hidden, expected, rtol=1e-5, atol=1e-5)


def test_the_pooled_token(on):
  hidden_BTD = jnp.arange(2 * 5 * 48, dtype=jnp.float32).reshape(2, 5, 48)
  config = dataclasses.replace(FAMILIES["mistral"], head="sequence", classes=3, head_bias=False, pool="last")
  segments_BT = jnp.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
  with on():
    model = Model(config)
    np.testing.assert_array_equal(model.pooled({}, hidden_BTD, {}), hidden_BTD[:, -1])
    last = model.pooled({}, hidden_BTD, dict(segments=segments_BT))
    np.testing.assert_array_equal(last, hidden_BTD[[0, 1], [2, 4]])
    given = model.pooled({}, hidden_BTD, dict(segments=segments_BT, pool=jnp.array([1, 3])))
    np.testing.assert_array_equal(given, hidden_BTD[[0, 1], [1, 3]])
    first = Model(dataclasses.replace(config, pool="first")).pooled({}, hidden_BTD, {})
    np.testing.assert_array_equal(first, hidden_BTD[:, 0])


def test_heads_are_part_of_the_model(found, on):
  config, (params, hidden_BTD) = FAMILIES["bert"], found("bert")
  model = Model(config)
  with on():
    params, hidden_BTD = jax.device_put(params), jnp.asarray(hidden_BTD)
    pooler, head = (jax.device_get(params[name]) for name in ("pooler", "head"))
    expected = np.tanh(np.asarray(hidden_BTD)[:, 0] @ pooler["dense"] + pooler["dense_bias"])
    expected = expected @ head["classes"] + head["classes_bias"]
    np.testing.assert_allclose(model.classify(params, hidden_BTD, {}), expected, rtol=1e-4, atol=1e-5)
    z_BTV = model.logits(params, hidden_BTD)
  assert z_BTV.shape == (4, 12, 128) and np.isneginf(z_BTV[..., 99:]).all()


@pytest.mark.parametrize(
  ("fields", "key"),
  [
    (dict(head="token"), "classes"),
    (dict(classes=3), "classes"),
    (dict(window=4, kind="encoder"), "window"),
    (dict(window_layers=(0,)), "window_layers"),
    (dict(window=4, window_layers=(0, 9)), "window_layers"),
    (dict(rotary_local_base=100.0), "rotary_local_base"),
    (dict(source_L=2), "source_L"),
    (dict(kind="encoder_decoder", shared_layers=True), "shared_layers"),
    (dict(positions="sinusoidal", D=33, H=8), "D"),
  ],
)
def test_a_model_that_cannot_be_is_refused(fields, key):
  with pytest.raises(Wrong) as caught:
    TransformerConfig(**SIZES | fields)
  assert [problem[0] for problem in caught.value.problems] == [key]
