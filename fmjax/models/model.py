"""A model as pure functions of its parameters: what the rest of the house sees of `models/`."""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmjax.architecture import TransformerConfig
from fmjax.kernels.attention import platform
from fmjax.leaves import by_path, nested
from fmjax.models import cache as caches
from fmjax.models import heads, linear
from fmjax.models.attention import Place, Sight
from fmjax.models.transformer import Look, Transformer
from fmjax.sharding import Declaration, flowing


class Outputs(NamedTuple):
  """What `apply` gives, in the dtype of the computation.

  hidden [B, T, D]: the last layer, normed. hiddens [L + 1, B, T, D], when asked: into the first Block, then out of
  each. cache: with the tokens of this call. source [B, S, D], source_hiddens: of the encoder, as hidden and hiddens.
  """

  hidden: jax.Array
  hiddens: Any = None
  cache: Any = None
  source: Any = None
  source_hiddens: Any = None


@dataclasses.dataclass(frozen=True)
class Model:
  """A Transformer and its heads; hashable, so that it can be closed over by a jitted step.

  A batch is a dict of arrays [B, T]: `tokens`; where they are needed, `positions` (default: 0, 1, ...), `segments`
  (default: all one; 0 is padding), `token_types`, and `prefix` (default: all 0; a decoder's token of 1 is seen by all
  of its segment). An encoder_decoder's source has the names `source_...`; its encoder's output may be given instead,
  as `source` [B, S, D].
  """

  config: TransformerConfig
  dtype: Any = jnp.float32
  remat: str = "none"

  resting = ()  # how the paths of parameters begin that never train

  def init(self, key):
    """Parameters in float32, at rest; the same bits on every mesh."""
    params, parts = {}, self.parts()
    for number, (name, (part, inputs)) in enumerate(parts.items()):
      own = part.init(jax.random.fold_in(key, number) if number else key, *inputs)
      params |= {name: own["params"]} if name else own["params"]
    return params

  def declarations(self) -> dict[str, Declaration]:
    """Slash-joined path -> Declaration, for every parameter."""
    declared = {}
    for name, (part, inputs) in self.parts().items():
      with linear.declarations() as table:
        jax.eval_shape(part.init, jax.random.key(0), *inputs)
      for path, one in table.items():
        if path.startswith("blocks/") and not self.config.shared_layers:
          one = dataclasses.replace(one, letters="L" + one.letters)
        declared[f"{name}/{path}" if name else path] = one
    return declared

  def parts(self) -> dict:
    """Name -> (module, what it is called with to make its parameters); the name "" is the root's."""
    # The tree is the same scanned or not, and a loop compiles several times faster.
    config = dataclasses.replace(self.config, scan_layers=True)
    t_BT, x_BTD = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, config.D))
    found = {"": (self.stack(config, source=False), (t_BT, None, Sight(t_BT, source_BSD=x_BTD)))}
    if config.kind == "encoder_decoder":
      table = jnp.zeros((config.padded_V, config.R or config.D))
      found["encoder"] = self.stack(config, source=True), (t_BT, None, Sight(t_BT), table)
    found |= {name: (head(config), (x_BTD,)) for name, head in heads.heads(config).items()}
    return found

  def stack(self, config, *, source: bool, **how) -> Transformer:
    both = config.kind == "encoder_decoder"
    if source:
      config = dataclasses.replace(config, L=config.source_L)
    return Transformer(
      config, self.dtype, remat=self.remat, causal=config.kind != "encoder" and not source,
      cross=both and not source, **how,
    )  # fmt: skip

  def encode(self, params, batch: dict, *, key=None, train=False, hiddens=False):
    """(source, source_hiddens): what the encoder makes of `source_tokens`."""
    tokens_BS, segments_BS = batch["source_tokens"], batch.get("source_segments")
    how = dict(train=train and key is not None, stacked=is_stacked(params), hiddens=hiddens)
    stack = self.stack(self.config, source=True, **how)
    sight = Sight(positions(batch, "source_"), None if segments_BS is None else (segments_BS, segments_BS))
    rngs = {} if key is None else {"dropout": jax.random.fold_in(key, 1)}
    inputs = tokens_BS, batch.get("source_token_types"), sight, params["embed"]["tokens"]
    return stack.apply({"params": params["encoder"]}, *inputs, rngs=rngs)[:2]

  def apply(self, params, batch: dict, *, key=None, train=False, cache=None, hiddens=False) -> Outputs:
    """`cache` is what `init_cache` made, or an earlier call's: T > 1 tokens fill an empty one, one is a step."""
    tokens_BT, segments_BT = batch["tokens"], batch.get("segments")
    source, source_seen = batch.get("source"), None
    if source is None and "source_tokens" in batch:
      source, source_seen = self.encode(params, batch, key=key, train=train, hiddens=hiddens)
    sight, layers = sight_of(batch)._replace(source_BSD=source), None
    if cache is not None:
      cache, segments = caches.enter(cache, tokens_BT, segments_BT, batch.get("source_segments"), source)
      sight = sight._replace(segments=segments, slot=cache["index"])
      layers = {name: cache[name] for name in ("k", "v", "cross_k", "cross_v") if name in cache}
    segments_BS = (batch if cache is None else cache).get("source_segments")
    if segments_BS is not None:
      ones_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
      sight = sight._replace(source_segments=(ones_BT, segments_BS[:, : None if source is None else source.shape[1]]))
    stack = self.stack(
      self.config, source=False, train=train and key is not None, stacked=is_stacked(params), hiddens=hiddens
    )
    rngs = {} if key is None else {"dropout": key}
    inputs = tokens_BT, batch.get("token_types"), sight, None, layers
    hidden, seen, layers = stack.apply({"params": params}, *inputs, rngs=rngs)
    if cache is not None:
      cache = {**cache, **layers, "index": cache["index"] + tokens_BT.shape[1]}
    return Outputs(hidden, seen, cache, source, source_seen)

  def gaze(self, params, hiddens_LBTD, batch: dict):
    """Where the last layer's tokens look, of what `apply` gave as `hiddens`: log probabilities [B, N, T, T], float32.

    Without dropout, biases of relative positions and keys that are not the text's.
    """
    config, blocks = self.config, params["blocks"]
    number = "0" if config.shared_layers else str(config.L - 1)
    if not is_stacked(params):
      blocks = blocks[number]
    elif not config.shared_layers:
      blocks = jax.tree.map(operator.itemgetter(-1), blocks)
    window = config.windows[-1]
    look = Look(config, self.dtype, causal=config.kind != "encoder")
    place = Place(None, window, window is not None)
    return look.apply({"params": blocks}, hiddens_LBTD[-2], sight_of(batch), place)

  def init_cache(self, batch_size: int, length: int, source_length: int | None = None, *, stacked: bool = True):
    """An empty cache of `length` slots (see `models/cache.py`), for stacked or for unstacked parameters."""
    return caches.empty(self.config, self.dtype, batch_size, length, source_length, stacked)

  def unstack(self, params, turned: bool = False):
    """The same parameters with each layer's on their own, {"0": ...}: decoding then slices no stack at each step.

    `turned`: the matrices of the decoder's layers have their outputs first, and say so in their names.
    """

    def layers(blocks, count):
      if self.config.shared_layers:
        return {"0": blocks}
      return {str(number): jax.tree.map(operator.itemgetter(number), blocks) for number in range(count)}

    blocks = layers(params["blocks"], self.config.L)
    if turned:
      blocks = {number: self.turn(layer) for number, layer in blocks.items()}
    params = {**params, "blocks": blocks}
    if "encoder" in params:
      blocks = layers(params["encoder"]["blocks"], self.config.source_L)
      params["encoder"] = {**params["encoder"], "blocks": blocks}
    return params

  def for_decoding(self, params):
    """`params` as a step of decoding reads them best: on a CPU each layer's on their own, the outputs first.

    Elsewhere as they are: the copy would take memory that the cache needs.
    """
    return jax.jit(functools.partial(self.unstack, turned=True))(params) if platform() == "cpu" else params

  def turn(self, layer):
    declared = {path.removeprefix("blocks/"): one for path, one in self.declarations().items()}

    def one(path, x):
      if path not in declared or declared[path].kind != "matrix":  # what an adapter has put there stays
        return path, x
      ins = len(declared[path].ins)
      return path + linear.TURNED, jnp.transpose(x, (*range(ins, x.ndim), *range(ins)))

    return nested(dict(one(path, x) for path, x in by_path(layer).items()))

  def alone(self, params):
    """(the Transformer of `config`, its parameters): without what an objective trains beside it."""
    return self, params

  def states(self, params, hidden_BTD):
    """What meets the output table `heads.output_embedding`, [B, T, R or D], and the logits' bias_V or None."""
    return heads.states(self.config, self.dtype, params, hidden_BTD)

  def logits(self, params, hidden_BTD):
    """[B, T, V padded] in float32; -inf in the padding."""
    return heads.logits(self.config, self.dtype, params, hidden_BTD)

  def pooled(self, params, hidden_BTD, batch: dict):
    """[B, D]: one token's state, the one that `config.pool` names, through the pooler where there is one."""
    return heads.pooled(self.config, self.dtype, params, hidden_BTD, batch)

  def classify(self, params, hidden_BTD, batch: dict, key=None):
    """[B, C] of a sequence, or [B, T, C] of its tokens; `key` is a step's, for dropout."""
    return heads.classify(self.config, self.dtype, params, hidden_BTD, batch, key)


def is_stacked(params) -> bool:
  return "0" not in params["blocks"]


def sight_of(batch: dict) -> Sight:
  """What a batch's tokens see of one another."""
  segments_BT = batch.get("segments")
  segments = None if segments_BT is None else (segments_BT, segments_BT)
  return Sight(positions(batch), segments, prefix_BS=batch.get("prefix"))


def positions(batch: dict, prefix: str = ""):
  """[B, T] of the batch's tokens, 0, 1, ... where it does not say."""
  if (given := batch.get(f"{prefix}positions")) is not None:
    return given
  shape = batch[f"{prefix}tokens"].shape
  return jax.lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=flowing("BT", shape))
