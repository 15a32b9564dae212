"""The one Transformer: a Block, scanned over layers, between an embedding and a norm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmjax.kernels.attention import saveable
from fmjax.models.attention import Attention, CrossAttention, Gaze, Place, Sight
from fmjax.models.embed import Embed, buckets
from fmjax.models.feedforward import FeedForward
from fmjax.models.linear import Layer
from fmjax.models.norm import Norm
from fmjax.sharding import dropout, take

FAR = 1 << 30  # a window that ends nowhere


class Block(Layer):
  causal: bool = True
  cross: bool = False
  hiddens: bool = False

  @nn.compact
  def __call__(self, carry, sight: Sight, place: Place):
    x_BTD, cache = carry
    fields = dict(config=self.config, dtype=self.dtype, train=self.train)
    attention = Attention(**fields, causal=self.causal, name="attention")
    x_BTD, cache = self.around("attention_norm", x_BTD, lambda x: attention(x, sight, place, cache))
    if self.cross:
      crossing = CrossAttention(**fields, name="cross")
      x_BTD, cache = self.around("cross_norm", x_BTD, lambda x, cache=cache: crossing(x, sight, place, cache))
    feedforward = FeedForward(**fields, name="feedforward")
    x_BTD, _ = self.around("feedforward_norm", x_BTD, lambda x: (feedforward(x), None))
    return (x_BTD, cache), x_BTD if self.hiddens else None

  def around(self, name: str, x_BTD, half):
    """`x_BTD` plus what `half` makes of it, with the norms where the config places them."""
    place = self.config.norm_place

    def norm(name, x):
      return Norm(self.config, self.dtype, name=name)(x)

    y_BTD, kept = half(x_BTD if place == "post" else norm(name, x_BTD))
    if place == "both":
      y_BTD = norm(name.replace("norm", "post_norm"), y_BTD)
    x_BTD += dropout(y_BTD, "BTD", self.config.dropout, self.dropout_key())
    return (norm(name, x_BTD) if place == "post" else x_BTD), kept


class Look(Layer):
  """Where a Block's tokens look: see `Gaze`."""

  causal: bool = True

  @nn.compact
  def __call__(self, x_BTD, sight: Sight, place: Place):
    if self.config.norm_place != "post":
      x_BTD = Norm(self.config, self.dtype, name="attention_norm")(x_BTD)
    return Gaze(self.config, self.dtype, causal=self.causal, name="attention")(x_BTD, sight, place)


class Blocks(Layer):
  """Blocks of unstacked parameters, one after the other."""

  block: Any = None  # makes one, of a name

  @nn.compact
  def __call__(self, x_BTD, cache, sight: Sight):
    config = self.config
    names = [str(number) for number in range(config.L)]
    blocks = {name: self.block(name=name) for name in (names[:1] if config.shared_layers else names)}
    seen = []
    for name, window in zip(names, config.windows):
      place = Place(None, window, window is not None)
      layer = None if cache is None else {key: every[name] for key, every in cache.items()}
      (x_BTD, layer), y_BTD = blocks.get(name, blocks["0"])((x_BTD, layer), sight, place)
      seen.append(y_BTD)
      if cache is not None:
        cache = {key: {**every, name: layer[key]} for key, every in cache.items()}
    return (x_BTD, cache), None if seen[0] is None else jnp.stack(seen)


def saves_matmuls(primitive, *arguments, **params) -> bool:
  # A fused attention kernel is no dot_general: dots_saveable alone would run it a second time in the backward pass.
  return primitive.name == "dot_general" or saveable(primitive, *arguments, **params)


REMAT = {"full": jax.checkpoint_policies.nothing_saveable, "dots": saves_matmuls, "attention": saveable}


class Transformer(Layer):
  """One stack. A model has one, or two: its encoder's, and its decoder's, which crosses over to it."""

  remat: str = "none"
  causal: bool = True
  cross: bool = False
  stacked: bool = True
  hiddens: bool = False

  @nn.compact
  def __call__(self, tokens_BT, types_BT, sight: Sight, table=None, cache=None):
    """(hidden, hiddens, cache): see `Outputs`. `cache` holds the layers' keys and values alone."""
    config, T = self.config, tokens_BT.shape[1]
    embed = Embed(config, self.dtype, self.train, name="embed")
    x_BTD = embed(tokens_BT, sight.positions_BT, types_BT, table)
    x_BTD = dropout(x_BTD, "BTD", config.dropout, self.dropout_key())
    if prompt := x_BTD.shape[1] - T:
      sight, T = sight.beyond(prompt), T + prompt
    if config.positions == "relative":
      S = T if sight.segments is None else sight.segments[1].shape[1]
      sight = sight._replace(bias_NTS=self.relative(T, S, sight.slot))
    (x_BTD, cache), hiddens = self.blocks(x_BTD, cache, sight)
    if config.norm_place != "post":
      x_BTD = Norm(config, self.dtype, name="final_norm")(x_BTD)
    if prompt:
      x_BTD, hiddens = x_BTD[:, prompt:], None if hiddens is None else hiddens[:, :, prompt:]
    return x_BTD, hiddens, cache

  def relative(self, T: int, S: int, slot):
    """bias_NTS of T5's table for queries from `slot` on, which all layers add."""
    config = self.config
    table_CN = self.embedding("relative", "CN", C=config.relative_buckets)
    first = 0 if slot is None else slot
    far = config.relative_distance
    distance_TS = jnp.arange(S)[None] - (jnp.arange(T)[:, None] + first)
    row_TS = jnp.asarray(buckets(config, causal=self.causal))[jnp.clip(distance_TS, -far, far) + far]
    return jnp.moveaxis(take(table_CN.astype(self.dtype), row_TS, "CN", "TSN"), -1, 0)

  def blocks(self, x_BTD, cache, sight: Sight):
    """(x_BTD, cache) after the last Block, and, where asked, what went into the first and came out of each."""
    config = self.config
    fields = dict(
      config=config, dtype=self.dtype, train=self.train, causal=self.causal, cross=self.cross, hiddens=self.hiddens
    )
    if not self.stacked:
      blocks = Blocks(config, block=functools.partial(Block, **fields), name="blocks")
      carry, seen = blocks(x_BTD, cache, sight)
    else:
      block = Block
      if self.remat != "none":
        # Inside a loop nothing can be shared between passes, so the barriers against it would only cost.
        block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not config.scan_layers)
      lift = dict(variable_broadcast="params") if config.shared_layers else dict(variable_axes={"params": 0})
      blocks = nn.scan(
        block,
        split_rngs={"params": not config.shared_layers, "dropout": True},
        in_axes=(nn.broadcast, 0),
        length=config.L,
        unroll=1 if config.scan_layers else config.L,
        **lift,
      )
      carry, seen = blocks(**fields, name="blocks")((x_BTD, cache), sight, self.places())
    return carry, seen if seen is None else jnp.concatenate([x_BTD[None], seen])

  def places(self) -> Place:
    """Each layer's Place, stacked."""
    windows = self.config.windows
    window_L = np.array([FAR if window is None else window for window in windows], np.int32)
    local_L = np.array([window is not None for window in windows])
    return Place(np.arange(self.config.L, dtype=np.int32), window_L, local_L)
