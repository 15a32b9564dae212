"""Our side: the real training step at a shape, served to `train_step.py` turn by turn, as `torch_gpt.py` is."""

import argparse
import functools
import json
import time

import contest
import jax
import jax.numpy as jnp
import numpy as np

from fmjax import backend, optim, sharding
from fmjax.assembly import Updates
from fmjax.config import Config, from_config_dict
from fmjax.models import Model
from fmjax.step import abstract_state, init_state, place


def config_of(shape: dict) -> Config:
  """The peer's decoder and update, through the config's door."""
  model = {name: shape[name] for name in "LNDV"}
  return from_config_dict(
    dict(
      model=dict(model, init_std=0.02, scan_layers=False),
      data=dict(sequence_length=shape["T"]),
      optimizer=dict(name="adamw", learning_rate=1e-3, weight_decay=0.1, b2=0.95, clip_norm=1.0),
      train=dict(batch_size=shape["B"]),
    )
  )


def make_step(config: Config):
  """(step, state, seconds to compile): `step` takes a state to the next, on one batch of random tokens."""
  model = Model(config.model, jnp.dtype(config.train.dtype), config.train.remat)
  tx = optim.make(config.optimizer, model.declarations())
  start = time.perf_counter()
  length = config.data.sequence_length
  update = Updates(config, model, config.objective, tx, abstract_state(model=model, tx=tx), {}, [length])
  seconds = time.perf_counter() - start
  state = jax.jit(functools.partial(init_state, model=model, tx=tx))(jax.random.key(0))
  B, T = config.train.batch_size, length
  tokens = np.random.default_rng(1).integers(config.model.V, size=(B, T + 1), dtype=np.int32)
  batch = place(dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((B, T), np.float32)))
  knobs = place(dict(learning_rate=np.float32(config.optimizer.learning_rate)))
  return lambda state: update(state, batch, knobs, {}), state, seconds


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--shape", type=json.loads, required=True, help='{"L", "N", "D", "T", "B", "V"}')
  shape = parser.parse_args().shape
  backend.keep_memory()
  config = config_of(shape)
  with jax.set_mesh(sharding.make_mesh(config.mesh)):
    start = time.perf_counter()
    step, state, compile_seconds = make_step(config)
    losses = []

    def work():
      nonlocal state
      state, metrics = step(state)
      losses.append(float(metrics["loss"]))
      jax.block_until_ready(state)

    for _ in range(3):
      work()
    ready = dict(start_seconds=time.perf_counter() - start, compile_seconds=compile_seconds, losses=losses)
    contest.serve(work, ready | {"version": jax.__version__})


if __name__ == "__main__":
  main()
