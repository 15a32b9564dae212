"""The guides as programs: what a page of docs/ tells its reader to do, done in a process of its own, in order.

A block of ```python that begins with `# FILE` is that file; any other runs. A block of ```diff changes the file of
fmjax that its first line names. A block of ```text is what the block before it prints, where "..." is any text. A
block without a language is commands.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FILE = re.compile(r"# ([\w/]+\.\w+)\n")


class Block(NamedTuple):
  language: str
  text: str


def read(page: str) -> str:
  return (DOCS / f"{page}.md").read_text()


def blocks(page: str) -> list[Block]:
  return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", read(page), re.S | re.M)]


def commands(page: str) -> list[str]:
  return [line for language, text in blocks(page) if not language for line in lines(text)]


def lines(text: str) -> list[str]:
  return text.replace("\\\n", "").splitlines()


def python(page: str) -> list[str]:
  return [text for language, text in blocks(page) if language == "python" and not FILE.match(text)]


def sections(page: str) -> list[str]:
  return re.split(r"^## ", read(page), flags=re.M)


def follow(page: str, folder: pathlib.Path) -> list[tuple[Block, str]]:
  """(block, what it printed) of each command block and each Python that runs; RuntimeError where one fails.

  It happens in `folder`, which gets a copy of the house, the files that the page writes, and what it adds to fmjax.
  """
  for part in ("fmjax", "tests/objectives"):
    shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
  for language, text in blocks(page):
    if language == "python" and (found := FILE.match(text)):
      (folder / found[1]).write_text(text)
    elif language == "diff":
      add(folder, text)
  here = {"PYTHONPATH": str(folder), "FMJAX_CACHE": str(folder / "cache"), "JAX_NUMPY_RANK_PROMOTION": "raise",
          "PYTHONDONTWRITEBYTECODE": "1", "XLA_FLAGS": ""}  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-P", __file__, page],
    cwd=folder,
    env=os.environ | here,
    timeout=300,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(done.stderr[-4000:])
  return [(Block(*block), printed) for block, printed in json.loads(done.stdout.splitlines()[-1])]


def add(folder: pathlib.Path, diff: str):
  """Changes the file that a diff names; ValueError where a line that it counts on is not there."""
  name, *changes = diff.splitlines()
  file = folder / name.removeprefix("+++ ")
  found, place, new = file.read_text().splitlines(), 0, []
  for line in changes:
    if line.startswith("+"):
      new.append(line[1:])
      continue
    at = found.index(line[1:], place)
    place = place or at
    found[place:place], at = new, at + len(new)
    found[at : at + 1] = [] if line.startswith("-") else [line[1:]]
    place, new = at + line.startswith(" "), []
  found[place:place] = new
  file.write_text("\n".join(found) + "\n")


def shown(page: str) -> list[tuple[Block, str]]:
  """(block, the text that the page says it prints)."""
  every = blocks(page)
  return [(block, after.text) for block, after in zip(every, every[1:]) if after.language == "text"]


def is_like(said: str, printed: str) -> bool:
  """Whether the lines of `said` are among those that were printed, one after the other."""
  parts = map(re.escape, said.strip("\n").split("..."))
  return re.search("(?m)^" + ".*?".join(parts), printed, re.S) is not None


def main(page: str):
  """In the reader's process: does what the page says, and prints what that printed as JSON."""
  from fmjax.__main__ import main as fmjax

  done, names = [], {"__name__": "guide"}
  for block in blocks(page):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      if not block.language:
        for line in lines(block.text):
          words = shlex.split(line)
          assert words[0] == "fmjax" and fmjax(words[1:]) == 0, line
      elif block.language == "python" and not FILE.match(block.text):
        exec(block.text, names)
      else:
        continue
    done.append((block, out.getvalue()))
  print("\n" + json.dumps(done))


if __name__ == "__main__":
  main(*sys.argv[1:])
