"""The config: a tree of frozen dataclasses that cannot exist if wrong, and the one door into it.

Outside, a config is an `ml_collections.ConfigDict`, a JSON file or a few `--config.a.b=v` words; inside, it is a
`Config`. `from_config_dict` is the only way from one to the other. It reports everything that is wrong at once.
"""

import dataclasses
import math
import re
import types
import typing
from typing import Literal

from fmjax.architecture import TransformerConfig
from fmjax.cleaning import Cleaning
from fmjax.errors import FmjaxError
from fmjax.laws import Branch, Wrong, at_least, divisors, nearest

MESH_AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")


@dataclasses.dataclass(frozen=True)
class SourceConfig(Branch):
  """Where documents come from."""

  # stdlib is the running Python's standard library; the others are files, or a data set of TFDS.
  source: Literal["stdlib", "text", "jsonl", "parquet", "arrayrecord", "tfds", "huggingface"] = "stdlib"
  path: str | None = None  # a file, a glob or a folder, local or gs://; of tfds the data set's name
  columns: tuple[str, ...] | None = None  # of records that hold the objective's texts; None: named as its fields
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
class DataConfig(SourceConfig):
  mixture: tuple[Component, ...] | None = None  # sources instead of the one above; written {name: {field: value}}
  temperature: float = 1.0  # of a mixture's weights by size; large ones make all sources equal
  tokenizer: str = "sentencepiece"  # one trained here or made of characters, a .model file, or a folder
  vocab_size: int = 4096  # of a tokenizer trained here
  sequence_length: int = 256  # tokens an example; the objective says of which side where there are two
  packed: bool = False  # whole documents in a row, each on its own, instead of windows over all of them
  eval_fraction: float = 0.1
  cleaning: Cleaning = Cleaning()
  on_corrupt: Literal["strict", "skip"] = "strict"  # a damaged record ends the run, or is left out and counted
  workers: int = 0  # processes that read ahead; 0 reads in a thread of this one
  cache: str | None = None  # where prepared data lives; None: $FMJAX_CACHE, else ~/.cache/fmjax

  def laws(self):
    if self.mixture is None:
      yield from super().laws()
    yield from at_least(self, 1, "sequence_length", "temperature")
    yield from at_least(self, 0, "workers")
    yield from at_least(self, 2, "vocab_size")
    if not 0 < self.eval_fraction < 1:
      yield "eval_fraction", self.eval_fraction, "must lie in (0, 1)"
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


@dataclasses.dataclass(frozen=True)
class TrainConfig(Branch):
  steps: int | None = None
  epochs: float | None = None
  batch_size: int = 16  # examples an update, over all devices and hosts
  accumulate: int = 1  # parts that a batch is cut into, one after the other
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32
  remat: Literal["none", "full", "dots", "attention"] = "none"
  log_every: int = 10
  eval_every: int | None = None  # None: at the end only
  eval_batches: int | None = None  # None: the whole eval split
  sample_tokens: int | None = None  # length of the sample written after each evaluation; None: none
  sample_prompt: str = ""
  on_nonfinite: Literal["abort", "skip"] = "abort"
  max_skips: int = 10  # in a row; one more ends the run
  profile: tuple[int, int] | None = None  # (first, last) step of an xprof trace

  def fill(self):
    if self.epochs is None:
      self.set(steps=1000)

  def laws(self):
    yield from at_least(self, 1, "steps", "batch_size", "accumulate", "log_every", "eval_every", "eval_batches",
                        "sample_tokens", "max_skips")  # fmt: skip
    if self.steps is not None and self.epochs is not None:
      yield "epochs", self.epochs, f"train.steps={self.steps} is given too: choose one, set the other to None"
    if self.epochs is not None and self.epochs <= 0:
      yield "epochs", self.epochs, "must be positive"
    if self.accumulate > 0 and self.batch_size % self.accumulate:
      near = divisors(self.batch_size, self.accumulate)
      yield "accumulate", self.accumulate, f"must divide train.batch_size={self.batch_size}: try {near}"
    if self.profile is not None and not 0 <= self.profile[0] < self.profile[1]:
      yield "profile", self.profile, "must be (first, last) with 0 <= first < last"


