"""A run read back from its folder, in whatever state it was left: finished, still going, killed, or hardly begun."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import socket

from fmjax import metrics
from fmjax.errors import FmjaxError

LOST = "lost work"  # done, but after the last save that a later attempt could restore
BUCKETS = (*metrics.BUCKETS, LOST)
DONE = (None, 0, "0", "done", "ok", "finished")  # what the `status` of an end event may be when all went well


@dataclasses.dataclass
class Run:
  path: pathlib.Path
  name: str
  config: dict
  environment: dict
  rows: list[dict]
  events: list[dict]
  samples: list[dict]
  incidents: list[pathlib.Path]
  predictions: list[pathlib.Path]

  @functools.cached_property
  def whole(self):
    """The Config; None where it is not one of this version of fmjax."""
    from fmjax.config import from_config_dict

    try:
      return from_config_dict(self.config)
    except FmjaxError:
      return None

  @property
  def objective(self):
    """What the run trains for, where its config says it."""
    return self.whole and self.whole.objective

  def series(self, name: str) -> list[tuple[int, float]]:
    """(step, value) of each row that has the number `name`, in order of step; values may be nan or inf."""
    found = {}
    for row in self.rows:
      with contextlib.suppress(KeyError, TypeError, ValueError):
        found[int(row["step"])] = float(row[name])
    return sorted(found.items())

  def last(self, name: str) -> float | None:
    """The newest finite value of `name`."""
    return next((value for _, value in reversed(self.series(name)) if math.isfinite(value)), None)

  def named(self, event: str) -> list[dict]:
    return [one for one in self.events if one.get("event") == event]

  @property
  def steps(self) -> int:
    """Updates done, as far as the run's files tell."""
    return max((int(line.get("step") or 0) for line in (*self.rows, *self.named("end"))), default=0)

  @property
  def tokens(self) -> int | None:
    batch, length = self.config_value("train", "batch_size"), self.config_value("data", "sequence_length")
    return self.steps * batch * length if batch and length else None

  def config_value(self, branch: str, field: str):
    found = self.config.get(branch)
    return found.get(field) if isinstance(found, dict) else None

  @property
  def attempts(self) -> list[int]:
    return sorted({line["attempt"] for line in (*self.events, *self.rows) if isinstance(line.get("attempt"), int)})


