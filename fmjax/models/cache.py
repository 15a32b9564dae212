"""The cache of keys and values between steps of decoding: a plain dict of arrays, and how layers read and write it.

index      int32 scalar: the next free slot; all rows share it, so shorter prompts are padded on the left
segments   [B, S] int32: 0 where a slot is empty or padding
k, v       [L, B, K, S, H]; of unstacked parameters {"0": [B, K, S, H], ...}
cross_k, cross_v, source_segments: of an encoder_decoder's source, written by the prefill
"""

import jax
import jax.numpy as jnp

from fmjax.architecture import TransformerConfig
from fmjax.kernels.attention import platform
from fmjax.sharding import flow, flowing


def empty(config: TransformerConfig, dtype, batch_size: int, length: int, source_length: int | None, stacked: bool):
  """A cache of `length` slots for `batch_size` rows, flowing over the mesh that is set."""

  def zeros(letters, shape, dtype=dtype):
    return jnp.zeros(shape, dtype, out_sharding=flowing(letters, shape))

  def layers(S):
    shape = (batch_size, config.K, S, config.H)
    if stacked:
      return zeros("LBKSH", (config.L, *shape))
    return {str(number): zeros("BKSH", shape) for number in range(config.L)}

  cache = dict(index=jnp.zeros((), jnp.int32), segments=zeros("BS", (batch_size, length), jnp.int32))
  cache |= dict(k=layers(length), v=layers(length))
  if source_length is not None:
    cache |= dict(cross_k=layers(source_length), cross_v=layers(source_length))
    cache["source_segments"] = zeros("BS", (batch_size, source_length), jnp.int32)
  return cache


def write(cache: dict, name: str, x_BTKH, slot, number) -> dict:
  """The cache of a layer, or of all layers where `number` says which, with `x` from `slot` on."""
  x_BKSH = flow(x_BTKH.swapaxes(1, 2), "BKSH").astype(cache[name].dtype)
  if number is None:
    new = put(cache[name], x_BKSH, slot)
  else:
    new = jax.lax.dynamic_update_slice(cache[name], x_BKSH[None], (number, 0, 0, slot, 0))
  return {**cache, name: new}


def put(old_BKSH, x_BKSH, slot):
  """`old` with `x` from `slot` on."""
  if platform() != "cpu" or old_BKSH.shape[0] > 1:
    return jax.lax.dynamic_update_slice(old_BKSH, x_BKSH, (0, 0, slot, 0))
  # XLA on a CPU drops a batch axis of one, then writes the slot twice, for the state and for attention, from four
  # copies of the whole cache; a branch is written once, in place.
  return jax.lax.cond(
    slot >= 0,
    lambda old, x: jax.lax.dynamic_update_slice(old, x, (0, 0, slot, 0)), lambda old, x: old, old_BKSH, x_BKSH,
  )  # fmt: skip


def read(cache: dict, name: str, number):
  """Keys or values of one layer, letters BSKH."""
  x = cache[name]
  x_BKSH = x if number is None else jax.lax.dynamic_index_in_dim(x, number, keepdims=False)
  return x_BKSH.swapaxes(1, 2)


def enter(cache: dict, tokens_BT, segments_BT, source_segments_BS, source_BSD):
  """The cache that knows of these tokens, and the segments (of queries, of keys) that they attend by."""
  segments_BT = flow(jnp.ones_like(tokens_BT) if segments_BT is None else jnp.asarray(segments_BT), "BS")
  known_BS = jax.lax.dynamic_update_slice(cache["segments"], segments_BT, (0, cache["index"]))
  cache = {**cache, "segments": known_BS}
  if source_BSD is not None:
    if source_segments_BS is None:
      source_segments_BS = jnp.ones(source_BSD.shape[:2], jnp.int32)
    source_segments_BS = flow(jnp.asarray(source_segments_BS), "BS")
    empty_BS = jnp.zeros_like(cache["source_segments"])
    cache["source_segments"] = jax.lax.dynamic_update_slice(empty_BS, source_segments_BS, (0, 0))
  return cache, (segments_BT, known_BS if tokens_BT.shape[1] == 1 else segments_BT)
