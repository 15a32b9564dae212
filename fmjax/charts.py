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


def limits(curves, from_zero: bool, clip: bool, references) -> tuple[float, float]:
  low, high = [], list(references.values())
  for curve in curves:
    values = sorted(value for _, value in curve.points if math.isfinite(value))
    if not values:
      continue
    low.append(values[0])
    # The first steps' fall would flatten all that follows: the highest fiftieth may leave the picture.
    high.append(values[int(0.98 * (len(values) - 1))] if clip and len(values) >= CLIP else values[-1])
  if not high or not low:
    return 0.0, 1.0
  bottom, top = (0.0 if from_zero else min(*low, *high)), max(high)
  margin = (top - bottom) * 0.06 or abs(top) * 0.1 or 1.0
  return bottom - (0 if from_zero else margin), top + margin


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
    x = Axis(low, last * room if last > low else low + 1, log, whole=True)
    paths = [
      {"kind": curve.kind, "color": curve.color, "d": path(thin(curve.points, x.place), x, y, curve.kind)}
      for curve in sorted(curves, key=lambda curve: ("thin", "line", "dots").index(curve.kind))
    ]
    lines = [(round(100 - y.place(value) / SIDE * 100, 2), label) for label, value in references.items()]
    views.append({"log": log, "x": x, "y": y, "paths": paths, "x_ticks": x.ticks(8), "y_ticks": y.ticks(5),
                  "references": lines})  # fmt: skip
  straight = Axis(min(steps), max(*steps, min(steps) + 1))
  hover = {
    "axes": [{"low": view["x"].low, "high": view["x"].high, "log": view["log"]} for view in views],
    "curves": [
      {"label": curve.label, "color": curve.color, "steps": [step for step, _ in points],
       "texts": [form(value) if math.isfinite(value) else str(value) for _, value in points]}
      for curve in curves if curve.hover for points in [thin(curve.points, straight.place)]
    ],
  }  # fmt: skip
  return Chart(title, unit, note, views, hover)
