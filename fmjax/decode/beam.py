"""Beam search: W texts of each row side by side, and the best that have ended, as transformers scores them.

  running_BWS  texts under way, and score_BW their log-probabilities
  best_BWS     the best texts that have ended, best_BW their scores over length ** length_penalty,
               length_BW their new tokens

A beam that ends leaves its place to the next best continuation, so twice as many continuations as beams are looked
at (more where several tokens end a text).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmjax.decode.processors import Text, process
from fmjax.decode.step import decode, is_end, newest, prefill, slot_positions
from fmjax.sharding import flowing

NEVER = -1e9  # the score of a beam that takes no part


class Beams(NamedTuple):
  running_BWS: jax.Array
  score_BW: jax.Array
  best_BWS: jax.Array
  best_BW: jax.Array
  length_BW: jax.Array
  ended_BW: jax.Array
  improvable_B: jax.Array  # whether a running beam may still get better than the worst that has ended
  over: jax.Array


class State(NamedTuple):
  cache: Any
  text: Text  # of the B * W running texts
  beams: Beams


def first_beams(tokens_BS, W: int) -> Beams:
  """All beams start alike, so only the first counts at first."""
  B, S = tokens_BS.shape
  texts_BWS = jnp.broadcast_to(tokens_BS[:, None], (B, W, S))
  none_BW = jnp.full((B, W), NEVER, jnp.float32)
  ended_BW = jnp.zeros((B, W), bool)
  length_BW = jnp.zeros((B, W), jnp.int32)
  score_BW = none_BW.at[:, 0].set(0.0)
  return Beams(texts_BWS, score_BW, texts_BWS, none_BW, length_BW, ended_BW, jnp.ones(B, bool), jnp.zeros((), bool))


def pick(x, index_BJ):
  """x[b, index_BJ[b, j]] for every j."""
  return x[jnp.arange(x.shape[0])[:, None], index_BJ]


def advance(beams: Beams, z_BWV, text: Text, knobs: dict, rules):
  """(Beams with one more token, parent_BW: the beams that the running texts go on from).

  `z_BWV` are log-probabilities after every option; `text.number` new tokens are in the running texts so far.
  """
  B, W, V = z_BWV.shape
  keep = rules.continuations
  length, limit = text.number + 1, knobs["max_new_tokens"]
  score_BJ, flat_BJ = jax.lax.top_k((z_BWV + beams.score_BW[..., None]).reshape(B, W * V), keep)
  parent_BJ, token_BJ = flat_BJ // V, (flat_BJ % V).astype(jnp.int32)
  texts_BJS = jax.lax.dynamic_update_slice_in_dim(
    pick(beams.running_BWS, parent_BJ), token_BJ[..., None], text.end, 2
  )
  stop_BJ = is_end(token_BJ, knobs) | (length >= limit)

  score_BW, place_BW = jax.lax.top_k(score_BJ + jnp.where(stop_BJ, NEVER, 0.0), W)

  full_B1 = jnp.all(beams.ended_BW, 1, keepdims=True) & knobs["full_stop"]
  ends_BJ = stop_BJ & (jnp.arange(keep) < W)[None]
  final_BJ = score_BJ / length.astype(jnp.float32) ** knobs["length_penalty"]
  for out in (full_B1, ~beams.improvable_B[:, None], ~ends_BJ):
    final_BJ += jnp.where(out, NEVER, 0.0)
  best_BW, kept_BW = jax.lax.top_k(jnp.concatenate([beams.best_BW, final_BJ], 1), W)

  def best(old, new):
    return pick(jnp.concatenate([old, new], 1), kept_BW)

  ended_BW = best(beams.ended_BW, ends_BJ)
  best_BWS = best(beams.best_BWS, texts_BJS)
  length_BW = best(beams.length_BW, jnp.broadcast_to(length, final_BJ.shape))

  far = knobs["never_stop"] & (knobs["length_penalty"] > 0)
  reach = jnp.where(far, limit, length).astype(jnp.float32)
  worst_BW = jnp.where(ended_BW, jnp.min(best_BW, 1, keepdims=True), NEVER)
  hope_B1 = score_BW[:, :1] / reach ** knobs["length_penalty"]
  improvable_B = beams.improvable_B & jnp.any(hope_B1 > worst_BW, 1)
  over = ~jnp.any(improvable_B) | jnp.all(stop_BJ) | (knobs["full_stop"] & jnp.all(ended_BW))
  new = Beams(pick(texts_BJS, place_BW), score_BW, best_BWS, best_BW, length_BW, ended_BW, improvable_B, over)
  return new, pick(parent_BJ, place_BW)


def cache_rows(cache: dict, index_R, names) -> dict:
  """The cache with the rows `index_R` in those of its arrays that `names` names."""

  def rows(path, x):
    if path[0].key not in names:
      return x
    letters = "BS" if x.ndim == 2 else "LBKSH"[5 - x.ndim :]
    shape = [index_R.size if letter == "B" else size for letter, size in zip(letters, x.shape)]
    where = flowing(letters, shape)
    return (x.at[index_R] if letters[0] == "B" else x.at[:, index_R]).get(out_sharding=where)

  return jax.tree_util.tree_map_with_path(rows, cache)


def extend(cache, text: Text, beams: Beams, z_BWV, knobs: dict, rules) -> State:
  """The state after one more token of each beam; nothing changes once the search is over."""
  B, W, _ = z_BWV.shape
  new, parent_BW = advance(beams, z_BWV, text, knobs, rules)
  new = jax.tree.map(lambda old, new: jnp.where(beams.over, old, new), beams, new)
  rows_R = (jnp.arange(B, dtype=jnp.int32)[:, None] * W + parent_BW).reshape(-1)
  tokens_RS = new.running_BWS.reshape(B * W, -1)
  return State(
    cache_rows(cache, rows_R, ("k", "v")), Text(tokens_RS, text.first_B, text.end + 1, text.number + 1), new
  )


def log_probabilities(z_RV, text: Text, knobs: dict, rules):
  W, V = rules.num_beams, z_RV.shape[1]
  return process(jax.nn.log_softmax(z_RV), text, knobs, rules).reshape(-1, W, V)


@functools.partial(jax.jit, static_argnames=("model", "rules", "length"))
def start(params, batch, number, knobs, *, model, rules, length):
  """(State after each beam's first token, whether the search is over); a prompt is read once for all its beams."""
  W = rules.num_beams
  cache, text, z_BV = prefill(model, params, batch, number, length)
  rows_R = jnp.repeat(jnp.arange(len(z_BV), dtype=jnp.int32), W)
  every = ("k", "v", "segments", "cross_k", "cross_v", "source_segments")
  cache, text_R = (
    cache_rows(cache, rows_R, every),
    text._replace(tokens_BS=text.tokens_BS[rows_R], first_B=text.first_B[rows_R]),
  )
  z_BWV = log_probabilities(z_BV[rows_R], text_R, knobs, rules)
  state = extend(cache, text_R, first_beams(text.tokens_BS, W), z_BWV, knobs, rules)
  return state, state.beams.over


@functools.partial(jax.jit, static_argnames=("model", "rules"), donate_argnames="state")
def step(params, state: State, knobs, *, model, rules):
  cache, z_RV = decode(model, params, state.cache, newest(state.text), slot_positions(state.text))
  z_BWV = log_probabilities(z_RV, state.text, knobs, rules)
  state = extend(cache, state.text, state.beams, z_BWV, knobs, rules)
  return state, state.beams.over
