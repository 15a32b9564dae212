"""Where text comes from: a source's documents in parts of bounded size, and the split that each document is in.

A document is the text of a file, or a record of several. Documents are split by a hash of each one's name, so that
one stays on its side whatever else comes or goes; a single text is cut at a character, the first part train.
"""

import collections
import os
import re
import sysconfig

import xxhash

from fmjax.data import arrow, documents, records, tables
from fmjax.data.columns import Columns
from fmjax.data.documents import Document, Part
from fmjax.data.files import File, find, listed, read_text
from fmjax.errors import FmjaxError

__all__ = ["Document", "Part", "digest", "find", "held", "parts", "read_text", "stamp"]

# Tests and bundled tools repeat the library's own code, and differ most between builds of one Python version.
STDLIB_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}
# What a folder is searched for.
PATTERNS = {
  "text": (),
  "jsonl": ("*.jsonl", "*.jsonl.gz"),
  "parquet": ("*.parquet",),
  "arrayrecord": ("*.arrayrecord*", "*.array_record*"),
  "csv": ("*.csv", "*.csv.gz", "*.tsv", "*.tsv.gz"),
  "conll": ("*.conll*",),
}
SHARD = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]{16})?(.*)")  # some have a hash of their own behind
EVAL = "eval//"  # before the names of what eval_path names; no other name has two slashes


def parts(source, eval_fraction: float, typed: bool = False) -> list[Part]:
  """The parts of a source (a SourceConfig), in order; each document is in one of them. DATA_MISSING, DATA_BAD.

  Those that are eval as a whole come first: of duplicates the first one stays. `typed`: values may be no texts.
  """
  columns = Columns(source.columns or ("text",), typed)
  if source.source in ("stdlib", "text") and len(columns.names) > 1:
    raise FmjaxError("CONFIG", "a text file has one text", where="data.columns", got=columns.names,
                     fix="read records: data.source=jsonl, csv, parquet, tfds or another")  # fmt: skip
  if source.source == "tfds":
    found = of_splits(
      source, lambda split, held: records.examples(source.path, source.data_dir, split, columns, held)
    )
  elif source.source == "huggingface":
    found = of_splits(source, lambda split, held: saved(source.path, split, columns, held))
    if source.eval_path:
      own = saved(source.eval_path, source.split, columns, True, EVAL)
      found = own + saved(source.path, source.split, columns, False)
  elif source.source == "parallel":
    found = tables.parallel(source.path, columns, False if source.eval_path else None)
    if source.eval_path:
      found = tables.parallel(source.eval_path, columns, True, EVAL) + found
  elif source.eval_path:
    own = [File(EVAL + file.name, file.path, file.size) for file in files_of(source, source.eval_path)]
    found = of_files(source, own, columns, True) + of_files(source, files_of(source, source.path), columns, False)
  else:
    files = stdlib_files() if source.source == "stdlib" else files_of(source, source.path)
    if len(files) == 1 and source.source == "text":
      return documents.text_pieces(files[0], eval_fraction)
    found = of_files(source, files, columns, None)
  if not found:
    raise empty(source.path or source.source)
  if len({part.name for part in found}) < len(found):
    raise FmjaxError("CONFIG", "the eval split is the train split", where="data.eval_split", got=source.eval_split,
                     fix="name another split, or none: then data.eval_fraction is held out")  # fmt: skip
  return found


def of_splits(source, parts_of) -> list[Part]:
  if source.eval_split is None:
    return parts_of(source.split, None)
  return parts_of(source.eval_split, True) + parts_of(source.split, False)


def saved(path: str, split: str, columns, held: bool | None, before: str = "") -> list[Part]:
  files = [File(before + file.name, file.path, file.size) for file in arrow.saved_files(path, split)]
  return [part for file in files for part in arrow.record_batches(file, columns, held)]


def files_of(source, path: str) -> list[File]:
  """Empty files are left out."""
  found = listed(path, PATTERNS[source.source])
  check_shards(path, found)
  files = [file for file in found if file.size]
  if not files:
    raise empty(path)
  return files


def check_shards(path: str, files: list[File]):
  """DATA_MISSING where of files that are numbered 00000-of-00003 to 00002-of-00003 one is not there.

  A file by its own name is meant alone, and so are those that a glob chooses by [] or ?.
  """
  if [file.path for file in files] == [path] or set("[?") & set(path):
    return
  there = collections.defaultdict(set)
  for file in files:
    if shard := SHARD.fullmatch(file.name):
      before, number, count, after = shard.groups()
      there[before, count, after].add(int(number))
  for (before, count, after), numbers in there.items():
    if lacking := sorted(set(range(int(count))) - numbers):
      first = f"{before}-{lacking[0]:0{len(count)}d}-of-{count}{after}"
      raise FmjaxError("DATA_MISSING", f"{len(lacking)} of {int(count)} shards are missing", where=path,
                       got=f"no {first}", fix="bring them, or choose the others by [] in data.path")  # fmt: skip


def of_files(source, files: list[File], columns, held: bool | None) -> list[Part]:
  match source.source:
    case "stdlib" | "text":
      return documents.text_files(files, sides(files, held))
    case "jsonl":
      cut = documents.lines
    case "parquet":
      cut = arrow.row_groups
    case "arrayrecord":
      cut = records.records
    case "csv":
      cut = tables.table
    case "conll":
      cut = tables.tagged
  return [part for file in files for part in cut(file, columns, held)]


def empty(where) -> FmjaxError:
  return FmjaxError("DATA_BAD", "the text is empty", where=where, got="no document",
                    fix="give a file with text in data.path")  # fmt: skip


def stdlib_files() -> list[File]:
  """The source of each module in the running Python's standard library; empty files are left out."""
  root, files = sysconfig.get_path("stdlib"), []
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if name not in STDLIB_LEFT_OUT]
    paths = [os.path.join(folder, name) for name in names if name.endswith(".py")]
    files += [File(os.path.relpath(path, root), path, os.path.getsize(path)) for path in paths]
  if not files:
    raise FmjaxError("DATA_MISSING", "this Python has no source of its standard library", where=root,
                     fix="set data.source=text and data.path to a text file")  # fmt: skip
  return sorted((file for file in files if file.size), key=lambda file: file.name)


def place(name: str) -> float:
  """Where the name's hash falls in [0, 1)."""
  return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) / 2**64


def held(name: str, fraction: float) -> bool:
  """Whether the document of this name is in the eval split, where that is to have a fraction of them."""
  return place(name) < fraction


def sides(files: list[File], held: bool | None) -> dict[str, bool | None]:
  """Each file's `held`; where hashes decide, neither split of several files is left empty."""
  found = dict.fromkeys((file.name for file in files), held)
  if held is None and len(files) > 1:
    found[min(found, key=place)] = True
    found[max(found, key=place)] = False
  return found


def digest(parts: list[Part]) -> str:
  """xxh3-128 of all that decides the documents: names, the content of files, and how they are read."""
  return hash_of(parts, File.digest)


def stamp(parts: list[Part]) -> str:
  """As long as it is the same, so is the digest; quickly had: for files of this machine it looks at size and time."""
  return hash_of(parts, File.stamp)


def hash_of(parts: list[Part], look) -> str:
  hasher, seen, looks = xxhash.xxh3_128(), set(), {}
  for part in parts:
    for file in part.files:
      fact = (part.reading, part.held, file.name)
      if fact not in seen:
        seen.add(fact)
        if file.path not in looks:
          looks[file.path] = look(file)
        hasher.update(repr((*fact, file.size, looks[file.path])).encode())
  return hasher.hexdigest()
