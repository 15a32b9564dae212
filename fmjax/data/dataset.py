"""A prepared data set: the tokens of its sources, cut into the rows that an objective reads.

`Prepared` is what a run, a worker process and `fmjax data` hold. It opens its files when it is first read.
"""

import dataclasses
import functools
import pathlib
import sys

import numpy as np
import xxhash

from fmjax.corpus import DataConfig
from fmjax.data import cache, preparation, streams, weights
from fmjax.data import rows as rows_of
from fmjax.data.preparation import Tokens
from fmjax.data.progress import Progress
from fmjax.data.tokenising import Reads
from fmjax.data.tokenizers import Tokenizer
from fmjax.errors import FmjaxError, message
from fmjax.objectives import NextToken
from fmjax.objectives.objective import Examples, Objective, Packed, Sentences, Windows

SPOILT = 1e-3  # share of a split's records that data.on_corrupt=skip leaves out before it gives up


class Split:
  """One split of one source, cut into rows: `examples` of them, each read as the record that its layout says."""

  def __init__(self, tokens: Tokens, split: str, layout, plan: pathlib.Path | None, skip: bool):
    self.tokens, self.split, self.layout, self.plan, self.skip = tokens, split, layout, plan, skip
    self.spoilt: set[int] = set()  # rows that could not be read

  @functools.cached_property
  def streams(self) -> dict[str, streams.Stream]:
    facts, found = self.tokens.facts, {}
    of_examples = isinstance(self.layout, Examples)
    dtype = streams.VALUES if of_examples else streams.token_dtype(facts["vocab_size"])
    for field in facts["fields"]:
      name = f"{self.split}-{field}"
      counts = facts["columns"][name]["part_tokens"]
      files = [str(self.tokens.folder / f"{name}-{number:05d}.arrayrecord") for number, n in enumerate(counts) if n]
      found[field] = streams.Stream(files, [n for n in counts if n], dtype, self.tokens.tokenizer.end)
    return found

  @functools.cached_property
  def rows(self):
    made = {} if self.plan is None else {file.stem: load(file) for file in self.plan.glob("*.npy")}
    totals = {field: self.tokens.facts["columns"][f"{self.split}-{field}"]["tokens"] for field in self.fields}
    return rows_of.make(
      self.layout, made, self.split == "eval", totals, self.array("lengths"), self.array("sentences")
    )

  @property
  def fields(self) -> tuple[str, ...]:
    return rows_of.fields_of(self.layout)

  @property
  def examples(self) -> int:
    return self.rows.count

  def array(self, kind: str):
    return lambda field: load(self.tokens.folder / f"{self.split}-{field}.{kind}.npy")

  def sizes(self, row: int) -> dict[str, int]:
    """Those of the row's arrays, which are not read for it."""
    found = dict.fromkeys(self.fields, 0)
    for field, (first, last) in self.rows.ranges(row):
      found[field] += last - first
    return found

  def read(self, rows: list[int]) -> list[dict]:
    """The records of the rows, each as the layout says; one past the last is empty, and so is one that is skipped."""
    wanted = [self.rows.ranges(row) if row < self.examples else [] for row in rows]
    try:
      return self.cut(rows, wanted)
    except FmjaxError as error:
      if not self.skip or error.code != "DATA_BAD":
        raise
    return [self.read_or_skip(row, own) for row, own in zip(rows, wanted)]

  def cut(self, rows, wanted) -> list[dict]:
    found = {}
    for field in self.fields:
      ranges = [where for own in wanted for name, where in own if name == field]
      found[field] = iter(self.streams[field].read(ranges) if ranges else [])
    return [
      self.rows.record(row, [next(found[name]) for name, _ in own]) if own else self.empty
      for row, own in zip(rows, wanted)
    ]

  def read_or_skip(self, row: int, wanted) -> dict:
    try:
      return self.cut([row], [wanted])[0]
    except FmjaxError as error:
      allowed = max(1, SPOILT * self.examples)
      if row not in self.spoilt:
        self.spoilt.add(row)
        about = dict(where=error.labels["where"], got=f"{len(self.spoilt)} rows so far")
        what = f"row {row} of {self.tokens.name} cannot be read"
        print(message("note", "DATA_SKIPPED", what, labels=about), file=sys.stderr, flush=True)
      if len(self.spoilt) > allowed:
        raise FmjaxError(
          "DATA_BAD", f"more than {SPOILT:.1%} of the rows cannot be read", where=error.labels["where"],
          got=f"{len(self.spoilt)} of {self.examples}", fix=error.labels["fix"],
        ) from error  # fmt: skip
      return self.empty

  @property
  def empty(self) -> dict:
    """A record without tokens."""
    none = np.empty(0, np.int32)
    match self.layout:
      case Windows():
        return dict(tokens=none)
      case Packed():
        return dict(tokens=none, pieces=none)
      case Sentences(partners=partners):
        record = dict(tokens=none, sentences=none)
        return record | dict(partners=[record] * partners) if partners else record
    record = dict.fromkeys(self.fields, none)
    return record if self.plan is None else record | dict(pieces=none)

  def in_words(self) -> str:
    counts = column(self)
    text = f"{self.split:<6}{self.tokens.name:<10} {counts['documents']:,} documents, {counts['bytes']:,} bytes,"
    text += f" {counts['tokens']:,} tokens, {self.examples:,} rows"
    if self.examples and (tokens := self.tokens_in_rows()):
      text += f", {tokens / (self.length * self.examples):.1%} full"
    if dropped := self.tokens.facts["dropped"]:
      text += "; left out: " + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return text

  @property
  def length(self) -> int | None:
    """Tokens of a row, where all rows have as many."""
    if isinstance(self.layout, Examples):
      return None if self.plan is None else self.layout.room
    return getattr(self.layout, "length", None)

  def tokens_in_rows(self) -> int | None:
    """How many places of the rows have a token, where all rows have as many places."""
    if self.length is None:
      return None
    if not isinstance(self.layout, Examples):
      return column(self)["tokens"]
    lengths = self.array("lengths")(self.fields[0])[self.rows.order].astype(np.int64)
    return int(np.minimum(lengths - 1, self.length).sum())

  def __getstate__(self):
    return {name: value for name, value in self.__dict__.items() if name not in ("streams", "rows")}


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The splits of each source, and the tokenizer with the special tokens that the objective needs."""

  config: DataConfig
  objective: Objective
  tokenizer: Tokenizer
  splits: dict[str, tuple[Split, ...]]
  fingerprint: str
  facts: dict

  @property
  def names(self) -> list[str]:
    return [split.tokens.name for split in self.splits["train"]]

  @property
  def bytes_per_token(self) -> float | None:
    """Of the eval split; None where the loss is not one of every token of the text."""
    return self.facts["eval_bytes_per_token"] if self.objective.scores_text else None


def load(file: pathlib.Path) -> np.ndarray:
  return np.load(file, mmap_mode="r")


def prepare(config: DataConfig, objective: Objective | None = None, runner=None) -> Prepared:
  """The data set of `config` as `objective` (default: next-token prediction) reads it, made if the cache has none."""
  objective = objective or NextToken()
  length = config.sequence_length
  layout = objective.layout(length, config.packed)
  encoder = layout.encoder if isinstance(layout, Examples) else None
  reads = Reads(rows_of.fields_of(layout), isinstance(layout, Sentences), encoder, objective.needs(length))
  every = preparation.prepare(config, reads, runner)
  tokenizer = every[0].tokenizer.with_special(reads.needs)
  splits = {}
  with Progress() as progress:
    for split in preparation.SPLITS:
      plans = [plan_of(tokens, split, layout, config, progress) for tokens in every]
      skip = config.on_corrupt == "skip"
      splits[split] = tuple(Split(tokens, split, layout, plan, skip) for tokens, plan in zip(every, plans))
  for one in splits["train"]:
    if not one.examples:
      raise too_short(config, one)
  name, facts = fingerprint(every, config.mixture is not None), facts_of(config, tokenizer, splits)
  if config.subsample is not None and config.subsample.weights is not None:
    weights.shares(config.subsample.weights, splits["train"][0].examples)  # refused before anything is compiled
    name += f" weights:{weights.digest(config.subsample.weights)}"
  return Prepared(config, objective, tokenizer, splits, name, facts)


def plan_of(tokens: Tokens, split: str, layout, config: DataConfig, progress) -> pathlib.Path | None:
  """The folder of the arrays that the rows of a split need, made if there is none; None where they need none."""
  packs = isinstance(layout, Examples) and layout.room is not None and split == "train"
  if not packs and not isinstance(layout, (Packed, Sentences)):
    return None
  name = xxhash.xxh3_128_hexdigest(f"{preparation.FORMAT} {tokens.fingerprint} {split} {layout}".encode())
  folder = cache.root(config) / f"plan-{name}"

  def build(new):
    progress.stage(f"planning the rows of {tokens.name}'s {split} split")
    lengths = load(tokens.folder / f"{split}-{rows_of.fields_of(layout)[0]}.lengths.npy")
    sentences = load(tokens.folder / f"{split}-text.sentences.npy") if isinstance(layout, Sentences) else None
    made = rows_of.arrays(layout, lengths, sentences)
    for array, values in made.items():
      np.save(new / f"{array}.npy", values)
    return dict(rows=len(next(iter(made.values()))))

  cache.publish(folder, build, progress)
  cache.verify(folder)
  return folder


def fingerprint(every: list[Tokens], mixed: bool) -> str:
  if not mixed:
    return every[0].fingerprint
  return " ".join(f"{one.name}:{one.fingerprint}" for one in every)


def check_fingerprint(expected: str, prepared: Prepared):
  """DATA_CHANGED unless `prepared` is the data set of the fingerprint `expected`, or a mixture edited since."""
  if prepared.fingerprint == expected:
    return
  then, now = (dict(one.rpartition(":")[::2] for one in text.split()) for text in (expected, prepared.fingerprint))
  changed = [name for name in then if name in now and then[name] != now[name]]
  if "" in then or "" in now or changed or not then.keys() & now.keys():
    raise FmjaxError(
      "DATA_CHANGED",
      "the data set is not the one that this run was trained on",
      where=prepared.splits["train"][0].tokens.folder,
      expected=f"fingerprint {expected}",
      got=prepared.fingerprint,
      fix="restore the old data, or start a new run in another --workdir",
    )


def facts_of(config: DataConfig, tokenizer: Tokenizer, splits) -> dict:
  """What people and `fmjax eval` want to know: counts by split, bytes a token, baselines in bits a byte."""
  facts = dict(source=config.source if config.mixture is None else "mixture", sequence_length=config.sequence_length,
               tokenizer=tokenizer.kind, vocab_size=tokenizer.vocab_size)  # fmt: skip
  for name, every in splits.items():
    facts[name] = {key: sum(column(one)[key] for one in every) for key in ("documents", "bytes", "tokens")}
    facts[name]["examples"] = sum(one.examples for one in every)
  size, tokens = facts["eval"]["bytes"], facts["eval"]["tokens"]
  first = splits["train"][0].tokens.facts
  facts["python"] = first["python"]
  facts["eval_bytes_per_token"] = size / tokens if tokens else None
  bits = first["baseline_bits"] if len(splits["train"]) == 1 else None
  facts["baselines"] = {name: value / size for name, value in bits.items()} if bits and size else {}
  facts["sources"] = {
    one.tokens.name: dict(examples=one.examples, dropped=one.tokens.facts["dropped"]) for one in splits["train"]
  }
  return facts


def column(split: Split) -> dict:
  """Counts of the field that the objective predicts: the last one; of examples, of all that is text."""
  fields = split.layout.encoder.counted if isinstance(split.layout, Examples) else split.fields[-1:]
  every = [split.tokens.facts["columns"][f"{split.split}-{field}"] for field in fields]
  return every[0] | dict(tokens=sum(one["tokens"] for one in every))


def too_short(config: DataConfig, split: Split) -> FmjaxError:
  return FmjaxError(
    "DATA_BAD",
    "the text is shorter than one example",
    where=config.path or split.tokens.name,
    expected=f"at least data.sequence_length={config.sequence_length} tokens to train on",
    got=f"{column(split)['tokens']} ({1 - config.eval_fraction:.0%} of the text, and an end)",
    fix="give more text, or set data.sequence_length lower",
  )
