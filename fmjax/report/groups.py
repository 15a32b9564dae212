"""Runs side by side: those whose configs differ in their seed alone are a group, and its number is their mean."""

import dataclasses
import json
import math
import os
import statistics

from fmjax.config import to_dict
from fmjax.history import Run, status
from fmjax.measures import tasks
from fmjax.metrics import compact
from fmjax.recipe import flatten
from fmjax.report.charts import Cloud, Picture, scatter
from fmjax.report.tasks import Judged, first_metric, judged, newest, number, title

# The quantile 0.975 of Student's t with 1, 2, ... degrees of freedom (Student 1908); the last is near that of more.
QUANTILES = (
  12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
  2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
  2.0452, 2.0423,
)  # fmt: skip


@dataclasses.dataclass
class Group:
  name: str
  color: int
  runs: list[Run]


def grouped(runs: list[Run]) -> list[Group]:
  """The groups in the order of their first runs. A field that an older version did not have is at its default."""
  found = {}
  for place, run in enumerate(runs):
    tree = to_dict(run.whole) if run.whole else run.config
    flat = {key: value for key, value in flatten(tree).items() if key != "seed"}
    key = json.dumps(flat, sort_keys=True) if run.config else place
    found.setdefault(key, []).append(run)
  names = [common_name([run.name for run in every]) for every in found.values()]
  return [
    Group(name if names.count(name) == 1 else every[0].name, color, every)
    for color, (name, every) in enumerate(zip(names, found.values()))
  ]


def common_name(names: list[str]) -> str:
  """What the names of a group's runs begin with, without a part of a number; the first where they have nothing so."""
  if len(names) == 1:
    return names[0]
  start = os.path.commonprefix(names)
  if all(name[len(start) :][:1].isdigit() for name in names):
    start = start.rstrip("0123456789")
  start = start.removesuffix("seed").rstrip("-_./ =").removesuffix("seed").rstrip("-_./ ")
  return start or names[0]


def interval(values: list[float]) -> tuple[float, float | None]:
  """(mean, half of its 95 % interval) over runs, by Student's t; None of a single run, or where one is not finite."""
  mean = sum(values) / len(values)
  if len(values) == 1 or not math.isfinite(mean):
    return mean, None
  quantile = QUANTILES[min(len(values) - 1, len(QUANTILES)) - 1]
  return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def told(values: list[float], form) -> str:
  if not values:
    return "–"
  mean, half = interval(values)
  return form(mean) if half is None else f"{form(mean)} ± {form(half)}"


def parameters(group: Group) -> int | None:
  """Those that train."""
  return group.runs[0].environment.get("parameters")


def lasts(group: Group, name: str) -> list[float]:
  """The newest number `name` of each run that has one."""
  return [value for run in group.runs if (value := run.last(name)) is not None]


def shared_metric(groups: list[Group]) -> str | None:
  """The metric that counts, where it is the same for all runs."""
  names = {first_metric(run) for group in groups for run in group.runs}
  return names.pop() if len(names) == 1 else None


def overview(groups: list[Group]) -> dict:
  """A row a group: its runs, the parameters that it trains, and its last evaluation."""
  metric = shared_metric(groups)
  head = ["runs", "parameters trained", *([title(metric)] if metric else []), "eval loss", "tokens/s"]
  rows = []
  for group in groups:
    open_ends = sum(status(run)[1] != "good" for run in group.runs)
    cells = [
      f"{len(group.runs)}" + (f", {open_ends} not finished" if open_ends else ""),
      f"{parameters(group):,}" if parameters(group) else "–",
    ]
    if metric:
      cells.append(told(lasts(group, f"eval/{metric}"), lambda value: number(metric, value)))
    rates = lasts(group, "tokens_per_second")
    cells += [told(lasts(group, "eval/loss"), "{:.4f}".format), compact(statistics.mean(rates)) if rates else "–"]
    rows.append(dict(name=group.name, color=group.color, cells=cells))
  return dict(head=head, rows=rows)


def against_parameters(groups: list[Group]) -> Picture | None:
  """The metric that counts against the parameters that train; None where they are the same for all."""
  metric, clouds = shared_metric(groups), []
  if metric is None:
    return None
  for group in groups:
    size, values = parameters(group), lasts(group, f"eval/{metric}")
    if not size or not values:
      continue
    mean, half = interval(values)
    means = None if half is None else (size, mean, mean - half, mean + half)
    clouds.append(Cloud(group.name, group.color, [(size, value) for value in values], means))
  if len({cloud.points[0][0] for cloud in clouds}) < 2:
    return None
  note = "each run, and where there are several the mean over seeds with its 95 % interval"
  words = title(metric)
  return scatter(words[:1].upper() + words[1:], "last evaluation", "parameters trained", clouds, log=True, note=note)


# --- their answers


def side_by_side(groups: list[Group]) -> list[dict]:
  """Of each data set that at least two groups have answers to: the metrics, and that of each part, in a table."""
  names = {}
  for group in groups:
    for name in dict.fromkeys(name for run in group.runs for name in newest(run)):
      names.setdefault(name, []).append(group)
  return [
    table
    for name, having in names.items()
    if (len(having) > 1 or len(groups) == 1) and (table := compared(name, groups))
  ]


def compared(name: str, groups: list[Group]) -> dict | None:
  columns, trouble = [], []
  for group in groups:
    found = [(run, judged(run, newest(run)[name])) for run in group.runs if name in newest(run)]
    trouble += [f"{run.name}: {one}" for run, one in found if isinstance(one, str)]
    columns.append(column([one for _, one in found if isinstance(one, Judged)]))
  keys = list(dict.fromkeys(key for cells in columns for key in cells))
  if not keys:
    return None
  rows = []
  for by, part in keys:
    cells = [cells.get((by, part)) for cells in columns]
    counts = dict.fromkeys(cell["n"] for cell in cells if cell)
    rows.append(dict(by=by, name=part, cells=cells, n=" / ".join(counts)))
  return dict(name=name, rows=rows, groups=[dict(name=group.name, color=group.color) for group in groups],
              trouble=trouble)  # fmt: skip


def column(every: list[Judged]) -> dict:
  """(what it is cut by, its name) -> the number of a group's runs: of one with the bootstrap's interval, of several
  their mean with that of seeds. A metric of all answers is cut by nothing."""
  values = {}
  for one in every:
    for key, (name, part) in parts(one).items():
      values.setdefault(key, []).append((name, part))
  return {key: number_of(*zip(*same)) for key, same in values.items()}


def number_of(names: tuple[str, ...], metrics: tuple) -> dict:
  """A metric of one run or of several, in words."""
  name, n = names[0], f"{len(metrics[0]):,}"
  if len(metrics) == 1:
    (score,) = tasks.scored({name: metrics[0]})
    value, about = score.value, f"{number(name, score.low)} to {number(name, score.high)}"
  else:
    value, half = interval([one.value for one in metrics])
    about = "" if half is None else f"± {number(name, half)}"
  return dict(text=number(name, value), about=about, n=n)


def parts(one: Judged) -> dict:
  """(what it is cut by, its name) -> (its metric's name, the metric)."""
  found = {("", title(name)): (name, metric) for name, metric in one.metrics.items()}
  words = title(one.name)
  return found | {(f"{words} by {part.by}", part.name): (one.name, part.of(one.measure)) for part in one.slices}
