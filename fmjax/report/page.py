"""A run, or several side by side, as one HTML page that needs nothing else: no network, no font, no second file."""

import json
import math
import os
import pathlib
import statistics

from fmjax import history
from fmjax.config import from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.metrics import compact, disk, duration
from fmjax.recipe import flatten
from fmjax.report import curves, tasks
from fmjax.report.groups import against_parameters, grouped, overview, side_by_side
from fmjax.workdir import write_bytes

EVENTS_SHOWN = 200
INCIDENT_TEXT = 2000


def build(runs, out=None) -> pathlib.Path:
  """Writes the page about the runs' folders to `out` (else report.html in the first) and returns its path."""
  loaded = [history.load(path) for path in runs]
  tell_apart(loaded)
  out = pathlib.Path(out) if out else loaded[0].path / "report.html"
  page = render(loaded, out.parent)
  with disk(out):
    write_bytes(out, page.encode())
  return out


def tell_apart(runs):
  """Names runs whose folders are called the same by more of their path."""
  for depth in range(2, 6):
    names = [run.name for run in runs]
    for run in runs:
      if names.count(run.name) > 1:
        run.name = "/".join(run.path.resolve().parts[-depth:])


def render(runs, folder: pathlib.Path) -> str:
  import jinja2

  loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
  environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True)  # fmt: skip
  groups = grouped(runs)
  colors = {id(run): group.color for group in groups for run in group.runs}
  levels = {f"{name} {value:.2f}": value for name, value in baselines(runs[0]).items()}
  views = [view(run, colors[id(run)], folder, len(runs) == 1) for run in runs]
  return environment.get_template("page.html.jinja").render(
    runs=views, charts=curves.charts(groups, levels),
    bars=bars(runs, colors), differing=differing(runs), buckets=history.BUCKETS, together=together(groups),
    units=sorted({tasks.unit(run.objective) for run in runs}),
  )  # fmt: skip


def together(groups) -> dict | None:
  """What the page says of several runs at once; `seeds`: whether some differ in nothing else."""
  if sum(len(group.runs) for group in groups) == 1:
    return None
  return dict(
    seeds=any(len(group.runs) > 1 for group in groups), groups=groups, overview=overview(groups),
    picture=against_parameters(groups), answers=side_by_side(groups),
  )  # fmt: skip


def view(run, color: int, folder: pathlib.Path, alone: bool) -> dict:
  """What the page says about one run, in words and numbers that are ready to show; `alone` its answers too."""
  word, tone = history.status(run)
  seconds = history.spent(run)
  percent = history.shares(seconds)
  split = [
    dict(name=name, seconds=duration(seconds[name]) if seconds[name] else "–", percent=percent[name])
    for name in history.BUCKETS
  ]
  environment = run.environment
  starts = run.named("start")
  command = environment.get("command") or (starts[0].get("command") if starts else None) or ""
  answers = tasks.views(run) if alone else []
  said, whole = differences_from_defaults(run.config), flatten(run.config)
  return dict(
    name=run.name, color=color, status=word, tone=tone, answers=answers,
    verdict=verdict(run, word, seconds), tiles=tiles(run, seconds, answers),
    started=str(run.events[0].get("wall", ""))[:16].replace("T", " ") if run.events else "",
    split=split, wall=duration(sum(seconds.values())),
    command=command if isinstance(command, str) else " ".join(map(str, command)),
    said={key: plain(value) for key, value in said.items()},
    whole={key: plain(value) for key, value in whole.items()},
    hardware=hardware(environment), versions=environment.get("versions") or {}, data=data_facts(environment),
    samples=[dict(step=f"{sample.get('step', 0):,}", prompt=str(sample.get("prompt", "")),
                  text=str(sample.get("text", ""))) for sample in reversed(run.samples)],
    events=[event_line(event) for event in run.events[-EVENTS_SHOWN:]], hidden=max(0, len(run.events) - EVENTS_SHOWN),
    profiles=[link(run, str(event.get("path", "")), folder) for event in run.named("profile")],
    incidents=[dict(**link(run, str(path), folder), files=incident_files(path)) for path in run.incidents],
  )  # fmt: skip


def baselines(run) -> dict[str, float]:
  """Bits per byte of what a reader knows, on the same bytes: name -> number."""
  data = run.environment.get("data") or {}
  found = data.get("baselines") or (data.get("facts") or {}).get("baselines") or {}
  return {str(name): float(value) for name, value in found.items() if isinstance(value, (int, float))}


