"""Beam search finds what enumeration finds, and what a plain loop over texts finds."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.decode import beam
from fmjax.decode.options import Generation
from fmjax.decode.processors import Text

V, END = 5, 0


def table(seed, rows=1):
  """log-probabilities of a next token after the last two: a model that is a plain function."""
  z = np.random.default_rng(seed).normal(size=(V, V, V)).astype(np.float32) * 1.5
  return np.asarray(jax.nn.log_softmax(z))


@functools.partial(jax.jit, static_argnames="rules")
def advance(beams, log_BWV, number, end, knobs, rules):
  B, W, S = beams.running_BWS.shape
  text = Text(beams.running_BWS.reshape(B * W, S), jnp.zeros(B * W, jnp.int32), end, number)
  return beam.advance(beams, log_BWV, text, knobs, rules)[0]


def found(log_VVV, prompts, **options):
  """The best text of each row, driven token by token."""
  option = Generation(eos_token_id=END, max_new_tokens=4, **options)
  width = len(prompts[0])
  tokens_BS = np.zeros((len(prompts), width + 4), np.int32)
  tokens_BS[:, :width] = prompts
  beams, knobs = beam.first_beams(tokens_BS, option.num_beams), option.knobs(len(prompts), width)
  for number in range(4):
    end = width + number
    texts = np.asarray(beams.running_BWS)
    log_BWV = log_VVV[texts[..., end - 2], texts[..., end - 1]]
    beams = advance(beams, log_BWV, np.int32(number), np.int32(end), knobs, option.rules)
    if beams.over:
      break
  return [
    best[: width + length].tolist()
    for best, length in zip(np.asarray(beams.best_BWS)[:, 0], np.asarray(beams.length_BW)[:, 0])
  ]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_enough_beams_find_the_best_text_of_all(seed, length_penalty):
  log_VVV = table(seed)

  def score(new):
    text = [1, 2, *new]
    total = sum(log_VVV[a, b, c] for a, b, c in zip(text, text[1:], text[2:]))
    return total / len(new) ** length_penalty

  texts = [
    new
    for length in range(1, 5)
    for new in itertools.product(range(V), repeat=length)
    if END not in new[:-1] and (length == 4 or new[-1] == END)
  ]
  best = max(texts, key=score)
  assert found(log_VVV, [[1, 2]], num_beams=V**3, length_penalty=length_penalty) == [[1, 2, *best]]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.5, 1.0, 2.0])
def test_rows_are_searched_as_a_plain_loop_would(plain_search, length_penalty, early_stopping):
  how, cut = dict(length_penalty=length_penalty, early_stopping=early_stopping), []
  for seed in range(8):
    log_VVV, prompts = table(seed), [[1, 2], [3, 4], [2, 2]]

    def log_probabilities(texts, log_VVV=log_VVV):
      return [log_VVV[text[-2], text[-1]] for text in texts]

    expected = [plain_search(log_probabilities, text, W=3, new=4, ends=(END,), **how) for text in prompts]
    # Rows wait for each other: what a row alone would have ended with must stand while the others go on.
    assert found(log_VVV, prompts, num_beams=3, **how) == expected
    cut += [text[-1] == END for text in expected]
  assert any(cut) and not all(cut)
