"""A training step of every family, from its published weights, on eight devices: the loss and gradient of one."""

import math

import jax
import numpy as np
import pytest

from fmjax.objectives import NextToken
from tests.interop.folders import mesh_of
from tests.interop.test_golden import FAMILIES

pytestmark = pytest.mark.slow  # each compiles two steps


def batch_of(config):
  rng = np.random.default_rng(0)
  tokens = rng.integers(5, config.V, (8, 11), dtype=np.int32)
  segments = (np.arange(11)[None] < rng.integers(4, 12, (8, 1))).astype(np.int32)
  batch = dict(tokens=tokens, targets=np.roll(tokens, -1, 1), weights=segments.astype(np.float32), segments=segments)
  if config.kind == "encoder_decoder":
    batch["source_tokens"] = rng.integers(5, config.V, (8, 9), dtype=np.int32)
    batch["source_segments"] = (np.arange(9)[None] < rng.integers(3, 10, (8, 1))).astype(np.int32)
  return batch


@pytest.mark.parametrize("folder", FAMILIES.values(), ids=FAMILIES)
def test_a_training_step_on_eight_devices(folder, golden):
  found = golden(folder)
  model, config, batch = found.model, found.config, batch_of(found.config)
  step = jax.value_and_grad(lambda params: NextToken().loss(model, params, batch, None, False)[0])
  with jax.set_mesh(mesh_of()):
    loss, gradient = jax.device_get(jax.jit(step)(found.params))
  tensor = math.gcd(config.N, config.K, 4)
  with jax.set_mesh(mesh_of(8 // tensor, tensor)):
    like = jax.eval_shape(model.init, jax.random.key(0))
    at_rest = jax.tree.map(lambda x: jax.NamedSharding(jax.sharding.get_mesh(), x.sharding.spec), like)
    spread = jax.device_put(jax.device_get(found.params), at_rest)
    other_loss, other = jax.device_get(jax.jit(step)(spread))
  np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest), other, gradient)
  assert all(np.abs(x).max() > 0 for path, x in jax.tree_util.tree_leaves_with_path(gradient) if trains(path))


def trains(path) -> bool:
  """Whether a loss over the vocabulary reaches a parameter: not the heads beside it."""
  return path[0].key not in ("pooler", "head")
