"""One part of a source to tokens on disk: a pure function of its task, run in any process of any machine.

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
from fmjax.data.sentences import sentences
from fmjax.data.tokenizers import Tokenizer, load_tokenizer

SPLITS = ("train", "eval")
DRAFT = ".partial"  # ends the name of a file that is being written
CHUNK = 1 << 20  # characters that go to the tokenizer at once


@dataclasses.dataclass(frozen=True)
class Task:
  """What is made of one part. `tokenizer` is a folder; `keep` a file that says which documents are no duplicates."""

  part: sources.Part
  number: int
  folder: pathlib.Path
  tokenizer: pathlib.Path
  fields: tuple[str, ...]
  sentences: bool
  eval_fraction: float
  cleaning: Cleaning
  keep: pathlib.Path | None = None

  def name(self, column: str) -> str:
    return f"{column}-{self.number:05d}"

  @property
  def facts(self) -> pathlib.Path:
    return self.folder / f"part-{self.number:05d}.json"


@functools.cache
def tokenizer_of(folder: pathlib.Path) -> Tokenizer:
  return load_tokenizer(folder)


@functools.cache
def filter_of(cleaning: Cleaning) -> filters.Filter:
  return filters.Filter(cleaning)


def documents(task: Task, dropped: collections.Counter):
  """(split, texts) of the documents that are kept; `dropped` counts the others by reason."""
  keep = None if task.keep is None else np.load(task.keep)
  clean = None if task.cleaning == Cleaning() else filter_of(task.cleaning)
  for number, document in enumerate(task.part.documents()):
    reason = None
    if not all(document.texts):
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
    yield SPLITS[held], document.texts


class Column:
  """The tokens of one field of one split of a part, on their way to disk."""

  def __init__(self, task: Task, name: str, tokenizer: Tokenizer):
    self.path = task.folder / task.name(name)
    self.tokenizer, self.end = tokenizer, np.array([tokenizer.end], np.int32)
    self.by_sentence = task.sentences
    self.draft = draft_of(self.path)
    self.writer = streams.Writer(self.draft, streams.token_dtype(tokenizer.vocab_size))
    self.texts, self.size, self.bytes = [], 0, 0
    self.lengths, self.sentences = [], []
    self.counts = np.zeros(tokenizer.vocab_size, np.int64)

  def add(self, text: str):
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
    self.lengths += [sum(map(len, part)) for part in parts]
    tokens = np.concatenate([one for part in parts for one in part])
    self.writer.write([tokens])
    self.counts += np.bincount(tokens, minlength=len(self.counts))
    self.bytes += sum(len(text.encode()) for text in self.texts)
    self.texts, self.size = [], 0

  def close(self) -> dict:
    """Facts of what is on disk now, under its name."""
    self.flush()
    facts = dict(documents=len(self.lengths), bytes=self.bytes, tokens=self.writer.close())
    save(self.path.with_suffix(".lengths.npy"), np.array(self.lengths, np.uint32))
    save(self.path.with_suffix(".counts.npy"), self.counts)
    if self.by_sentence:
      save(self.path.with_suffix(".sentences.npy"), np.array(self.sentences, np.uint32))
    if facts["tokens"]:
      os.replace(self.draft, self.path.with_suffix(".arrayrecord"))
    else:
      self.draft.unlink()
    return facts


def draft_of(path: pathlib.Path) -> pathlib.Path:
  """Where to write what will be `path`: a name of one's own, for a pipeline may have two do the same part at once."""
  return path.with_name(f"{path.name}.{os.urandom(4).hex()}{DRAFT}")


def save(path: pathlib.Path, array: np.ndarray):
  with open(draft := draft_of(path), "wb") as file:
    np.save(file, array)
  os.replace(draft, path)


def tokenise(task: Task) -> dict:
  """Writes the part's tokens; the facts that PART.json holds: {"columns": {name: facts}, "dropped": {reason: n}}."""
  if task.facts.exists():
    return json.loads(task.facts.read_bytes())
  tokenizer = tokenizer_of(task.tokenizer)
  dropped = collections.Counter()
  columns = {name: Column(task, name, tokenizer) for name in (f"{s}-{f}" for s in SPLITS for f in task.fields)}
  for split, texts in documents(task, dropped):
    for field, text in zip(task.fields, texts):
      columns[f"{split}-{field}"].add(text)
  facts = {name: column.close() for name, column in columns.items()}
  facts = dict(columns=facts, dropped=dict(sorted(dropped.items())))
  draft = draft_of(task.facts)
  draft.write_text(json.dumps(facts, sort_keys=True))
  os.replace(draft, task.facts)
  return facts
