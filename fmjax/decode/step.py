"""One token for every row: the prefill of the prompts, and the step from the cache. Compiled once a shape."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmjax.decode.processors import Text, choose, process


class State(NamedTuple):
  """A batch of texts under way: the model's cache, the texts beside it slot by slot, and the rows that have ended."""

  cache: Any
  text: Text
  done_B: jax.Array


def slot_positions(text: Text):
  """Positions [B, 1] of the newest tokens."""
  return (text.end - 1 - text.first_B)[:, None]


def is_end(tokens, knobs: dict):
  return jnp.any(tokens[..., None] == knobs["eos"].reshape((1,) * tokens.ndim + (-1,)), -1)


def last_logits(model, params, hidden_BTD):
  """z_BV of the last position, whole on every device."""
  hidden_B1D = jax.reshard(hidden_BTD, jax.P())[:, -1:]
  return jax.reshard(model.logits(params, hidden_B1D), jax.P())[:, 0]


def prefill(model, params, batch: dict, number, length: int):
  """(cache of `length` slots, text, z_BV) after the prompts `batch`, whose rows end at the last slot."""
  tokens_BP, segments_BP = batch["tokens"], batch["segments"]
  B, P = tokens_BP.shape
  batch = {**batch, "positions": jnp.maximum(jnp.cumsum(segments_BP, 1) - 1, 0)}
  source_length = batch["source_tokens"].shape[1] if "source_tokens" in batch else None
  stacked = "0" not in params["blocks"]
  cache = model.init_cache(B, length, source_length, stacked=stacked)
  outputs = model.apply(params, batch, cache=cache)
  tokens_BS = jnp.zeros((B, length), jnp.int32).at[:, :P].set(tokens_BP)
  text = Text(tokens_BS, P - jnp.sum(segments_BP, 1, dtype=jnp.int32), jnp.int32(P), number)
  return outputs.cache, text, last_logits(model, params, outputs.hidden)


def decode(model, params, cache, token_B1, positions_B1):
  """(cache, z_BV) after one more token of each row."""
  batch = dict(tokens=token_B1, positions=positions_B1, segments=jnp.ones_like(token_B1))
  outputs = model.apply(params, batch, cache=cache)
  return outputs.cache, last_logits(model, params, outputs.hidden)


def newest(text: Text):
  return jax.lax.dynamic_slice_in_dim(text.tokens_BS, text.end - 1, 1, 1)


def extend(cache, text: Text, z_BV, done_B, knobs: dict, rules):
  """(State with the next token of each row, that token_B)."""
  z_BV = process(z_BV, text, knobs, rules)
  token_B = jnp.where(done_B, knobs["pad"], choose(z_BV, knobs, rules, text.number))
  tokens_BS = jax.lax.dynamic_update_slice_in_dim(text.tokens_BS, token_B[:, None], text.end, 1)
  text = Text(tokens_BS, text.first_B, text.end + 1, text.number + 1)
  return State(cache, text, done_B | is_end(token_B, knobs)), token_B


@functools.partial(jax.jit, static_argnames=("model", "rules", "length"))
def start(params, batch, done_B, number, knobs, *, model, rules, length):
  """The first tokens after the prompts; `number` new ones are in them already."""
  cache, text, z_BV = prefill(model, params, batch, number, length)
  return extend(cache, text, z_BV, done_B, knobs, rules)


@functools.partial(jax.jit, static_argnames=("model", "rules"), donate_argnames="state")
def step(params, state: State, knobs, *, model, rules):
  cache, z_BV = decode(model, params, state.cache, newest(state.text), slot_positions(state.text))
  return extend(cache, state.text, z_BV, state.done_B, knobs, rules)
