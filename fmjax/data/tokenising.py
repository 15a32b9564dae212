"""One part of a source to arrays on disk: a pure function of its task, run in any process of any machine.

A part's files appear whole, and last its facts, PART.json: a part that has them is done, and is not done again.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib

import numpy as np

from fmjax.cleaning import Cleaning
from fmjax.data import filters, sources, streams
from fmjax.data.documents import Document, strings
from fmjax.data.sentences import sentences
from fmjax.data.tokenizers import Tokenizer, load_tokenizer
from fmjax.errors import FmjaxError
from fmjax.objectives.objective import Encoder, Refused

SPLITS = ("train", "eval")
DRAFT = ".partial"  # ends the name of a file that is being written
CHUNK = 1 << 20  # characters that go to the tokenizer, or the encoder, at once
RECORDS = 1000  # that go to the encoder at once, at most


@dataclasses.dataclass(frozen=True)
class Reads:
  """What an objective reads of a document: the tokens of its texts, one for each of `fields`; or what `encoder` makes

  of its values, by a tokenizer that has the special tokens `needs`. `sentences`: each is tokenised on its own, and
  where it ends is kept.
  """

  fields: tuple[str, ...] = ("text",)
  sentences: bool = False
  encoder: Encoder | None = None
  needs: tuple[str, ...] = ()

  @property
  def columns(self) -> tuple[str, ...]:
    """What it calls the values of a document."""
    return self.fields if self.encoder is None else self.encoder.columns


TEXT = Reads()


@dataclasses.dataclass(frozen=True)
class Task:
  """What is made of one part. `tokenizer` is a folder; `keep` a file that says which documents are no duplicates."""

  part: sources.Part
  number: int
  folder: pathlib.Path
  tokenizer: pathlib.Path
  reads: Reads
  eval_fraction: float
  cleaning: Cleaning
  keep: pathlib.Path | None = None

  @property
  def columns(self) -> list[str]:
    return [f"{split}-{field}" for split in SPLITS for field in self.reads.fields]

  def name(self, column: str) -> str:
    return f"{column}-{self.number:05d}"

  @property
  def facts(self) -> pathlib.Path:
    return self.folder / f"part-{self.number:05d}.json"


@functools.cache
def tokenizer_of(folder: pathlib.Path, needs: tuple[str, ...]) -> Tokenizer:
  return load_tokenizer(folder).with_special(needs)


@functools.cache
def filter_of(cleaning: Cleaning) -> filters.Filter:
  return filters.Filter(cleaning)


def documents(task: Task, dropped: collections.Counter):
  """(split, document) of those that are kept; `dropped` counts the others by reason."""
  keep = None if task.keep is None else np.load(task.keep)
  clean = None if task.cleaning == Cleaning() else filter_of(task.cleaning)
  for number, document in enumerate(task.part.documents()):
    reason = None
    if task.reads.encoder is None and not all(document.values):
      reason = "empty"
    elif keep is not None and not keep[number]:
      reason = "duplicate"
    elif clean is not None:
      reason = clean.reason(document)
    if reason:
      dropped[reason] += 1
      continue
    held = document.held
    if held is None:
      held = sources.held(document.name, task.eval_fraction)
    yield SPLITS[held], document


class Arrays:
  """Those of one field of one split of a part, end to end, on their way to disk."""

  def __init__(self, task: Task, name: str, dtype: np.dtype):
    self.path = task.folder / task.name(name)
    self.draft = draft_of(self.path)
    self.writer = streams.Writer(self.draft, dtype)
    self.documents, self.bytes, self.lengths = 0, 0, []

  def count(self, size: int):
    """Another document, whose texts have so many bytes."""
    self.documents += 1
    self.bytes += size

  def write(self, arrays: list[np.ndarray]):
    self.lengths += map(len, arrays)
    self.writer.write(arrays)

  def close(self) -> dict:
    """Facts of what is on disk now, under its name."""
    facts = dict(documents=self.documents, bytes=self.bytes, tokens=self.writer.close())
    save(self.path.with_suffix(".lengths.npy"), np.array(self.lengths, np.uint32))
    if facts["tokens"]:
      os.replace(self.draft, self.path.with_suffix(".arrayrecord"))
    else:
      self.draft.unlink()
    return facts


class Column(Arrays):
  """The tokens of one field of one split of a part, each text's closed by `end`."""

  def __init__(self, task: Task, name: str, tokenizer: Tokenizer):
    super().__init__(task, name, streams.token_dtype(tokenizer.vocab_size))
    self.tokenizer, self.end = tokenizer, np.array([tokenizer.end], np.int32)
    self.by_sentence = task.reads.sentences
    self.texts, self.size, self.sentences = [], 0, []
    self.counts = np.zeros(tokenizer.vocab_size, np.int64)

  def add(self, text: str):
    self.count(len(text.encode()))
    self.texts.append(text)
    self.size += len(text)
    if self.size > CHUNK:
      self.flush()

  def flush(self):
    if not self.texts:
      return
    if self.by_sentence:
      cut = [sentences(text) for text in self.texts]
      found = self.tokenizer.encode_all([sentence for one in cut for sentence in one])
      ends = np.cumsum([len(one) for one in cut])[:-1]
      parts = [[*found[a:b], self.end] for a, b in zip([0, *ends], [*ends, len(found)])]
      self.sentences += [len(one) for part in parts for one in part if len(one)]
    else:
      parts = [[ids, self.end] for ids in self.tokenizer.encode_all(self.texts)]
    documents = [np.concatenate(part) for part in parts]
    self.write(documents)
    self.counts += np.bincount(np.concatenate(documents), minlength=len(self.counts))
    self.texts, self.size = [], 0

  def close(self) -> dict:
    self.flush()
    save(self.path.with_suffix(".counts.npy"), self.counts)
    if self.by_sentence:
      save(self.path.with_suffix(".sentences.npy"), np.array(self.sentences, np.uint32))
    return super().close()


