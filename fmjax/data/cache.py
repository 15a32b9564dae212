"""The cache of prepared things: folders that appear whole, once, and are checked whenever they are opened.

A folder's name says what is in it, so a folder that is there is never written again. It is built beside its place
as NAME.tmp under an advisory lock on NAME.lock, and renamed when complete: two processes build it once, and what a
killed one left is removed by the next that builds.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import time

import xxhash

from fmjax.corpus import DataConfig
from fmjax.errors import FmjaxError

META = "meta.json"
KEEP, KEEP_DAYS = "unfinished", 7  # a file that marks a build that goes on where it was ended
BLOCK = 1 << 20
THOROUGH = 256 << 20  # bytes of a folder up to which every one is compared when it is opened
FULL = (errno.ENOSPC, errno.EDQUOT)


def root(config: DataConfig) -> pathlib.Path:
  return pathlib.Path(config.cache or os.environ.get("FMJAX_CACHE") or "~/.cache/fmjax").expanduser().absolute()


def publish(folder: pathlib.Path, build, progress, keep: bool = False):
  """Makes `folder` unless it is there: `build(temporary)` fills it and returns the facts for meta.json.

  `keep`: what an earlier build left when it was ended stays there, and `build` goes on with it.
  """
  if folder.is_dir():
    return
  temporary = folder.with_name(folder.name + ".tmp")
  with friendly(folder.parent):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, progress):
      if folder.is_dir():
        return
      sweep(folder.parent)
      if not keep:
        shutil.rmtree(temporary, ignore_errors=True)
      temporary.mkdir(exist_ok=True)
      if keep:
        (temporary / KEEP).touch()
      try:
        facts = build(temporary)
        (temporary / KEEP).unlink(missing_ok=True)
        (temporary / META).write_text(json.dumps(seal(measure(temporary), facts), indent=1))
        temporary.rename(folder)
      except BaseException:
        if not keep:
          shutil.rmtree(temporary, ignore_errors=True)
        raise


def lock_of(folder: pathlib.Path):
  return open(folder.with_name(folder.name + ".lock"), "w")


@contextlib.contextmanager
def locked(folder: pathlib.Path, progress):
  with lock_of(folder) as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      progress.stage(f"waiting for another process that prepares {folder.name}")
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def sweep(parent: pathlib.Path):
  """Removes every NAME.tmp whose builder is dead: its lock is free. One that can go on stays for KEEP_DAYS."""
  for temporary in parent.glob("*.tmp"):
    kept = temporary / KEEP
    if kept.exists() and time.time() - kept.stat().st_mtime < KEEP_DAYS * 86400:
      continue
    with lock_of(temporary.with_suffix("")) as lock, contextlib.suppress(BlockingIOError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def friendly(parent: pathlib.Path):
  """A full disk or a forbidden folder, told as an FmjaxError."""
  fix = "set data.cache or FMJAX_CACHE to a folder with room that you may write to"
  try:
    yield
  except (OSError, RuntimeError) as error:  # ArrayRecord's writer has no type of its own for a full disk
    if any(os.strerror(full) in str(error) for full in FULL):
      raise FmjaxError("DISK_FULL", "no room for prepared data", where=parent, fix=fix) from error
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
      raise FmjaxError(
        "PERMISSION", "the data cache cannot be written", where=parent, got=error.strerror, fix=fix
      ) from error
    raise


def measure(folder: pathlib.Path, sizes_only: bool = False) -> dict[str, list]:
  """Name -> [size, xxh3-128 or None] of every file but meta.json."""
  files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / META)
  return {
    str(path.relative_to(folder)): [path.stat().st_size, None if sizes_only else digest(path)] for path in files
  }


def digest(path: pathlib.Path) -> str:
  hasher = xxhash.xxh3_128()
  with open(path, "rb") as file:
    while block := file.read(BLOCK):
      hasher.update(block)
  return hasher.hexdigest()


def canonical(tree) -> bytes:
  return json.dumps(tree, sort_keys=True).encode()


def seal(files: dict, facts: dict) -> dict:
  return {
    "fingerprint": xxhash.xxh3_128_hexdigest(canonical(files)),
    "files": files,
    "facts": facts,
    "checksum": xxhash.xxh3_128_hexdigest(canonical([files, facts])),
  }


def verify(folder: pathlib.Path) -> tuple[str, dict]:
  """(fingerprint, facts) of a folder whose files are as they were made. DATA_BAD names the one that is not.

  Of a folder larger than THOROUGH the sizes are compared, and whoever reads its records checks those.
  """
  fix = f"delete the folder {folder}; the next run prepares it again"
  try:
    meta = json.loads((folder / META).read_bytes())
    if meta != seal(meta["files"], meta["facts"]):
      raise ValueError("its checksum differs")
  except (OSError, ValueError, LookupError, TypeError) as error:
    got = f"{type(error).__name__}: {error}"
    raise FmjaxError("DATA_BAD", "prepared data is damaged", where=folder / META, got=got, fix=fix) from error
  large = sum(size for size, _ in meta["files"].values()) > THOROUGH
  now = measure(folder, sizes_only=large)
  for name in sorted({*meta["files"], *now}):
    then, found = meta["files"].get(name), now.get(name)
    if (then and then[0]) != (found and found[0]) or (not large and then != found):
      expected, got = (f"{file[0]} bytes, xxh3 {file[1]}" if file else "no such file" for file in (then, found))
      raise FmjaxError(
        "DATA_BAD", "prepared data is damaged", where=folder / name, expected=expected, got=got, fix=fix
      )
  return meta["fingerprint"], meta["facts"]