def throughput(run) -> float | None:
  """The median over the later half, which neither compilation nor the first steps touch."""
  rates = [value for _, value in run.series("tokens_per_second") if math.isfinite(value)]
  return statistics.median(rates[len(rates) // 2 :]) if rates else None


def devices(environment: dict) -> str:
  count, kind = environment.get("device_count"), environment.get("device_kind") or environment.get("platform")
  return f"{count} × {kind}" if count and kind else str(kind or "")


def verdict(run, word: str, seconds: dict) -> str:
  """The run in two sentences."""
  wanted = run.config_value("train", "steps")
  of = f" of {wanted:,}" if wanted and wanted != run.steps else ""
  on = f" on {devices(run.environment)}" if devices(run.environment) else ""
  text = f"{word[:1].upper()}{word[1:]} after {run.steps:,}{of} steps and {duration(sum(seconds.values()))}{on}."
  loss, bits = run.last("eval/loss"), run.last("eval/bits_per_byte")
  if loss is not None:
    text += f" Evaluation loss {loss:.4f} {tasks.unit(run.objective)}"
    metric = tasks.first_metric(run)
    if metric and (value := run.last(f"eval/{metric}")) is not None:
      text += f", {tasks.title(metric)} {tasks.number(metric, value)}"
    if bits is not None:
      text += f", {bits:.3f} bits per byte"
      beaten = [f"{abs(1 - bits / other):.0%} {'below' if bits < other else 'above'} {name}'s {other:.3f}"
                for name, other in sorted(baselines(run).items(), key=lambda one: one[1])]  # fmt: skip
      text += ": " + " and ".join(beaten) if beaten else ""
    text += "."
  elif run.last("train/loss") is not None:
    text += f" Training loss {run.last('train/loss'):.4f} {tasks.unit(run.objective)}; not evaluated."
  elif not run.rows:
    text += " No step has been logged yet."
  if broken := sum(not math.isfinite(value) for _, value in run.series("train/loss")):
    text += f" {broken} logged losses are not finite." if broken > 1 else " One logged loss is not finite."
  return text


def tiles(run, seconds: dict, answers: list[dict]) -> list[dict]:
  """The headline's numbers: label, value, unit, and a remark below."""
  evals = [value for _, value in run.series("eval/loss") if math.isfinite(value)]
  bits, rate, mfu = run.last("eval/bits_per_byte"), throughput(run), run.last("mfu")
  parameters, attempts = run.environment.get("parameters"), len(run.attempts)
  lost = seconds[history.LOST]
  remark = (
    f"best {min(evals):.4f}" if evals and min(evals) < evals[-1] else "best of the run" if len(evals) > 1 else ""
  )
  second = ("bits per byte", f"{bits:.3f}" if bits is not None else "–", "",
            " · ".join(f"{name} {value:.2f}" for name, value in baselines(run).items()))  # fmt: skip
  seen = ("tokens seen", compact(run.tokens) if run.tokens else "–", "", f"{run.steps:,} steps")
  if metric := tasks.first_metric(run):
    second = (tasks.title(metric), *best(run, metric, answers))
    examples = run.steps * (run.config_value("train", "batch_size") or 0)
    seen = ("examples seen", compact(examples) if examples else "–", "", f"{run.steps:,} steps")
  trained = " trained" if run.config_value("adapt", "name") not in (None, "full") else ""
  per = {"nats per token": "nats/token", "squared error": ""}.get(tasks.unit(run.objective), "nats")
  found = [
    ("eval loss", f"{evals[-1]:.4f}" if evals else "–", per if evals else "", remark),
    second, seen,
    ("throughput", compact(rate) if rate else "–", "tokens/s" if rate else "", f"MFU {mfu:.1%}" if mfu else ""),
    ("wall time", duration(sum(seconds.values())), "",
     (f"{attempts} attempts" if attempts != 1 else "1 attempt") + (f", {duration(lost)} lost" if lost else "")),
    (f"parameters{trained}", compact(parameters) if parameters else "–", "", devices(run.environment)),
  ]  # fmt: skip
  return [dict(label=label, value=value, unit=unit, remark=remark) for label, value, unit, remark in found]


def best(run, metric: str, answers: list[dict]) -> tuple[str, str, str]:
  """(the last value, its unit, a remark) of a metric; of the answers where no evaluation of the run has it."""
  values = [value for _, value in run.series(f"eval/{metric}") if math.isfinite(value)]
  if not values:
    told = next((file for file in answers if not file["trouble"]), None)
    return (told["scores"][0]["value"], "", f"fmjax eval, step {told['step']:,}") if told else ("–", "", "")
  top = min(values) if metric == "mse" else max(values)
  remark = "best of the run" if top == values[-1] else f"best {tasks.number(metric, top)}"
  return tasks.number(metric, values[-1]), "", remark if len(values) > 1 else ""


def bars(runs, colors: dict) -> list[dict]:
  """Bits per byte of the runs beside the baselines of the first, the best first, as shares of the widest."""
  found = [(run.name, run.last("eval/bits_per_byte"), colors[id(run)]) for run in runs]
  found = [one for one in found if one[1] is not None]
  known = [(name, value, None) for name, value in baselines(runs[0]).items()]
  if not found or not known:
    return []
  every = sorted(found + known, key=lambda one: one[1])
  widest = max(value for _, value, _ in every) or 1.0
  return [dict(name=name, value=f"{value:.3f}", color=color, percent=round(100 * value / widest, 2))
          for name, value, color in every]  # fmt: skip


def differing(runs) -> list[dict]:
  """The config's fields in which the runs differ: key, and each run's value."""
  flats = [flatten(run.config) for run in runs]
  keys = sorted({key for flat in flats for key in flat})
  rows = [dict(key=key, values=[plain(flat[key]) if key in flat else "–" for flat in flats]) for key in keys]
  return [row for row in rows if len(set(row["values"])) > 1]


def differences_from_defaults(config: dict) -> dict:
  """The fields that had to be said: without one of them the config would be another."""

  def same(tree) -> dict:
    return json.loads(json.dumps(to_dict(from_config_dict(tree))))

  flat = flatten(config)
  try:
    whole = same(config)
  except FmjaxError:  # of another version of fmjax
    return flat
  said = {}
  for key, value in flat.items():
    branch, _, field = key.partition(".")
    rest = {name: given for name, given in config.items() if field or name != branch}
    if field:
      rest[branch] = {name: given for name, given in config[branch].items() if name != field}
    try:
      implied = same(rest) == whole
    except FmjaxError:
      implied = False
    if not implied:
      said[key] = value
  return said


def plain(value) -> str:
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def hardware(environment: dict) -> dict[str, str]:
  mesh = {axis: count for axis, count in (environment.get("mesh") or {}).items() if count != 1}
  found = {
    "devices": devices(environment),
    "mesh": " × ".join(f"{axis} {count}" for axis, count in mesh.items()) or ("1" if environment.get("mesh") else ""),
    "processes": environment.get("process_count"),
    "host": environment.get("host"),
    "platform": environment.get("platform"),
    "parameters": f"{environment['parameters']:,}" if environment.get("parameters") else None,
  }
  return {name: str(value) for name, value in found.items() if value}


def data_facts(environment: dict) -> dict[str, str]:
  facts = environment.get("data") or {}
  flat = flatten(facts) if isinstance(facts, dict) else {"data": facts}
  return {key.removeprefix("facts."): f"{value:,}" if type(value) is int else f"{value:.4g}" if type(value) is float
          else plain(value) for key, value in flat.items() if value is not None}  # fmt: skip


def event_line(event: dict) -> dict:
  facts = {name: value for name, value in event.items()
           if name not in ("event", "wall", "monotonic", "attempt", "step", "clock", "argv", "command")}  # fmt: skip
  words = [f"{name.replace('_', ' ')} " + (f"{value:.4g}" if isinstance(value, float) else plain(value))
           for name, value in facts.items()]  # fmt: skip
  step = event.get("step")
  return dict(
    event=str(event.get("event", "")), attempt=event.get("attempt", ""),
    step=f"{step:,}" if type(step) is int else "",
    after=duration(float(event.get("monotonic", 0))), wall=str(event.get("wall", ""))[:19].replace("T", " "),
    facts=" · ".join(words),
  )  # fmt: skip


def link(run, path: str, folder: pathlib.Path) -> dict:
  """A file of the run as the page can point to it, from where the page lies."""
  target = pathlib.Path(path) if pathlib.Path(path).is_absolute() else run.path / path
  if not target.exists() and pathlib.Path(path).exists():
    target = pathlib.Path(path)
  return dict(name=path, href=pathlib.Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix())


def incident_files(path: pathlib.Path) -> list[dict]:
  """An incident's files; of those that hold text, the beginning."""
  found = []
  for file in sorted(one for one in path.iterdir() if one.is_file()):
    text = ""
    if file.suffix in (".json", ".txt", ".log"):
      text = file.read_bytes()[: INCIDENT_TEXT + 1].decode(errors="replace")
      text = text if len(text) <= INCIDENT_TEXT else text[:INCIDENT_TEXT] + " ..."
    found.append(dict(name=file.name, text=text))
  return found
