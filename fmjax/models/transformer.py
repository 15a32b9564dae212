"""The one Transformer: a Block, scanned over layers, between an embedding and a norm."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.architecture import TransformerConfig
from fmjax.kernels.attention import saveable
from fmjax.models import embed, linear
from fmjax.models.attention import Attention
from fmjax.models.feedforward import FeedForward
from fmjax.models.linear import Layer
from fmjax.models.norm import Norm
from fmjax.sharding import Declaration, dropout, flowing


class Outputs(NamedTuple):
  """What `apply` gives: `hidden` is the last layer, normed, [B, T, D] in the dtype of the computation."""

  hidden: jax.Array


class Block(Layer):
  @nn.compact
  def __call__(self, x_BTD, positions_BT, segments_BT):
    fields = dict(config=self.config, dtype=self.dtype, train=self.train)
    rate = self.config.dropout
    y_BTD = Attention(**fields, name="attention")(
      Norm(**fields, name="attention_norm")(x_BTD), positions_BT, segments_BT
    )
    x_BTD += dropout(y_BTD, "BTD", rate, self.dropout_key())
    y_BTD = FeedForward(**fields, name="feedforward")(Norm(**fields, name="feedforward_norm")(x_BTD))
    return x_BTD + dropout(y_BTD, "BTD", rate, self.dropout_key()), None


def saves_matmuls(primitive, *arguments, **params) -> bool:
  # A fused attention kernel is no dot_general: dots_saveable alone would run it a second time in the backward pass.
  return primitive.name == "dot_general" or saveable(primitive, *arguments, **params)


REMAT = {"full": jax.checkpoint_policies.nothing_saveable, "dots": saves_matmuls, "attention": saveable}


class Transformer(Layer):
  remat: str = "none"

  @nn.compact
  def __call__(self, tokens_BT, positions_BT, segments_BT):
    config = self.config
    fields = dict(config=config, dtype=self.dtype, train=self.train)
    x_BTD = embed.Embed(**fields, name="embed")(tokens_BT, positions_BT)
    x_BTD = dropout(x_BTD, "BTD", config.dropout, self.dropout_key())
    block = Block
    if self.remat != "none":
      # Inside a loop nothing can be shared between passes, so the barriers against it would only cost.
      block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not config.scan_layers)
    blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=config.L,
      unroll=1 if config.scan_layers else config.L,
    )
    x_BTD, _ = blocks(**fields, name="blocks")(x_BTD, positions_BT, segments_BT)
    return Norm(**fields, name="final_norm")(x_BTD)


@dataclasses.dataclass(frozen=True)
class Model:
  """A Transformer as pure functions of its parameters; hashable, so that it can be closed over by a jitted step."""

  config: TransformerConfig
  dtype: Any = jnp.float32
  remat: str = "none"

  def init(self, key):
    """Parameters in float32, at rest; the same bits on every mesh."""
    # The tree is the same scanned or not, and a loop compiles several times faster.
    config = dataclasses.replace(self.config, scan_layers=True)
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    return Transformer(config).init(key, tokens_BT, tokens_BT, None)["params"]

  def apply(self, params, batch: dict, *, key=None, train: bool = False) -> Outputs:
    """Batch: `tokens` [B, T]; `positions` and `segments` [B, T] where given (default: 0.. and all one segment)."""
    tokens_BT = batch["tokens"]
    positions_BT = batch.get("positions")
    if positions_BT is None:
      where = flowing("BT", tokens_BT.shape)
      positions_BT = jax.lax.broadcasted_iota(jnp.int32, tokens_BT.shape, 1, out_sharding=where)
    rngs = {} if key is None else {"dropout": key}
    module = Transformer(self.config, self.dtype, train and key is not None, self.remat)
    return Outputs(module.apply({"params": params}, tokens_BT, positions_BT, batch.get("segments"), rngs=rngs))

  def logits(self, params, hidden_BTD):
    return embed.logits(params, hidden_BTD, self.config.V)

  def declarations(self) -> dict[str, Declaration]:
    """Slash-joined path -> Declaration, for every parameter."""
    with linear.declarations() as table:
      jax.eval_shape(self.init, jax.random.key(0))
    stack = "blocks/"
    return {
      path: dataclasses.replace(one, letters="L" + one.letters) if path.startswith(stack) else one
      for path, one in table.items()
    }