@dataclasses.dataclass(frozen=True)
class MeshConfig(Branch):
  """Sizes of the mesh's axes; the one that is None takes the devices that are left."""

  data: int | None = 1
  fsdp: int | None = None
  tensor: int | None = 1
  context: int | None = 1
  expert: int | None = 1
  stage: int | None = 1

  def laws(self):
    yield from at_least(self, 1, *MESH_AXES)
    free = [axis for axis in MESH_AXES if getattr(self, axis) is None]
    if len(free) > 1:
      yield free[1], None, f"only one axis may be None, and mesh.{free[0]} is"
    for axis in ("context", "expert", "stage"):
      if getattr(self, axis) != 1:
        yield axis, getattr(self, axis), "must be 1: shard over mesh.data, mesh.fsdp and mesh.tensor"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Branch):
  every: int | None = None  # None: at the end, and on a signal
  keep: int = 3

  def laws(self):
    return at_least(self, 1, "every", "keep")


@dataclasses.dataclass(frozen=True)
class Config(Branch):
  model: TransformerConfig
  objective: typing.Any  # one of objectives.OBJECTIVES
  data: DataConfig
  optimizer: typing.Any  # one of optim.OPTIMIZERS
  train: TrainConfig
  mesh: MeshConfig
  checkpoint: CheckpointConfig
  seed: int = 0

  def fill(self):
    if self.model.has_table and self.model.max_positions is None:
      model = dataclasses.replace(self.model, max_positions=self.data.sequence_length)
      object.__setattr__(self, "model", model)

  def laws(self):
    model, train, length = self.model, self.train, self.data.sequence_length
    if model.has_table and length > model.max_positions:
      law = f"exceeds the {model.max_positions} positions of the model (model.max_positions)"
      yield "data.sequence_length", length, law
    if train.steps is not None and self.optimizer.warmup_steps > train.steps:
      yield "optimizer.warmup_steps", self.optimizer.warmup_steps, f"exceeds train.steps={train.steps}"
    elif train.steps is not None and (self.optimizer.decay_steps or 0) > train.steps - self.optimizer.warmup_steps:
      law = f"exceeds the {train.steps - self.optimizer.warmup_steps} of train.steps that the warm-up leaves"
      yield "optimizer.decay_steps", self.optimizer.decay_steps, law
    if not 0 <= self.seed < 2**32:
      yield "seed", self.seed, "must lie in [0, 2**32)"
    if train.sample_tokens and model.kind != "decoder":
      yield "train.sample_tokens", train.sample_tokens, f"is for a decoder, not for model.kind={model.kind}"
    if length < self.objective.shortest:
      law = f"leaves no room for text: objective {self.objective.name!r} needs {self.objective.shortest} or more"
      yield "data.sequence_length", length, law
    for field, value, law in self.objective.model_laws(model):
      yield f"model.{field}", value, f"objective {self.objective.name!r} {law}"


def branches() -> dict:
  """Name -> dataclass, or -> {name: dataclass} where the branch's own `name` chooses."""
  # The upward imports of this file: the rooms own their fields, the door only has to know their names.
  from fmjax.objectives import OBJECTIVES
  from fmjax.optim import OPTIMIZERS

  return dict(model=TransformerConfig, objective=OBJECTIVES, data=DataConfig, optimizer=OPTIMIZERS,
              train=TrainConfig, mesh=MeshConfig, checkpoint=CheckpointConfig)  # fmt: skip


DEFAULT_NAMES = dict(objective="next_token", optimizer="adamw")


