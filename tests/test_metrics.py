import io
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from fmjax import metrics
from fmjax.errors import FmjaxError


def text_of(path):
  return pathlib.Path(path).read_text()


def test_a_row_is_strict_json_and_takes_every_float_back(tmp_path):
  writer = metrics.Writer(tmp_path, time.monotonic())
  values = {"train/loss": 0.1 + 0.2, "a": math.nan, "b": -math.inf, "c": 5e-324, "d": 1}
  writer.row(3, values)
  writer.close()

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  row = json.loads(text_of(tmp_path / metrics.ROWS), parse_constant=refuse)
  assert row["step"] == 3 and row["attempt"] == 1 and 0 <= row["elapsed"] < 10
  for name, value in values.items():
    assert repr(float(row[name])) == repr(float(value))


def test_kill_9_loses_no_line_and_no_tensorboard_file_speaks(tmp_path):
  code = (
    "import sys, time, os, signal; from fmjax.metrics import Writer\n"
    "w = Writer(sys.argv[1], time.monotonic())\n"
    "for i in range(50): w.row(i, {'train/loss': 1 / (i + 1)}); w.sample(i, 'p', 't'); w.event('save', step=i)\n"
    "os.kill(os.getpid(), signal.SIGKILL)"
  )
  child = subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path], capture_output=True)
  assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGKILL, b"", b"")
  for name in (metrics.ROWS, metrics.SAMPLES, metrics.EVENTS):
    assert [line["step"] for line in metrics.read(tmp_path / name)] == list(range(50))
  assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_files_hold_the_rows(tmp_path):
  from tensorboardX.proto.event_pb2 import Event

  writer = metrics.Writer(tmp_path, time.monotonic())
  for step in (10, 20):
    writer.row(step, {"train/loss": 1.0 / step, "elapsed": 2.0})
  writer.close()
  (path,) = (tmp_path / "tensorboard").iterdir()
  data, found = path.read_bytes(), {}
  while data:  # a record: length, its checksum, the event, its checksum
    length = int.from_bytes(data[:8], "little")
    event = Event.FromString(data[12 : 12 + length])
    found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    data = data[12 + length + 4 :]
  assert found[("train/loss", 10)] == pytest.approx(0.1) and found[("train/loss", 20)] == pytest.approx(0.05)


def test_attempts_are_numbered_and_a_torn_line_is_mended(tmp_path):
  for attempt in (1, 2, 3):
    writer = metrics.Writer(tmp_path, time.monotonic())
    writer.event("start", pid=os.getpid(), path=tmp_path)
    assert writer.attempt == attempt
    with open(tmp_path / metrics.EVENTS, "a") as file:
      file.write('{"event": "save", "st')
  assert [event["attempt"] for event in metrics.read(tmp_path / metrics.EVENTS)] == [1, 2, 3]
  assert all(event["wall"].endswith("+00:00") for event in metrics.read(tmp_path / metrics.EVENTS))


def test_only_the_primary_process_writes(tmp_path):
  writer = metrics.Writer(tmp_path, time.monotonic(), is_primary=False)
  writer.row(1, {"a": 1.0})
  writer.sample(1, "p", "t")
  writer.event("save", step=1)
  writer.close()
  assert not list(tmp_path.iterdir())


def test_an_unwritable_file_is_a_message(tmp_path):
  writer = metrics.Writer(tmp_path, time.monotonic())
  (tmp_path / metrics.EVENTS).symlink_to("/dev/full")
  with pytest.raises(FmjaxError) as error:
    writer.event("start")
  assert error.value.code == "DISK_FULL" and error.value.status == 74
  (tmp_path / metrics.ROWS).mkdir()
  with pytest.raises(FmjaxError) as error:
    writer.row(1, {})
  assert error.value.code == "PERMISSION"


def write_lines(path, records, torn=""):
  path.write_text("".join(json.dumps(record) + "\n" for record in records) + torn)


