"""When a run has learnt enough: the evaluations since the best one, read from the rows that the run has written."""

LOWER = ("loss", "mse", "error", "perplexity", "bits_per_byte")  # ends of the names of metrics that are better lower


class Stopping:
  """Of `rows`, {"step", "eval/...", ...}, which may grow; `metric` None: a run never stops early and has no best."""

  def __init__(self, metric: str | None, patience: int, rows: list[dict]):
    self.metric, self.patience = metric, patience
    self.best, self.value, self.since = None, None, 0  # the best step and its value, evaluations after it
    for row in rows:
      self.add(row)

  def add(self, row: dict) -> bool:
    """Whether no row was better; KeyError where it lacks the metric."""
    if self.metric is None:
      return False
    value = row[f"eval/{self.metric}"]
    better = self.best is None or (value < self.value if self.metric.endswith(LOWER) else value > self.value)
    if better:
      self.best, self.value, self.since = row["step"], value, 0
    else:
      self.since += 1
    return better

  @property
  def over(self) -> bool:
    return self.metric is not None and self.since >= self.patience
