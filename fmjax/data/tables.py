"""Parts of tables (.csv, .tsv), of files with a token a line (CoNLL), and of texts that lie beside each other."""

import contextlib
import csv
import dataclasses
import itertools
import re

import numpy as np

from fmjax.data.columns import Columns, no_column, not_text
from fmjax.data.documents import BLOCK, MARK, PART_BYTES, Document, Lines, Part, number_of
from fmjax.data.files import File, above_glob, decoded, listed, opened, remote
from fmjax.errors import FmjaxError

FIELD = 1 << 30  # characters of a value: the csv module's own limit is shorter than many a document
DOCSTART = "-DOCSTART-"  # stands in the files of CoNLL-2003 where a document begins
# What a wildcard stands for, as a group of a regular expression.
WILD = {"**/": "((?:.*/)?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}


class ByLine(Lines):
  """Lines whose places are told by the line's number, which is counted when it is asked for."""

  def where(self, name):
    return self.at(number_of(name))

  def at(self, offset: int) -> str:
    """The place of the line that begins at byte `offset`."""
    (file,) = self.files
    number = 1
    with opened(file) as stream:
      while offset and (block := stream.read(min(offset, BLOCK))):
        number, offset = number + block.count(b"\n"), offset - len(block)
    return f"{file.path} line {number}"

  def texts(self):
    """(its first byte, one past its last, its text with the line end) of each line."""
    for offset, line in self.lines():
      try:
        text = line.decode()
      except UnicodeDecodeError:
        text = decoded(line, self.at(offset))  # raises what is wrong
      yield offset, offset + len(line), text.removeprefix(MARK) if offset == 0 else text


def name_of(file: File) -> str:
  """Its name without what says that it is compressed."""
  return file.name.removesuffix(".gz")


# --- tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(ByLine):
  """The rows of a .tsv, which knows no quotes, that begin in [start, stop); of another file those from `start` on.

  `places` are those of the columns' keys in a row, `width` says how many a row has; None: enough of them.
  """

  places: tuple[int, ...]
  width: int | None

  def documents(self):
    (file,) = self.files
    for offset, _, row in self.rows():
      if len(row) <= max(self.places) or len(row) != (self.width or len(row)):
        raise self.other_width(row, offset)
      record = {key: row[place] for key, place in zip(self.columns.keys, self.places)}
      yield Document(f"{file.name}@{offset}", self.columns.of(record, f"{file.path} at byte {offset}"), self.held)

  def rows(self):
    """(its first byte, one past its last, its values) of each row that is not blank."""
    return self.tabbed() if name_of(self.files[0]).endswith(".tsv") else self.quoted()

  def tabbed(self):
    for first, last, text in self.texts():
      if text := text.rstrip("\r\n"):
        yield first, last, text.split("\t")

  def quoted(self):
    first = last = self.start

    def lines():
      nonlocal last
      for _, end, text in self.texts():
        last = end
        yield text

    csv.field_size_limit(FIELD)
    try:
      for row in csv.reader(lines(), strict=True):
        if row:
          yield first, last, row
        first = last
    except csv.Error as error:
      raise FmjaxError("DATA_BAD", "a row is not CSV", where=self.at(first), got=error,
                       expected='a value that holds a comma, a quote or a line end in "quotes", its quotes twice',
                       fix="mend it; tabs between values without quotes are a .tsv") from error  # fmt: skip

  def other_width(self, row: list[str], offset: int) -> FmjaxError:
    least = self.width or max(self.places) + 1
    what = f"a row has too {'few' if len(row) < least else 'many'} columns"
    expected = f"{least}, as the first line has" if self.width else f"{least} or more"
    return FmjaxError("DATA_BAD", what, where=self.at(offset), expected=expected, got=f"{len(row)}: {row!r}"[:200],
                      fix="mend or remove it; check data.columns")  # fmt: skip


def table(file: File, columns: Columns, held: bool | None) -> list[Part]:
  """Of a compressed file one part, and of one with quotes, for a value may go on in the next line."""
  whole = Table(name=file.name, bytes=file.size, files=(file,), held=held, columns=columns, start=0, stop=None,
                places=(), width=None, reading=f"csv {columns.names}")  # fmt: skip
  if all(map(str.isdecimal, columns.keys)):
    places, width, begin = map(int, columns.keys), None, 0
  else:
    first, begin, header = next(whole.rows(), (0, 0, []))
    for name in columns.keys:
      if name not in header:
        raise no_column(name, header, whole.at(first))
    places, width = map(header.index, columns.keys), len(header)
  whole = dataclasses.replace(whole, start=begin, places=tuple(places), width=width)
  if not file.name.endswith(".tsv"):
    return [whole]
  return [
    dataclasses.replace(whole, name=f"{file.name}@{start}", bytes=min(PART_BYTES, file.size - start), start=start,
                        stop=start + PART_BYTES)
    for start in range(begin, file.size, PART_BYTES)
  ]  # fmt: skip


# --- a token a line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagged(ByLine):
  """The sentences of a file: a column's value is the list of what its tokens have there."""

  def documents(self):
    (file,) = self.files
    universal, rows, first = name_of(file).endswith(".conllu"), [], 0
    for offset, _, text in itertools.chain(self.texts(), [(0, 0, "")]):
      row = cells(text)
      if not text.strip() or row[0] == DOCSTART:
        if rows:
          yield Document(f"{file.name}@{first}", tuple(map(list, zip(*rows))), self.held)
        rows = []
      elif not universal or row[0].isdecimal():  # else a comment, or what stands for several tokens or for none
        first = first if rows else offset
        rows.append(self.picked(row, offset))

  def picked(self, row: list[str], offset: int) -> list[str]:
    places = [*map(int, self.columns.names)]
    if len(row) <= max(places):
      raise FmjaxError("DATA_BAD", "a token has too few columns", where=self.at(offset),
                       expected=f"{max(places) + 1} or more", got=f"{len(row)}: {row!r}"[:200],
                       fix="mend it, or check data.columns, which count from 0")  # fmt: skip
    return [row[place] for place in places]


def cells(text: str) -> list[str]:
  """What tabs part, or where there is none, spaces."""
  text = text.rstrip("\r\n")
  return text.split("\t") if "\t" in text else re.split(" +", text.strip(" "))


def tagged(file: File, columns: Columns, held: bool | None) -> list[Part]:
  if not columns.typed:
    raise not_text(columns.names[0], "a list, a value for each token", file.path)
  return [
    Tagged(name=file.name, bytes=file.size, files=(file,), held=held, columns=columns, start=0, stop=None,
           reading=f"conll {columns.names}")
  ]  # fmt: skip


# --- texts side by side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(Part):
  """`count` lines of each of `files` (None: all), from its byte in `starts` on; `first` lines lie before them."""

  starts: tuple[int, ...]
  first: int
  count: int | None

  unit = "line"

  def documents(self):
    with contextlib.ExitStack() as stack:
      streams = [stack.enter_context(opened(file)) for file in self.files]
      for stream, start in zip(streams, self.starts):
        stream.seek(start)
      for number in itertools.count(self.first + 1):
        if self.count is not None and number > self.first + self.count:
          return
        lines = [stream.readline() for stream in streams]
        if not all(lines):
          if any(lines):
            left = [number - 1 + (line != b"") + sum(1 for _ in stream) for line, stream in zip(lines, streams)]
            raise unequal(self.files, left)
          return
        texts = tuple(text_of(line, file, number) for line, file in zip(lines, self.files))
        yield Document(f"{self.files[0].name}#{number}", texts, self.held)


def text_of(line: bytes, file: File, number: int) -> str:
  text = decoded(line, f"{file.path} line {number}").rstrip("\r\n")
  return text.removeprefix(MARK) if number == 1 else text


def parallel(path: str, columns: Columns, held: bool | None, before: str = "") -> list[Part]:
  """`path` has {} for a column's name; `before` goes before the names of the files."""
  every = [[File(before + file.name, file.path, file.size) for file in own] for own in beside(path, columns.names)]
  return [part for own in every for part in cut(tuple(own), held, f"parallel {columns.names}")]


def cut(files: tuple[File, ...], held: bool | None, reading: str) -> list[Part]:
  """Of files in a bucket and of compressed ones one part, for to find the lines is to read them."""
  size = sum(file.size for file in files)
  if any(remote(file.path) or file.name.endswith(".gz") for file in files):
    found = [(0, (0,) * len(files), None)]
  else:
    ends = [line_ends(file) for file in files]
    totals = [int(own[-1]) for own in ends]
    if len(set(totals)) > 1:
      raise unequal(files, totals)
    own = max(1, PART_BYTES * totals[0] // max(size, 1))
    firsts = range(0, totals[0], own)
    starts = zip(*([line_start(file, found, first) for first in firsts] for file, found in zip(files, ends)))
    found = [(first, start, min(own, totals[0] - first)) for first, start in zip(firsts, starts)]
  return [
    Parallel(name=f"{files[0].name}#{first}", bytes=size // len(found), files=files, held=held, reading=reading,
             starts=start, first=first, count=count)
    for first, start, count in found
  ]  # fmt: skip


def line_ends(file: File) -> np.ndarray:
  """int64 [blocks]: how many lines have ended with each BLOCK; the last of a file ends with it."""
  found, block = [0], b"\n"
  with opened(file) as stream:
    while more := stream.read(BLOCK):
      block = more
      found.append(block.count(b"\n"))
  found[-1] += not block.endswith(b"\n")
  return np.cumsum(found[1:] or [0])


def line_start(file: File, ends: np.ndarray, number: int) -> int:
  """The first byte of line `number`, from 0."""
  if number == 0:
    return 0
  block = int(np.searchsorted(ends, number))
  with opened(file) as stream:
    stream.seek(block * BLOCK)
    places = np.flatnonzero(np.frombuffer(stream.read(BLOCK), np.uint8) == ord("\n"))
  return block * BLOCK + int(places[number - (int(ends[block - 1]) if block else 0) - 1]) + 1


def unequal(files, counts) -> FmjaxError:
  return FmjaxError("DATA_BAD", "parallel files have not the same number of lines",
                    where=", ".join(file.path for file in files), expected="a line of one is a line of the other",
                    got=", ".join(f"{file.name}: {count} lines" for file, count in zip(files, counts)),
                    fix="mend them, or check data.path and data.columns")  # fmt: skip


def beside(path: str, names: tuple[str, ...]) -> list[list[File]]:
  """The files that belong together, one for each of `names`: the wildcards of `path` stand for the same in them."""
  below, found = path[len(above_glob(path)) :].lstrip("/"), []
  for name in names:
    like = re.compile(expression(below, name))
    files = listed(path.replace("{}", name))
    found.append({like.fullmatch(file.name).groups() if below else (): file for file in files})
  keys = dict.fromkeys(key for own in found for key in own)
  for name, own in zip(names, found):
    for key in keys:
      if key not in own:
        alone = next(other[key] for other in found if key in other)
        raise FmjaxError("DATA_MISSING", f"no file of {name!r} belongs to this one", where=alone.path,
                         fix=f"add it, or check data.path={path} and data.columns")  # fmt: skip
  return [[own[key] for own in found] for key in keys]


def expression(path: str, name: str) -> str:
  """A regular expression of the paths that a glob with {} for `name` finds; its groups are the wildcards'."""
  made = ""
  for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\]|\{\})", path):
    if piece.startswith("[") and piece.endswith("]"):
      made += f"({piece.replace('[!', '[^', 1)})"
    else:
      made += WILD.get(piece) or re.escape(name if piece == "{}" else piece)
  return made
