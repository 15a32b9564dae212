"""Activations by name."""

import functools
import math

import jax
import jax.numpy as jnp

ACTIVATIONS = {
  # Hendrycks and Gimpel 2016, section 2; jax.nn.gelu's erfc takes twice as long on a CPU.
  "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5))),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
  "silu": jax.nn.silu,
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
}