def json_file(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def is_run(path: pathlib.Path) -> bool:
  return any((path / name).is_file() for name in ("config.json", metrics.ROWS, metrics.EVENTS))


def load(path) -> Run:
  """The run in the folder `path`; FmjaxError DATA_MISSING where there is none."""
  path = pathlib.Path(path)
  if not is_run(path):
    near = sorted(str(one) for folder in (path, path.parent) for one in folder.glob("*") if is_run(one))[:4]
    raise FmjaxError(
      "DATA_MISSING",
      f"{path} is not a run's folder",
      expected=f"a folder with config.json or {metrics.ROWS}",
      got="an empty or other folder" if path.is_dir() else "a file" if path.exists() else "nothing there",
      fix="did you mean " + " or ".join(near) + "?" if near else "give the --workdir of an `fmjax train`",
    )
  try:
    rows, events, samples = (metrics.read(path / name) for name in (metrics.ROWS, metrics.EVENTS, metrics.SAMPLES))
  except OSError as error:
    raise FmjaxError("PERMISSION", "a run's file cannot be read", where=error.filename, got=error.strerror) from error
  incidents = sorted(one for one in path.glob("incidents/*") if one.is_dir())
  predictions = sorted(one for one in path.glob("predictions/*.jsonl") if one.is_file())
  config, environment = json_file(path / "config.json"), json_file(path / "environment.json")
  return Run(path, path.resolve().name, config, environment, rows, events, samples, incidents, predictions)


def alive(start: dict) -> bool | None:
  """Whether the process that wrote a start event still runs; None where it was on another host."""
  if start.get("host") != socket.gethostname() or not isinstance(start.get("pid"), int):
    return None
  try:
    os.kill(start["pid"], 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def status(run: Run) -> tuple[str, str]:
  """How the run stands, in a word, and whether that is `good`, `busy` or `bad`."""
  newest = [event for event in run.events if event.get("attempt") == max(run.attempts, default=None)]
  kinds = {event.get("event"): event for event in newest}
  if "preempt" in kinds:
    return "interrupted, resumable", "busy"
  if "error" in kinds:
    return f"failed: {kinds['error'].get('code', 'error')}", "bad"
  if "end" in kinds:
    word = kinds["end"].get("status")
    return ("finished", "good") if word in DONE else (f"ended: {word}", "bad")
  running = alive(kinds.get("start", {}))
  if running is None:
    return "not finished", "busy"
  return ("running", "busy") if running else ("killed", "bad")


def spent_until(run: Run, attempt: int, moment: float) -> dict[str, float]:
  """Seconds in each bucket of an attempt's first `moment` seconds. They sum to `moment`.

  What passed since the last event that carried the clock was spent on steps (and on data, in the share that the rows
  say), or on start-up where there was no step yet.
  """
  spent = dict.fromkeys(BUCKETS, 0.0)
  for event in run.events:
    if (
      event.get("attempt") == attempt and isinstance(event.get("clock"), dict) and event.get("monotonic", 0) <= moment
    ):
      spent |= {bucket: float(seconds) for bucket, seconds in event["clock"].items() if bucket in spent}
  # An event's clock is read just before its own time is; the rest may be negative by microseconds.
  rest = max(0.0, moment - sum(spent.values()))
  rows = [row for row in run.rows if row.get("attempt") == attempt and "train/loss" in row]
  waits = [float(row["data_wait"]) for row in rows if "data_wait" in row]
  wait = sum(waits) / len(waits) if waits else 0.0
  spent["step" if rows else "start-up"] += rest * (1 - wait if rows else 1)
  spent["data wait"] += rest * wait if rows else 0
  return spent


def spent(run: Run) -> dict[str, float]:
  """Seconds in each bucket over all attempts. Where an attempt's tail was lost, its time up to the save that was
  restored counts for what it was, and the rest as lost work."""
  total = dict.fromkeys(BUCKETS, 0.0)
  for attempt in run.attempts:
    events = [event for event in run.events if event.get("attempt") == attempt]
    times = [event.get("monotonic", 0.0) for event in events]
    times += [row.get("elapsed", 0.0) for row in run.rows if row.get("attempt") == attempt]
    moment = max(times, default=0.0)
    later = [event for event in run.named("restore") if event.get("attempt", 0) > attempt]
    if later and later[0].get("lost_seconds"):
      kept = min(event.get("step", 0) for event in later)
      saves = [event for event in events if event.get("event") == "save" and event.get("step", 0) <= kept]
      rows = [row for row in run.rows if row.get("attempt") == attempt]
      known = saves or rows  # killed between a save and its event: up to the last row that was kept
      moment = max((one.get("monotonic", one.get("elapsed", 0.0)) for one in known), default=0.0)
    for bucket, seconds in spent_until(run, attempt, moment).items():
      total[bucket] += seconds
  total[LOST] += sum(float(event.get("lost_seconds") or 0) for event in run.named("restore"))
  return total


def shares(amounts: dict[str, float]) -> dict[str, float]:
  """Percent of each amount to a tenth, rounded such that they sum to 100.0 (largest remainders first)."""
  whole = sum(amounts.values())
  if whole <= 0:
    return dict.fromkeys(amounts, 0.0)
  exact = {name: 1000 * amount / whole for name, amount in amounts.items()}
  tenths = {name: math.floor(share) for name, share in exact.items()}
  for name in sorted(exact, key=lambda name: tenths[name] - exact[name])[: 1000 - sum(tenths.values())]:
    tenths[name] += 1
  return {name: share / 10 for name, share in tenths.items()}
