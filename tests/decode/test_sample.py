"""Sampling follows the model's probabilities as temperature, top-k and top-p shape them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.decode import Sampling, generate
from fmjax.decode.sample import draw
from fmjax.models import Model

Z_V = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))


def frequencies(temperature=1.0, top_k=None, top_p=None, draws=4000):
  keys = jax.random.split(jax.random.key(0), draws)
  ids = jax.jit(jax.vmap(lambda key: draw(Z_V, key, temperature, top_k, top_p)))(keys)
  return np.bincount(ids, minlength=4) / draws


@pytest.mark.parametrize(
  ("how", "expected"),
  [
    (dict(), [0.5, 0.25, 0.15, 0.1]),
    (dict(temperature=0.5), np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345),
    (dict(top_k=2), [2 / 3, 1 / 3, 0, 0]),
    (dict(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),  # the token that crosses top_p stays
    (dict(top_p=0.5), [1, 0, 0, 0]),
    (dict(top_k=3, top_p=0.99), np.array([0.5, 0.25, 0.15, 0]) / 0.9),
  ],
  ids=str,
)
def test_draws_have_the_frequencies_asked_for(how, expected):
  np.testing.assert_allclose(frequencies(**how), expected, atol=0.03)


@pytest.fixture(scope="module")
def small(on):
  model = Model(TransformerConfig(V=50, D=32, L=1, N=2, positions="rotary", init_std=0.3))
  with on():
    return model, jax.jit(model.init)(jax.random.key(0))


def sampled(small, on, prompt, length=8, end=-1, **how):
  model, params = small
  with on():
    return list(generate(model, params, prompt, Sampling(**how), length=length, end=end))


def test_greedy_takes_the_likeliest_of_a_full_forward_pass(small, on):
  model, params = small
  ids = sampled(small, on, [3, 1, 4], temperature=0, max_new_tokens=4)
  text = [3, 1, 4]
  with on():
    for token in ids:
      z_BTV = model.logits(params, model.apply(params, dict(tokens=jnp.asarray([text]))).hidden)
      assert token == int(z_BTV[0, -1].argmax())
      text.append(token)


def test_the_same_seed_gives_the_same_text(small, on):
  one, two, other = (sampled(small, on, [1], seed=seed, max_new_tokens=12) for seed in (0, 0, 1))
  assert one == two != other


def test_a_text_longer_than_the_window_goes_on_from_its_end(small, on):
  ids = sampled(small, on, list(range(20)), temperature=0, max_new_tokens=3)
  assert ids == sampled(small, on, list(range(12, 20)), temperature=0, max_new_tokens=3) and len(ids) == 3


def test_the_end_of_a_document_ends_the_text(small, on):
  ids = sampled(small, on, [1], max_new_tokens=12)
  assert sampled(small, on, [1], max_new_tokens=12, end=ids[5]) == ids[: ids.index(ids[5])]


def test_a_mesh_draws_what_one_device_draws(small, on):
  model, params = small
  alone = sampled(small, on, [1, 2], max_new_tokens=6)
  with on(fsdp=2, tensor=2):
    meshed = jax.jit(model.init)(jax.random.key(0))
    assert list(generate(model, meshed, [1, 2], Sampling(max_new_tokens=6), length=8, end=-1)) == alone


@pytest.mark.parametrize(
  "how", [dict(temperature=-1.0), dict(top_p=0.0), dict(top_k=0), dict(max_new_tokens=0)], ids=str
)
def test_impossible_wishes_are_refused(how):
  with pytest.raises(ValueError, match=next(iter(how))):
    Sampling(**how)