def row(step, attempt, elapsed):
  return {"step": step, "attempt": attempt, "elapsed": elapsed, "train/loss": 1.0}


def test_cut_takes_back_what_is_past_the_step_and_says_what_it_cost(tmp_path):
  rows = [row(10, 1, 5.0), row(20, 1, 7.0), row(30, 1, 9.5)]
  write_lines(tmp_path / metrics.ROWS, rows, '{"step": 40, "tr')
  write_lines(tmp_path / metrics.SAMPLES, [{"step": 20, "text": "a"}, {"step": 30, "text": "b"}])
  write_lines(tmp_path / metrics.EVENTS, [{"event": "save", "step": 20, "monotonic": 7.25, "attempt": 1}])
  assert metrics.cut(tmp_path, 20) == {"rows": 1, "lost_steps": 10, "lost_seconds": 2.25}
  assert text_of(tmp_path / metrics.ROWS) == "".join(json.dumps(row) + "\n" for row in rows[:2])
  assert [line["step"] for line in metrics.read(tmp_path / metrics.SAMPLES)] == [20]
  assert metrics.cut(tmp_path, 20) == {"rows": 0, "lost_steps": 0, "lost_seconds": 0}


def test_cut_charges_a_dead_attempt_that_saved_nothing_from_its_start(tmp_path):
  write_lines(tmp_path / metrics.EVENTS, [{"event": "save", "step": 20, "monotonic": 7.0, "attempt": 1}])
  write_lines(tmp_path / metrics.ROWS, [row(20, 1, 6.5), row(30, 2, 4.0), row(40, 2, 6.0)])
  assert metrics.cut(tmp_path, 20)["lost_seconds"] == 6.0


def test_cut_without_a_save_event_counts_from_the_last_row_kept(tmp_path):
  write_lines(tmp_path / metrics.ROWS, [row(10, 1, 5.0), row(20, 1, 7.0), row(30, 1, 9.5)])
  assert metrics.cut(tmp_path, 20)["lost_seconds"] == 2.5
  assert metrics.cut(tmp_path, 0) == {"rows": 2, "lost_steps": 20, "lost_seconds": 7.0}
  assert metrics.cut(tmp_path / "nothing", 0)["rows"] == 0


def test_cut_shows_a_reader_the_old_file_or_the_new(tmp_path, monkeypatch):
  write_lines(tmp_path / metrics.ROWS, [row(10, 1, 5.0), row(20, 1, 7.0)])
  before = text_of(tmp_path / metrics.ROWS)
  real, seen = os.replace, []

  def crash(source, target):
    seen.append((text_of(target), text_of(source)))
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", crash)
  with pytest.raises(KeyboardInterrupt):
    metrics.cut(tmp_path, 10)
  assert text_of(tmp_path / metrics.ROWS) == before == seen[0][0]
  assert seen[0][1] == before.splitlines(keepends=True)[0]
  monkeypatch.setattr(os, "replace", real)
  assert metrics.cut(tmp_path, 10)["rows"] == 1


def test_rows_after_a_cut_go_to_the_new_file(tmp_path):
  writer = metrics.Writer(tmp_path, time.monotonic())
  for step in (1, 2):
    writer.row(step, {"a": 1.0})
  metrics.cut(tmp_path, 1)
  writer.row(2, {"a": 2.0})
  writer.close()
  assert [(line["step"], line["a"]) for line in metrics.read(tmp_path / metrics.ROWS)] == [(1, 1.0), (2, 2.0)]


def test_the_clock_s_totals_sum_to_the_time_that_passed():
  start = time.monotonic()
  clock = metrics.Clock(start)
  time.sleep(0.01)
  clock.base("step")
  with clock("eval"):
    time.sleep(0.01)
    with clock("data wait"):
      time.sleep(0.01)
  with pytest.raises(RuntimeError), clock("checkpoint"):
    raise RuntimeError
  for _ in range(1000):
    with clock("data wait"):
      pass
  low = time.monotonic() - start
  totals = clock.totals()
  high = time.monotonic() - start
  assert list(totals) == list(metrics.BUCKETS)
  assert low - 1e-6 <= sum(totals.values()) <= high + 1e-6
  assert all(totals[bucket] >= 0.01 for bucket in ("start-up", "eval", "data wait")) and totals["compile"] == 0
  with pytest.raises(KeyError):
    clock.base("lunch")


