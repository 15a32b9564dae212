"""What a run writes down while it trains, and shows: rows, samples and events as JSON lines (and TensorBoard), the
clock that says where the time went, the live line and the table of parameters.

A line is in the file, whole, when the call returns: kill -9 loses none that was written.
"""

import contextlib
import datetime
import errno
import json
import math
import os
import pathlib
import sys
import threading
import time

from fmjax.workdir import trouble, write_bytes

ROWS, SAMPLES, EVENTS = "metrics.jsonl", "samples.jsonl", "events.jsonl"
BUCKETS = ("start-up", "compile", "data wait", "step", "eval", "checkpoint")


def strict(value):
  """`value` as strict JSON says it: a non-finite float becomes "nan", "inf" or "-inf", which float() takes back."""
  if hasattr(value, "item"):  # a NumPy or JAX scalar
    value = value.item()
  if isinstance(value, dict):
    return {str(key): strict(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [strict(one) for one in value]
  if isinstance(value, float) and not math.isfinite(value):
    return repr(value)
  return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def lines(path) -> list[tuple[bytes, dict]]:
  """The lines of a JSON-lines file, raw and parsed. A torn line (kill -9, a full disk) is passed over."""
  found = []
  with contextlib.suppress(FileNotFoundError):
    for raw in pathlib.Path(path).read_bytes().splitlines():
      with contextlib.suppress(ValueError):
        if isinstance(record := json.loads(raw), dict):
          found.append((raw, record))
  return found


def read(path) -> list[dict]:
  return [record for _, record in lines(path)]


@contextlib.contextmanager
def disk(path):
  """Turns an OSError of writing `path` into the message and exit status that it deserves."""
  try:
    yield
  except OSError as error:
    raise trouble(error, path) from error


class Writer:
  """Writes one attempt (one process's life) of a run. `attempt_start` is time.monotonic() at its beginning; other
  than the primary process it writes nothing."""

  def __init__(self, workdir, attempt_start: float, is_primary: bool = True):
    self.workdir, self.start, self.is_primary = pathlib.Path(workdir), attempt_start, is_primary
    self.attempt = 1 + max((event.get("attempt", 0) for event in read(self.workdir / EVENTS)), default=0)
    self.tensorboard = None
    if is_primary:
      for name in (ROWS, SAMPLES, EVENTS):
        self._mend(self.workdir / name)

  @staticmethod
  def _mend(path):
    """Drops what a killed attempt left of its last line, so that the next line starts on its own."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
      with disk(path):
        os.truncate(path, data.rfind(b"\n") + 1)

  def _append(self, name: str, record: dict):
    path = self.workdir / name
    line = json.dumps(strict(record), allow_nan=False).encode() + b"\n"
    # Opened for each line: `cut` may put a new file in its place, and there is no buffer to lose.
    with disk(path), open(path, "ab", buffering=0) as file:
      if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def elapsed(self) -> float:
    """Seconds since the attempt's start."""
    return round(time.monotonic() - self.start, 3)

  def row(self, step: int, values: dict[str, float]):
    """Publishes the numbers of the update that made `step`; `attempt` and `elapsed` are added."""
    if not self.is_primary:
      return
    row = {"step": int(step), **values, "attempt": self.attempt}
    self._append(ROWS, {"elapsed": self.elapsed(), **row})
    if self.tensorboard is None:
      from tensorboardX import SummaryWriter

      # purge_step hides what an earlier attempt drew past the step that this one restored.
      self.tensorboard = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=int(step), flush_secs=10)
    for name, value in values.items():
      self.tensorboard.add_scalar(name, float(value), int(step))

  def sample(self, step: int, prompt: str, text: str):
    if self.is_primary:
      self._append(SAMPLES, {"step": int(step), "prompt": prompt, "text": text})

  def event(self, name: str, **facts):
    if self.is_primary:
      wall = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
      event = {"event": name, "wall": wall, "monotonic": self.elapsed(), "attempt": self.attempt}
      self._append(EVENTS, {**event, **facts})

  def close(self):
    if self.tensorboard is not None:
      self.tensorboard.close()
      self.tensorboard = None


def cut(workdir, step: int) -> dict:
  """Takes back what was written past `step`, which is restored now: cuts off its rows and samples, each file at once.

  Returns how many `rows` went, and what they cost: `lost_steps`, and `lost_seconds`, each dead attempt's time from
  its save of `step` (or from its start, where it restored that step itself) to its last row.
  """
  folder = pathlib.Path(workdir)
  for name in (SAMPLES, ROWS):
    path = folder / name
    parsed = lines(path)
    kept = [raw for raw, row in parsed if row.get("step", 0) <= step]
    if path.exists() and b"".join(raw + b"\n" for raw in kept) != path.read_bytes():
      with disk(path):
        write_bytes(path, b"".join(raw + b"\n" for raw in kept))
  gone = [row for _, row in parsed if row.get("step", 0) > step]
  saved = {}  # attempt -> seconds after its start at which the work up to `step` was safe
  for event in read(folder / EVENTS):
    if event.get("event") == "save" and event.get("step") == step:
      saved[event["attempt"]] = event["monotonic"]
  if not saved:  # killed between the save and the event that tells of it
    saved = {row["attempt"]: row["elapsed"] for _, row in parsed if row.get("step", 0) <= step and "attempt" in row}
  last = {}
  for row in gone:
    last[row.get("attempt")] = max(last.get(row.get("attempt"), 0), row.get("elapsed", 0))
  seconds = sum(max(0.0, end - saved.get(attempt, 0.0)) for attempt, end in last.items())
  steps = max((row["step"] for row in gone), default=step) - step
  return {"rows": len(gone), "lost_steps": steps, "lost_seconds": round(seconds, 3)}


class Clock:
  """Where an attempt's time goes. Each moment belongs to one bucket: that of the innermost `with clock(bucket)`, else
  the base, which is "start-up" until `base` names another. Counted in whole nanoseconds, so that nothing is lost.

  One thread spends the time; any thread may ask for the totals.
  """

  def __init__(self, attempt_start: float):
    self._mark = round(attempt_start * 1e9)
    self._spent = dict.fromkeys(BUCKETS, 0)
    self._inside = ("start-up",)
    self._lock = threading.Lock()

  def _turn(self, inside: tuple[str, ...]):
    """Charges the time since the last turn to the bucket it was spent in, and goes on inside another."""
    if inside[-1] not in self._spent:
      raise KeyError(inside[-1])
    with self._lock:
      now = time.monotonic_ns()
      self._spent[self._inside[-1]] += now - self._mark
      self._mark, self._inside = now, inside

  def base(self, bucket: str):
    """From now on, time that no `with` claims is spent on `bucket`."""
    self._turn((bucket,))

  @contextlib.contextmanager
  def __call__(self, bucket: str):
    outside = self._inside
    self._turn((*outside, bucket))
    try:
      yield
    finally:
      self._turn(outside)

  def totals(self) -> dict[str, float]:
    """Seconds in each bucket up to now; they sum to the time since the start."""
    with self._lock:
      spent = dict(self._spent)
      spent[self._inside[-1]] += time.monotonic_ns() - self._mark
    return {bucket: nanoseconds / 1e9 for bucket, nanoseconds in spent.items()}


def compact(number: float) -> str:
  """Three figures and a letter: 41.2k, 1.07B."""
  for bound, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
    if abs(number) >= bound * 0.9995:
      scaled = number / bound
      return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled) * 1.0005)))}f}{letter}"
  return f"{number:.3g}"


