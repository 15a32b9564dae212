"""Which members a study has, and what they say together: of each metric the mean, its standard error and interval."""

import dataclasses
import math
import pathlib
import statistics

from fmjax import metrics, recipe, workdir
from fmjax.config import Config, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.report.groups import interval

STUDY = "study.json"
LEVEL = 0.95
# In what members may differ: the name there and here of a field that alters no shape.
AXES = dict(seed="seed", learning_rate="optimizer.learning_rate", weight_decay="optimizer.weight_decay")
SHORT = dict(seed="seed", learning_rate="rate", weight_decay="decay")
RUNNING, STOPPED, DIVERGED, DONE = "running", "stopped", "diverged", "done"


@dataclasses.dataclass
class Member:
  """A run of a study: what sets it apart, and how it stands. A `stopped` one has had enough by its train.stop."""

  name: str  # of its folder
  seed: int
  learning_rate: float
  weight_decay: float
  status: str = RUNNING

  @property
  def over(self) -> bool:
    return self.status in (STOPPED, DIVERGED)


def member(name: str, config: Config) -> Member:
  return Member(name, config.seed, config.optimizer.learning_rate, config.optimizer.weight_decay)


Given = dict[str, tuple[Member, Config | None]]  # by name: a member, and the config that is given for it, if one is


def settle(home, config: Config | None, words: dict[str, str], lists: dict) -> Given:
  """The members of the study in the folder `home`, which `config`, or the `words` over the members' own, are for.

  `lists` have the values of each of AXES, or None: those of a new study, or what the study there has.
  """
  path = pathlib.Path(home) / STUDY
  there = [Member(**one) for one in workdir.read_json(path)["members"]] if path.is_file() else None
  if config is None and there is None:
    raise FmjaxError("USAGE", f"there is no study in {home} to resume", fix="give --config=FILE to start one")
  if there is None:
    there = [member(name, one) for name, one in asked(config, lists).items()]
  elif any(lists.values()):
    check_same(path, there, lists)
  if config is None:
    given = {one.name: of_folder(path.parent / one.name, words) for one in there}
  else:
    given = {one.name: changed(config, {axis: getattr(one, axis) for axis in AXES}) for one in there}
  check([one for one in given.values() if one is not None])
  return {one.name: (one, given[one.name]) for one in there}


def of_folder(home: pathlib.Path, words: dict[str, str]) -> Config | None:
  if not words:
    return None
  path = home / "config.json"
  return from_config_dict(recipe.override(workdir.read_json(path), words), str(path))


def changed(config: Config, values: dict) -> Config:
  """`config` with these `values` of AXES."""
  words = {AXES[axis]: repr(value) for axis, value in values.items()}
  return from_config_dict(recipe.override(to_dict(config), words), "a member's config")


def asked(config: Config, lists: dict) -> dict[str, Config]:
  """Folder's name -> config, of every combination of the values in `lists`, {name of AXES: list or None}."""
  found = [({}, "")]
  for axis, values in lists.items():
    if not values and axis != "seed":
      continue
    found = [
      (own | {axis: value}, f"{name}-{SHORT[axis]}{short(value)}".lstrip("-"))
      for own, name in found
      for value in dict.fromkeys(values or [config.seed])
    ]
  if len({name for _, name in found}) < len(found):
    raise FmjaxError("USAGE", "two members would have one folder", fix="give values that differ in six digits")
  return {name: changed(config, own) for own, name in found}


def short(value: int | float) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def check_same(path, there: list[Member], lists: dict):
  """CONFIG_CHANGED where the `lists` are not those that the study was started with."""
  for axis, values in lists.items():
    had = list(dict.fromkeys(getattr(one, axis) for one in there))
    if sorted(values or had) != sorted(had):
      raise FmjaxError(
        "CONFIG_CHANGED", f"the study in {path.parent} has other members", where=path,
        expected=f"{axis}s {', '.join(map(short, had))}", got=", ".join(map(short, values)),
        fix="leave the lists out to resume it, or start a new study in another --workdir",
      )  # fmt: skip


