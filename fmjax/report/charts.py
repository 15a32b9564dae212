"""A line chart as plain data: paths in a square of 1000 x 1000, ticks with their labels, and the points under the
pointer. The page's template draws it; labels are HTML, so that they keep their size when the chart is stretched."""

import dataclasses
import math

from fmjax.metrics import compact

SIDE = 1000
POINTS = 320  # a curve's points after thinning: more than a screen shows
CLIP = 50  # points from which on a robust upper limit makes sense


@dataclasses.dataclass
class Curve:
  label: str
  color: int  # index of the run
  points: list[tuple[int, float]]
  kind: str = "line"  # thin: each row, line: smoothed or sparse, dots: evaluations
  hover: bool = True
  spread: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)  # (step, low, high) of a band


@dataclasses.dataclass
class Axis:
  low: float
  high: float
  log: bool = False
  whole: bool = False  # half a step is no step

  def place(self, value: float) -> float:
    if self.log:
      value, low, high = (math.log10(max(one, self.low)) for one in (value, self.low, self.high))
    else:
      low, high = self.low, self.high
    return SIDE * (value - low) / (high - low)

  def ticks(self, count: int) -> list[tuple[float, str]]:
    """(percent of the way, label) at round numbers: about `count`, or the powers of ten of a log axis."""
    if self.log:
      powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
      values = [10.0**power for power in powers]
      if len(values) < 3:
        values = [digit * 10.0**power for power in range(powers.start - 1, powers.stop) for digit in (1, 2, 5)]
      values = [value for value in values if self.low <= value <= self.high * (1 + 1e-9)]
    else:
      rough = max((self.high - self.low) / count, 1.0 if self.whole else 0.0)
      power = 10.0 ** math.floor(math.log10(rough))
      step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
      first = math.ceil(self.low / step - 1e-9)
      values = [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
    return [(round(self.place(value) / SIDE * 100, 2), number(value)) for value in values]


def number(value: float) -> str:
  """A tick's label, without the noise of binary fractions."""
  if value == 0:
    return "0"
  if abs(value) >= 1000:
    text = compact(value)
    return text[:-1].rstrip("0").rstrip(".") + text[-1] if "." in text else text
  if abs(value) < 0.0095:
    mantissa, exponent = f"{value:.2e}".split("e")
    return mantissa.rstrip("0").rstrip(".") + f"e-{abs(int(exponent))}"
  return f"{value:.6g}"


def smooth(points):
  """The mean of the middle half of a point's neighbours, a thirtieth of the curve: one spike does not bend it. Where
  the curve begins it looks as far ahead as back, so that the first fall does not drag behind."""
  reach, out = max(1, len(points) // 60), []
  for index, (step, value) in enumerate(points):
    back = min(index, reach)
    near = sorted(one for _, one in points[index - back : index + back + 1] if math.isfinite(one))
    near = near[len(near) // 4 : len(near) - len(near) // 4]
    out.append((step, sum(near) / len(near) if math.isfinite(value) else math.nan))
  return out


def thin(points, place):
  """At most about POINTS points: of each stretch of the axis the lowest and the highest, so that no spike is hidden.

  A stretch with a value that is not finite keeps it: the gap in the curve is the news.
  """
  if len(points) <= POINTS:
    return points
  stretches = {}
  for point in points:
    stretches.setdefault(int(place(point[0]) / SIDE * POINTS / 2), []).append(point)
  out = []
  for stretch in stretches.values():
    finite = [point for point in stretch if math.isfinite(point[1])]
    chosen = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()
    chosen |= set([point for point in stretch if not math.isfinite(point[1])][:1])
    out += sorted(chosen, key=lambda point: point[0])
  return out


def path(points, x: Axis, y: Axis, kind: str) -> str:
  """The d of an SVG path. A lone point is a line of no length with round ends, which stretching leaves round."""
  words, pen = [], False
  for step, value in points:
    if not math.isfinite(value):
      pen = False
      continue
    # Far outside the square is as good as just outside, and keeps the numbers short.
    up = SIDE - min(max(y.place(value), -SIDE), 2 * SIDE)
    place = f"{x.place(step):.1f} {up:.1f}"
    words.append(f"L{place}" if pen and kind != "dots" else f"M{place}h0")
    pen = True
  return "".join(words)


def band(spread, x: Axis, y: Axis) -> str:
  """The d of the area between the lows and the highs of a curve."""
  around = [(step, high) for step, _, high in spread] + [(step, low) for step, low, _ in reversed(spread)]
  return path(around, x, y, "line").replace("h0", "") + "Z"


def limits(curves, from_zero: bool, clip: bool, references) -> tuple[float, float]:
  low, high = [], list(references.values())
  for curve in curves:
    values = sorted(value for _, value in curve.points if math.isfinite(value))
    if not values:
      continue
    low.append(values[0])
    # The first steps' fall would flatten all that follows: the highest fiftieth may leave the picture.
    high.append(values[int(0.98 * (len(values) - 1))] if clip and len(values) >= CLIP else values[-1])
  if low and any(curve.spread for curve in curves):
    # A band of few runs is wider than they are apart: it gets half as much room as the curves.
    room = (max(high) - min(low) or abs(max(high))) / 2
    lows, highs = zip(*[(one, other) for curve in curves for _, one, other in curve.spread])
    low, high = [*low, max(min(lows), min(low) - room)], [*high, min(max(highs), max(high) + room)]
  if not high or not low:
    return 0.0, 1.0
  bottom, top = (0.0 if from_zero else min(*low, *high)), max(high)
  margin = (top - bottom) * 0.06 or abs(top) * 0.1 or 1.0
  return bottom - (0 if from_zero else margin), top + margin


def text_of(step: int, value: float, form, curve: Curve) -> str:
  """A point's value, and what its band allows it."""
  text = form(value) if math.isfinite(value) else str(value)
  half = next((high - value for at, _, high in curve.spread if at == step), None)
  return text if half is None else f"{text} ± {form(half)}"


@dataclasses.dataclass
class Chart:
  title: str
  unit: str
  note: str
  views: list[dict]  # the same curves over a linear and over a logarithmic axis of steps
  hover: dict


def chart(title, unit, curves, form=number, from_zero=False, references=None, note="") -> Chart | None:
  """None where no curve has a finite point. `references` are level lines, label -> value; `form` writes a value."""
  curves = [curve for curve in curves if any(math.isfinite(value) for _, value in curve.points)]
  if not curves:
    return None
  references = references or {}
  steps = [step for curve in curves for step, _ in curve.points]
  views = []
  for log in (False, True):
    # A log axis shows the first steps at length, so there they stay in the picture.
    y = Axis(*limits(curves, from_zero, not log, references))
    first, last = min(steps), max(steps)
    low = max(1, first) if log else (0 if first <= last / 5 or first == last else first)
    room = (last / low) ** 0.012 if log else 1 + 0.012 * (last - low) / max(last, 1)  # for the last dot
    left = low if log or not low else low - 0.012 * (last - low)  # for the first dot
    x = Axis(left, last * room if last > low else low + 1, log, whole=True)
    paths = [
      {"kind": curve.kind, "color": curve.color, "d": path(thin(curve.points, x.place), x, y, curve.kind)}
      for curve in sorted(curves, key=lambda curve: ("thin", "line", "dots").index(curve.kind))
    ]
    paths = [{"kind": "band", "color": curve.color, "d": band(curve.spread, x, y)} for curve in curves
             if len(curve.spread) > 1] + paths  # fmt: skip
    lines = [(round(100 - y.place(value) / SIDE * 100, 2), label) for label, value in references.items()]
    views.append({"log": log, "x": x, "y": y, "paths": paths, "x_ticks": x.ticks(8), "y_ticks": y.ticks(5),
                  "references": lines})  # fmt: skip
  straight = Axis(min(steps), max(*steps, min(steps) + 1))
  hover = {
    "axes": [{"low": view["x"].low, "high": view["x"].high, "log": view["log"]} for view in views],
    "curves": [
      {"label": curve.label, "color": curve.color, "steps": [step for step, _ in points],
       "texts": [text_of(step, value, form, curve) for step, value in points]}
      for curve in curves if curve.hover for points in [thin(curve.points, straight.place)]
    ],
  }  # fmt: skip
  return Chart(title, unit, note, views, hover)


@dataclasses.dataclass
class Picture:
  """Points and bars in a square, of which no step is an axis."""

  title: str
  unit: str
  across: str  # what the axis of x is
  note: str
  x_ticks: list
  y_ticks: list
  paths: list[dict]  # kind, color, d
  labels: list[tuple[float, float, str, int | None]]  # percent from the left, from below, text, color


def segments(kind: str, color: int, points, x: Axis, y: Axis) -> dict:
  """Each point (x, low, high) as an upright line from low to high, of no length where they are equal."""

  def up(value):
    return SIDE - min(max(y.place(value), -SIDE), 2 * SIDE)

  words = []
  for at, low, high in points:
    words.append(f"M{x.place(at):.1f} {up(low):.1f}" + (f"V{up(high):.1f}" if low < high else "h0"))
  return dict(kind=kind, color=color, d="".join(words))


def boxes(kind: str, color: int, sizes, x: Axis, y: Axis) -> dict:
  """Each (left, right, low, high) as a box."""
  words = []
  for left, right, low, high in sizes:
    start, stop, bottom, top = x.place(left), x.place(right), SIDE - y.place(low), SIDE - y.place(high)
    words.append(f"M{start:.1f} {bottom:.1f}H{stop:.1f}V{top:.1f}H{start:.1f}Z")
  return dict(kind=kind, color=color, d="".join(words))


def reliability(correct_C, confidence_C, examples_C, title: str) -> Picture | None:
  """How often answers of each confidence are right: sums over the answers in bins of equal width from 0 to 1.

  None where there is no answer. DeGroot and Fienberg 1983; Guo et al. 2017 (arXiv:1706.04599), figure 1.
  """
  filled = [number for number, examples in enumerate(examples_C) if examples]
  if not filled:
    return None
  width = 1 / len(examples_C)
  x, y = Axis(min(filled[0] * width, 0.5), 1.0), Axis(0.0, 1.08)
  bars, over, under, labels = [], [], [], []
  for number in filled:
    left, stop, examples = (number + 0.06) * width, (number + 0.94) * width, examples_C[number]
    share, confidence = correct_C[number] / examples, confidence_C[number] / examples
    bars.append((left, stop, 0.0, min(share, confidence)))
    (over if confidence > share else under).append((left, stop, *sorted((share, confidence))))
    middle = round(x.place((number + 0.5) * width) / SIDE * 100, 2)
    labels.append((middle, round(y.place(max(share, confidence)) / SIDE * 100, 2), f"{int(examples):,}", None))
  diagonal = dict(kind="level", color=0, d=f"M0 {SIDE - y.place(x.low):.1f}L{SIDE} {SIDE - y.place(1.0):.1f}")
  paths = [boxes("fill", 0, bars, x, y), boxes("fill", 1, over, x, y), boxes("fill", 2, under, x, y), diagonal]
  note = "orange: more sure than right, by so much · green: less · numbers: answers in a bin"
  return Picture(title, "share right", "confidence", note, x.ticks(5), y.ticks(5), paths, labels)


@dataclasses.dataclass
class Cloud:
  """Points of one kind, and where they have one their mean with its interval."""

  label: str
  color: int
  points: list[tuple[float, float]]
  mean: tuple[float, float, float, float] | None = None  # x, y, low, high


def scatter(title, unit, across, clouds, log=False, diagonal=False, note="") -> Picture:
  """`log` is of the axis across; the `diagonal` is where both are equal."""
  every = [point for cloud in clouds for point in cloud.points]
  across_all, up_all = [x for x, _ in every], [y for _, y in every]
  if diagonal:
    across_all = up_all = across_all + up_all
  room = max(up_all) - min(up_all)
  for cloud in clouds:
    if cloud.mean:  # as much of an interval as the points are apart
      up_all = [*up_all, max(cloud.mean[2], min(up_all) - room), min(cloud.mean[3], max(up_all) + room)]
  x, y = roomy(across_all, log), roomy(up_all)
  paths, labels = [], []
  if diagonal:
    paths.append(dict(kind="level", color=0, d=f"M0 {SIDE}L{SIDE} 0"))
  for cloud in clouds:
    kind = "faint" if cloud.mean or len(cloud.points) > 50 else "dots"
    paths.append(segments(kind, cloud.color, [(at, value, value) for at, value in cloud.points], x, y))
    at, value = cloud.points[0]
    if cloud.mean:
      at, value, low, high = cloud.mean
      paths.append(segments("whisker", cloud.color, [(at, low, high)], x, y))
      paths.append(segments("dots", cloud.color, [(at, value, value)], x, y))
    if cloud.label:
      labels.append((*(round(axis.place(one) / SIDE * 100, 2) for axis, one in ((x, at), (y, value))), cloud.label,
                     cloud.color))  # fmt: skip
  return Picture(title, unit, across, note, x.ticks(6), y.ticks(5), paths, labels)


def roomy(values, log: bool = False) -> Axis:
  """An axis with room around the values."""
  low, high = min(values), max(values)
  if log:
    room = max((high / low) ** 0.15, 1.5)
    return Axis(low / room, high * room, log)
  room = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
  return Axis(low - room, high + room)