def test_numbers_for_people():
  assert [metrics.compact(n) for n in (0, 7.25, 999.6, 41234, 999_600, 1.07e9)] == [
    "0", "7.25", "1.00k", "41.2k", "1.00M", "1.07B"]  # fmt: skip
  assert [metrics.duration(s) for s in (0.04, 9.97, 59.7, 133, 7261, 200_000, math.inf)] == [
    "0.0s", "10s", "1m 0s", "2m 13s", "2h 1m", "2d 7h", "?"]  # fmt: skip
  assert [metrics.size(n) for n in (0, 1023, 1536, 5 * 2**40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]


def test_the_progress_line_is_plain_off_a_terminal(capsys):
  progress = metrics.Progress()
  progress.update(1200, 5000, 3.25, 3e-4, 41234.0, 0.381, 0.004, 1000, 133)
  progress.update(1210, 5000, math.nan, 3e-4, 41234.0, None, 0.004, None, math.inf)
  progress.close()
  out, err = capsys.readouterr()
  first, second = err.splitlines()
  assert out == "" and "\x1b" not in err and "\r" not in err
  assert (
    first
    == "step 1,200/5,000  loss 3.2500  lr 3.00e-04  tokens/s 41.2k  mfu 38.1%  wait 0.4%  saved 1,000  eta 2m 13s"
  )
  assert "loss nan" in second and "mfu" not in second and "saved" not in second


TERMINAL = """
from fmjax import metrics
rows = [("block/" + "deep/" * 20 + "kernel", (4, 8), "float32", "P('fsdp')", 128, 32)]
metrics.parameter_table(rows)
progress = metrics.Progress()
for step in range(1, 4):
  progress.update(step, 3, 1.5, 1e-3, 100.0, 0.5, 0.0, 1, 5.0)
progress.close()
"""


@pytest.mark.parametrize("width", [40, 72, 160])
def test_the_progress_line_fits_the_terminal_and_is_redrawn_in_place(width):
  import fcntl
  import pty
  import struct
  import termios

  parent, child = pty.openpty()
  fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
  env = {**os.environ, "TERM": "xterm"}
  subprocess.run([sys.executable, "-W", "error", "-c", TERMINAL], stderr=child, env=env, check=True)
  os.close(child)
  seen = b""
  try:
    while chunk := os.read(parent, 65536):
      seen += chunk
  except OSError:  # the terminal's end
    pass
  os.close(parent)
  shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
  for line in re.split(r"[\r\n]+", shown):
    assert len(line) <= width
  assert "step 3/3" in shown and "loss 1.5000" in shown
  assert "\r" in seen.decode().replace("\r\n", "") and shown[shown.index("step 1/3") :].count("\n") == 1
  assert "\x1b[2K" not in seen.decode().rpartition("3/3")[2]  # the last line stays
  assert ("━" in re.split(r"step 1/3", shown)[1]) == (width == 160)


def test_the_parameter_table_lists_every_row_and_the_totals():
  stream = io.StringIO()
  rows = [("embed", (256, 64), "float32", "P('tensor')", 8192, 16384), ("scale", (), "float32", "P()", 4, 1)]
  metrics.parameter_table(rows, rows[:1], stream)
  head, embed, scale, total, resting = (line.split() for line in stream.getvalue().splitlines() if line.strip())
  assert embed == ["embed", "256x64", "float32", "P('tensor')", "8.0", "KiB", "16,384"]
  assert scale[:2] == ["scale", "scalar"] and total == ["total", "8.0", "KiB", "16,385"]
  assert resting == ["at", "rest", "8.0", "KiB", "16,384"]