def duration(seconds: float) -> str:
  if not math.isfinite(seconds):
    return "?"
  if seconds < 9.95:
    return f"{seconds:.1f}s"
  seconds = round(seconds)
  units = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
  first = next(index for index, (count, _) in enumerate(units) if count)
  return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2])


def size(count: int) -> str:
  for unit in ("B", "KiB", "MiB", "GiB"):
    if count < 1024:
      return f"{count} B" if unit == "B" else f"{count:.1f} {unit}"
    count /= 1024
  return f"{count:.1f} TiB"


class Progress:
  """The live line on stderr: redrawn in place on a terminal, one plain line an update elsewhere."""

  # What goes first where the terminal is narrow.
  DROP = ("bar", "saved", "wait", "lr", "mfu", "tokens/s")

  def __init__(self):
    self.live = None
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
      from rich.console import Console
      from rich.live import Live

      # Redrawn by `update` alone: a refreshing thread would take time from the step.
      self.live = Live(console=Console(stderr=True), auto_refresh=False)
      self.live.start()

  def update(self, step, total, loss, learning_rate, tokens_per_second, mfu, data_wait, last_save, eta_seconds):
    """`mfu` and `data_wait` are fractions; `mfu` and `last_save` may be None."""
    cells = {
      "step": f"{step:,}/{total:,}",
      "bar": step / total,
      "loss": f"{loss:.4f}",
      "lr": f"{learning_rate:.2e}",
      "tokens/s": compact(tokens_per_second),
      "mfu": None if mfu is None else f"{mfu:.1%}",
      "wait": f"{data_wait:.1%}",
      "saved": None if last_save is None else f"{last_save:,}",
      "eta": duration(eta_seconds),
    }
    cells = {name: text for name, text in cells.items() if text is not None}
    if self.live is None:
      del cells["bar"]
      print("  ".join(f"{name} {text}" for name, text in cells.items()), file=sys.stderr, flush=True)
    else:
      self.live.update(self._drawn(cells, self.live.console.width), refresh=True)

  def _drawn(self, cells: dict, width: int):
    from rich.text import Text

    def length():
      return sum(20 if name == "bar" else len(name) + 1 + len(text) for name, text in cells.items()) + 2 * len(cells)

    for name in self.DROP:
      if length() > width:
        cells.pop(name, None)
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, text in cells.items():
      if name == "bar":
        done = int(20 * min(1, text))
        line.append("━" * done, "green").append("━" * (20 - done) + "  ", "bright_black")
      else:
        line.append(f"{name} ", "dim").append(f"{text}  ", "bold" if name in ("step", "loss") else "")
    return line

  def close(self):
    if self.live is not None:
      self.live.stop()


