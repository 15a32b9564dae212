"""Linear maps of tokens: `sharding.einsum`, and on a CPU the same sums as products of two matrices."""

import functools
import math

import jax
import jax.numpy as jnp

from fmjax import sharding
from fmjax.kernels.attention import platform

FEW = 64  # tokens; with more, how the weight is read no longer sets the time


def linear(equation: str, x, w):
  """`sharding.einsum(equation, x, w)`, where `w` sums the last letters of `x`: "BTD,DNH->BTNH".

  XLA on a CPU has a fast product of two matrices, but JAX's own gradient of a weight comes to it as the transpose of
  a product over several axes, which goes to a slower library or copies its operand: two to three times as long. So
  there tokens, inputs and outputs are one axis each and the gradient of the weight is written as x^T y.
  """
  names, output = equation.split("->")
  x_letters, w_letters = names.split(",")
  ins = sum(letter not in output for letter in w_letters)
  groups = x_letters[:-ins], w_letters[:ins], w_letters[ins:]
  assert x_letters == groups[0] + groups[1] and output == groups[0] + groups[2], equation
  if platform() != "cpu":
    return sharding.einsum(equation, x, w)
  shapes = x.shape[:-ins], w.shape[:ins], w.shape[ins:]
  specs = [sharding.flowing(letters, shape) for letters, shape in zip(groups, shapes)]
  if any(ways(axes) > 1 for spec in specs for axes in spec[1:]):  # merged, the axes' shards would have to move
    return sharding.einsum(equation, x, w)
  tokens, inputs, outputs = (spec[0] for spec in specs)
  x = jnp.reshape(sharding.flow(x, x_letters), (-1, math.prod(shapes[1])), out_sharding=jax.P(tokens, inputs))
  w = sharding.flow(w, w_letters)
  w = jnp.reshape(w, (w.size // math.prod(shapes[2]), -1), out_sharding=jax.P(inputs, outputs))
  y = product(x, w, jax.P(tokens, outputs))
  return jnp.reshape(y, shapes[0] + shapes[2], out_sharding=sharding.flowing(output, shapes[0] + shapes[2]))


def turned(equation: str, x, w):
  """`sharding.einsum(equation, x, w)` where `w` has its outputs first: "BTD,VD->BTV".

  A step of decoding has a few tokens and reads every weight once. XLA on a CPU reads it at the memory's speed where
  it is the left operand with its sums innermost (8 rows: 22 ms of CPU instead of 38 for 226 MB); the barriers keep
  the compiler from turning the product around again.
  """
  names, output = equation.split("->")
  outs = sum(letter in output for letter in names.split(",")[1])
  shapes = x.shape[: len(output) - outs], w.shape[:outs], w.shape[outs:]
  tokens, outputs, inputs = map(math.prod, shapes)
  if platform() != "cpu" or tokens > FEW or jax.sharding.get_abstract_mesh().size > 1:
    return sharding.einsum(equation, x, w)
  x = jax.lax.optimization_barrier(jnp.reshape(x, (tokens, inputs), out_sharding=jax.P()).T)
  w = jnp.reshape(w, (outputs, inputs), out_sharding=jax.P())
  y = jax.lax.optimization_barrier(dot(w, x, (1, 0), jax.P()))
  shape = shapes[0] + shapes[1]
  return jnp.reshape(y.T, shape, out_sharding=sharding.flowing(output, shape))


def ways(axes) -> int:
  """Into how many parts the mesh's `axes` (a name, a tuple of names or None) cut an axis of a tensor."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x, w, where):
  return dot(x, w, (1, 0), where)


def _forward(x, w, where):
  return dot(x, w, (1, 0), where), (x, w)


def _backward(where, kept, dy):
  x, w = kept
  return dot(dy, w, (1, 1), jax.typeof(x).sharding.spec), dot(x, dy, (0, 0), jax.typeof(w).sharding.spec)


product.defvjp(_forward, _backward)


def dot(a, b, axes, where):
  """The product of two matrices that sums `axes`, one of each."""
  summed = tuple((axis,) for axis in axes)
  return jax.lax.dot_general(a, b, (summed, ((), ())), out_sharding=where)
