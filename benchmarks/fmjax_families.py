"""Our side of `families.py`: a forward pass or the real training step of a Hugging Face folder, turn by turn."""

import argparse
import dataclasses
import functools
import time

import contest
import jax
import jax.numpy as jnp
import numpy as np
from family_batches import SHAPES, make_batch

from fmjax import backend, optim, sharding
from fmjax.config import MeshConfig
from fmjax.interop import from_pretrained
from fmjax.objectives import NextToken
from fmjax.step import place, train_step


def forward(model, params, batch):
  params = jax.jit(model.unstack)(params)
  run = jax.jit(
    lambda params, batch: (hidden := model.apply(params, batch).hidden, model.pooled(params, hidden, batch))
  )
  batch = dict(tokens=batch["tokens"])
  return lambda: np.asarray(jax.block_until_ready(run(params, batch))[0])[0, :8, 0].tolist()


def training(model, params, batch):
  """The step as `fmjax train` compiles it."""
  tx = optim.make(optim.AdamW(learning_rate=1e-4), model.declarations())
  update = jax.jit(functools.partial(train_step, model=model, objective=NextToken(), tx=tx), donate_argnums=0)
  state = jax.jit(lambda params: dict(step=jnp.zeros((), jnp.int32), params=params, opt=tx.init(params)))(params)
  knobs = place(dict(learning_rate=np.float32(1e-4)))

  def work():
    nonlocal state
    state, metrics = update(state, batch, knobs)
    jax.block_until_ready(state)
    return float(metrics["loss"])

  return work


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--folder", required=True)
  parser.add_argument("--shape", choices=SHAPES, required=True)
  args = parser.parse_args()
  shape = SHAPES[args.shape]
  backend.keep_memory()
  with jax.set_mesh(sharding.make_mesh(MeshConfig())):
    pretrained = from_pretrained(args.folder)
    config = dataclasses.replace(pretrained.config, scan_layers=False, dropout=shape["dropout"])
    model = dataclasses.replace(pretrained.model, config=config)
    batch = make_batch(shape, config.V)
    batch = place({name: x if x.dtype == np.float32 else x.astype(np.int32) for name, x in batch.items()})
    start = time.perf_counter()
    work = (training if shape["train"] else forward)(model, pretrained.params, batch)
    del pretrained
    check = [work() for _ in range(3)] if shape["train"] else work()
    contest.serve(work, dict(start_seconds=time.perf_counter() - start, check=check, version=jax.__version__))


if __name__ == "__main__":
  main()
