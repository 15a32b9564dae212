"""Sampling, one token at a time, each from a full forward pass over the window."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.errors import FmjaxError
from fmjax.laws import Branch, Wrong, at_least


@dataclasses.dataclass(frozen=True)
class Sampling(Branch):
  """How the next token is drawn. `temperature` 0 takes the likeliest; `top_k` and `top_p` None keep all."""

  max_new_tokens: int = 128
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None  # Holtzman et al. 2019, arXiv:1904.09751
  seed: int = 0

  def laws(self):
    yield from at_least(self, 1, "max_new_tokens", "top_k")
    yield from at_least(self, 0, "temperature", "seed")
    if self.top_p is not None and not 0 < self.top_p <= 1:
      yield "top_p", self.top_p, "must lie in (0, 1]"

  def checked(**fields) -> "Sampling":
    """A Sampling of words from a command line; FmjaxError USAGE says what is wrong with them."""
    try:
      return Sampling(**fields)
    except Wrong as wrong:
      raise FmjaxError("USAGE", str(wrong)) from wrong


def draw(z_V, key, temperature, top_k, top_p):
  """An id from logits; all V of them are on every device, as sorting needs."""
  if top_k is not None or top_p is not None:
    order_V = jnp.argsort(-z_V)
    sorted_V = z_V[order_V]
    keep_V = jnp.arange(z_V.size) < (z_V.size if top_k is None else top_k)
    if top_p is not None:
      p_V = jax.nn.softmax(jnp.where(keep_V, sorted_V, -jnp.inf) / temperature)
      keep_V &= jnp.cumsum(p_V) - p_V < top_p  # the token that crosses top_p stays
    z_V = jnp.full_like(z_V, -jnp.inf).at[order_V].set(jnp.where(keep_V, sorted_V, -jnp.inf))
  return jax.random.categorical(key, z_V / temperature)


@functools.partial(jax.jit, static_argnames=("model", "greedy", "top_k", "top_p"))
def next_token(params, tokens_1T, last, key, temperature, *, model, greedy, top_k, top_p):
  """The id after position `last`; what stands behind it does not matter to a causal model."""
  hidden_1TD = model.apply(params, dict(tokens=tokens_1T)).hidden
  hidden_11D = jnp.take(jax.reshard(hidden_1TD, jax.P()), last[None], axis=1)
  z_V = jax.reshard(model.logits(params, hidden_11D), jax.P())[0, 0]
  return jnp.argmax(z_V) if greedy else draw(z_V, key, temperature, top_k, top_p)


def generate(model, params, tokens: list[int], sampling: Sampling, *, length: int, end: int) -> Iterator[int]:
  """Yields up to `max_new_tokens` ids after `tokens` (at least one), until the id `end`.

  `length` is the window: a longer text is continued from its last `length` tokens. Runs under the mesh that is set.
  """
  window = np.zeros((1, length), np.int32)
  text = list(tokens)
  key = jax.random.key(sampling.seed)
  what = dict(model=model, greedy=sampling.temperature == 0, top_k=sampling.top_k, top_p=sampling.top_p)
  for number in range(sampling.max_new_tokens):
    seen = text[-length:]
    window[0, : len(seen)] = seen
    last, temperature = np.int32(len(seen) - 1), np.float32(sampling.temperature or 1)
    text.append(int(next_token(params, window, last, jax.random.fold_in(key, number), temperature, **what)))
    if text[-1] == end:
      return
    yield text[-1]
