"""Self- and cross-attention: four linear maps around the attention room in `kernels/`, and the cache of a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.kernels.attention import attention, log_probabilities
from fmjax.models import adapters
from fmjax.models.cache import read, write
from fmjax.models.embed import frequencies, rotate
from fmjax.models.linear import Layer
from fmjax.models.norm import Norm
from fmjax.sharding import flow, flowing


class Sight(NamedTuple):
  """What the tokens of a stack may see, the same for all of its layers; None: no mask, no cache, no source."""

  positions_BT: Any
  segments: Any = None  # (of the queries [B, T], of the keys [B, S])
  bias_NTS: Any = None
  slot: Any = None  # of the cache, where the first of the tokens goes
  source_BSD: Any = None
  source_segments: Any = None  # (of the queries, of the source)
  prefix_BS: Any = None  # not 0 at a token that all of its segment see, those before it too

  def beyond(self, prompt: int) -> "Sight":
    """With so many more tokens before those of each row, which is one text: they see all of it and it sees them."""
    before = jnp.arange(-prompt, 0, dtype=self.positions_BT.dtype)[None]
    segments = self.segments
    if segments is not None:
      own_BT = segments[0]
      own_BT = wider(jnp.max(own_BT, 1, keepdims=True), prompt, own_BT)
      segments = own_BT, own_BT
    return self._replace(positions_BT=wider(before, prompt, self.positions_BT), segments=segments)


def wider(more, prompt: int, x_BT):
  """`x_BT` with `more`, which is repeated over rows and over the prompt, before it."""
  shape = (x_BT.shape[0], prompt)
  more = jnp.broadcast_to(more, shape, out_sharding=flowing("BT", shape))
  return jnp.concatenate([more, flow(x_BT, "BT")], 1)


class Place(NamedTuple):
  """Which layer this is: one of a loop's scanned arrays, or plain values where layers are unrolled."""

  number: Any  # None: the cache that the layer sees is its own
  window: Any
  local: Any  # whether it has a window


class Attention(Layer):
  causal: bool = True

  @nn.compact
  def __call__(self, x_BTD, sight: Sight, place: Place, cache=None):
    """o_BTD, and the cache with the keys and values of these tokens. One token alone is a step from the cache."""
    T = x_BTD.shape[1]
    q_BTNH, k_BTKH, v_BTKH = self.maps(x_BTD, sight, place)
    segments, causal, window = sight.segments, self.causal, self.window(place)
    if cache is not None:
      cache = write(cache, "k", k_BTKH, sight.slot, place.number)
      cache = write(cache, "v", v_BTKH, sight.slot, place.number)
      if T == 1:
        k_BTKH, v_BTKH = read(cache, "k", place.number), read(cache, "v", place.number)
        causal, segments, window = False, (segments[0], near(segments[1], sight.slot, window)), None
    prefix = sight.prefix_BS if causal else None
    learned = adapters.beside(self, "prefix")
    learned = None if learned is None else (learned["k"], learned["v"])
    masks = dict(causal=causal, segments=segments, prefix=prefix, learned=learned, bias=sight.bias_NTS, window=window)
    o_BTNH = self.attend(q_BTNH, k_BTKH, v_BTKH, **masks)
    return self.linear("o", "BTNH,NHD->BTD", o_BTNH, residual=True), cache

  def maps(self, x_BTD, sight: Sight, place: Place):
    """q_BTNH, k_BTKH, v_BTKH of these tokens, at their positions."""
    config, bias = self.config, self.config.qkv_bias
    q_BTNH = self.linear("q", "BTD,DNH->BTNH", x_BTD, bias=bias)
    k_BTKH = self.linear("k", "BTD,DKH->BTKH", x_BTD, bias=bias)
    v_BTKH = self.linear("v", "BTD,DKH->BTKH", x_BTD, bias=bias)
    if config.qk_norm:
      q_BTNH = Norm(config, self.dtype, letter="H", name="q_norm")(q_BTNH)
      k_BTKH = Norm(config, self.dtype, letter="H", name="k_norm")(k_BTKH)
    if config.positions == "rotary":
      frequency_H = self.frequency(place.local)
      q_BTNH = rotate(q_BTNH, sight.positions_BT, frequency_H)
      k_BTKH = rotate(k_BTKH, sight.positions_BT, frequency_H)
    return q_BTNH, k_BTKH, v_BTKH

  def window(self, place: Place):
    """A number, which kernels know, if it can be."""
    windows = self.config.windows
    return windows[0] if len(set(windows)) == 1 else place.window

  def frequency(self, local):
    every = frequencies(self.config)
    return jnp.where(local, frequencies(self.config, local=True), every) if self.config.rotary_local_base else every

  def attend(self, q_BTNH, k_BSKH, v_BSKH, **masks):
    config, key = self.config, self.dropout_key()
    rate = config.dropout if key is not None else 0.0
    return attention(
      q_BTNH, k_BSKH, v_BSKH, scale=config.attention_scale, softcap=config.attention_softcap,
      dropout=rate, key=key, **masks,
    )  # fmt: skip


class Gaze(Attention):
  """Where the tokens of a layer look: the logarithms of its probabilities, p_BNTS, of what goes into its Block."""

  @nn.compact
  def __call__(self, x_BTD, sight: Sight, place: Place):
    scale, softcap = self.config.attention_scale, self.config.attention_softcap
    q_BTNH, k_BTKH, _ = self.maps(x_BTD, sight, place)
    masks = dict(causal=self.causal, segments=sight.segments, prefix=sight.prefix_BS if self.causal else None)
    return log_probabilities(q_BTNH, k_BTKH, window=self.window(place), scale=scale, softcap=softcap, **masks)


class CrossAttention(Attention):
  """From a decoder's tokens to the encoder's output, or to the keys and values that an earlier step left of it."""

  @nn.compact
  def __call__(self, x_BTD, sight: Sight, place: Place, cache=None):
    q_BTNH = self.linear("q", "BTD,DNH->BTNH", x_BTD, bias=self.config.qkv_bias)
    if sight.source_BSD is not None:
      k_BSKH = self.linear("k", "BTD,DKH->BTKH", sight.source_BSD, bias=self.config.qkv_bias)
      v_BSKH = self.linear("v", "BTD,DKH->BTKH", sight.source_BSD, bias=self.config.qkv_bias)
      if cache is not None:
        cache = write(cache, "cross_k", k_BSKH, 0, place.number)
        cache = write(cache, "cross_v", v_BSKH, 0, place.number)
    else:
      k_BSKH, v_BSKH = read(cache, "cross_k", place.number), read(cache, "cross_v", place.number)
    o_BTNH = self.attend(q_BTNH, k_BSKH, v_BSKH, causal=False, segments=sight.source_segments)
    return self.linear("o", "BTNH,NHD->BTD", o_BTNH, residual=True), cache


def near(segments_BS, slot, window):
  """The cache's segments without those that lie `window` or more slots before `slot`."""
  if window is None:
    return segments_BS
  return jnp.where(jax.lax.iota(jnp.int32, segments_BS.shape[1])[None] > slot - window, segments_BS, 0)
