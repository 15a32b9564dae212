"""At equal size, text and tokens, which task pretrains best? Raffel et al. 2020, section 3, in miniature.

  python experiments/2026-11-pretraining-tasks/run.py --data=../shared/data/sst2 --out=runs/pretraining

Pretrains the six models of configs/pretrain.py, then probes and fine-tunes each of them, and two that were not
trained, on SST-2. The same command goes on after a kill: runs resume, and a number that stands in OUT/results.json is
not computed again. Prints the table, and writes it to OUT/table.md.
"""

import argparse
import multiprocessing
import pathlib
import statistics
import sys
import time

import jax
import sst2
import transfer

from fmjax import backend, history, spec, workdir
from fmjax.__main__ import main as fmjax
from fmjax.data.runners import end_with_parent

RECIPE = pathlib.Path(__file__).resolve().parents[2] / "configs" / "pretrain.py"
TASKS = ("bert", "roberta", "albert", "t5", "electra", "gpt")
CONTROLS = ("bert", "gpt")  # whose first parameters, not trained at all, are measured too
UNTRAINED = "-untrained"
RATES, SEEDS = (1e-4, 3e-4, 1e-3), (0, 1, 2)
SMOKE = ["train.steps=4", "train.eval_batches=2", "optimizer.warmup_steps=2", "checkpoint.every=2"]
FEW = 64  # sentences of a split, with --smoke


