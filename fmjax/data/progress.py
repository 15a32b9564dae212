"""What a person sees while something is prepared: a bar on a terminal, a line a stage elsewhere; both on stderr."""

import sys
import time


class Progress:
  """Stages one after the other. Used as a context; draws nothing, and imports nothing, before the first stage."""

  def __init__(self):
    self.bar, self.began = None, None

  def __enter__(self):
    return self

  def stage(self, text: str, total: int | None = None):
    """Begins a stage of `total` units, None where progress cannot be counted."""
    self.began = self.began or time.monotonic()
    if not sys.stderr.isatty():
      print(f"fmjax: {text}", file=sys.stderr, flush=True)
      return
    if self.bar is None:
      from rich import console, progress

      columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeElapsedColumn()
      self.bar = progress.Progress(*columns, console=console.Console(stderr=True))
      self.bar.start()
    self.finish_task()
    self.bar.add_task(text, total=total)

  def advance(self, units: int):
    if self.bar:
      self.bar.advance(self.bar.task_ids[-1], units)

  def finish_task(self):
    for task in self.bar.tasks[-1:]:
      self.bar.update(task.id, total=task.total or 1, completed=task.total or 1)

  def __exit__(self, error, *_):
    if self.bar:
      if error is None:
        self.finish_task()
      self.bar.stop()
    elif self.began and error is None:
      print(f"fmjax: data ready after {time.monotonic() - self.began:.1f} s", file=sys.stderr, flush=True)
