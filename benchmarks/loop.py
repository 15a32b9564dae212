"""What the loop adds to the bare step, and what an async save adds to the steps that overlap it, in one process.

Prints JSON: seconds a step, bare and in the loop, in turns; and for each save how long it held the loop, how many
steps it overlapped and what those took.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import jax
from fmjax_gpt import make_step

from fmjax import assembly, backend, checkpoint, data, metrics, recipe, sharding, train
from fmjax.config import from_config_dict


def bare_window(step, state, steps: int):
  """(state, seconds a step), with the device asked once, at the end."""
  start = time.perf_counter()
  for _ in range(steps):
    state, numbers = step(state)
  jax.block_until_ready((state, numbers))
  return state, (time.perf_counter() - start) / steps


def loop_windows(config, folder: pathlib.Path, window: int) -> list[float]:
  """Seconds a step of each whole window of a run, data wait and log included."""
  train.run(folder, config)
  tokens = config.train.batch_size * config.data.sequence_length
  rows = [row for row in metrics.read(folder / metrics.ROWS) if "tokens_per_second" in row]
  return [tokens / row["tokens_per_second"] for row in rows if row["step"] % window == 0 and row["step"] > window]


def one_save(saves, step, state):
  """(state, seconds the save held the loop, steps it overlapped, their seconds)."""
  start = time.perf_counter()
  saves.save(state, {})
  held = time.perf_counter() - start
  steps, start = 0, time.perf_counter()
  while saves.thread.is_alive():
    state, _ = step(state)
    jax.block_until_ready(state)
    steps += 1
  return state, held, steps, time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--config", required=True)
  parser.add_argument("--rounds", type=int, default=4)
  parser.add_argument("--window", type=int, default=20)
  args = parser.parse_args()
  backend.start()
  changes = dict(steps=5 * args.window, log_every=args.window, eval_every=None, eval_batches=1, sample_tokens=None)
  words = {f"train.{name}": repr(value) for name, value in changes.items()} | {"checkpoint.every": "None"}
  config = from_config_dict(recipe.override(recipe.load_recipe(args.config), words))
  found = dict(bare=[], loop=[], saves=[])
  with tempfile.TemporaryDirectory() as home:
    home = pathlib.Path(home)
    sized = assembly.sized(config, data.prepare(config.data))
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      step, state, _ = make_step(sized)
      state, _ = bare_window(step, state, args.window)
    for number in range(args.rounds):
      with jax.set_mesh(mesh):
        for _ in range(4):
          state, seconds = bare_window(step, state, args.window)
          found["bare"].append(seconds)
      found["loop"] += loop_windows(config, home / f"run{number}", args.window)
    with jax.set_mesh(mesh):
      saves = checkpoint.Checkpoints(home / "saves", 1, lambda name, **facts: None)
      for _ in range(3 * args.rounds):
        state, before = bare_window(step, state, 5)
        state, held, steps, seconds = one_save(saves, step, state)
        state, after = bare_window(step, state, 5)
        usual = statistics.mean([before, after])
        found["saves"].append(dict(held=held, steps=steps, seconds=seconds, usual=usual))
      saves.close()
  found["config"] = dataclasses.asdict(sized.model)
  print(json.dumps(found))


if __name__ == "__main__":
  main()
