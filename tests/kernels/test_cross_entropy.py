"""The chunked loss equals the plain one, in value and gradient, with every term, chunk size and mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.kernels.cross_entropy import Terms, cross_entropy, reference
from fmjax.sharding import flowing, stored

B, T, D, V = 8, 6, 32, 256
TERMS = [
  Terms(200, 0.0, 0.0),
  Terms(200, 0.1, 0.0),
  Terms(200, 0.0, 1e-2),
  Terms(256, 0.1, 1e-2),
  Terms(200, 0.1, 1e-2, 4.0),
]


def operands(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  h_BTD = jnp.asarray(rng.normal(size=(B, T, D)), dtype)
  e_VD = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
  targets_BT = jnp.asarray(rng.integers(0, 200, (B, T)), jnp.int32)
  weights_BT = jnp.asarray(rng.random((B, T)) * (rng.random((B, T)) > 0.3), jnp.float32)
  return h_BTD, e_VD, targets_BT, weights_BT


def both(function, h_BTD, e_VD, targets_BT, weights_BT, *terms):
  def of(h, e):
    sums = function(h, e, targets_BT, weights_BT, *terms)
    return 3 * sums.loss, sums  # the cotangent of the sum is not 1

  return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))(h_BTD, e_VD)


@pytest.mark.parametrize("chunk_bytes", [1 << 30, 7 * V * 4, 1])
@pytest.mark.parametrize("terms", TERMS)
def test_equals_the_plain_loss(terms, chunk_bytes, on):
  with on():
    xs = operands()
    (_, expected), (dh, de) = both(reference, *xs, terms)
    (_, got), (dh2, de2) = both(cross_entropy, *xs, terms, None, chunk_bytes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, got)
    np.testing.assert_allclose(dh, dh2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(de, de2, rtol=1e-4, atol=1e-5)


MESHES = [
  dict(fsdp=2, tensor=2, data=2), dict(tensor=8), dict(fsdp=2, tensor=4),
  dict(data=2, context=4), dict(data=3, fsdp=2),  # these do not divide T, and B
]  # fmt: skip


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_equals_one_device_on_a_mesh(mesh, on):
  h, e, t, w = operands()
  terms = TERMS[3]
  with on():
    (_, expected), (dh, de) = jax.device_get(both(cross_entropy, h, e, t, w, terms, None, 7 * V * 4))
  with on(**mesh):
    h, t, w = (
      jax.reshard(h, flowing("BTD", h.shape)),
      jax.reshard(t, flowing("BT", t.shape)),
      jax.reshard(w, flowing("BT", w.shape)),
    )
    e = jax.reshard(e, stored("VD", e.shape))
    (_, got), (dh2, de2) = both(cross_entropy, h, e, t, w, terms, None, 7 * V * 4)
    assert de2.sharding.spec == e.sharding.spec and dh2.sharding.spec == h.sharding.spec
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, jax.device_get(got))
    np.testing.assert_allclose(dh, dh2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(de, de2, rtol=1e-4, atol=1e-5)


def test_the_logits_are_never_whole(on):
  with on():
    xs = operands()
    text = jax.jit(jax.grad(lambda h, e: cross_entropy(h, e, *xs[2:], TERMS[3], None, 7 * V * 4).loss, (0, 1))).lower(
      *xs[:2]
    )
    assert f"{B * T}x{V}xf32" not in text.as_text() and f"{B}x{T}x{V}xf32" not in text.as_text()
    whole = jax.jit(lambda h, e: reference(h, e, *xs[2:], TERMS[3]).loss).lower(*xs[:2]).as_text()
    assert f"{B * T}x{V}xf32" in whole or f"{B}x{T}x{V}xf32" in whole


def test_accuracy_counts_likeliest_targets(on):
  with on():
    h_BTD, e_VD, _, _ = operands()
    z_BTV = np.einsum("BTD,VD->BTV", h_BTD, e_VD)
    best = jnp.asarray(z_BTV[..., :200].argmax(-1), jnp.int32).at[0].set(0)
    sums = cross_entropy(h_BTD, e_VD, best, jnp.ones((B, T)), TERMS[0])
    assert sums.correct == (z_BTV[..., :200].argmax(-1) == np.asarray(best)).sum()


def test_bfloat16_stays_near_float32(on):
  with on():
    xs = operands()
    (_, exact), (dh, _) = both(reference, *xs, TERMS[0])
    (_, got), (dh2, de2) = both(cross_entropy, xs[0].astype(jnp.bfloat16), *xs[1:], TERMS[0], None, 7 * V * 4)
    np.testing.assert_allclose(exact.loss, got.loss, rtol=2e-2)
    assert dh2.dtype == jnp.bfloat16 and de2.dtype == jnp.float32
    np.testing.assert_allclose(dh, dh2.astype(jnp.float32), atol=0.1)


@pytest.mark.parametrize("mesh", [{}, dict(fsdp=2, tensor=4)], ids=str)
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_a_bias_of_the_logits_and_its_gradient(mesh, softcap, on):
  h, e, t, w = operands()
  bias_V, terms = jnp.asarray(np.random.default_rng(1).normal(size=V), jnp.float32), Terms(200, 0.1, 1e-2, softcap)

  def of(function, *extra):
    return jax.jit(jax.value_and_grad(lambda h, e, b: 3 * function(h, e, t, w, terms, b, *extra).loss, (0, 1, 2)))

  expected = of(reference)(h, e, bias_V)
  with on(**mesh):
    h, e = jax.reshard(h, flowing("BTD", h.shape)), jax.reshard(e, stored("VD", e.shape))
    got = of(cross_entropy, 7 * V * 4)(h, e, jax.reshard(bias_V, stored("V", bias_V.shape)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, got)
