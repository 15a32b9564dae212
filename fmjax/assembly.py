"""What a run puts together before its first step: its sizes and batches, its first state, its compiled step."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from fmjax import data, optim, probe, sharding, spec
from fmjax.adapt import Adaptation
from fmjax.config import Config
from fmjax.errors import FmjaxError
from fmjax.step import started, train_step


def beginning(config: Config, model, begun: spec.Start):
  """(the optimizer's chain, a function that makes (state, resting)), of a run that starts from `begun`."""
  if config.adapt.name == "features" and any(path.startswith("pooler/") for path in begun.fresh):
    raise FmjaxError("CONFIG", "the model has no pooler that was trained, and features train none",
                     where="objective.pooling", got=config.objective.pooling,
                     fix="set objective.pooling=mean")  # fmt: skip
  adaptation = Adaptation(config.adapt, model, begun.fresh)
  tx = optim.make(config.optimizer, adaptation.declarations())
  make = jax.jit(functools.partial(started, adaptation=adaptation, tx=tx, ema=config.train.ema))
  return tx, functools.partial(make, jax.random.key(config.seed), begun.params)


def at_start(config: Config, model, prepared, state, resting, make):
  """(state, resting): both new where there is no state, else what rests, if anything does.

  A head that is fitted to features is so before the first step, and counts as one.
  """
  if state is not None:
    return state, make()[1] if resting else resting
  state, resting = make()
  if config.adapt.name == "features":
    state |= dict(params=probe.fit(config, model, prepared, resting, state["params"]), step=state["step"] + 1)
  return state, resting


def sized(config: Config, prepared) -> Config:
  """The config with the vocabulary of the data's tokenizer.

  One that has got special tokens since the model was trained finds room for them in the rows that only fill up V.
  """
  size = prepared.tokenizer.vocab_size
  if config.init_from is not None and config.model.V is not None and config.model.V < size <= config.model.padded_V:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, V=size))
  if config.model.V is not None and config.model.V < size:
    raise FmjaxError(
      "CONFIG", "the model's vocabulary is smaller than the tokenizer's", where="model.V", got=config.model.V,
      expected=f"at least {size}", fix="leave model.V out: it is then the tokenizer's",
    )  # fmt: skip
  return dataclasses.replace(config, model=dataclasses.replace(config.model, V=config.model.V or size))


def steps_of(config: Config, batches) -> int:
  """The number of updates that the config asks for and the data has."""
  train = config.train
  if config.adapt.name == "features":
    return 1
  total = train.steps or min(math.ceil(train.epochs * batches.examples / train.batch_size), batches.end)
  if total > batches.end:
    raise FmjaxError("CONFIG", "the mixture gives no more examples before the run ends", where="data.mixture",
                     expected=f"{total} steps", got=f"{batches.end} until each source has given its epochs",
                     fix=f"set train.steps={batches.end}, or leave a source without epochs")  # fmt: skip
  return total


def make_batches(prepared, config: Config, split: str, source: int = 0):
  rows = config.train.batch_size // jax.process_count()
  first = rows * jax.process_index()
  return data.Batches(
    prepared, split, config.train.batch_size, config.data_seed, slice(first, first + rows),
    config.data.workers if split == "train" else 0, source=source,
  )  # fmt: skip


def eval_batches(prepared, config: Config) -> dict:
  """Name -> batches of each source that has an eval split."""
  every = enumerate(prepared.names)
  found = {name: make_batches(prepared, config, "eval", source) for source, name in every}
  return {name: batches for name, batches in found.items() if batches.end}


def batch_shapes(config: Config, length: int) -> dict:
  if (join := config.data.join) is not None:
    return config.objective.joined_shapes(config.train.batch_size // join, length, join)
  return config.objective.batch_shapes(config.train.batch_size, length, packed=config.data.packed)


def shapes_of(batch: dict) -> tuple:
  """Which of the compiled steps a batch of arrays, or of their shapes, is for."""
  return tuple(sorted((name, x.shape[1:]) for name, x in batch.items()))


def flowing(shapes: dict) -> dict:
  """A batch's shapes with their shardings, for compiling before there is a batch."""
  mesh = jax.sharding.get_mesh()

  def placed(x):
    where = jax.NamedSharding(mesh, sharding.flowing("BT"[: len(x.shape)], x.shape))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return {name: placed(x) for name, x in shapes.items()}


class Updates:
  """The training step, compiled for a batch of each shape before the first such one; it takes over its state.

  The longest of `lengths` is compiled at once: what does not fit is then known before there is data.
  """

  def __init__(self, config: Config, model, objective, tx, like, resting, lengths):
    what = dict(model=model, objective=objective, tx=tx, accumulate=config.train.accumulate, ema=config.train.ema)
    self.update = jax.jit(functools.partial(train_step, **what, seed=config.seed), donate_argnums=0)
    self.known, self.compiled = {}, {}
    knobs = flowing(dict(learning_rate=jax.ShapeDtypeStruct((), jnp.float32)))
    for length in lengths if config.adapt.name != "features" else ():
      shapes = flowing(batch_shapes(config, length))
      self.known[shapes_of(shapes)] = last = (like, shapes, knobs, resting)
    if self.known and config.data.join is None:  # the longest row of several is one that never comes
      self.compiled[shapes_of(last[1])] = self.update.lower(*last).compile()

  def __call__(self, state, batch: dict, knobs: dict, resting: dict):
    shapes = shapes_of(batch)
    if shapes not in self.compiled:
      with jax.transfer_guard("allow"):
        self.compiled[shapes] = self.update.lower(*self.known[shapes]).compile()
    return self.compiled[shapes](state, batch, knobs, resting)
