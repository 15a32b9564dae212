"""Laws of the one Transformer: causality, scan == unrolled, remat == plain, the same bits and numbers on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.models import Model

# Wide enough that eight shards of an innermost axis keep 16 lanes each.
SIZES = dict(V=100, D=128, L=2, N=4, max_positions=16)
GPT = TransformerConfig(**SIZES)
LLAMA = TransformerConfig(
  **SIZES, K=2, norm="rms", activation="silu", gated=True, bias=False, positions="rotary", tied=False
)
MESHES = (dict(fsdp=8), dict(data=8), dict(data=2, tensor=4), dict(data=2, fsdp=2, tensor=2))


def tokens(batch=8, length=16, seed=0):
  return np.random.default_rng(seed).integers(0, 100, (batch, length), dtype=np.int32)


def logits(config, params, t_BT, **how):
  model = Model(config, **how)
  return model.logits(params, model.apply(params, dict(tokens=jnp.asarray(t_BT))).hidden)


def loss(config, params, t_BT, **how):
  model = Model(config, **how)
  hidden_BTD = model.apply(params, dict(tokens=jnp.asarray(t_BT)), key=jax.random.key(1), train=True).hidden
  return jnp.sum(jnp.sin(hidden_BTD.astype(jnp.float32)))


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_no_logit_depends_on_a_later_token(config, on):
  with on():
    params = jax.jit(Model(config).init)(jax.random.key(0))
    table_VD = params["embed"]["tokens"]
    t_BT = np.arange(8)[None]  # each token once: a row of the table stands for a position

    def one(table_VD, here_BTD):
      changed = {**params, "embed": {"outputs": table_VD, **params["embed"], "tokens": table_VD}}
      model = Model(dataclasses.replace(config, tied=False))
      hidden_BTD = model.apply(changed, dict(tokens=jnp.asarray(t_BT))).hidden
      return jnp.sum(hidden_BTD**3 * here_BTD)

    gradient = jax.jit(jax.grad(one))
    for position in (0, 3):
      here_BTD = np.broadcast_to((np.arange(8) == position)[None, :, None], (1, 8, 128)).astype(np.float32)
      touched = np.abs(gradient(table_VD, here_BTD))[:8].sum(1) > 0
      assert touched[: position + 1].all() and not touched[position + 1 :].any()


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_scanned_equals_unrolled(config, on):
  with on():
    params = jax.jit(Model(config).init)(jax.random.key(0))
    flat = dataclasses.replace(config, scan_layers=False)
    value, grad = jax.jit(jax.value_and_grad(lambda p: loss(config, p, tokens())))(params)
    other, other_grad = jax.jit(jax.value_and_grad(lambda p: loss(flat, p, tokens())))(params)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grad, other_grad)


def test_the_unrolled_program_has_no_loop_over_layers(on):
  with on():
    params = jax.eval_shape(Model(GPT).init, jax.random.key(0))
    texts = [
      jax.jit(lambda p, c=c: loss(c, p, tokens())).lower(params).as_text()
      for c in (GPT, dataclasses.replace(GPT, scan_layers=False))
    ]
    assert "while" in texts[0] and "while" not in texts[1]


@pytest.mark.parametrize("remat", ["full", "dots", "attention"])
def test_remat_changes_memory_and_nothing_else(remat, on):
  dropped = dataclasses.replace(GPT, dropout=0.2)
  with on():
    params = jax.jit(Model(GPT).init)(jax.random.key(0))

    def compiled(how):
      return jax.jit(jax.value_and_grad(lambda p: loss(dropped, p, tokens(), remat=how))).lower(params).compile()

    plain, saving = compiled("none"), compiled(remat)
    (a, grad), (b, other) = plain(params), saving(params)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), grad, other)
    assert plain.as_text() != saving.as_text()


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_init_is_the_same_bits_on_every_mesh(config, on):
  with on():
    alone = jax.device_get(jax.jit(Model(config).init)(jax.random.key(7)))
  for mesh in MESHES:
    if mesh.get("tensor", 1) > config.K:
      continue
    with on(**mesh):
      params = jax.jit(Model(config).init)(jax.random.key(7))
      assert any(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(params))
      jax.tree.map(np.testing.assert_array_equal, alone, jax.device_get(params))


def test_weights_rest_where_the_alphabet_says(on):
  with on(fsdp=2, tensor=4):
    params = jax.jit(Model(GPT).init)(jax.random.key(0))
    spec = {k: params["blocks"]["attention"][k].sharding.spec for k in ("q", "o")}
    assert spec == dict(q=jax.P(None, "fsdp", "tensor", None), o=jax.P(None, "tensor", None, "fsdp"))
    assert params["blocks"]["feedforward"]["up"].sharding.spec == jax.P(None, "fsdp", "tensor")
    assert params["embed"]["tokens"].sharding.spec == jax.P("tensor", "fsdp")


def test_declarations_name_every_parameter_and_its_matrix(on):
  with on():
    model = Model(LLAMA)
    table = model.declarations()
    params = jax.eval_shape(model.init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
  assert set(table) == set(paths)
  assert all(len(table[path].letters) == paths[path].ndim for path in paths)
  q, o = table["blocks/attention/q"], table["blocks/attention/o"]
  assert (q.letters, q.ins, q.outs, q.kind) == ("LDNH", "D", "NH", "matrix")
  assert (o.letters, o.ins, o.outs) == ("LNHD", "NH", "D")
  assert table["embed/outputs"].kind == "embedding" and table["final_norm/scale"].kind == "vector"


def test_fan_in_sets_the_scale_of_a_map(on):
  with on():
    params = jax.jit(Model(GPT).init)(jax.random.key(0))["blocks"]
    assert np.std(params["attention"]["q"]) == pytest.approx(128**-0.5, rel=0.05)
    # Maps onto the residual stream start smaller by 1 / sqrt(2 L).
    assert np.std(params["feedforward"]["down"]) == pytest.approx(512**-0.5 / 2, rel=0.05)


def test_ids_that_pad_the_vocabulary_are_never_likely(on):
  with on():
    params = jax.jit(Model(GPT).init)(jax.random.key(0))
    z_BTV = logits(GPT, params, tokens(1))
    assert z_BTV.shape[-1] == 128
    assert np.isneginf(z_BTV[..., 100:]).all() and np.isfinite(z_BTV[..., :100]).all()


def test_positions_given_are_positions_used(on):
  with on():
    for config in (GPT, LLAMA):
      model, t_BT = Model(config), jnp.asarray(tokens(1))
      params = jax.jit(model.init)(jax.random.key(0))
      arange = jnp.arange(16, dtype=jnp.int32)[None]
      plain = model.apply(params, dict(tokens=t_BT)).hidden
      np.testing.assert_array_equal(plain, model.apply(params, dict(tokens=t_BT, positions=arange)).hidden)
      # Rotary positions are relative: a common shift changes nothing; learned ones are not.
      shifted = model.apply(params, dict(tokens=t_BT[:, :8], positions=arange[:, :8] + 3)).hidden
      close = np.allclose(plain[:, :8], shifted, atol=1e-4)
      assert close == (config.positions == "rotary")


def test_packed_documents_do_not_see_each_other(on):
  with on():
    for config in (GPT, LLAMA):
      model, t_BT = Model(config), jnp.asarray(tokens(1))
      params = jax.jit(model.init)(jax.random.key(0))
      positions = jnp.concatenate([jnp.arange(6), jnp.arange(10)])[None].astype(jnp.int32)
      segments = jnp.where(jnp.arange(16) < 6, 1, 2)[None].astype(jnp.int32)
      packed = model.apply(params, dict(tokens=t_BT, positions=positions, segments=segments)).hidden
      alone = model.apply(params, dict(tokens=t_BT[:, 6:])).hidden
      np.testing.assert_allclose(packed[:, 6:], alone, rtol=1e-4, atol=1e-5)


def test_dropout_works_in_training_with_a_key_only(on):
  with on():
    config = dataclasses.replace(GPT, dropout=0.5)
    model, batch = Model(config), dict(tokens=jnp.asarray(tokens(2)))
    params = jax.jit(model.init)(jax.random.key(0))
    off = model.apply(params, batch).hidden
    one, two = (model.apply(params, batch, key=jax.random.key(k), train=True).hidden for k in (1, 2))
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(off, model.apply(params, batch, key=jax.random.key(1), train=False).hidden)
