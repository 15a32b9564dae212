"""What stands on a model's last hidden states: the vocabulary's logits, a pooled token, classes.

Their parameters are born with the model's; each is a pure function of (params, hidden), so that a loss by chunks
never holds all logits.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmjax.kernels.linear import turned
from fmjax.models.activations import ACTIVATIONS
from fmjax.models.linear import Layer
from fmjax.models.norm import Norm
from fmjax.sharding import dropout, einsum, flow, flowing


class Output(Layer):
  """h_BTD -> (what meets the output table, [B, T, R or D], and the logits' bias_V or None)."""

  @nn.compact
  def __call__(self, h_BTD):
    config, x = self.config, h_BTD
    if config.output_transform:
      width = "R" if config.R else "D"
      # A map from D to D: its output takes the letter F, as a feed-forward's hidden does.
      x = self.linear("dense", "BTD,DR->BTR", x) if config.R else self.linear("dense", "BTD,DF->BTF", x, F=config.D)
      x = flow(ACTIVATIONS[config.activation](x), "BT" + width)
      x = Norm(config, self.dtype, letter=width, name="norm")(x)
    if config.output_scale is not None:
      x = x * jnp.asarray(config.output_scale, x.dtype)
    return x, self.vector("bias", "V", nn.initializers.zeros_init()) if config.output_bias else None


class Pooler(Layer):
  """A map with a bias, whatever the config has elsewhere, and an activation on x_BD or x_BTD."""

  @nn.compact
  def __call__(self, x):
    letters = "BTD"[:: 1 if x.ndim == 3 else 2]
    y = self.linear("dense", f"{letters},DF->{letters[:-1]}F", x, bias=True, F=self.config.D)
    return flow(ACTIVATIONS[self.config.pooler](y), letters)


class Head(Layer):
  """x_BD or x_BTD -> scores of the classes, in the dtype of the computation."""

  @nn.compact
  def __call__(self, x):
    letters = "BTD"[:: 1 if x.ndim == 3 else 2]
    bias = self.config.head_bias
    return self.linear("classes", f"{letters},DC->{letters[:-1]}C", x, bias=bias, C=self.config.classes)


def heads(config) -> dict:
  """The heads that the config asks for, by the names of their parameters."""
  output = config.output_transform or config.output_bias
  asked = dict(output=Output if output else None, pooler=config.pooler and Pooler, head=config.head and Head)
  return {name: head for name, head in asked.items() if head}


def output_embedding(params):
  """The table e_VD that turns `states` into logits."""
  return params["embed"].get("outputs", params["embed"]["tokens"])


def states(config, dtype, params, hidden_BTD):
  """(what meets the output table, the logits' bias_V or None)."""
  return Output(config, dtype).apply({"params": params.get("output", {})}, hidden_BTD)


def logits(config, dtype, params, hidden_BTD):
  """z_BTV in float32; the ids that only pad V to its multiple get -inf."""
  x, bias_V = states(config, dtype, params, hidden_BTD)
  equation = "BTR,VR->BTV" if config.R else "BTD,VD->BTV"
  e_VD = output_embedding(params).astype(x.dtype)
  if x.dtype == jnp.float32:
    z_BTV = turned(equation, x, e_VD)
  else:
    z_BTV = einsum(equation, x, e_VD, accumulate=jnp.float32)
  if bias_V is not None:
    z_BTV += bias_V[None, None]
  if config.output_softcap is not None:
    z_BTV = config.output_softcap * jnp.tanh(z_BTV / config.output_softcap)
  real_V = jnp.arange(z_BTV.shape[-1]) < config.V
  return jnp.where(real_V[None, None], z_BTV, -jnp.inf)


def pooled(config, dtype, params, hidden_BTD, batch: dict):
  """x_BD: the state of one token of each row, or of all of them the mean, through the pooler where there is one."""
  T = hidden_BTD.shape[1]
  if (pools_BP := batch.get("pools")) is not None:
    x_BD = of_several(config, hidden_BTD, batch["segments"], pools_BP)
    return x_BD if not config.pooler else Pooler(config, dtype).apply({"params": params["pooler"]}, x_BD)
  where = batch.get("pool")
  if where is None and config.pool == "last" and (segments_BT := batch.get("segments")) is not None:
    where = jnp.max(jnp.where(segments_BT != 0, jnp.arange(T)[None], 0), axis=1)
  if config.pool == "mean":
    x_BD = mean(hidden_BTD, batch.get("segments"))
  elif where is None:
    whole_BTD = flow(hidden_BTD, "BCD")  # along T: one place of an axis that is cut has no gradient
    x_BD = whole_BTD[:, -1 if config.pool == "last" else 0]
  else:
    one_BT = jax.nn.one_hot(where, T, dtype=hidden_BTD.dtype)
    x_BD = einsum("BTD,BT->BD", hidden_BTD, jax.reshard(one_BT, flowing("BT", one_BT.shape)))
  if config.pooler:
    x_BD = Pooler(config, dtype).apply({"params": params["pooler"]}, x_BD)
  return x_BD


def of_several(config, hidden_BTD, segments_BT, pools_BP):
  """As `pooled`, before the pooler, of rows that hold P texts, segments 1 to P: [B P, D], text by text."""
  (B, T, D), P = hidden_BTD.shape, pools_BP.shape[1]
  if config.pool == "mean":
    own_BPT = segments_BT[:, None] == 1 + jnp.arange(P)[None, :, None]
    share_BPT = own_BPT / jnp.maximum(jnp.sum(own_BPT, -1, keepdims=True), 1)
  else:
    share_BPT = jax.nn.one_hot(pools_BP, T)
  x_BPD = einsum("BPT,BTD->BPD", share_BPT.astype(hidden_BTD.dtype), hidden_BTD, accumulate=jnp.float32)
  x_BPD = x_BPD.astype(hidden_BTD.dtype)
  return jnp.reshape(x_BPD, (B * P, D), out_sharding=jax.P(*flowing("BD", (B, D))))


def mean(hidden_BTD, segments_BT=None):
  """x_BD, of the tokens that are not padding, in the dtype of the states."""
  real_BT = jnp.ones(hidden_BTD.shape[:2], bool) if segments_BT is None else segments_BT != 0
  sum_BD = einsum("BTD,BT->BD", hidden_BTD, real_BT.astype(hidden_BTD.dtype), accumulate=jnp.float32)
  count_B = jnp.sum(flow(real_BT, "BT"), axis=1)
  return (sum_BD / jnp.maximum(count_B, 1)[:, None]).astype(hidden_BTD.dtype)


DROPPED = (1 << 20) + 1  # of the keys of a step, that of what goes into the head


def classify(config, dtype, params, hidden_BTD, batch: dict, key=None):
  """Scores z_BC of a sequence, or z_BTC of each token; with a `key` what goes into the head is dropped out.

  As Devlin et al. 2019 fine-tune, in their code.
  """
  if config.head == "sequence":
    x = pooled(config, dtype, params, hidden_BTD, batch)
  else:
    x = hidden_BTD
    if config.pooler:
      x = Pooler(config, dtype).apply({"params": params["pooler"]}, x)
  if key is not None:
    x = dropout(x, "BTD"[:: 1 if x.ndim == 3 else 2], config.dropout, jax.random.fold_in(key, DROPPED))
  return Head(config, dtype).apply({"params": params["head"]}, x)