def fits(value, hint):
  """`value` as the annotated type, or TypeError with the law that it breaks."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if value is None:
      return None
    return fits(value, next(arg for arg in args if arg is not types.NoneType))
  if origin is Literal:
    if value in args:
      return value
    raise TypeError(
      "must be " + (repr(args[0]) if len(args) == 1 else f"one of {', '.join(args)}: {nearest(value, args)}")
    )
  if dataclasses.is_dataclass(hint):
    return value if isinstance(value, hint) else branch(hint, value)
  if origin is tuple:
    if args[-1] is Ellipsis:
      if isinstance(value, dict):  # of branches by their names; a ConfigDict has its keys in order, so all have
        named = sorted(value.items())
        value = [{"name": name, **fields} if isinstance(fields, dict) else fields for name, fields in named]
      if isinstance(value, (list, tuple)):
        return every(value, args[0])
      raise TypeError(f"must be a list of {args[0].__name__}s")
    if isinstance(value, (list, tuple)) and len(value) == len(args):
      return tuple(fits(one, arg) for one, arg in zip(value, args))
    raise TypeError(f"must be {len(args)} values such as ({', '.join(arg.__name__ for arg in args)})")
  if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
    if not math.isfinite(value):
      raise TypeError("must be finite")
    return float(value)
  if hint is not typing.Any and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
    wanted = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text"}
    raise TypeError(f"must be {wanted.get(hint.__name__, hint.__name__)}")
  return value


def every(values, hint) -> tuple:
  """Each of `values` as `hint`; of branches all that is wrong, below each one's name."""
  made, problems = [], []
  for number, value in enumerate(values):
    try:
      made.append(fits(value, hint))
    except Wrong as wrong:
      name = value.get("name", number)
      problems += [(f"{name}.{key}", value, law) for key, value, law in wrong.problems]
  if problems:
    raise Wrong(problems)
  return tuple(made)


def branch(cls, given):
  """The dataclass `cls` of a field of a branch; Wrong with all that breaks its laws."""
  if not isinstance(given, dict):
    raise TypeError("is a branch: set its fields")
  problems = []
  made = build(cls, given, "", problems)
  if problems:
    raise Wrong(problems)
  return made


def build(cls, given: dict, prefix: str, problems: list):
  """An instance of the dataclass `cls`, or None with what is wrong added to `problems`."""
  hints = typing.get_type_hints(cls)
  names = [field.name for field in dataclasses.fields(cls)]
  values, before = {}, len(problems)
  for name, value in given.items():
    if name not in names:
      problems.append((prefix + name, value, f"no such field: {nearest(name, names)}"))
      continue
    try:
      values[name] = fits(value, hints[name])
    except TypeError as error:
      problems.append((prefix + name, value, str(error)))
    except Wrong as wrong:
      problems += [(f"{prefix}{name}.{key}", value, law) for key, value, law in wrong.problems]
  try:
    made = cls(**values)
  except Wrong as wrong:
    problems += [(prefix + key, value, law) for key, value, law in wrong.problems]
    return None
  return made if len(problems) == before else None


def choose(branch: str, table, given: dict, problems: list):
  """The dataclass that `given` (a branch's fields) asks for, and the fields with a model's preset unfolded."""
  if branch == "model" and (preset := given.get("preset")):
    from fmjax.models.zoo import PRESETS

    if preset not in PRESETS:
      problems.append(("model.preset", preset, f"no such preset: {nearest(preset, PRESETS)}"))
      return None, given
    return table, {**PRESETS[preset], **given}
  if not isinstance(table, dict):
    return table, given
  name = given.get("name", DEFAULT_NAMES[branch])
  if name not in table:
    problems.append((f"{branch}.name", name, f"no such {branch}: {nearest(name, table)}"))
  return table.get(name), given


def from_config_dict(tree, source: str = "the config") -> Config:
  """The config that `tree` (a ConfigDict or nested dicts) says; FmjaxError CONFIG names all that is wrong in it."""
  tree = dict(tree.to_dict() if hasattr(tree, "to_dict") else tree)
  problems, made, tables = [], {}, branches()
  for name in tree:
    if name not in tables and name != "seed":
      problems.append((name, tree[name], f"no such branch: {nearest(name, [*tables, 'seed'])}"))
  for name, table in tables.items():
    given = tree.get(name, {})
    if not isinstance(given, dict):
      problems.append((name, given, f"is a branch: set its fields, as in {name}.FIELD"))
      continue
    cls, given = choose(name, table, given, problems)
    made[name] = cls and build(cls, given, name + ".", problems)
  if None not in made.values() and len(made) == len(tables):
    seed = {"seed": tree["seed"]} if "seed" in tree else {}
    config = build(Config, {**made, **seed}, "", problems)
  if problems:
    many = f"{len(problems)} fields of {source} are wrong" if len(problems) > 1 else f"a field of {source} is wrong"
    raise FmjaxError("CONFIG", many, rows=[f"{key}={value!r}: {law}" for key, value, law in problems])
  return config


def to_dict(config) -> dict:
  """The config as nested dicts of plain values: what config.json holds and `from_config_dict` takes back."""
  return dataclasses.asdict(config)
