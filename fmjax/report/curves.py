"""The curves of one run, or of several: those that differ in their seed alone are one curve with a band."""

from fmjax.metrics import compact
from fmjax.report.charts import Curve, chart, smooth
from fmjax.report.groups import interval
from fmjax.report.tasks import PERCENT, title, unit

BAND_FROM = 3  # runs: the interval of two is 18 times as wide as they are apart
SMOOTH_FROM = 20  # rows from which a smoothed curve says more than the rows
NO_METRIC = ("loss", "bits_per_byte")  # last parts of names that have a chart of their own


def charts(groups, levels: dict[str, float]) -> list:
  """The page's charts, largest first; those without a number are left out. `levels` are bits per byte by name."""
  runs = [run for group in groups for run in group.runs]
  bits = both_ways(groups, "eval/bits_per_byte", "eval")
  bits = bits if any(len(curve.points) > 1 for curve in bits) else []  # one evaluation is told by the bars
  made = [
    *losses(groups, runs),
    *tasks(groups, runs),
    chart("Bits per byte", "evaluation", bits, "{:.3f}".format, references=levels, from_zero=True),
    chart("Throughput", "tokens per second", curves(groups, "tokens_per_second", "tokens/s", True), compact,
          from_zero=True),
    chart("Learning rate", "", curves(groups, "train/learning_rate", "rate"), "{:.3g}".format, from_zero=True),
    chart("Gradient norm", "before clipping", curves(groups, "train/grad_norm", "norm", True), "{:.3g}".format, True),
    chart("Model flops utilisation", "percent of the chips' peak", percent(curves(groups, "mfu", "MFU", True)),
          "{:.1f} %".format, from_zero=True),
  ]  # fmt: skip
  return [one for one in made if one]


def losses(groups, runs) -> list:
  """Of training and of evaluations in one chart; where there are bands in two."""
  evals = sorted({name for run in runs for row in run.rows for name in row
                  if name.startswith("eval/") and name.endswith("/loss")})  # fmt: skip
  own, form = unit(runs[0].objective), "{:.4f}".format
  train = curves(groups, "train/loss", "train", True)
  if len(runs) > len(groups):
    lines = [curve for name in evals for curve in both_ways(groups, name, name.removesuffix("/loss"))]
    note = "line: mean over seeds · thin: each run · band: 95 % interval of the mean, of three runs or more"
    return [chart("Evaluation loss", own, lines, form, note=note), chart("Training loss", own, train, form)]
  dots = [curve for name in evals for curve in curves(groups, name, name.removesuffix("/loss"), kind="dots")]
  note = "thin: each logged step · thick: smoothed · dots: evaluations"
  if not any(curve.kind == "thin" for curve in train):
    note = "line: logged steps · dots: evaluations"
  return [chart("Loss", own, train + dots, form, note=note)]


def tasks(groups, runs) -> list:
  """A chart for each metric of the evaluations, of all sources together, the one that counts first."""
  names = [name.split("/") for run in runs for row in run.rows for name in row if name.startswith("eval/")]
  found = {parts[-1]: set() for parts in names if len(parts) > 1 and parts[-1] not in NO_METRIC}
  for parts in names:
    if parts[-1] in found:
      found[parts[-1]].add("/".join(parts[1:-1]))
  judged = [name for run in runs if run.objective for name in run.objective.judged_by]
  made = []
  for name in sorted(found, key=lambda name: (judged.index(name) if name in judged else len(judged), name)):
    train = curves(groups, f"train/{name}", "train", True) if len(runs) == len(groups) else []
    beside, evals = any(curve.points for curve in train), []
    for source in sorted(found[name]):
      what = f"eval/{source}".rstrip("/")
      more = curves(groups, f"{what}/{name}", what, kind="dots")
      evals += more if beside else both_ways(groups, f"{what}/{name}", what)
    if any(len(curve.points) > 1 for curve in evals):
      words, form = title(name), ("{:.2f}" if name in PERCENT else "{:.4f}").format
      note = "line: training · dots: evaluations" if beside else ""
      made.append(chart(words[:1].upper() + words[1:], "", train + evals, form, note=note))
  return made


def curves(groups, metric: str, what: str, smoothed: bool = False, kind: str = "line") -> list[Curve]:
  """Of each group the curve of its run; or those of its runs, thin, with their mean and its interval."""
  found = []
  for group in groups:
    label = f"{group.name} · {what}" if len(groups) > 1 else what
    every = [run.series(metric) for run in group.runs]
    if len(every) > 1:
      every = [smooth(points) if smoothed and len(points) >= SMOOTH_FROM else points for points in every]
      points, spread = together(every)
      found += [Curve(run.name, group.color, one, "thin", hover=False) for run, one in zip(group.runs, every)]
      found.append(Curve(label, group.color, points, kind, spread=spread if len(every) >= BAND_FROM else []))
    elif smoothed and len(every[0]) >= SMOOTH_FROM:
      found.append(Curve(label, group.color, every[0], "thin", hover=len(groups) == 1))
      found.append(Curve(f"{label}, smoothed", group.color, smooth(every[0])))
    else:
      found.append(Curve(label, group.color, every[0], kind))
  return found


def together(every):
  """([(step, mean)], [(step, low, high)]) of several runs' points, at the steps that all of them have."""
  tables = [dict(points) for points in every]
  points, spread = [], []
  for step in sorted(set.intersection(*map(set, tables))):
    mean, half = interval([table[step] for table in tables])
    points.append((step, mean))
    if half is not None:
      spread.append((step, mean - half, mean + half))
  return points, spread


def both_ways(groups, metric: str, what: str) -> list[Curve]:
  """A line, which answers the pointer, and its dots, with no band of their own."""
  dots = [curve for curve in curves(groups, metric, what, kind="dots") if curve.kind == "dots"]
  for curve in dots:
    curve.hover, curve.spread = False, []
  return [*curves(groups, metric, what), *dots]


def percent(found: list[Curve]) -> list[Curve]:
  for curve in found:
    curve.points = [(step, 100 * value) for step, value in curve.points]
    curve.spread = [(step, 100 * low, 100 * high) for step, low, high in curve.spread]
  return found
