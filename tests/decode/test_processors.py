"""Each option changes the logits as its definition says, on hand-made texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.decode.options import Generation
from fmjax.decode.processors import Text, choose, process
from fmjax.errors import FmjaxError

Z_V = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
run = jax.jit(process, static_argnames="rules")
draws = jax.jit(lambda z_BV, knobs, number: choose(z_BV, knobs, Generation(do_sample=True).rules, number))


def processed(z_BV, texts=((),), number=0, prompt_length=2, **options):
  """The logits after rows of tokens (None: an empty slot on the left) that end at one slot."""
  option = Generation(**options)
  width = max(map(len, texts))
  tokens_BS = np.full((len(texts), width + 3), 3, np.int32)  # what lies in the empty slots must not matter
  first_B = np.zeros(len(texts), np.int32)
  for row, tokens in enumerate(texts):
    first_B[row] = width - len(tokens)
    tokens_BS[row, first_B[row] : width] = tokens
  text = Text(tokens_BS, first_B, np.int32(width), np.int32(number))
  z_BV = np.broadcast_to(np.asarray(z_BV, np.float32), (len(texts), np.shape(z_BV)[-1]))
  return np.asarray(run(z_BV, text, option.knobs(len(texts), prompt_length), rules=option.rules))


def kept(**options):
  return np.isfinite(processed(Z_V, do_sample=True, **options)[0]).tolist()


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    (dict(), [1, 1, 1, 1]),
    (dict(top_k=0), [1, 1, 1, 1]),
    (dict(top_k=2), [1, 1, 0, 0]),
    (dict(top_k=9), [1, 1, 1, 1]),
    (dict(top_p=0.7), [1, 1, 0, 0]),  # the token that crosses top_p stays
    (dict(top_p=0.76), [1, 1, 1, 0]),
    (dict(top_p=0.01), [1, 0, 0, 0]),
    (dict(top_p=1.0), [1, 1, 1, 1]),
    (dict(min_p=0.25), [1, 1, 1, 0]),
    (dict(min_p=0.55), [1, 0, 0, 0]),
    (dict(min_p=1.0), [1, 0, 0, 0]),
    (dict(top_k=2, top_p=0.6), [1, 0, 0, 0]),  # of what top_k left, the first has two thirds
    (dict(temperature=0.5, min_p=0.3), [1, 0, 0, 0]),  # after the temperature the second has a quarter of the first
    (dict(temperature=0.1, top_p=0.9), [1, 0, 0, 0]),
  ],
  ids=str,
)
def test_what_sampling_may_draw(options, expected):
  assert kept(**options) == [bool(x) for x in expected]


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    (dict(), [0.5, 0.25, 0.15, 0.1]),
    (dict(temperature=0.5), np.array([25, 6.25, 2.25, 1]) / 34.5),
    (dict(top_k=3), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
    (dict(top_p=0.7, temperature=2.0), np.array([0.5**0.5, 0.25**0.5, 0.15**0.5, 0]) / 1.5944),
  ],
  ids=str,
)
def test_draws_follow_the_probabilities(options, expected):
  """Pearson's test: with 3 degrees of freedom chi-square exceeds 16.3 once in a thousand times."""
  count = 4000
  z_BV = np.repeat(processed(Z_V, do_sample=True, **options), count, 0)
  tokens = np.asarray(draws(z_BV, dict(seed_B=np.arange(count, dtype=np.uint32)), np.int32(0)))
  found = np.bincount(tokens, minlength=4)
  expected = np.array(expected) * count
  assert not found[expected == 0].any()
  alive = expected > 0
  assert np.sum((found - expected)[alive] ** 2 / expected[alive]) < 16.3


def test_a_draw_depends_on_its_seed_and_number_alone():
  z_BV = np.repeat(Z_V[None], 64, 0)
  seed_B = np.arange(64, dtype=np.uint32)
  first, turned = draws(z_BV, dict(seed_B=seed_B), 3), draws(z_BV, dict(seed_B=seed_B[::-1].copy()), 3)
  np.testing.assert_array_equal(first, turned[::-1])
  assert (np.asarray(first) != np.asarray(draws(z_BV, dict(seed_B=seed_B), 4))).any()