class Results(dict):
  """Numbers by name, in a JSON file that is whole after each one."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    super().__init__(workdir.read_json(path) if path.is_file() else {})

  def once(self, name: str, make):
    """The number `name`; `make()` makes it where there is none."""
    if name not in self:
      started = time.monotonic()
      self[name] = make()
      workdir.write_json(self.path, self)
      print(f"{name}  {self[name]}  ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    return self[name]


# Pretraining.


def pretrain(task: str, home: pathlib.Path, changes: list[str]) -> dict:
  """Trains `task` in `home`, or goes on there, in a process of its own: {"steps", "tokens", "loss", "seconds"}."""
  words = ["train", f"--config={RECIPE}:{task}", f"--workdir={home}", *(f"--config.{change}" for change in changes)]
  process = multiprocessing.get_context("spawn").Process(target=in_process, args=(words,))
  process.start()
  process.join()
  if process.exitcode:
    raise SystemExit(process.exitcode)
  run = history.load(home)
  spent, train = history.spent(run), run.environment["data"]["train"]
  tokens = run.steps * run.config_value("train", "batch_size") * train["tokens"] / train["examples"]
  seconds = spent["step"] + spent["data wait"]
  return dict(steps=run.steps, tokens=round(tokens), loss=run.last("eval/loss"), seconds=round(seconds, 1))


def in_process(words: list[str]):
  end_with_parent()
  sys.exit(fmjax(words))


# What it is good for.


def measure(name: str, trained, params, sentences: dict, results: Results):
  """Fills in the numbers of the model `name`; `params` are those of `trained`, or others of its model."""
  results.once(f"{name}/parameters", lambda: transfer.parameters(params))
  with jax.set_mesh(trained.mesh):
    model, params = transfer.stack(trained.config.model, params)
    rows = {split: sst2.rows(texts, trained) for split, (texts, _) in sentences.items()}
    labels = {split: own for split, (_, own) in sentences.items()}

    def probe():
      x = {split: transfer.features(model, params, own) for split, own in rows.items()}
      return transfer.probe(x, labels)

    results.once(f"{name}/probe", probe)
    finetuned = transfer.Finetuning(model, params, rows, labels)

    def accuracies(rate, seed):
      return results.once(f"{name}/finetuned/{rate:g}/{seed}", lambda: finetuned(rate, seed))

    best = max(RATES, key=lambda rate: accuracies(rate, SEEDS[0])["dev"])
    results.once(f"{name}/rate", lambda: best)
    for seed in SEEDS[1:]:
      accuracies(best, seed)


def initial(trained):
  """The parameters that the run of `trained` began with."""
  with jax.set_mesh(trained.mesh):
    return jax.jit(trained.model.init)(jax.random.key(trained.config.seed))


def names_of(tasks) -> list[str]:
  """The models of the table: the trained ones, then the controls."""
  return [*tasks, *(task + UNTRAINED for task in tasks if task in CONTROLS)]


def is_measured(name: str, results: Results) -> bool:
  rate = results.get(f"{name}/rate")
  return rate is not None and all(f"{name}/finetuned/{rate:g}/{seed}" in results for seed in SEEDS)


# The table.


def table(results: Results, tasks) -> str:
  """Markdown; accuracies in percent, with the standard error of the mean over the seeds."""
  lines = [
    "| task | parameters | tokens | steps | loss, nats | seconds | probe dev | probe test | rate | fine-tuned test |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for name in names_of(tasks):
    cells = ["–"] * 4
    if run := results.get(f"{name}/pretraining"):
      cells = [f"{run['tokens'] / 1e6:.2f} M", f"{run['steps']:,}", f"{run['loss']:.3f}", f"{run['seconds']:.0f}"]
    size, probe, rate = (results[f"{name}/{what}"] for what in ("parameters", "probe", "rate"))
    test = [100 * results[f"{name}/finetuned/{rate:g}/{seed}"]["test"] for seed in SEEDS]
    tuned = f"{statistics.mean(test):.1f} ± {statistics.stdev(test) / len(test) ** 0.5:.1f}"
    probed = (f"{100 * probe[split]:.1f}" for split in ("dev", "test"))
    cells = [name, f"{size / 1e6:.2f} M", *cells, *probed, f"{rate:g}", tuned]
    lines.append(f"| {' | '.join(cells)} |")
  majority = f"{100 * results['majority']:.1f}"
  lines.append(f"| majority class | | | | | | | {majority} | | {majority} |")
  return "\n".join(lines)


def majority(sentences: dict) -> float:
  """The test accuracy of always saying what most of the training sentences are."""
  common = round(float(sentences["train"][1].mean()))
  return float((sentences["test"][1] == common).mean())


def main():
  parser = argparse.ArgumentParser(description="Compares pretraining tasks.", allow_abbrev=False)
  parser.add_argument("--data", required=True, metavar="DIR", help="SST-2's train.tsv, dev.tsv and test.tsv")
  parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="runs, results.json, table.md")
  parser.add_argument("--only", default=",".join(TASKS), metavar="TASK,...", help=f"some of {', '.join(TASKS)}")
  parser.add_argument("--smoke", action="store_true", help="minutes in OUT/smoke: every part, hardly trained")
  args = parser.parse_args()
  tasks = args.only.split(",")
  if unknown := sorted(set(tasks) - set(TASKS)):
    parser.error(f"--only={','.join(unknown)}: choose from {', '.join(TASKS)}")
  sentences, out = sst2.read(args.data), args.out
  if args.smoke:
    out = out / "smoke"
    sentences = {split: (texts[:FEW], labels[:FEW]) for split, (texts, labels) in sentences.items()}
  out.mkdir(parents=True, exist_ok=True)
  results = Results(out / "results.json")
  for task in tasks:
    results.once(f"{task}/pretraining", lambda task=task: pretrain(task, out / task, SMOKE if args.smoke else []))
  backend.start()
  for name in names_of(tasks):
    if not is_measured(name, results):
      trained = spec.load(str(out / name.removesuffix(UNTRAINED)))
      measure(name, trained, initial(trained) if name.endswith(UNTRAINED) else trained.params, sentences, results)
  results.once("majority", lambda: majority(sentences))
  text = table(results, tasks)
  workdir.write_bytes(out / "table.md", (text + "\n").encode())
  print(f"{text}\n\ntable    {out / 'table.md'}\nresults  {results.path}")


if __name__ == "__main__":
  main()