def check(configs: list[Config]):
  """CONFIG where these cannot be trained side by side."""
  first = next(iter(configs), None)
  if first is None:
    return
  if first.adapt.name == "features":
    raise FmjaxError("CONFIG", "adapt.name=features has no steps to take together", where="adapt.name",
                     fix="set adapt.name=head, or run fmjax train for each seed")  # fmt: skip
  if (first.data.buckets or first.data.join) and len({one.data_seed for one in configs}) > 1:
    raise FmjaxError(
      "CONFIG", "members with orders of their own have batches of unequal length at one step", where="data.buckets",
      fix="set --config.data.buckets, data.pool and data.join to None, or --config.data.seed=0 for one order of all",
    )  # fmt: skip


# What they say together.


def write(home, members: list[Member]) -> dict:
  """Writes the study's file anew, and gives what is in it."""
  home = pathlib.Path(home)
  tree = dict(level=LEVEL, members=[dataclasses.asdict(one) for one in members], groups=summary(home, members))
  workdir.write_json(home / STUDY, tree)
  return tree


def summary(home: pathlib.Path, members: list[Member]) -> list[dict]:
  """A group for each learning rate and weight decay: over its seeds, of each step, each metric's `told`.

  `last` is the same of each seed's own last evaluation, which may be at a step of its own, or of its last row where
  there is none.
  """
  groups = {}
  for one in members:
    groups.setdefault((one.learning_rate, one.weight_decay), []).append(one.name)
  found = []
  for (rate, decay), names in groups.items():
    every = [metrics.read(home / name / metrics.ROWS) for name in names]
    ends = [([row for row in rows if "eval/loss" in row] or rows)[-1:] for rows in every]
    ends = [row for rows in ends for row in rows]
    steps = {}
    for row in (row for rows in every for row in rows):
      steps.setdefault(row["step"], []).append(row)
    rows = [dict(step=step, **over(steps[step])) for step in sorted(steps)]
    last = dict(steps=sorted({row["step"] for row in ends}), **over(ends))
    found.append(dict(learning_rate=rate, weight_decay=decay, members=names, rows=rows, last=last))
  return found


def over(rows: list[dict]) -> dict:
  """Each metric of the rows, as far as it is a number there, `told`."""
  values = {}
  for row in rows:
    for key, value in row.items():
      if key.startswith(("train/", "eval/")) and math.isfinite(float(value)):
        values.setdefault(key, []).append(float(value))
  return {key: told(x) for key, x in values.items()}


def told(values: list[float]) -> dict:
  """Mean, standard error, and the interval of the mean by Student's t; None of a single run."""
  mean, half = interval(values)
  found = dict(mean=mean, error=None, low=None, high=None, n=len(values), least=min(values), most=max(values))
  if half is not None:
    error = statistics.stdev(values) / math.sqrt(len(values))
    found |= dict(error=error, low=mean - half, high=mean + half)
  return found


HEAD = ("group", "step", "metric", "mean", "interval", "least .. most", "n")


def table(tree: dict) -> list[str]:
  """Lines: a row a metric of each group's last evaluations, or of its loss where there are none."""
  rows, groups = [], tree["groups"]
  for group in groups:
    name = f"rate {group['learning_rate']:g}, decay {group['weight_decay']:g}"
    last, steps = group["last"], group["last"]["steps"]
    when = " .. ".join(map(str, dict.fromkeys([steps[0], steps[-1]]))) if steps else ""
    for key in [key for key in last if key.startswith("eval/")] or [key for key in last if key == "train/loss"]:
      rows.append((name, when, key, *in_words(last[key])))
      name = ""  # once is enough
  columns = [*zip(HEAD, *rows)][len(groups) < 2 :]
  widths = [max(map(len, column)) for column in columns]
  lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in zip(*columns)]
  return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def in_words(one: dict) -> tuple[str, str, str, str]:
  spread = f"{one['least']:.4f} .. {one['most']:.4f}"
  if one["error"] is None:
    return f"{one['mean']:.4f}", "-", spread, str(one["n"])
  interval = f"{one['low']:.4f} .. {one['high']:.4f}"
  return f"{one['mean']:.4f} ± {one['error']:.4f}", interval, spread, str(one["n"])
