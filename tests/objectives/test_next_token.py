"""What next-token prediction asks of a record, and that its batch is what it says."""

import jax
import numpy as np

from fmjax.architecture import TransformerConfig
from fmjax.models import Model
from fmjax.objectives import OBJECTIVES, NextToken
from fmjax.step import eval_step, place


def test_targets_are_the_tokens_that_follow_and_only_real_ones_weigh():
  record = dict(tokens=np.arange(7, dtype=np.int32), length=4)
  example = NextToken().transform(record, np.random.default_rng(0))
  np.testing.assert_array_equal(example["targets"], example["tokens"] + 1)
  np.testing.assert_array_equal(example["weights"], [1, 1, 1, 1, 0, 0])


def test_the_shapes_promised_are_those_of_a_batch():
  for objective in (made() for made in OBJECTIVES.values()):
    example = objective.transform(dict(tokens=np.arange(9, dtype=np.int32), length=8), np.random.default_rng(0))
    promised = objective.batch_shapes(3, 8)
    assert set(promised) == set(example)
    assert all(
      (3, *example[k].shape) == promised[k].shape and example[k].dtype == promised[k].dtype for k in promised
    )


def test_the_loss_is_in_nats_a_token(on):
  """Of a model that knows nothing: log V."""
  model = Model(TransformerConfig(V=128, D=32, L=1, N=2, max_positions=8, init_std=1e-6))
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 128, (4, 9), dtype=np.int32)
    batch = place(dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((4, 8), np.float32)))
    sums = eval_step(params, batch, model=model, objective=NextToken())
  np.testing.assert_allclose(sums["loss"] / sums["weight"], np.log(128), rtol=1e-4)
