"""When a run has learnt enough: the evaluations since the best one, read from the rows that the run has written."""

import math

from fmjax.errors import FmjaxError
from fmjax.laws import nearest

LOWER = ("loss", "mse", "error", "perplexity", "bits_per_byte")  # ends of the names of metrics that are better lower


class Stopping:
  """Of `rows`, {"step", "eval/...", ...}, which may grow; `metric` None: a run never stops early and has no best."""

  def __init__(self, metric: str | None, patience: int, rows: list[dict]):
    self.metric, self.patience = metric, patience
    self.best, self.value, self.since = None, None, 0  # the best step and its value, evaluations after it
    for row in rows:
      self.add(row)

  def add(self, row: dict) -> bool:
    """Whether no row was better; CONFIG where it lacks the metric. A value that is no number is better than none."""
    if self.metric is None:
      return False
    if (key := f"eval/{self.metric}") not in row:
      names = sorted(name.removeprefix("eval/") for name in row if name.startswith("eval/"))
      raise FmjaxError("CONFIG", f"there is no metric {self.metric!r}", where="train.stop",
                       fix=nearest(self.metric, names))  # fmt: skip
    value = float(row[key])  # a file has "nan" where it was one
    better = math.isfinite(value) and (self.best is None or self.beats(value))
    if better:
      self.best, self.value, self.since = row["step"], value, 0
    else:
      self.since += 1
    return better

  def beats(self, value: float) -> bool:
    return value < self.value if self.metric.endswith(LOWER) else value > self.value

  @property
  def over(self) -> bool:
    return self.metric is not None and self.since >= self.patience
