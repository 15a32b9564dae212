"""Laws of the prefix language model: who sees whom, what is told, and how long prefixes are."""

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.models import Model
from fmjax.objectives import NextToken, PrefixLM
from fmjax.objectives.objective import Packed, Windows
from fmjax.step import place
from tests.objectives.examples import keeps_its_promise, packed, sight, text, vocabulary


def made(record, length, seed=0):
  return PrefixLM().transform(record, np.random.default_rng(seed), vocabulary=vocabulary(), length=length)


def test_it_is_next_token_prediction_after_the_prefix():
  plain = NextToken().transform(packed(text(5), text(3)), None, vocabulary=vocabulary(), length=12)
  for seed in range(50):
    example = made(packed(text(5), text(3)), 12, seed)
    prefix, weights = example.pop("prefix"), example.pop("weights")
    for name, x in example.items():
      np.testing.assert_array_equal(x, plain[name])
    for own in (slice(0, 6), slice(6, 10)):
      tokens = prefix[own].sum()
      np.testing.assert_array_equal(prefix[own], np.arange(len(prefix[own])) < tokens)
      # The last token of the prefix tells the first one after it.
      np.testing.assert_array_equal(weights[own], np.arange(len(prefix[own])) >= tokens - 1)
    assert not prefix[10:].any() and not weights[10:].any()


def test_all_lengths_of_a_prefix_are_equally_likely():
  targets = 10
  row = packed(*[text(targets - 1)] * 1000)
  found = np.concatenate([made(row, 1000 * targets, seed)["prefix"].reshape(1000, -1).sum(1) for seed in range(100)])
  share = np.bincount(found, minlength=targets + 1)[1:] / len(found)
  assert found.min() == 1 and found.max() == targets
  np.testing.assert_allclose(share, 1 / targets, rtol=0.06)


def test_the_shapes_promised_are_those_of_a_batch():
  assert PrefixLM().layout(8, False) == Windows(8, before=1) and PrefixLM().layout(8, True) == Packed(8)
  for tokens in (9, 5, 2, 1, 0):
    example = keeps_its_promise(PrefixLM(), dict(tokens=text(tokens)), 8)
    assert bool(example["weights"].any()) == (tokens > 1)
  for documents in ([text(7)], [text(2), text(1)], []):
    keeps_its_promise(PrefixLM(), packed(*documents), 8, packed=True)
  assert [key for key, *_ in PrefixLM().model_laws(TransformerConfig(kind="encoder"))] == ["kind"]


@pytest.mark.parametrize("fields", [{}, dict(positions="rotary", K=1, window=3)], ids=["gpt", "mistral"])
def test_the_prefix_sees_itself_and_nothing_sees_what_comes(fields, on):
  model = Model(TransformerConfig(V=5000, D=16, L=1, N=2, F=16, max_positions=14, tied=False, **fields))
  row = packed(text(6), text(5, 1))
  row["tokens"][[0, 8]] = 10, 11  # no token twice
  example = made(row, 13, seed=6)
  prefix, segments = example["prefix"], example["segments"]
  lengths = [prefix[segments == one].sum() for one in (1, 2)]
  assert 1 < min(lengths) and lengths[0] < 7 and lengths[1] < 6
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    seen = sight(PrefixLM(), model, params, example)
  near = np.tril(np.ones((13, 13), bool))
  near &= ~np.tril(near, -3) if "window" in fields else True
  np.testing.assert_array_equal(seen, (near | (prefix == 1)) & (segments[:, None] == segments))


def test_eight_devices_equal_one(on):
  model = Model(TransformerConfig(V=5000, D=32, L=2, N=4, F=32, max_positions=16))
  rows = [made(packed(text(6, n), text(8, n + 1)), 16, n) for n in range(8)]
  batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  found = []
  for mesh in ({}, dict(data=2, fsdp=2, tensor=2)):
    with on(**mesh):
      params = jax.jit(model.init)(jax.random.key(0))
      step = jax.value_and_grad(lambda p, b: PrefixLM().loss(model, p, b, None, False)[0])
      found.append(jax.device_get(jax.jit(step)(params, place(batch))))
  (one, one_gradient), (eight, eight_gradient) = found
  np.testing.assert_allclose(eight, one, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), eight_gradient, one_gradient)
