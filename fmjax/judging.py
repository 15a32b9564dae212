"""A trained model on an eval split, in words: its losses, and a task's metrics with their intervals and answers."""

import dataclasses
import io
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from fmjax import data, ensemble, published, recipe, spec, workdir
from fmjax.assembly import eval_batches
from fmjax.config import Config, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.evaluate import Answers, evaluate, generated, shown, step_of
from fmjax.measures import tasks

WHERE = ("data.", "train.batch_size", "objective.")  # what may differ from the run's own config


class Judged(NamedTuple):
  """A model's evaluation: its `row`, what it was of, and a task's answers by source, as the objective gives them."""

  config: Config
  row: dict
  sources: dict
  answers: dict[str, list[dict]]


def judge(
  names: list[str], changes: dict[str, str], predictions: str | None, beams: int | None, combine: str | None = None,
  boost: str | None = None,
) -> str:  # fmt: skip
  """What `fmjax eval` prints of the SPECs `names`; `changes` are words of its command line: {"data.eval_path": ...}.

  Of several, each and what they answer together, combined as `combine` says. A task's answers are written to the file
  `predictions`, by default in the first run's folder, and to the file `boost` the weights of the examples for the
  next member.
  """
  if combine and len(names) == 1:
    raise FmjaxError("USAGE", "--combine is for several models", fix="give --model=SPEC for each of them")
  if len(names) > 1:
    ensemble.weights_of(combine or ensemble.AVERAGE, len(names))
  found = spec.load(names[0])
  config = changed_config(names[0], found, changes)
  out = file_for(config, names, found, changes, predictions, beams)
  if boost and (config.objective.name != "classification" or config.data.mixture is not None):
    raise FmjaxError(
      "USAGE", "members that tell the class of one source's texts are boosted", fix="leave --boost out"
    )
  weights = boost and free(boost, "weights", "--boost")
  first = evaluated(names[0], found, config, changes, beams)
  if not first.answers:
    return "\n".join(told_of(first.row))
  every = [first]
  for name in names[1:]:
    found = spec.load(name)
    every.append(evaluated(name, found, changed_config(name, found, changes), changes, beams))
  answers = {source: shown(first.sources[source], one) for source, one in first.answers.items()}
  if len(names) == 1:
    told = in_words(config.objective, answers, first.row)
  else:
    answers = of_all(every, answers, combine or ensemble.AVERAGE)
    told = side_by_side(names, every, answers, combine)
  told = [*told, *boosted(weights, every)] if weights else told
  write(out, answers)
  return "\n".join([*told, "", f"predictions  {out}"])


def with_head(name: str, tree: dict, predictions: str | None) -> str:
  """What `fmjax eval` prints of a published model that has a head for the task of a recipe's `tree`.

  The recipe's model, and what it starts from, are not looked at.
  """
  out = None if predictions is None else free(predictions)
  found, prepared = published.opened(name, task_in(tree))
  judged = told_by(name, found, found.config, prepared)
  answers = {source: shown(judged.sources[source], one) for source, one in judged.answers.items()}
  lines = in_words(found.config.objective, answers, judged.row)
  if out is not None:
    write(out, answers)
    lines += ["", f"predictions  {out}"]
  return "\n".join(lines)


def task_in(tree: dict) -> dict:
  """What of a recipe says a task, and not a model."""
  return {key: tree[key] for key in ("objective", "data", "seed", "mesh") if key in tree}


def untrained(
  name: str, tree: dict, predictions: str | None, shots: int | None, template: str | None, label_texts: str | None
) -> str:
  """What `fmjax eval` prints of a language model that answers the task of a recipe's `tree` by what it finds likely.

  The recipe's model and what it starts from are not looked at. The default template has each text on a line.
  """
  from fmjax.scoring import likelihood
  from fmjax.scoring import shots as scoring

  scoring.check_task(tree)
  config = from_config_dict(task_in(tree) | dict(model=dict(kind="encoder")), "the task's config")
  out = None if predictions is None else free(predictions)
  texts = [key for key in scoring.columns_of(config.objective) if key not in ("label", "choices")]
  template = "\n".join(f"{{{key}}}" for key in texts) if template is None else template.replace("\\n", "\n")
  asking = scoring.Asking(template, None if label_texts is None else tuple(label_texts.split(",")))
  answers = dict(eval=scoring.answers(likelihood.load(name), config, asking, shots or 0))
  told = in_words(config.objective, answers, {})[:-1]
  if out is None:
    return "\n".join(told)
  write(out, answers)
  return "\n".join([*told, "", f"predictions  {out}"])


def of_all(every: list[Judged], answers: dict[str, list[dict]], combine: str) -> dict[str, list[dict]]:
  """What the models answer together; `answers` are the first's, as they are shown."""
  if different := [one.answers for one in every if one.answers.keys() != answers.keys()]:
    raise FmjaxError("DATA_BAD", "the models were evaluated on different sources", got=", ".join(different[0]),
                     fix="give all the same data: --config.data.eval_path=FILE")  # fmt: skip
  found = {}
  for source, own in answers.items():
    made = ensemble.combined([one.answers[source] for one in every], combine)
    found[source] = [shown_as | one for shown_as, one in zip(own, made, strict=True)]
  return found


def file_for(config: Config, names, found, changes, predictions: str | None, beams: int | None):
  """The file that the answers go to, or None; USAGE where the objective has no answers and some are asked for."""
  objective = config.objective
  if beams and not objective.generates:
    raise FmjaxError("USAGE", f"objective {objective.name!r} writes no text", fix="leave --beams out")
  if len(names) > 1 and not (objective.task in ("sequence", "choice") and objective.judged_by):
    raise FmjaxError("USAGE", f"answers to objective {objective.name!r} are not combined", fix="give one --model")
  if objective.judged_by:
    return free(predictions or default_file(names, found, changes))
  if predictions or beams:
    raise FmjaxError("USAGE", f"objective {objective.name!r} has no answers to write", fix="leave it out")
  return None


