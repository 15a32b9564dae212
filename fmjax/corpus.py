"""The branch `data` of the config: where documents come from, and how they become rows of tokens."""

import dataclasses
import re
import string
from typing import Literal

from fmjax.cleaning import Cleaning
from fmjax.laws import Branch, at_least


@dataclasses.dataclass(frozen=True)
class SourceConfig(Branch):
  """Where documents come from."""

  # stdlib is the running Python's standard library; the others are files, or a data set of TFDS.
  source: Literal[
    "stdlib", "text", "jsonl", "csv", "parquet", "arrayrecord", "tfds", "huggingface", "conll", "parallel"
  ] = "stdlib"
  path: str | None = None  # a file, a glob or a folder, local or gs://; of tfds the data set's name
  columns: tuple[str, ...] | None = None  # of records: what the objective reads; None: named as its fields
  split: str = "train"  # of tfds and huggingface
  eval_split: str | None = None  # of tfds and huggingface: evaluated instead of a share of `split`
  eval_path: str | None = None  # files that are evaluated instead of a share of `path`
  data_dir: str | None = None  # of tfds

  def laws(self):
    if self.source == "stdlib" and self.path:
      yield "path", self.path, "source 'stdlib' takes no path; for a file of yours set data.source=text"
    elif self.source != "stdlib" and not self.path:
      what = "the name of a data set" if self.source == "tfds" else "a file, a glob or a folder"
      yield "path", self.path, f"source {self.source!r} needs {what}"
    if self.eval_split is not None and self.source not in ("tfds", "huggingface"):
      yield "eval_split", self.eval_split, f"source {self.source!r} has no splits: set eval_path or eval_fraction"
    if self.eval_path is not None and self.source in ("stdlib", "tfds"):
      yield "eval_path", self.eval_path, f"source {self.source!r} has no files: set eval_split or eval_fraction"
    if self.source == "conll" and not all(map(str.isdecimal, self.columns or ("",))):
      yield "columns", self.columns, "source 'conll' has numbers for columns, from 0 on, such as ('0', '3')"
    for name in self.columns or ():
      yield from template_laws(name, self.source)
    if self.source == "parallel" and not self.columns:
      yield "columns", self.columns, "source 'parallel' needs the names that {} in the path stands for"
    for name in ("path", "eval_path") if self.source == "parallel" else ():
      if "{}" not in (getattr(self, name) or "{}"):
        yield name, getattr(self, name), "needs {} in the place of a column's name, as in train.{}"


def template_laws(column: str, source: str):
  """Of a column that is made of several: {key} of each stands in a text."""
  if "{" in column and source in ("stdlib", "text", "conll", "parallel"):
    yield "columns", column, f"source {source!r} has no templates"
  try:
    if "{" in column and not any(key for _, key, _, _ in string.Formatter().parse(column)):
      yield "columns", column, "names no column in its braces"
    if any(form or how or key == "" for _, key, form, how in string.Formatter().parse(column)):
      yield "columns", column, "has more in its braces than the name of a column"
  except ValueError as error:
    yield "columns", column, f"is no template: {error}"


@dataclasses.dataclass(frozen=True)
class Component(SourceConfig):
  """One source of a mixture, and its share of the examples."""

  name: str | None = None
  weight: float | None = None  # None: its number of examples, to the power 1 / data.temperature
  cap: int | None = None  # that number counts as this many at most (Raffel et al. 2020, section 3.5.2)
  epochs: float | None = None  # after so many it gives no more, and the others share its part
  schedule: tuple[tuple[int, float], ...] | None = None  # (from this step, weight), ... instead of `weight`

  def laws(self):
    yield from super().laws()
    yield from at_least(self, 1, "cap")
    if not self.name or not re.fullmatch(r"\w[\w.-]*", self.name):
      yield "name", self.name, "each source of a mixture has a name of letters, digits, _, . and -"
    if self.weight is not None and self.weight < 0:
      yield "weight", self.weight, "must not be negative"
    if self.epochs is not None and self.epochs <= 0:
      yield "epochs", self.epochs, "must be positive"
    if self.schedule is not None:
      steps = [step for step, _ in self.schedule]
      if not steps or steps[0] != 0 or sorted(set(steps)) != steps or min(w for _, w in self.schedule) < 0:
        yield "schedule", self.schedule, "must be (step, weight) pairs from step 0 on, in order, none negative"
      if self.weight is not None:
        yield "weight", self.weight, "goes without a schedule: choose one"