def draft_of(path: pathlib.Path) -> pathlib.Path:
  """Where to write what will be `path`: a name of one's own, for a pipeline may have two do the same part at once."""
  return path.with_name(f"{path.name}.{os.urandom(4).hex()}{DRAFT}")


def save(path: pathlib.Path, array: np.ndarray):
  with open(draft := draft_of(path), "wb") as file:
    np.save(file, array)
  os.replace(draft, path)


def tokenised(task: Task, dropped: collections.Counter) -> dict[str, Arrays]:
  """The columns of the part's texts."""
  tokenizer = tokenizer_of(task.tokenizer, ())
  columns = {name: Column(task, name, tokenizer) for name in task.columns}
  for split, document in documents(task, dropped):
    for field, text in zip(task.reads.fields, document.values):
      columns[f"{split}-{field}"].add(text)
  return columns


def encoded(task: Task, dropped: collections.Counter) -> dict[str, Arrays]:
  """The columns of what the encoder makes of the part's records; one of which it makes nothing is left out."""
  columns = {name: Arrays(task, name, streams.VALUES) for name in task.columns}
  for batch in batches(documents(task, dropped)):
    made = {name: [] for name in columns}
    for (split, document), examples in zip(batch, encode(task, [one for _, one in batch]), strict=True):
      if not examples:
        dropped["unused"] += 1
        continue
      size = sum(len(text.encode()) for text in task.reads.encoder.texts(document.values))
      for field, arrays in zip(task.reads.fields, zip(*examples)):
        columns[f"{split}-{field}"].count(size)
        made[f"{split}-{field}"] += arrays
    for name, arrays in made.items():
      columns[name].write(arrays)
  return columns


def batches(found):
  """Lists of RECORDS of the (split, document) pairs, or fewer where they are long."""
  batch, size = [], 0
  for one in found:
    batch.append(one)
    size += sum(map(len, strings(one[1].values)))
    if len(batch) == RECORDS or size > CHUNK:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def encode(task: Task, records: list[Document]) -> list[list[tuple[np.ndarray, ...]]]:
  """What the encoder makes of them. A record that it refuses is DATA_BAD with its place."""
  reads = task.reads
  try:
    made = reads.encoder.encode([one.values for one in records], tokenizer_of(task.tokenizer, reads.needs))
  except Refused as error:
    where = task.part.where(records[error.number].name)
    labels = dict(fix="mend or remove it") | error.labels | dict(where=where)
    raise FmjaxError("DATA_BAD", error.what, **labels) from error
  for example in (one for examples in made for one in examples):
    for field, array in zip(reads.fields, example, strict=True):
      if array.dtype != np.int32 or array.ndim != 1:
        raise TypeError(f"{reads.encoder}: {field!r} is {array.dtype} {array.shape}, not int32 of one axis")
  return made


def tokenise(task: Task) -> dict:
  """Writes the part's arrays; the facts that PART.json holds: {"columns": {name: facts}, "dropped": {reason: n}}."""
  if task.facts.exists():
    return json.loads(task.facts.read_bytes())
  dropped = collections.Counter()
  columns = tokenised(task, dropped) if task.reads.encoder is None else encoded(task, dropped)
  facts = {name: column.close() for name, column in columns.items()}
  facts = dict(columns=facts, dropped=dict(sorted(dropped.items())))
  draft = draft_of(task.facts)
  draft.write_text(json.dumps(facts, sort_keys=True))
  os.replace(draft, task.facts)
  return facts
