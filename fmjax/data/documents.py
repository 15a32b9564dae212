"""Documents, and the parts of a source that they come in: text files, and lines of JSON."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fmjax.data.columns import Columns
from fmjax.data.files import File, decoded, opened
from fmjax.errors import FmjaxError

TEXT_BYTES = 8 << 20  # of a part of several text files
PART_BYTES = 32 << 20  # of any other part
BLOCK = 1 << 20
MARK = "\ufeff"  # that some editors put before a text


class Document(NamedTuple):
  """A value a column, under a name that no other document has, and that is the same on every run and machine.

  `held` says whether it is of the eval split; None leaves that to the hash of its name.
  """

  name: str
  values: tuple
  held: bool | None = None

  @property
  def text(self) -> str:
    """All that is text in it."""
    return "\n".join(strings(self.values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A share of a source that any process of any machine reads on its own; `bytes` is about how much work it is.

  `reading` says in words what decides the documents beside the content of `files`; `held` is that of each document.
  """

  name: str
  bytes: int
  files: tuple[File, ...]
  reading: str
  held: bool | None = None

  unit = ""  # what the number at the end of a document's name counts, where there is one

  def documents(self) -> Iterator[Document]:
    """In order; no more of them is in memory than the reader holds. DATA_BAD names the place in the file."""
    raise TypeError(f"{type(self).__name__} does not say how it is read")

  def where(self, name: str) -> str:
    """The place of the document of this name, for people."""
    if self.unit:
      return f"{self.files[0].path} {self.unit} {number_of(name)}"
    return next((file.path for file in self.files if name.startswith(file.name)), name)


def number_of(name: str) -> int:
  return int(re.split("[@#]", name)[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(Part):
  """Whole files, a document each; `sides` is each one's `held`."""

  sides: tuple[bool | None, ...]

  def documents(self):
    for file, side in zip(self.files, self.sides):
      with opened(file) as stream:
        text = decoded(stream.read(), file.path)
      yield Document(file.name, (text,), side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPiece(Part):
  """The bytes [start, stop) of one file, a document."""

  start: int
  stop: int

  def documents(self):
    (file,) = self.files
    with opened(file) as stream:
      stream.seek(self.start)
      text = decoded(stream.read(self.stop - self.start), file.path, self.start)
    yield Document(self.name, (text,), self.held)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Part):
  """The lines of JSON that begin in the bytes [start, stop) of a file; a document is called by its first byte."""

  columns: Columns
  start: int
  stop: int | None

  unit = "at byte"

  def documents(self):
    (file,) = self.files
    for offset, line in self.lines():
      where = f"{file.path} at byte {offset}"
      text = decoded(line, file.path, offset)
      if offset == 0:
        text = text.removeprefix(MARK)
      if text.strip():
        yield Document(f"{file.name}@{offset}", values_of_json(text, self.columns, where), self.held)

  def lines(self) -> Iterator[tuple[int, bytes]]:
    """(its first byte's place, the line)."""
    with opened(self.files[0]) as stream:
      offset = self.start
      if self.start:
        offset = self.start - 1
        stream.seek(offset)
        piece = b""
        while not piece.endswith(b"\n"):  # the line that runs across `start`, in blocks, for it may be longer
          piece = stream.readline(BLOCK)
          offset += len(piece)
          if not piece or (self.stop is not None and offset >= self.stop):
            return
      while self.stop is None or offset < self.stop:
        if not (line := stream.readline()):
          return
        yield offset, line
        offset += len(line)


def text_files(files: list[File], sides: dict[str, bool | None]) -> list[Part]:
  """Whole files in groups of TEXT_BYTES; `sides` has each one's `held` by its name."""
  groups, size = [], TEXT_BYTES
  for file in files:
    if size + file.size > TEXT_BYTES:
      groups, size = groups + [[]], 0
    groups[-1].append(file)
    size += file.size
  return [
    TextFiles(name=group[0].name, bytes=sum(file.size for file in group), files=tuple(group), reading="text",
              sides=tuple(sides[file.name] for file in group))
    for group in groups
  ]  # fmt: skip


def text_pieces(file: File, eval_fraction: float) -> list[Part]:
  """One text cut in two at a character: the first piece train (as char-rnn and nanoGPT split tiny Shakespeare)."""

  def blocks():
    with opened(file) as stream:
      while block := stream.read(BLOCK):
        yield np.frombuffer(block, np.uint8) & 0xC0 != 0x80  # the first byte of each character

  size = characters = middle = 0
  for first in blocks():
    size, characters = size + len(first), characters + int(first.sum())
  left = int(characters * (1 - eval_fraction))
  for first in blocks():
    places = np.flatnonzero(first)
    if left < len(places):
      middle += int(places[left])
      break
    left, middle = left - len(places), middle + len(first)
  cuts = [(False, 0, middle), (True, middle, size)]
  return [
    TextPiece(name=f"{file.name}#{'eval' if held else 'train'}", bytes=stop - start, files=(file,), held=held,
              start=start, stop=stop, reading=f"text cut at {middle}")
    for held, start, stop in cuts
  ]  # fmt: skip


def lines(file: File, columns: Columns, held: bool | None) -> list[Part]:
  """Of a compressed file one part, for nobody can begin in its middle."""
  whole = file.name.endswith(".gz")
  ranges = [(0, None)] if whole else [(at, at + PART_BYTES) for at in range(0, file.size, PART_BYTES)]
  return [
    Lines(name=f"{file.name}@{start}", bytes=file.size if whole else min(stop, file.size) - start, files=(file,),
          held=held, columns=columns, start=start, stop=stop, reading=f"jsonl {columns.names}")
    for start, stop in ranges
  ]  # fmt: skip


def values_of_json(line: str, columns: Columns, where: str) -> tuple:
  """The values of an object in JSON. DATA_BAD says where there is none."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    kind = "VALUE" if columns.typed else "TEXT"
    raise FmjaxError("DATA_BAD", "a record is not JSON", where=where, got=f"{line[:80]!r} ({error})",
                     expected=f"{{{', '.join(f'{json.dumps(name)}: {kind}' for name in columns.keys)}}}",
                     fix="mend or remove it") from error  # fmt: skip
  values = columns.of(record, where)
  if "\\u" in line:  # only an escape can bring half a character
    for text in strings(values):
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise FmjaxError("DATA_BAD", "a text has half of a surrogate pair", where=where,
                         got=f"\\u{ord(text[error.start]):04x} at its character {error.start}",
                         fix="mend or remove it") from error  # fmt: skip
  return values


def strings(value) -> Iterator[str]:
  """The texts in a value, at any depth."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (list, tuple, dict)):
    for one in value.values() if isinstance(value, dict) else value:
      yield from strings(one)
