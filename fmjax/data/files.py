"""Files of a source: found by a path, a glob or a folder, here or in a bucket, and read as bytes or as text.

A path with :// goes through fsspec, which brings the file system that the address names where its package is
installed (gs:// needs gcsfs); any other is a path of this machine.
"""

import contextlib
import dataclasses
import fnmatch
import glob
import gzip
import os
import pathlib
import zlib

from fmjax.data import cache
from fmjax.errors import FmjaxError
from fmjax.laws import nearest

FIX = "check its permissions and its disk"


@dataclasses.dataclass(frozen=True)
class File:
  """`name` is its path below the place that the config names, so the same on every machine; `size` is in bytes."""

  name: str
  path: str
  size: int

  def digest(self) -> str:
    """Of its content: xxh3-128, or what the bucket knows of it."""
    with readable(self.path):
      if not remote(self.path):
        return cache.digest(pathlib.Path(self.path))
      system, path = filesystem(self.path)
      info = system.info(path)
      known = [str(info[name]) for name in ("md5Hash", "etag", "ETag") if info.get(name)]
      return known[0] if known else system.ukey(path)

  def stamp(self) -> str:
    """Changes whenever the file is written, and is quickly had."""
    if remote(self.path):
      return f"{self.path} {self.digest()}"
    with readable(self.path):
      about = os.stat(self.path)
    return f"{os.path.abspath(self.path)} {about.st_size} {about.st_mtime_ns}"


def remote(path) -> bool:
  return "://" in str(path)


def filesystem(url: str):
  """(fsspec's file system, the path in it) of an address. USAGE names the package that is missing."""
  import fsspec

  try:
    return fsspec.core.url_to_fs(url)
  except ImportError as error:
    raise FmjaxError("USAGE", "a package that reads this address is missing", where=url, got=error,
                     fix="pip install gcsfs (of gs://), s3fs (of s3://)") from error  # fmt: skip
  except ValueError as error:
    raise FmjaxError("DATA_MISSING", "no such kind of address", where=url, got=error,
                     fix="give a path of this machine, or gs://BUCKET/PATH") from error  # fmt: skip


@contextlib.contextmanager
def readable(path):
  """What an operating system or a decompressor complains of, told as DATA_BAD."""
  try:
    yield
  except (OSError, EOFError, zlib.error) as error:
    why = getattr(error, "strerror", None) or error
    raise FmjaxError("DATA_BAD", f"the file cannot be read: {why}", where=path, fix=FIX) from error


@contextlib.contextmanager
def opened(file: File):
  """A seekable stream of the file's bytes; of one called .gz, of what was compressed."""
  with contextlib.ExitStack() as stack:
    stack.enter_context(readable(file.path))
    if remote(file.path):
      system, path = filesystem(file.path)
      stream = stack.enter_context(system.open(path, "rb"))
    else:
      stream = stack.enter_context(open(file.path, "rb"))
    yield stack.enter_context(gzip.open(stream)) if file.name.endswith(".gz") else stream


def decoded(content: bytes, path, offset: int = 0) -> str:
  """UTF-8 with its line ends as they are; DATA_BAD names the byte that is none, `offset` that of the first."""
  try:
    return content.decode("utf-8")
  except UnicodeDecodeError as error:
    raise FmjaxError(
      "DATA_BAD",
      "the file is not UTF-8 text",
      where=f"{path} at byte {offset + error.start}",
      got=f"0x{error.object[error.start]:02x} ({error.reason})",
      fix="convert it, for example: iconv -f LATIN1 -t UTF-8",
    ) from error


def read_text(path) -> str:
  """The text of a file of this machine."""
  with readable(path):
    return decoded(pathlib.Path(path).read_bytes(), path)


def find(path: str) -> list[pathlib.Path]:
  """The files of this machine that a path or a glob names, sorted."""
  return [pathlib.Path(file.path) for file in sorted(listed(path), key=lambda file: file.path)]


def listed(path: str, patterns: tuple[str, ...] = ()) -> list[File]:
  """The files that a path, a glob, or a folder with files like `patterns` names, in the order of their names."""
  root, paths = (in_bucket if remote(path) else on_disk)(path, patterns)
  if not paths:
    raise FmjaxError("DATA_MISSING", "the folder has no such file", where=path, expected=" or ".join(patterns),
                     fix="check data.path and data.source")  # fmt: skip
  names = (pathlib.PurePosixPath(one[len(root) :].lstrip("/")).as_posix() for one, _ in paths)
  return sorted((File(name, one, size) for name, (one, size) in zip(names, paths)), key=lambda file: file.name)


def on_disk(path: str, patterns) -> tuple[str, list[tuple[str, int]]]:
  """(the folder that names begin below, [(path, size)])."""
  path = os.path.expanduser(path)
  if os.path.isfile(path):
    return os.path.dirname(path), [(path, os.path.getsize(path))]
  if os.path.isdir(path):
    if not patterns:
      raise a_folder(path)
    path = path.rstrip("/") or "/"
    found = (os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files)
    return path, [(one, os.path.getsize(one)) for one in found if like(one, patterns)]
  paths = [(one, os.path.getsize(one)) for one in glob.glob(path, recursive=True) if os.path.isfile(one)]
  if not paths:
    raise missing(path)
  return above_glob(path), paths


def in_bucket(url: str, patterns) -> tuple[str, list[tuple[str, int]]]:
  system, path = filesystem(url)
  with readable(url):
    if glob.has_magic(path):
      root, found = above_glob(path), system.glob(path, detail=True)
      found = {one: about for one, about in found.items() if about["type"] == "file"}
    elif system.isfile(path):
      root, found = path.rpartition("/")[0], {path: system.info(path)}
    elif system.isdir(path):
      if not patterns:
        raise a_folder(url)
      root, found = path, system.find(path, detail=True)
      found = {one: about for one, about in found.items() if like(one, patterns)}
    else:
      raise missing(url)
  if not found and glob.has_magic(path):
    raise missing(url)
  return system.unstrip_protocol(root), [(system.unstrip_protocol(one), found[one]["size"]) for one in found]


def like(path: str, patterns) -> bool:
  return any(fnmatch.fnmatchcase(os.path.basename(path), pattern) for pattern in patterns)


def above_glob(path: str) -> str:
  while glob.has_magic(path):
    path = os.path.dirname(path)
  return path


def a_folder(path: str) -> FmjaxError:
  return FmjaxError("DATA_BAD", "data.path is a folder", where=path, expected="a text file or a glob",
                    fix=f"data.path={os.path.join(path, '*.txt')}")  # fmt: skip


def missing(path: str) -> FmjaxError:
  if glob.has_magic(path):
    return FmjaxError("DATA_MISSING", "the glob in data.path matches no file", where=path,
                      fix="quote the glob in a shell; ** stands for folders at any depth")  # fmt: skip
  folder = os.path.dirname(path) or "."
  near = sorted(os.listdir(folder))[:1000] if os.path.isdir(folder) else []
  fix = f"in {folder}: {nearest(os.path.basename(path), near)}" if 0 < len(near) < 10 else "check data.path"
  return FmjaxError("DATA_MISSING", "there is no such file", where=path, fix=fix)
