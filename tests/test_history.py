import json
import os
import pathlib
import socket

import pytest

from fmjax import history, metrics
from fmjax.errors import FmjaxError


def clock(**seconds):
  return {bucket: seconds.get(bucket.replace("-", "_").replace(" ", "_"), 0.0) for bucket in metrics.BUCKETS}


def write(folder, rows=(), events=(), samples=(), config=None):
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, records in ((metrics.ROWS, rows), (metrics.EVENTS, events), (metrics.SAMPLES, samples)):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
  (folder / "config.json").write_text(json.dumps(config or {}))
  return folder


def event(name, attempt, monotonic, **facts):
  wall = "2026-01-01T00:00:00.000+00:00"
  return {"event": name, "attempt": attempt, "monotonic": monotonic, "wall": wall, **facts}


def row(step, attempt, elapsed, loss=1.0, **more):
  return {"step": step, "attempt": attempt, "elapsed": elapsed, "train/loss": loss, **more}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_a_folder_that_is_not_a_run_is_named_with_the_runs_beside_it(tmp_path, make):
  write(tmp_path / "gpt")
  make(tmp_path / "gtp")
  with pytest.raises(FmjaxError) as error:
    history.load(tmp_path / "gtp")
  assert error.value.status == 65 and str(tmp_path / "gpt") in str(error.value)
  assert len(str(error.value).splitlines()) <= 6


def test_an_attempt_s_time_sums_to_what_it_took_and_the_rest_goes_to_steps_and_data(tmp_path):
  rows = [row(10, 1, 10.0, data_wait=0.25), row(20, 1, 16.0, data_wait=0.25)]
  saved = event("save", 1, 12.0, step=10, clock=clock(start_up=2.0, compile=3.0, step=6.0, checkpoint=1.0))
  spent = history.spent(history.load(write(tmp_path, rows, [event("start", 1, 0.0), saved])))
  assert sum(spent.values()) == pytest.approx(16.0)
  assert spent["step"] == pytest.approx(6 + 3) and spent["data wait"] == pytest.approx(1)


def test_lost_work_is_counted_once_and_the_kept_work_for_what_it_was(tmp_path):
  events = [
    event("start", 1, 0.0),
    event("save", 1, 12.0, step=10, clock=clock(start_up=4.0, step=8.0)),
    event("eval", 1, 14.0, step=12, clock=clock(start_up=4.0, step=9.0, eval=1.0)),  # lost with its step
    event("start", 2, 0.0),
    event("restore", 2, 3.0, step=10, lost_steps=5, lost_seconds=6.0),
    event("end", 2, 20.0, step=30, clock=clock(start_up=5.0, step=15.0), status="done"),
  ]
  run = history.load(write(tmp_path, [row(10, 1, 11.5), row(30, 2, 19.0)], events))
  spent = history.spent(run)
  assert spent == {**dict.fromkeys(history.BUCKETS, 0.0), "start-up": 9.0, "step": 23.0, "lost work": 6.0}
  assert sum(spent.values()) == pytest.approx(18.0 + 20.0)


def test_what_cut_takes_back_and_what_is_kept_make_up_the_dead_attempt(tmp_path):
  rows = [row(10, 1, 10.0), row(20, 1, 15.0), row(30, 1, 21.0)]
  events = [event("start", 1, 0.0), event("save", 1, 15.5, step=20, clock=clock(start_up=5.0, step=10.5))]
  write(tmp_path, rows, events)
  lost = metrics.cut(tmp_path, 20)
  with open(tmp_path / metrics.EVENTS, "a") as file:
    file.write(json.dumps(event("restore", 2, 0.0, step=20, **lost)) + "\n")
  spent = history.spent(history.load(tmp_path))
  assert sum(spent.values()) == pytest.approx(21.0) and spent[history.LOST] == pytest.approx(5.5)


def test_an_attempt_that_stopped_in_good_order_loses_nothing(tmp_path):
  events = [
    event("save", 1, 8.0, step=10, clock=clock(step=8.0)),
    event("preempt", 1, 9.0, step=10, clock=clock(step=8.0, checkpoint=1.0)),
    event("restore", 2, 1.0, step=10, lost_steps=0, lost_seconds=0.0),
  ]
  spent = history.spent(history.load(write(tmp_path, [row(10, 1, 7.0)], events)))
  assert spent["checkpoint"] == 1.0 and spent[history.LOST] == 0 and sum(spent.values()) == pytest.approx(10.0)


@pytest.mark.parametrize(
  "amounts", [[1, 1, 1], [1e-9, 5, 2.3], [7], [0.333, 0.333, 0.334, 1e6], [1, 2, 4, 8, 16, 32, 64]]
)
def test_shares_sum_to_a_hundred(amounts):
  shares = history.shares({str(index): amount for index, amount in enumerate(amounts)})
  assert sum(round(10 * share) for share in shares.values()) == 1000
  for index, amount in enumerate(amounts):
    assert shares[str(index)] == pytest.approx(100 * amount / sum(amounts), abs=0.1)


def test_shares_of_nothing_are_nothing():
  assert history.shares({"a": 0.0}) == {"a": 0.0}


HERE = {"host": socket.gethostname()}


@pytest.mark.parametrize(
  "events, word",
  [
    ([event("start", 1, 0.0), event("end", 1, 1.0, status="done")], "finished"),
    ([event("start", 1, 0.0), event("end", 1, 1.0, status=70)], "ended: 70"),
    ([event("start", 1, 0.0, pid=os.getpid(), **HERE)], "running"),
    ([event("start", 1, 0.0, pid=2**22 + 5, **HERE)], "killed"),  # above the kernel's largest pid
    ([event("start", 1, 0.0, pid=1, host="elsewhere")], "not finished"),
    ([event("start", 1, 0.0), event("preempt", 1, 1.0), event("end", 1, 1.0, status=75)], "interrupted, resumable"),
    ([event("start", 1, 0.0), event("error", 1, 1.0, code="DIVERGED")], "failed: DIVERGED"),
    ([event("end", 1, 1.0, status="done"), event("start", 2, 0.0, pid=os.getpid(), **HERE)], "running"),
    ([], "not finished"),
  ],
)
def test_how_a_run_stands(tmp_path, events, word):
  assert history.status(history.load(write(tmp_path, events=events)))[0] == word
