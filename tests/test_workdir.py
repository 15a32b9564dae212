"""Laws of the run's folder, with real processes: one owner, the dead own nothing, files are whole."""

import json
import os
import signal
import subprocess
import sys

import pytest

from fmjax.errors import FmjaxError
from fmjax.workdir import claim, disk_errno, process_start, read_json, write_json

HOLD = """
import os, sys, time
from fmjax.workdir import claim
with claim(sys.argv[1]):
  if sys.argv[2] == "fork" and os.fork() == 0:
    os.write(1, b"child\\n")
  else:
    os.write(1, b"held\\n")
  time.sleep(60)
"""


def hold(path, how="alone"):
  """A process that has claimed the folder, and with it a child if `how` says fork."""
  run = subprocess.Popen([sys.executable, "-c", HOLD, str(path), how], stdout=subprocess.PIPE, text=True)
  said = {run.stdout.readline() for _ in range(2 if how == "fork" else 1)}
  assert said <= {"held\n", "child\n"}
  return run


def kill(run):
  run.send_signal(signal.SIGKILL)
  run.wait()
  run.stdout.close()


def test_second_run_is_refused_and_told_about_the_first(tmp_path):
  run = hold(tmp_path / "run")
  try:
    with pytest.raises(FmjaxError) as caught, claim(tmp_path / "run"):
      pass
  finally:
    kill(run)
  error = caught.value
  assert (error.code, error.status) == ("WORKDIR_BUSY", 64)
  assert f"pid {run.pid} on {os.uname().nodename}, started 2" in str(error) and "fmjax.workdir" in str(error)
  assert len(str(error).splitlines()) <= 6


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_killed_run_blocks_nobody(tmp_path, how):
  run = hold(tmp_path, how)
  owner = read_json(tmp_path / "lock")
  kill(run)
  with claim(tmp_path) as workdir:
    assert workdir.path == tmp_path
    assert owner["pid"] == run.pid != read_json(tmp_path / "lock")["pid"] == os.getpid()


def test_ended_run_blocks_nobody_and_an_exception_ends_it(tmp_path):
  for _ in range(2):
    with pytest.raises(KeyError), claim(tmp_path):
      raise KeyError
  assert (tmp_path / "lock").read_bytes() == b""


def test_same_process_cannot_claim_twice(tmp_path):
  with claim(tmp_path), pytest.raises(FmjaxError, match="another run"), claim(tmp_path):
    pass


def test_without_os_locks_the_owner_is_judged_by_pid_and_start(tmp_path, monkeypatch):
  """Where the filesystem has no locks, a pid that was given to another process since does not own the folder."""
  monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))
  me = {"pid": os.getpid(), "host": os.uname().nodename, "since": "2026-01-01", "command": "fmjax train"}
  (tmp_path / "lock").write_text(json.dumps(me | {"process_start": process_start(os.getpid())}))
  with pytest.raises(FmjaxError, match="another run"), claim(tmp_path):
    pass
  (tmp_path / "lock").write_text(json.dumps(me | {"process_start": "1"}))
  with claim(tmp_path):
    assert read_json(tmp_path / "lock")["process_start"] != "1"


def test_folder_that_cannot_be_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/fmjax"):
    with pytest.raises(FmjaxError) as caught, claim(path):
      pass
    assert (caught.value.code, caught.value.status) == ("PERMISSION", 74)
    assert str(path) in str(caught.value)


def test_unwritable_folder_is_refused(tmp_path):
  if os.getuid() == 0:  # root may write anywhere, so ask as nobody
    tmp_path.chmod(0o755)
    ask = "import os, sys; os.setuid(65534); from fmjax.workdir import claim\n"
  else:
    tmp_path.chmod(0o555)
    ask = "import sys; from fmjax.workdir import claim\n"
  code = f"import fmjax.workdir, fmjax.errors\n{ask}with claim({str(tmp_path / 'a')!r}): pass"
  if os.getuid() == 0:  # pytest's base folder is closed to others
    for folder in tmp_path.parents[:2]:
      folder.chmod(0o755)
  said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert "fmjax: error PERMISSION  cannot write: Permission denied" in said.stderr, said.stderr


def test_json_is_whole_or_what_it_was(tmp_path):
  write_json(tmp_path / "a.json", {"a": [1, "é", None]})
  assert read_json(tmp_path / "a.json") == {"a": [1, "é", None]}
  code = """
import resource, sys
from fmjax.workdir import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_json(sys.argv[1], list(range(10000)))
"""
  said = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], capture_output=True, text=True)
  assert "fmjax: error DISK_FULL  cannot write: File too large" in said.stderr
  assert read_json(tmp_path / "a.json") == {"a": [1, "é", None]}
  assert os.listdir(tmp_path) == ["a.json"]


def test_disk_errno_reads_through_causes_and_quotes():
  quoted = ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']")
  try:
    raise RuntimeError("save failed") from quoted
  except RuntimeError as error:
    assert disk_errno(error) == 28
  assert disk_errno(ValueError("shapes differ")) is None
