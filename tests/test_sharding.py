"""The alphabet places operands and results; what does not divide is refused or rests whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.config import MeshConfig, from_config_dict
from fmjax.errors import FmjaxError
from fmjax.sharding import check_divides, dropout, einsum, flow, make_mesh, stored, take


def test_einsum_gathers_weights_and_places_its_result(on):
  x_BTD, w_DF = np.random.rand(8, 4, 32).astype("f"), np.random.rand(32, 64).astype("f")
  with on(fsdp=2, tensor=4):
    w = jax.reshard(jnp.asarray(w_DF), stored("DF", w_DF.shape))
    assert w.sharding.spec == jax.P("fsdp", "tensor")
    h_BTF = jax.jit(lambda x, w: einsum("BTD,DF->BTF", x, w))(flow(jnp.asarray(x_BTD), "BTD"), w)
    assert h_BTF.sharding.spec == jax.P(("data", "fsdp", "expert"), "context", "tensor")
    np.testing.assert_allclose(h_BTF, x_BTD @ w_DF, rtol=1e-5)


def test_take_equals_indexing_with_its_gradient(on):
  e_VD, t_BT = np.random.rand(128, 32).astype("f"), np.random.randint(0, 128, (8, 4))
  weight = np.random.rand(8, 4, 32).astype("f")
  expected = np.zeros_like(e_VD)
  np.add.at(expected, t_BT, weight)
  with on(fsdp=2, tensor=4):
    e = jax.reshard(jnp.asarray(e_VD), stored("VD", e_VD.shape))
    x_BTD = take(e, jnp.asarray(t_BT), "VD", "BTD")
    np.testing.assert_array_equal(x_BTD, e_VD[t_BT])
    gradient = jax.jit(jax.grad(lambda e: jnp.sum(take(e, jnp.asarray(t_BT), "VD", "BTD") * weight)))(e)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert gradient.sharding.spec == e.sharding.spec


def test_a_shard_never_gets_an_innermost_axis_under_16(on):
  with on(fsdp=8):
    assert stored("FD", (64, 128)) == jax.P("tensor", "fsdp")
    assert stored("FD", (64, 64)) == jax.P("tensor", None)
    assert stored("DF", (64, 8)) == jax.P("fsdp", "tensor")


def test_what_does_not_divide_rests_whole(on):
  with on(fsdp=2, tensor=3):
    assert stored("DF", (33, 64)) == jax.P(None, None)
    assert stored("DF", (32, 63)) == jax.P("fsdp", "tensor")


def test_dropout_keeps_the_mean_and_depends_on_no_mesh(on):
  masks = []
  for mesh in (dict(), dict(fsdp=2, tensor=4)):
    with on(**mesh):
      x_BTF = flow(jnp.ones((8, 16, 64)), "BTF")
      masks.append(np.asarray(jax.jit(lambda x: dropout(x, "BTF", 0.25, jax.random.key(0)))(x_BTF)))
  np.testing.assert_array_equal(*masks)
  assert set(np.unique(masks[0])) == {0.0, np.float32(1 / 0.75)}
  assert (masks[0] == 0).mean() == pytest.approx(0.25, abs=0.02)


def config(**branches):
  return from_config_dict({"model": {"V": 100}, **branches})


def test_the_free_axis_takes_the_devices_that_are_left():
  assert dict(make_mesh(MeshConfig(tensor=2)).shape)["fsdp"] == 4
  assert dict(make_mesh(MeshConfig(fsdp=1, data=None)).shape)["data"] == 8


@pytest.mark.parametrize(
  ("branches", "words"),
  [
    (dict(mesh=dict(tensor=3)), ["tensor 3", "2 or 4"]),
    (dict(mesh=dict(fsdp=2, data=2)), ["8 devices", "data 2 x fsdp 2 = 4"]),
    (dict(mesh=dict(tensor=8), model=dict(V=9, N=4)), ["model.N=4", "mesh.tensor=8", "to 2 or 4"]),
    (dict(mesh=dict(tensor=4), model=dict(V=9, N=4, K=2)), ["model.K=2", "to 1 or 2"]),
    (dict(train=dict(batch_size=12)), ["batch_size=12", "8 or 16"]),
    (dict(train=dict(batch_size=16, accumulate=4)), ["batch_size=16", "32 or 64"]),
  ],
)
def test_a_mesh_that_does_not_divide_names_what_would(branches, words):
  given = config(**branches)
  with pytest.raises(FmjaxError) as caught:
    check_divides(given, make_mesh(given.mesh))
  assert caught.value.status == 78
  assert all(word in str(caught.value) for word in words), str(caught.value)
