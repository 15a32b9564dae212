"""The run's folder: who owns it (`lock`), files written whole or not at all, and what to say when a disk refuses."""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator

from fmjax.errors import FmjaxError

# EFBIG is a limit on the file's size (ulimit -f); EIO is a disk that fails: the remedy is the same, another disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """A folder that this process owns as long as the `claim` that gave it lasts."""

  path: pathlib.Path


def disk_errno(error: BaseException) -> int | None:
  """The operating system's number behind `error`, through causes and libraries that only quote its text."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return error.errno
    if quoted := re.search(r"os_error_code='(\d+)'", str(error)):  # tensorstore
      return int(quoted[1])
    for number in FULL:
      if os.strerror(number) in str(error):
        return number
    error = error.__cause__ or error.__context__
  return None


def trouble(error: BaseException, where, **labels) -> FmjaxError | None:
  """What to tell a person about a write below `where` that failed; None if it is not the disk's doing."""
  number = disk_errno(error)
  if number is None:
    return None
  if number in FULL:
    labels = {"fix": "free some space there, or choose another --workdir, and run the same command again"} | labels
    return FmjaxError("DISK_FULL", f"cannot write: {os.strerror(number)}", where=where, **labels)
  labels = {"fix": "choose a --workdir that you may write to"} | labels
  return FmjaxError("PERMISSION", f"cannot write: {os.strerror(number)}", where=where, **labels)


def sync_folder(path):
  """Makes names in the folder durable: a rename is safe from a power cut only after this."""
  folder = os.open(path, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def write_bytes(path, data: bytes):
  """All of `data` under the name `path`, or what was there before: never a part of it."""
  path = pathlib.Path(path)
  draft = path.with_name(path.name + ".tmp")
  try:
    with open(draft, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)
  except OSError:
    with contextlib.suppress(OSError):
      draft.unlink(missing_ok=True)
    raise


def write_json(path, tree):
  try:
    write_bytes(path, (json.dumps(tree, indent=2) + "\n").encode())
  except OSError as error:
    raise trouble(error, path) from error


def read_json(path):
  """The tree in a JSON file; DATA_BAD where it is damaged."""
  try:
    return json.loads(pathlib.Path(path).read_text())
  except ValueError as error:
    fix = "restore the file, or start a new run in another --workdir"
    raise FmjaxError("DATA_BAD", "a file of the run is not JSON", where=path, got=error, fix=fix) from error


def process_start(pid: int) -> str | None:
  """When process `pid` started, in the system's own words: a pid alone may have been given to another since."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, counted after the name, which may hold spaces
  except OSError:
    if pathlib.Path("/proc/self/stat").exists():
      return None
  said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
  return said.stdout.strip() or None


def alive(owner: dict) -> bool:
  """Whether the run that wrote `owner` still runs; on another host nobody can tell, so it does."""
  return owner["host"] != socket.gethostname() or process_start(owner["pid"]) == owner["process_start"]


def take(lock) -> bool:
  """Whether the operating system gave us the lock; it takes it back from a process that dies, however it dies."""
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno in (
      errno.ENOLCK,
      errno.ENOTSUP,
      errno.ENOSYS,
    ):  # network filesystems: what it says decides
      return False
    raise


def read_owner(lock) -> dict | None:
  lock.seek(0)
  try:
    return json.loads(lock.read())
  except ValueError:
    return None


def busy(path, owner: dict) -> FmjaxError:
  return FmjaxError(
    "WORKDIR_BUSY",
    "another run is using this folder",
    where=path,
    got=f"pid {owner['pid']} on {owner['host']}, started {owner['since']}: {owner['command']}",
    fix=f"wait for it, stop it (kill {owner['pid']}), or choose another --workdir",
  )


@contextlib.contextmanager
def claim(path) -> Iterator[Workdir]:
  """Makes the folder if need be and owns it until the end of the `with`; a run that died does not count.

  Raises WORKDIR_BUSY, naming the run that has it, or PERMISSION.
  """
  path = pathlib.Path(path).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = open(path / "lock", "a+b", buffering=0)
  except OSError as error:
    raise trouble(error, path) from error
  with lock:
    # A forked worker would keep the lock of a run that was killed.
    os.register_at_fork(after_in_child=lock.close)
    locked, owner = take(lock), read_owner(lock)
    if not locked and owner and alive(owner):
      raise busy(path, owner)
    me = {
      "pid": os.getpid(),
      "host": socket.gethostname(),
      "process_start": process_start(os.getpid()),
      "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
      "command": shlex.join(sys.orig_argv),
    }
    try:
      lock.truncate(0)
      lock.write(json.dumps(me).encode())
    except OSError as error:
      raise trouble(error, path) from error
    try:
      yield Workdir(path)
    finally:
      lock.truncate(0)
