"""The room equals its slow truth, on one device and on eight; the choice of kernel follows the call's facts."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.config import MESH_AXES
from fmjax.kernels import attention as room
from fmjax.kernels.attention import announce, attention, choose, reference, saveable
from fmjax.sharding import flow

B, T, S, N, K, H = 8, 12, 12, 4, 2, 8


def qkv(seed=0, S=S, K=K):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H)
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


def packed(T):
  """Segment ids of two packed examples and a tail of padding."""
  return jnp.broadcast_to(jnp.where(jnp.arange(T) < T // 3, 1, jnp.where(jnp.arange(T) < T - 3, 2, 0)), (B, T))


def value_and_grads(f, q, k, v, **call):
  """(o, the gradients of a fixed random projection of o), jitted."""
  w = jax.random.normal(jax.random.key(9), q.shape)

  def loss(q, k, v):
    o = f(q, k, v, **call)
    return (o * flow(w, "BTNH")).sum() if f is attention else (o * w).sum(), o

  (_, o), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
  return [o, *grads]


def close(got, want, rtol=1e-5):
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=rtol, atol=rtol)


def bias_NTS(N=N):
  return jax.random.normal(jax.random.key(3), (N, T, S))


def prefix(T):
  """Prefixes of `packed`'s two examples, longer in every other row."""
  places, longer = jnp.arange(T)[None], jnp.arange(B)[:, None] % 2
  return ((places < 2 + longer) | ((places >= T // 3) & (places < T // 3 + 3 + longer))).astype(jnp.int32)


def learned(P=3):
  return tuple(jax.random.normal(key, (P, K, H)) for key in jax.random.split(jax.random.key(5)))


CALLS = {
  "causal": dict(causal=True),
  "learned": dict(causal=True, learned=learned(), segments=(packed(T), packed(S)), window=4, bias=bias_NTS(1)),
  "learned of all": dict(causal=False, learned=learned(), softcap=2.0),
  "padded": dict(causal=False, segments=(packed(T), packed(S))),
  "window": dict(causal=True, window=3),
  "window of packed": dict(causal=True, window=4, segments=(packed(T), packed(S))),
  "prefix": dict(causal=True, prefix=prefix(T)),
  "prefix of packed": dict(causal=True, segments=(packed(T), packed(S)), prefix=prefix(T), window=2),
  "softcap": dict(causal=False, softcap=2.0, scale=0.7),
  "bias": dict(causal=True, bias=bias_NTS(1)),
  "all": dict(causal=True, segments=(packed(T), packed(S)), bias=bias_NTS(), softcap=3.0, dropout=0.1,
              key=jax.random.key(6)),
}  # fmt: skip


def mesh_of(**sizes):
  sizes = [sizes.get(axis, 1) for axis in MESH_AXES]
  return jax.make_mesh(tuple(sizes), MESH_AXES, devices=jax.devices()[: int(np.prod(sizes))])


@pytest.mark.parametrize("name", CALLS)
def test_equals_the_slow_truth(name, one_device):
  close(value_and_grads(attention, *qkv(), **CALLS[name]), value_and_grads(reference, *qkv(), **CALLS[name]))


@pytest.mark.parametrize("K", [1, 4])
def test_every_grouping_of_heads(K, one_device):
  close(value_and_grads(attention, *qkv(K=K), causal=True), value_and_grads(reference, *qkv(K=K), causal=True))


def test_other_lengths_of_keys(one_device):
  call = dict(causal=False, segments=(jnp.ones((B, T), int), jnp.broadcast_to(jnp.arange(5) < 3, (B, 5)) * 1))
  close(value_and_grads(attention, *qkv(S=5), **call), value_and_grads(reference, *qkv(S=5), **call))


@pytest.mark.parametrize("name", ["causal", "bias", "prefix of packed", "learned", "all"])
def test_eight_devices_equal_one(name):
  with jax.set_mesh(mesh_of()):
    one = value_and_grads(attention, *qkv(), **CALLS[name])
  with jax.set_mesh(mesh_of(data=2, fsdp=2, tensor=2)):
    q, k, v = (flow(x, letters) for x, letters in zip(qkv(), ("BTNH", "BSKH", "BSKH")))
    eight = value_and_grads(attention, q, k, v, **CALLS[name])
    assert eight[0].sharding.spec == q.sharding.spec and eight[2].sharding.spec == k.sharding.spec
  close(eight, one)


def test_no_gradient_from_the_future(one_device):
  q, k, v = qkv()

  @jax.jit
  def grads(k, v, t):
    at = jnp.arange(T)[None, :, None, None] == t
    return jax.grad(lambda k, v: jnp.where(at, attention(q, k, v, causal=True), 0).sum(), argnums=(0, 1))(k, v)

  for t in (0, 5):
    for grad in grads(k, v, t):
      assert not np.any(np.asarray(grad)[:, t + 1 :])
      assert t == 0 or np.all(np.any(np.asarray(grad)[:, t], -1))


BLOCKS = ["causal", "window", "window of packed", "prefix of packed", "learned", "all but dropout"]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_queries_equal_the_slow_truth(name, one_device, monkeypatch):
  monkeypatch.setattr(room, "MIN_ROWS", 5)  # T = 12: two whole blocks and a short one
  call = CALLS["all"] | dict(key=None) if name == "all but dropout" else CALLS[name]
  close(value_and_grads(attention, *qkv(), **call), value_and_grads(reference, *qkv(), **call))


def test_packed_equals_unpacked(one_device):
  q, k, v = qkv()
  attend = jax.jit(functools.partial(attention, causal=True))
  whole = attend(q, k, v, segments=(packed(T), packed(T)))
  for piece in (slice(0, T // 3), slice(T // 3, T - 3)):
    alone = attend(q[:, piece], k[:, piece], v[:, piece])
    np.testing.assert_allclose(whole[:, piece], alone, rtol=1e-5, atol=1e-6)


def test_a_prefix_is_seen_by_all_of_its_segment_and_by_none_else(one_device):
  q, k, v = qkv()
  ids, free = packed(T), prefix(T)

  @jax.jit
  def seen(t):
    at = jnp.arange(T)[None, :, None, None] == t
    attend = functools.partial(attention, causal=True, segments=(ids, ids), prefix=free)
    return jnp.any(jax.grad(lambda v: jnp.where(at, attend(q, k, v), 0).sum())(v) != 0, axis=(2, 3))

  near = np.tril(np.ones((T, T), bool)) | (np.asarray(free) != 0)[:, None]
  same = (np.asarray(ids)[:, :, None] == np.asarray(ids)[:, None]) & (np.asarray(ids) != 0)[:, :, None]
  np.testing.assert_array_equal(np.stack([seen(t) for t in range(T)], 1), near & same)


def test_padding_is_zero_and_takes_no_gradient(one_device):
  ids = packed(T).at[0].set(0)  # the first example is padding alone
  o, *grads = value_and_grads(attention, *qkv(), causal=False, segments=(ids, ids))
  ids = np.asarray(ids)
  for x in map(np.asarray, (o, *grads)):
    assert np.all(np.isfinite(x)) and not np.any(x[ids == 0]) and np.any(x[ids != 0])


def test_dropout_keeps_the_mean_and_drops_the_share(one_device):
  q = jnp.zeros((B, T, N, H))  # every probability is 1 / S, so o counts the places kept
  v = jnp.ones((B, S, K, H))
  o = jax.jit(functools.partial(attention, causal=False, dropout=0.25))(q, qkv()[1], v, key=jax.random.key(1))
  kept = np.asarray(o[..., 0]) * 0.75 * S
  np.testing.assert_allclose(kept, np.round(kept), atol=1e-4)
  places = B * T * N * S
  assert abs(kept.sum() / places - 0.75) < 4 * (0.75 * 0.25 / places) ** 0.5


def test_no_dropout_without_a_key_or_a_rate(one_device):
  attend = jax.jit(functools.partial(attention, causal=True), static_argnames="dropout")
  want = attend(*qkv())
  np.testing.assert_array_equal(want, attend(*qkv(), dropout=0.5))
  np.testing.assert_array_equal(want, attend(*qkv(), dropout=0.0, key=jax.random.key(1)))


def test_sixteen_bits_keep_a_float32_softmax(one_device):
  q, k, v = (x.astype(jnp.bfloat16) for x in qkv())
  q = 8 * q  # logits that sixteen bits would round by a tenth
  o = attention(q, k, v, causal=True, scale=1.0)
  assert o.dtype == jnp.bfloat16
  np.testing.assert_allclose(o.astype(jnp.float32), reference(q, k, v, causal=True, scale=1.0), atol=2e-2)


def test_wrong_calls_are_refused(one_device):
  with pytest.raises(ValueError, match="T=12 and S=5"):
    attention(*qkv(S=5), causal=True)
  with pytest.raises(ValueError, match="N=4 .* K=3"):
    attention(*qkv(K=3), causal=True)
  with pytest.raises(ValueError, match="window"):
    attention(*qkv(), causal=False, window=3)
  with pytest.raises(ValueError, match="prefix"):
    attention(*qkv(), causal=False, prefix=prefix(T))


def test_a_traced_window_is_the_number_it_holds(one_device):
  q, k, v = qkv()
  traced = jax.jit(lambda window: attention(q, k, v, causal=True, window=window))
  for window in (1, 5, 100):
    close([traced(window)], [reference(q, k, v, causal=True, window=window)])


@pytest.mark.parametrize("mesh", [{}, dict(data=2, tensor=2)], ids=str)
def test_one_query_of_grouped_heads(mesh):
  q, k, v = qkv()
  ids_B1, ids_BS = jnp.ones((B, 1), jnp.int32), (jnp.arange(S) < 7)[None] * jnp.ones((B, 1), jnp.int32)
  call = dict(causal=False, segments=(ids_B1, ids_BS), softcap=2.0)
  want = reference(q[:, :1], k, v, **call)
  with jax.set_mesh(mesh_of(**mesh)):
    args = flow(q[:, :1], "BTNH"), flow(k, "BSKH"), flow(v, "BSKH")
    text = jax.jit(lambda *args: attention(*args, **call)).lower(*args).as_text()
    close([attention(*args, **call)], [want])
  assert f"{B}x{N}x{S}x{H}" not in text  # no key is repeated for its group


FACTS = dict(T=256, S=256, H=64, dtype=jnp.bfloat16, bias=False, softcap=False, dropout=False)


@pytest.mark.parametrize(
  ("platform", "change", "name", "why"),
  [
    ("cpu", {}, "xla", "cpu"),
    ("gpu", {}, "cudnn", "gpu"),
    ("gpu", dict(bias=True), "cudnn", "gpu"),
    ("gpu", dict(dtype=jnp.float16), "cudnn", "gpu"),
    ("gpu", dict(dtype=jnp.float32), "xla", "16 bits, not float32"),
    ("gpu", dict(H=100), "xla", "H=100"),
    ("gpu", dict(H=256), "xla", "H=256"),
    ("gpu", dict(T=197, S=197), "xla", "T=197"),
    ("gpu", dict(softcap=True), "xla", "soft cap"),
    ("gpu", dict(dropout=True), "xla", "seed"),
    ("gpu", dict(traced=True), "xla", "scan_layers"),
    ("gpu", dict(prefix=True), "xla", "cudnn's causal mask has no prefix"),
    ("tpu", dict(prefix=True), "xla", "splash's causal mask has no prefix"),
    ("tpu", {}, "splash", "tpu"),
    ("tpu", dict(softcap=True, dtype=jnp.float32), "splash", "tpu"),
    ("tpu", dict(dtype=jnp.float16), "xla", "float16"),
    ("tpu", dict(S=200), "xla", "S=200"),
    ("tpu", dict(bias=True), "xla", "bias"),
    ("tpu", dict(dropout=True), "xla", "dropout"),
  ],
)
def test_the_choice_follows_the_facts(platform, change, name, why):
  got, reason = choose(platform, **FACTS | change)
  assert got == name and why in reason


def test_the_choice_is_logged_once(one_device, caplog):
  announce.cache_clear()
  with caplog.at_level(logging.INFO, "fmjax"):
    for _ in range(2):
      attention(*qkv(), causal=True)
  assert [r.message for r in caplog.records] == ["attention: xla (no fused kernel for cpu)"]


def test_a_policy_keeps_the_result(one_device):
  q, k, v = qkv()

  def kept(policy):
    f = jax.checkpoint(lambda q: attention(q, k, v, causal=True) ** 3, policy=policy)
    return len(jax.tree.leaves(jax.vjp(f, q)[1]))

  assert kept(saveable) == kept(jax.checkpoint_policies.nothing_saveable) + 1