def test_repetition_makes_seen_tokens_less_likely_on_both_sides_of_zero():
  z = processed([2.0, -2.0, 2.0, -2.0], texts=[[0, 1, 1], [2]], repetition_penalty=2.0)
  np.testing.assert_array_equal(z, [[1, -4, 2, -2], [2, -2, 1, -2]])


@pytest.mark.parametrize(
  ("size", "text", "banned"),
  [
    (3, [1, 2, 0, 1, 2], [0]),
    (3, [1, 2, 0, 1, 2, 3, 1, 2], [0, 3]),
    (3, [1, 2, 0], []),
    (3, [1, 1], []),
    (2, [1, 1], [1]),
    (1, [2, 0], [0, 2]),
    (4, [1, 2], []),
  ],
)
def test_no_n_gram_comes_twice(size, text, banned):
  z = processed(Z_V, texts=[text, [0] * 9], no_repeat_ngram_size=size)
  assert np.flatnonzero(np.isneginf(z[0])).tolist() == banned


def test_ends_and_bad_words():
  inf = -np.inf
  assert processed(Z_V, bad_words_ids=[[1], [2]])[0].tolist() == [Z_V[0], inf, inf, Z_V[3]]
  assert processed(Z_V, bad_words_ids=[1, 2], eos_token_id=2)[0].tolist() == [Z_V[0], inf, *Z_V[2:]]
  early = dict(min_new_tokens=2, eos_token_id=[0, 3])
  assert processed(Z_V, number=1, **early)[0].tolist() == [inf, *Z_V[1:3], inf]
  assert processed(Z_V, number=2, **early)[0].tolist() == Z_V.tolist()
  last = dict(forced_eos_token_id=2, max_new_tokens=5)
  assert processed(Z_V, number=4, **last)[0].tolist() == [inf, inf, 0, inf]
  assert processed(Z_V, number=3, **last)[0].tolist() == Z_V.tolist()
  first = dict(forced_bos_token_id=1)
  assert processed(Z_V, prompt_length=1, **first)[0].tolist() == [inf, 0, inf, inf]
  assert processed(Z_V, prompt_length=2, **first)[0].tolist() == Z_V.tolist()
  np.testing.assert_allclose(
    np.exp(processed(Z_V, bad_words_ids=[0], renormalize_logits=True)[0]).sum(), 1, rtol=1e-6
  )


@pytest.mark.parametrize(
  "options",
  [
    dict(temperature=-1.0), dict(top_p=0.0), dict(top_k=-1), dict(max_new_tokens=0), dict(min_p=1.5),
    dict(num_beams=0), dict(repetition_penalty=0.0), dict(eos_token_id=-1), dict(seed=-1),
    dict(early_stopping="soon"),
    dict(num_beams=2, do_sample=True), dict(bad_words_ids=[[1, 2]]), dict(stop_strings=""), dict(top_kk=3),
  ],
  ids=str,
)  # fmt: skip
def test_impossible_wishes_are_refused(options):
  with pytest.raises(FmjaxError, match=next(iter(options))) as error:
    Generation.checked(**options)
  assert error.value.status == 64


def test_logits_are_whole_on_a_mesh(on):
  with on(fsdp=2, tensor=2):
    z = processed(
      Z_V, texts=[[0, 1, 0], [2]], do_sample=True, top_p=0.9, repetition_penalty=1.2, no_repeat_ngram_size=2
    )
  np.testing.assert_array_equal(
    z,
    processed(Z_V, texts=[[0, 1, 0], [2]], do_sample=True, top_p=0.9, repetition_penalty=1.2, no_repeat_ngram_size=2),
  )
  assert jnp.isneginf(z[0, 1])