def boosted(path: pathlib.Path, every: list[Judged]) -> list[str]:
  """Writes the weights of the examples; lines that say where they are and how the members are combined."""
  weights_B, says_M = ensemble.boosted([next(iter(one.answers.values())) for one in every])
  path.parent.mkdir(parents=True, exist_ok=True)
  np.save(content := io.BytesIO(), weights_B)
  workdir.write_bytes(path, content.getvalue())
  return ["", f"next member  --config.data.subsample.weights={path}",
          f"together     --combine=vote:{','.join(f'{say:.4f}' for say in says_M)}"]  # fmt: skip


def evaluated(name: str, found, config: Config, changes: dict[str, str], beams: int | None) -> Judged:
  # What a run is evaluated on does not hang on which rows it was trained on, nor on the file of their weights.
  prepared = data.prepare(dataclasses.replace(config.data, subsample=None), config.objective)
  check(found, prepared, changes)
  return told_by(name, found, config, prepared, beams)


def told_by(name: str, found, config: Config, prepared, beams: int | None = None) -> Judged:
  """What `found` says of the eval splits of `prepared`."""
  sources = eval_batches(prepared, config)
  if not sources:
    raise FmjaxError("DATA_BAD", "there is no text to evaluate on", where=name, got="an empty eval split",
                     fix="set data.eval_path, data.eval_split or data.eval_fraction")  # fmt: skip
  with jax.set_mesh(found.mesh):
    step, told = step_of(found.model, config.objective), Answers(sources)
    row = evaluate(step, found.params, sources, prepared.bytes_per_token, answers=told)
    answers = {source: told.of(source) for source in sources if told}
    if config.objective.generates:
      how, size = {} if beams is None else dict(num_beams=beams), config.train.batch_size
      answers = {
        source: generated(found.model, found.params, one, size, **how) for source, one in sources.items()
      }  # fmt: skip
  return Judged(config, row, sources, answers)


def changed_config(name: str, found, changes: dict[str, str]) -> Config:
  """The config of the run `name` with `changes`."""
  if found.manifest.get("data_fingerprint") is None:
    raise FmjaxError("USAGE", f"{name} was not trained here: it has no eval split", fix="give a text: --data=FILE")
  return changed(found.config, changes)


def changed(config: Config, changes: dict[str, str]) -> Config:
  """The run's config with `changes`, where they alter what is evaluated and not what was trained."""
  if refused := [key for key in changes if not key.startswith(WHERE)]:
    raise FmjaxError("USAGE", f"an evaluation has no --config.{refused[0]}", fix=f"it may change {', '.join(WHERE)}")
  return from_config_dict(recipe.override(to_dict(config), changes), "the run's config")


def check(found, prepared, changes: dict[str, str]):
  """The run's own data must be what it was; other data must have its tokenizer."""
  if not changes:
    data.check_fingerprint(found.manifest["data_fingerprint"].partition(" weights:")[0], prepared)
  elif prepared.tokenizer.fingerprint != found.tokenizer.fingerprint:
    raise FmjaxError("TOKENIZER_BAD", "the data has another tokenizer than the run", where="data.tokenizer",
                     expected=found.tokenizer.fingerprint, got=prepared.tokenizer.fingerprint,
                     fix="set data.tokenizer to the run's folder tokenizer")  # fmt: skip


def default_file(names: list[str], found, changes: dict[str, str]) -> pathlib.Path:
  """In the first run's folder, by its step, by the data that is not the run's own and by how many models answer."""
  other = changes.get("data.eval_path") or changes.get("data.eval_split")
  what = "eval" if other is None else pathlib.PurePath(other).stem.strip("*{}.") or "eval"
  runs = [one for name in names for one in spec.parts_of(name)]
  what += f"-of-{len(runs)}" if len(runs) > 1 else ""
  return pathlib.Path(runs[0].partition("@")[0]) / "predictions" / f"{what}-{found.manifest['step']}.jsonl"


def free(path, of: str = "predictions", word: str = "--predictions") -> pathlib.Path:
  if pathlib.Path(path).exists():
    raise FmjaxError("USAGE", f"the file of {of} exists; nothing was written", where=path,
                     fix=f"give another file: {word}=FILE")  # fmt: skip
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


def side_by_side(names: list[str], every: list[Judged], together: dict[str, list[dict]], combine: str | None):
  """A table of what each model's answers are worth, over all sources, and what those of all together are."""
  objective = every[0].config.objective
  found = {}
  for name, one in zip(names, every):
    found[name] = tasks.scores(objective, [answer for answers in one.answers.values() for answer in answers])
  count, how = sum(map(len, together.values())), combine or ensemble.AVERAGE
  found[f"{how} of {len(names)}"] = tasks.scores(objective, [one for own in together.values() for one in own])
  title = f"{objective.name}: {count:,} answers, 95 % intervals by the bootstrap"
  return [title, "", *table(found, "model")]


def told_of(row: dict) -> list[str]:
  return [f"{key:<24} {value:.6f}" for key, value in row.items()]


def table(found: dict[str, list], of: str = "source") -> list[str]:
  """Lines: a row a metric (`tasks.Score`) of each source, or of what else has them."""
  head, rows = (of, "metric", "value", "interval", "n"), []
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