def parameter_table(rows, resting=(), stream=None):
  """Prints, before anything compiles, what the parameters that train are and where they lie.

  `rows` are (path, shape, dtype, sharding, bytes per device, count), and so are those of the parameters that are
  `resting`, of which a line gives the sums; `stream` is stderr where it is not given.
  """
  from rich import box
  from rich.console import Console
  from rich.table import Table

  stream = stream or sys.stderr
  sums = [(name, "", "", "", size(sum(row[4] for row in of)), f"{sum(row[5] for row in of):,}")
          for name, of in (("total", rows), ("at rest", resting)) if of]  # fmt: skip
  rows = [(path, "x".join(map(str, shape)) or "scalar", dtype, sharding, size(held), f"{count:,}")
          for path, shape, dtype, sharding, held, count in rows] + [()] + sums  # fmt: skip
  terminal = stream.isatty()
  table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold", padding=(0, 1))
  for name, justify in zip(("parameter", "shape", "dtype", "sharding", "bytes/device", "count"), "llllrr"):
    table.add_column(
      name, justify={"l": "left", "r": "right"}[justify], overflow="fold", no_wrap=not terminal or name != "parameter"
    )
  for row in rows:
    table.add_section() if not row else table.add_row(*row, style="bold" if row[0] == "total" else None)
  console = Console(file=stream, width=None if terminal else 300, markup=False, highlight=False)
  with console.capture() as capture:
    console.print(table)
  print("\n".join(line.rstrip() for line in capture.get().splitlines()), file=stream, flush=True)
