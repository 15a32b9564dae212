"""Where text comes from: a config's source read into documents, split into train and eval.

A document is the text of one file. Several files are split by a hash of each file's name, so that a file stays on
its side whatever else comes or goes; a single file is cut at a character, the first part train.
"""

import dataclasses
import glob
import os
import pathlib
import sysconfig

import xxhash

from fmjax.config import DataConfig
from fmjax.errors import FmjaxError
from fmjax.laws import nearest

# Tests and bundled tools repeat the library's own code, and differ most between builds of one Python version.
STDLIB_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


@dataclasses.dataclass(frozen=True)
class Documents:
  """The texts of both splits, in the order of their files' names."""

  train: tuple[str, ...]
  eval: tuple[str, ...]


def read(config: DataConfig) -> Documents:
  """All documents of the source, in memory. DATA_MISSING and DATA_BAD name the path."""
  if config.source == "stdlib":
    return split_by_name(stdlib(), config.eval_fraction)
  files = find(config.path)
  root = pathlib.Path(os.path.expanduser(config.path))
  while glob.has_magic(str(root)):
    root = root.parent
  root = root.parent if root.is_file() else root
  texts = {file.relative_to(root).as_posix(): read_text(file) for file in files}
  texts = {name: text for name, text in texts.items() if text}
  if not texts:
    raise FmjaxError(
      "DATA_BAD",
      "the text is empty",
      where=config.path,
      got="0 bytes in all",
      fix="give a file with text in data.path",
    )
  if len(texts) == 1:
    return cut(*texts.values(), config.eval_fraction)
  return split_by_name(texts, config.eval_fraction)


def stdlib() -> dict[str, str]:
  """Name -> source text of each module in the running Python's standard library; empty files are left out."""
  root = sysconfig.get_path("stdlib")
  texts = {}
  for folder, folders, files in os.walk(root):
    folders[:] = [name for name in folders if name not in STDLIB_LEFT_OUT]
    for file in files:
      if file.endswith(".py"):
        path = pathlib.Path(folder, file)
        texts[path.relative_to(root).as_posix()] = read_text(path)
  if not texts:
    raise FmjaxError(
      "DATA_MISSING",
      "this Python has no source of its standard library",
      where=root,
      fix="set data.source=text and data.path to a text file",
    )
  return {name: text for name, text in texts.items() if text}


def find(path: str) -> list[pathlib.Path]:
  """The files that a path or a glob names, sorted."""
  path = os.path.expanduser(path)
  if os.path.isfile(path):
    return [pathlib.Path(path)]
  if os.path.isdir(path):
    raise FmjaxError(
      "DATA_BAD",
      "data.path is a folder",
      where=path,
      expected="a text file or a glob",
      fix=f"data.path={os.path.join(path, '*.txt')}",
    )
  files = [pathlib.Path(name) for name in sorted(glob.glob(path, recursive=True)) if os.path.isfile(name)]
  if files:
    return files
  if glob.has_magic(path):
    raise FmjaxError(
      "DATA_MISSING",
      "the glob in data.path matches no file",
      where=path,
      fix="quote the glob in a shell; ** stands for folders at any depth",
    )
  folder = os.path.dirname(path) or "."
  near = sorted(os.listdir(folder))[:1000] if os.path.isdir(folder) else []
  fix = f"in {folder}: {nearest(os.path.basename(path), near)}" if 0 < len(near) < 10 else "check data.path"
  raise FmjaxError("DATA_MISSING", "there is no such file", where=path, fix=fix)


def read_text(path: pathlib.Path) -> str:
  """The file's text with its line ends as they are; text mode would turn CR LF into LF."""
  try:
    return path.read_bytes().decode("utf-8")
  except OSError as error:
    raise FmjaxError(
      "DATA_BAD", f"the file cannot be read: {error.strerror}", where=path, fix="check its permissions and its disk"
    ) from error
  except UnicodeDecodeError as error:
    raise FmjaxError(
      "DATA_BAD",
      "the file is not UTF-8 text",
      where=f"{path} at byte {error.start}",
      got=f"0x{error.object[error.start]:02x} ({error.reason})",
      fix="convert it, for example: iconv -f LATIN1 -t UTF-8",
    ) from error


def cut(text: str, eval_fraction: float) -> Documents:
  """One text cut in two: the first part train (as char-rnn and nanoGPT split tiny Shakespeare)."""
  middle = int(len(text) * (1 - eval_fraction))
  return Documents((text[:middle],), (text[middle:],))


def split_by_name(texts: dict[str, str], eval_fraction: float) -> Documents:
  """Each text by where its name's hash falls in [0, 1); with two texts or more neither split is left empty."""
  place = {name: xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) / 2**64 for name in texts}
  held = {name for name in texts if place[name] < eval_fraction}
  if len(texts) > 1:
    held = (held | {min(place, key=place.get)}) - {max(place, key=place.get)}
  order = sorted(texts)
  return Documents(
    tuple(texts[name] for name in order if name not in held),
    tuple(texts[name] for name in order if name in held),
  )
