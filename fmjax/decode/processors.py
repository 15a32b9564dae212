"""What happens to the logits between the model and the choice of a token, in transformers' order.

A text lies in slots: row b's tokens are at first_B[b] <= slot < end, and `number` of them are new. All arrays are
whole on every device: sorting needs all of V.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Text(NamedTuple):
  tokens_BS: jax.Array
  first_B: jax.Array
  end: jax.Array  # the first empty slot, the same of all rows
  number: jax.Array


def process(z_BV, text: Text, knobs: dict, rules):
  """The logits of the next token after every option that `knobs` and `rules` hold."""
  if "repetition_penalty" in knobs:
    z_BV = repetition(z_BV, text, knobs["repetition_penalty"])
  if rules.no_repeat_ngram_size:
    z_BV = jnp.where(repeats(z_BV.shape, text, rules.no_repeat_ngram_size), -jnp.inf, z_BV)
  if "bad_words" in knobs:
    z_BV = z_BV.at[:, knobs["bad_words"]].set(-jnp.inf)
  if "min_new_tokens" in knobs:
    z_BV = jnp.where(text.number < knobs["min_new_tokens"], z_BV.at[:, knobs["eos"]].set(-jnp.inf), z_BV)
  if "forced_bos" in knobs:
    z_BV = forced(z_BV, knobs["forced_bos"], text.number == 0)
  if "forced_eos" in knobs:
    z_BV = forced(z_BV, knobs["forced_eos"], text.number == knobs["max_new_tokens"] - 1)
  if rules.sample:
    z_BV = warp(z_BV / knobs["temperature"], knobs, rules)
  if "renormalize" in knobs:
    z_BV = jax.nn.log_softmax(z_BV)
  return z_BV


def warp(z_BV, knobs: dict, rules):
  """-inf where sampling may not go. Tokens as likely as the least likely that stays, stay."""
  if rules.top_k is not None:
    least_B1 = jax.lax.top_k(z_BV, min(rules.top_k, z_BV.shape[1]))[0][:, -1:]
    z_BV = jnp.where(z_BV < least_B1, -jnp.inf, z_BV)
  if "top_p" in knobs:
    sorted_BV = jnp.sort(z_BV)
    drop_BV = jnp.cumsum(jax.nn.softmax(sorted_BV), 1) <= 1 - knobs["top_p"]
    drop_BV = drop_BV.at[:, -1].set(False)
    least_B1 = jnp.min(jnp.where(drop_BV, jnp.inf, sorted_BV), 1, keepdims=True)
    z_BV = jnp.where(z_BV < least_B1, -jnp.inf, z_BV)
  if "min_p" in knobs:
    p_BV = jax.nn.softmax(z_BV)
    z_BV = jnp.where(p_BV < knobs["min_p"] * jnp.max(p_BV, 1, keepdims=True), -jnp.inf, z_BV)
  return z_BV


def marked(shape, tokens_BS, where_BS):
  """Booleans [B, V]: the tokens of a row that stand where `where_BS` says."""
  return jnp.zeros(shape, bool).at[jnp.arange(shape[0])[:, None], tokens_BS].max(where_BS)


def repetition(z_BV, text: Text, penalty):
  slots = jnp.arange(text.tokens_BS.shape[1])[None]
  real_BS = (slots >= text.first_B[:, None]) & (slots < text.end)
  penalised_BV = jnp.where(z_BV < 0, z_BV * penalty, z_BV / penalty)
  return jnp.where(marked(z_BV.shape, text.tokens_BS, real_BS), penalised_BV, z_BV)


def repeats(shape, text: Text, size: int):
  """Booleans [B, V]: the tokens that would make an n-gram of `size` that the row has already."""
  tokens_BS = text.tokens_BS
  S, before = tokens_BS.shape[1], size - 1
  slots = jnp.arange(S)[None]
  # Slot s is the last of an earlier n-gram, and each slot before it equals one of the newest tokens.
  match_BS = (slots - before >= text.first_B[:, None]) & (slots < text.end)
  for back in range(1, size):
    newest_B1 = jax.lax.dynamic_slice_in_dim(tokens_BS, text.end - size + back, 1, 1)
    match_BS &= jnp.roll(tokens_BS, before - back + 1, 1) == newest_B1
  return marked(shape, tokens_BS, match_BS)


def forced(z_BV, ids, now):
  return jnp.where(now, jnp.full_like(z_BV, -jnp.inf).at[:, ids].set(0.0), z_BV)


def draw(z_BV, seed_B, number):
  """A token of each row, from its own seed: neither its neighbours nor its place in the batch matter."""

  def one(z_V, seed):
    return jax.random.categorical(jax.random.fold_in(jax.random.key(seed), number), z_V)

  return jax.vmap(one)(z_BV, seed_B).astype(jnp.int32)


def choose(z_BV, knobs: dict, rules, number):
  return draw(z_BV, knobs["seed_B"], number) if rules.sample else jnp.argmax(z_BV, 1).astype(jnp.int32)
