"""A trained model on an eval split, in words: its losses, and a task's metrics with their intervals and answers."""

import json
import pathlib

import jax

from fmjax import data, recipe, spec, workdir
from fmjax.assembly import eval_batches
from fmjax.config import Config, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.evaluate import Answers, evaluate, generated, shown, step_of
from fmjax.measures import tasks

WHERE = ("data.", "train.batch_size", "objective.")  # what may differ from the run's own config


def judge(name: str, changes: dict[str, str], predictions: str | None, beams: int | None) -> str:
  """What `fmjax eval` prints of the SPEC `name`; `changes` are words of its command line: {"data.eval_path": ...}.

  A task's answers are written to the file `predictions`, by default in the run's folder.
  """
  found = spec.load(name)
  if found.manifest.get("data_fingerprint") is None:
    raise FmjaxError("USAGE", f"{name} was not trained here: it has no eval split", fix="give a text: --data=FILE")
  config = changed(found.config, changes)
  prepared = data.prepare(config.data, config.objective)
  check(found, prepared, changes)
  out = None
  if config.objective.judged_by:
    out = free(predictions or default_file(name, found, changes))
  elif predictions or beams:
    raise FmjaxError("USAGE", f"objective {config.objective.name!r} has no answers to write", fix="leave it out")
  if beams and not config.objective.generates:
    raise FmjaxError("USAGE", f"objective {config.objective.name!r} writes no text", fix="leave --beams out")
  sources = eval_batches(prepared, config)
  if not sources:
    raise FmjaxError("DATA_BAD", "there is no text to evaluate on", where="data", got="an empty eval split",
                     fix="set data.eval_path, data.eval_split or data.eval_fraction")  # fmt: skip
  with jax.set_mesh(found.mesh):
    step, told = step_of(found.model, config.objective), Answers(sources)
    row = evaluate(step, found.params, sources, prepared.bytes_per_token, answers=told)
    answers = {source: told.of(source) for source in sources if told}
    if config.objective.generates:
      how = {} if beams is None else dict(num_beams=beams)
      size = config.train.batch_size
      answers = {
        source: generated(found.model, found.params, one, size, **how) for source, one in sources.items()
      }  # fmt: skip
  if not answers:
    return "\n".join(told_of(row))
  write(out, {source: shown(sources[source], every) for source, every in answers.items()})
  return "\n".join([*in_words(config.objective, answers, row), "", f"predictions  {out}"])


def changed(config: Config, changes: dict[str, str]) -> Config:
  """The run's config with `changes`, where they alter what is evaluated and not what was trained."""
  if refused := [key for key in changes if not key.startswith(WHERE)]:
    raise FmjaxError("USAGE", f"an evaluation has no --config.{refused[0]}", fix=f"it may change {', '.join(WHERE)}")
  return from_config_dict(recipe.override(to_dict(config), changes), "the run's config")


def check(found, prepared, changes: dict[str, str]):
  """The run's own data must be what it was; other data must have its tokenizer."""
  if not changes:
    data.check_fingerprint(found.manifest["data_fingerprint"], prepared)
  elif prepared.tokenizer.fingerprint != found.tokenizer.fingerprint:
    raise FmjaxError("TOKENIZER_BAD", "the data has another tokenizer than the run", where="data.tokenizer",
                     expected=found.tokenizer.fingerprint, got=prepared.tokenizer.fingerprint,
                     fix="set data.tokenizer to the run's folder tokenizer")  # fmt: skip


def default_file(name: str, found, changes: dict[str, str]) -> pathlib.Path:
  """In the run's folder, by its step and by the data that is not the run's own."""
  other = changes.get("data.eval_path") or changes.get("data.eval_split")
  what = "eval" if other is None else pathlib.PurePath(other).stem.strip("*{}.") or "eval"
  return pathlib.Path(name.partition("@")[0]) / "predictions" / f"{what}-{found.manifest['step']}.jsonl"


def free(path) -> pathlib.Path:
  if pathlib.Path(path).exists():
    raise FmjaxError("USAGE", "the file of predictions exists; nothing was written", where=path,
                     fix="remove it, or give another file: --predictions=FILE")  # fmt: skip
  return pathlib.Path(path)


def write(path: pathlib.Path, answers: dict[str, list[dict]]):
  """One answer a line, with its source's name where there are several."""
  lines = [
    json.dumps(one if len(answers) == 1 else dict(source=source, **one), ensure_ascii=False)
    for source, every in answers.items() for one in every
  ]  # fmt: skip
  path.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_bytes(path, ("\n".join(lines) + "\n").encode())


def in_words(objective, answers: dict[str, list[dict]], row: dict) -> list[str]:
  """A table of what the answers are worth, and what else the evaluation's `row` has, each number once."""
  found = {source: tasks.scores(objective, every) for source, every in answers.items()}
  count = sum(map(len, answers.values()))
  if len(found) > 1:
    found["all"] = tasks.scores(objective, [one for every in answers.values() for one in every])
  judged = {one.name for one in next(iter(found.values()))}
  rest = {key: value for key, value in row.items() if key.rpartition("/")[2] not in judged}
  notes = {f"{one.name}: {one.signature}": None for every in found.values() for one in every if one.signature}
  title = f"{objective.name}: {count:,} answers, 95 % intervals by the bootstrap"
  return [title, "", *table(found), *([""] if notes else []), *notes, "", *told_of(rest)]


def told_of(row: dict) -> list[str]:
  return [f"{key:<24} {value:.6f}" for key, value in row.items()]


def table(found: dict[str, list]) -> list[str]:
  """Lines: a row a metric (`tasks.Score`) of each source."""
  head, rows = ("source", "metric", "value", "interval", "n"), []
  for source, every in found.items():
    for one in every:
      rows.append((source, one.name, f"{one.value:.4f}", f"{one.low:.4f} .. {one.high:.4f}", f"{one.examples:,}"))
      source = ""  # once is enough
  start = int(len(found) == 1)
  columns = [*zip(head, *rows)][start:]
  widths = [max(map(len, column)) for column in columns]
  aligned = [">" if column[0] in ("value", "interval", "n") else "<" for column in columns]
  lines = []
  for cells in zip(*columns):
    lines.append("  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(cells, aligned, widths)).rstrip())
  return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