@dataclasses.dataclass(frozen=True)
class Subsample(Branch):
  """Some of the rows of the train split instead of all of them, as a draw of `seed` has it."""

  fraction: float = 1.0  # how many rows are drawn, of those that there are
  replace: bool = True  # a row may be drawn again: a bootstrap sample, of bagging (Breiman 1996)
  seed: int | None = None  # None: that of the rows' order
  weights: str | None = None  # a .npy of a number for each row, by which rows are drawn; None: all alike

  def laws(self):
    if self.weights is not None and not self.replace:
      yield "weights", self.weights, "draw rows more than once: set data.subsample.replace=True"
    if self.fraction <= 0:
      yield "fraction", self.fraction, "must be positive"
    elif self.fraction > 1 and not self.replace:
      yield "fraction", self.fraction, "draws more rows than there are: set data.subsample.replace=True"
    yield from at_least(self, 0, "seed")


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
  mixture: tuple[Component, ...] | None = None  # sources instead of the one above; written {name: {field: value}}
  temperature: float = 1.0  # of a mixture's weights by size; large ones make all sources equal
  tokenizer: str = "sentencepiece"  # one trained here or made of characters, a .model file, or a folder
  vocab_size: int = 4096  # of a tokenizer trained here
  sequence_length: int = 256  # tokens an example; the objective says of which side where there are two
  buckets: tuple[int, ...] | None = None  # shorter lengths, for batches whose rows all need no more
  pool: int | None = None  # train batches whose rows are sorted by length together, so that little is padding
  join: int | None = None  # labelled examples of a train batch that share a row, each seen on its own
  packed: bool = False  # whole documents in a row, each on its own, instead of windows over all of them
  eval_fraction: float = 0.1
  seed: int | None = None  # of the rows' order and of what is drawn for them; None: the config's own seed
  subsample: Subsample | None = None
  cleaning: Cleaning = Cleaning()
  on_corrupt: Literal["strict", "skip"] = "strict"  # a damaged record ends the run, or is left out and counted
  workers: int = 0  # processes that read ahead; 0 reads in a thread of this one
  cache: str | None = None  # where prepared data lives; None: $FMJAX_CACHE, else ~/.cache/fmjax

  def laws(self):
    if self.mixture is None:
      yield from super().laws()
    yield from at_least(self, 1, "sequence_length", "temperature")
    yield from at_least(self, 0, "workers", "seed")
    yield from at_least(self, 2, "pool", "join")
    if self.join is not None and self.pool is not None:
      yield "join", self.join, "leaves little padding as it is, and data.pool sorts examples: choose one"
    if self.pool is not None and not self.buckets:
      yield "pool", self.pool, "makes batches of several lengths: set data.buckets too"
    yield from at_least(self, 2, "vocab_size")
    if not 0 < self.eval_fraction < 1:
      yield "eval_fraction", self.eval_fraction, "must lie in (0, 1)"
    lengths = [0, *(self.buckets or ()), self.sequence_length]
    if self.buckets and sorted({*lengths}) != lengths:
      yield "buckets", self.buckets, f"must ascend from 1 on to less than data.sequence_length={self.sequence_length}"
    if self.mixture is not None and self.subsample is not None:
      yield "subsample", self.subsample, "is of one source: give the sources of data.mixture weights instead"
    if self.mixture is not None:
      names = [one.name for one in self.mixture]
      if twice := sorted({name for name in names if names.count(name) > 1}):
        yield "mixture", twice[0], "is the name of two sources"
      if not names:
        yield "mixture", self.mixture, "has no source"
      if self.path is not None:
        yield "path", self.path, "data.mixture is given too: its sources have their own paths"

  @property
  def components(self) -> tuple[Component, ...]:
    """The sources of the mixture, or the one source as a mixture of one."""
    if self.mixture is not None:
      return self.mixture
    own = {field.name: getattr(self, field.name) for field in dataclasses.fields(SourceConfig)}
    return (Component(name=self.source, weight=1.0, **own),)
