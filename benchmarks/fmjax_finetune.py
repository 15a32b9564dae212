"""Fine-tunes by a recipe of configs/ and measures it on two splits; prints what `torch_finetune.py` prints."""

import argparse
import json
import pathlib
import time

STARTED = time.monotonic()

import jax  # noqa: E402

from fmjax import assembly, backend, data, environment, recipe, spec, train, workdir  # noqa: E402
from fmjax.config import from_config_dict, to_dict  # noqa: E402
from fmjax.evaluate import Answers, evaluate, step_of  # noqa: E402

RECIPES = pathlib.Path(__file__).resolve().parents[1] / "configs"
FILES = {
  "sst2": dict(train="train.tsv", dev="dev.tsv", test="test.tsv"),
  "conll2003": dict(train="eng.train", dev="eng.testa", test="eng.testb"),
}
METRICS = {"sst2": "accuracy", "conll2003": "span_f1"}
METHODS = {"adapters": "bottleneck"}  # where the contest's name is not ours


def arguments():
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
  parser.add_argument("--task", choices=FILES, required=True)
  parser.add_argument("--method", required=True)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--weights", required=True, help="a folder in Hugging Face's layout")
  parser.add_argument("--data", type=pathlib.Path, required=True, help="the task's files")
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--limit", type=int, help="the first examples of each split alone, to try it")
  return parser.parse_args()


def files_of(args) -> dict:
  """{split: path}; with --limit of files that hold the first examples."""
  paths = {split: args.data / name for split, name in FILES[args.task].items()}
  if args.limit is None:
    return {split: str(path) for split, path in paths.items()}
  end = "\n\n" if args.task == "conll2003" else "\n"
  for split, path in paths.items():
    short = pathlib.Path(args.workdir + "-data") / path.name
    short.parent.mkdir(exist_ok=True)
    short.write_text(end.join(path.read_text().split(end)[: args.limit]) + end)
    paths[split] = short
  return {split: str(path) for split, path in paths.items()}


def measured(home: str, path: str, metric: str) -> float:
  """The metric of the run in `home` on the file `path`."""
  found = spec.load(home)
  changed = recipe.override(to_dict(found.config), {"data.eval_path": path})
  config = from_config_dict(changed)
  prepared = data.prepare(config.data, config.objective)
  with jax.set_mesh(found.mesh):
    sources = assembly.eval_batches(prepared, config)
    step, answers = step_of(found.model, config.objective), Answers(sources)
    row = evaluate(step, found.params, sources, None, answers=answers)
  return row[f"eval/{metric}"]


def main():
  args = arguments()
  files, metric = files_of(args), METRICS[args.task]
  words = {"init_from": f"hf:{args.weights}", "data.path": files["train"], "data.eval_path": files["dev"],
           "seed": str(args.seed), "data.cache": args.workdir + "-cache"}  # fmt: skip
  method = METHODS.get(args.method, args.method)
  config = from_config_dict(recipe.override(recipe.load_recipe(f"{RECIPES / args.task}.py:{method}"), words))
  backend.start()
  begun = time.monotonic() - STARTED
  row = train.run(args.workdir, config, started=STARTED)
  trained = time.monotonic() - STARTED
  test = measured(args.workdir, files["test"], metric)
  total = time.monotonic() - STARTED
  facts = workdir.read_json(pathlib.Path(args.workdir) / "environment.json")
  print(json.dumps(dict(
    task=args.task, method=args.method, seed=args.seed, metric=metric,
    metrics=dict(dev=row[f"eval/{metric}"], test=test), trained_parameters=facts["parameters"], steps=row["step"],
    seconds=dict(startup=begun, train=trained - begun, eval=total - trained, total=total),
    versions=environment.versions(),
  )))  # fmt: skip


if __name__ == "__main__":
  main()
