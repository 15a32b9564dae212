"""A linear map by matrices is the einsum that it stands for: values, gradients, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import sharding
from fmjax.kernels.linear import linear

SIZES = dict(B=8, T=4, D=16, N=4, H=8, F=32)
EQUATIONS = ["BTD,DF->BTF", "BTD,DNH->BTNH", "BTNH,NHD->BTD"]
MESHES = [dict(fsdp=1), dict(data=2, fsdp=2, tensor=2), dict(context=2, fsdp=4)]


def inputs(equation):
  names = equation.replace("->", ",").split(",")
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, [SIZES[letter] for letter in name]) for key, name in zip(keys, names)]


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_values_gradients_and_places_are_the_einsums(on, equation, axes):
  x, w, dy = inputs(equation)
  y, vjp = jax.vjp(lambda x, w: jnp.einsum(equation, x, w), x, w)
  letters = equation.split("->")[0].split(",")
  with on(**axes):
    on_mesh = [
      jax.device_put(a, table(name, a.shape))
      for table, name, a in zip((sharding.flowing, sharding.stored), letters, [x, w])
    ]
    like = sharding.einsum(equation, *on_mesh)

    @jax.jit
    def both(x, w, dy):
      y, vjp = jax.vjp(lambda x, w: linear(equation, x, w), x, w)
      return y, vjp(dy)

    got, gradients = both(*on_mesh, jax.device_put(dy, like.sharding))
    assert got.sharding.is_equivalent_to(like.sharding, got.ndim)
    for gradient, operand in zip(gradients, on_mesh):
      assert gradient.sharding.is_equivalent_to(operand.sharding, operand.ndim)
  for ours, truth in zip((got, *gradients), (y, *vjp(dy))):
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_on_a_cpu_the_weights_gradient_is_one_product_of_two_matrices(one_device, equation):
  x, w, _ = inputs(equation)
  program = jax.make_jaxpr(jax.grad(lambda w: jnp.sum(linear(equation, x, w))))(w)
  *_, last = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
  assert last.params["dimension_numbers"] == (((0,), (0,)), ((), ()))
  assert [len(operand.aval.shape) for operand in last.invars] == [2, 2]
  assert "transpose" not in {eqn.primitive.name for eqn in program.eqns}
