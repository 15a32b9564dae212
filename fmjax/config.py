"""The config: a tree of frozen dataclasses that cannot exist if wrong, and the one door into it.

Outside, a config is an `ml_collections.ConfigDict`, a JSON file or a few `--config.a.b=v` words; inside, it is a
`Config`. `from_config_dict` is the only way from one to the other. It reports everything that is wrong at once.
"""

import dataclasses
import math
import types
import typing
from typing import Literal

from fmjax.architecture import TransformerConfig
from fmjax.corpus import DataConfig
from fmjax.errors import FmjaxError
from fmjax.laws import Branch, Wrong, at_least, divisors, nearest

MESH_AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")


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
  ema: float | None = None  # what an average of the parameters keeps of itself; it is what is evaluated and used
  on_nonfinite: Literal["abort", "skip"] = "abort"
  max_skips: int = 10  # in a row; one more ends the run
  stop: tuple[str, int] | None = None  # (metric, patience): end after so many evaluations without a better one
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
    if self.stop is not None and self.stop[1] < 1:
      yield "stop", self.stop, "must be (metric, a patience of 1 evaluation or more)"
    if self.stop is not None and self.eval_every is None:
      yield "stop", self.stop, "waits for evaluations: set train.eval_every"
    if self.ema is not None and not 0 < self.ema < 1:
      yield "ema", self.ema, "must lie in (0, 1), or be None for no average"
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
  adapt: typing.Any  # one of adapt.METHODS
  distillation: typing.Any  # objectives.distillation.Distillation
  init_from: str | None = None  # a SPEC, whose parameters the run starts from
  init_layers: tuple[int, ...] | None = None  # which layers of it become this model's, from 0; None: all
  seed: int = 0

  def fill(self):
    if self.model.has_table and self.model.max_positions is None:
      model = dataclasses.replace(self.model, max_positions=self.data.sequence_length)
      object.__setattr__(self, "model", model)

  @property
  def data_seed(self) -> int:
    """That of the rows' order and of what is drawn for them."""
    return self.seed if self.data.seed is None else self.data.seed

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
    if self.adapt.name != "full" and self.init_from is None:
      yield "adapt.name", self.adapt.name, "adapts a trained model: set init_from to a run, hf:FOLDER or peft:FOLDER"
    if self.adapt.name == "full" and self.adapt.mixout and self.init_from is None:
      yield "adapt.mixout", self.adapt.mixout, "goes back to a trained model: set init_from"
    for field, value, law in self.adapt.model_laws(model):
      yield f"adapt.{field}", value, law
    if self.adapt.name == "prompt" and self.data.packed:
      yield "data.packed", True, "rows have several texts, and adapt.name=prompt stands before one: set it to False"
    if self.init_layers is not None:
      yield from self.layers_laws()
    if train.stop is not None and self.objective.generates and train.stop[0] in self.objective.judged_by:
      yield "train.stop", train.stop, "is known when texts are generated, which fmjax eval does: stop by loss"
    if self.adapt.name == "features" and self.objective.name != "classification":
      yield "adapt.name", "features", "fits classes: objective.name must be classification"
    if self.adapt.name == "features" and self.data.subsample is not None:
      yield "data.subsample", self.data.subsample, "is not for adapt.name=features, which takes all rows once"
    if self.adapt.name == "features" and train.ema is not None:
      yield "train.ema", train.ema, "is an average over steps, of which adapt.name=features has none"
    if not 0 <= self.seed < 2**32:
      yield "seed", self.seed, "must lie in [0, 2**32)"
    if train.sample_tokens and model.kind != "decoder":
      yield "train.sample_tokens", train.sample_tokens, f"is for a decoder, not for model.kind={model.kind}"
    if self.data.join is not None:
      yield from self.join_laws()
    if self.data.buckets:
      from fmjax.objectives.objective import Objective

      if type(self.objective).extent is Objective.extent:
        yield "data.buckets", self.data.buckets, f"{self.objective.name} has rows of one length: leave it out"
      elif getattr(self.objective.layout(length, self.data.packed), "room", None):
        yield "data.buckets", self.data.buckets, "packed rows have one length: leave it out, or data.packed"
    if length < self.objective.shortest:
      law = f"leaves no room for text: objective {self.objective.name!r} needs {self.objective.shortest} or more"
      yield "data.sequence_length", length, law
    for field, value, law in self.objective.model_laws(model):
      yield f"model.{field}", value, f"objective {self.objective.name!r} {law}"
    for field, value, law in self.distillation.objective_laws(self.objective, model):
      yield f"distillation.{field}", value, law
    if self.distillation.teacher is not None and self.adapt.name == "features":
      yield "distillation.teacher", self.distillation.teacher, "is for steps, and adapt.name=features takes none"

  def join_laws(self):
    join, train = self.data.join, self.train
    if not self.objective.joins:
      yield "data.join", join, f"is for one text or its words, not for objective {self.objective.name!r}"
    if train.batch_size % (join * train.accumulate):
      yield "data.join", join, f"must divide the examples of a part of train.batch_size={train.batch_size}"
    if self.adapt.name == "prompt":
      yield "data.join", join, "has rows of several texts, and adapt.name=prompt stands before one"
    if self.distillation.hidden_weight or self.distillation.attention_weight:
      yield "data.join", join, "has rows of several texts, and distillation compares states row by row: leave it out"

  def layers_laws(self):
    if self.init_from is None:
      yield "init_layers", self.init_layers, "are another model's: set init_from to a run, hf:FOLDER or peft:FOLDER"
    if self.model.shared_layers:
      yield "init_layers", self.init_layers, "are one: all layers share it (model.shared_layers)"
    elif len(self.init_layers) != self.model.L:
      yield "init_layers", self.init_layers, f"are not model.L={self.model.L} in number: leave model.L out"


def branches() -> dict:
  """Name -> dataclass, or -> {name: dataclass} where the branch's own `name` chooses."""
  # The upward imports of this file: the rooms own their fields, the door only has to know their names.
  from fmjax.adapt import METHODS
  from fmjax.objectives import OBJECTIVES
  from fmjax.objectives.distillation import Distillation
  from fmjax.optim import OPTIMIZERS

  # The objective comes first: it decides fields of the model.
  return dict(objective=OBJECTIVES, model=TransformerConfig, data=DataConfig, optimizer=OPTIMIZERS,
              train=TrainConfig, mesh=MeshConfig, checkpoint=CheckpointConfig, adapt=METHODS,
              distillation=Distillation)  # fmt: skip


DEFAULT_NAMES = dict(objective="next_token", optimizer="adamw", adapt="full")
VALUES = ("seed", "init_from", "init_layers")  # what the tree holds beside its branches


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


def is_whole(model: dict) -> bool:
  """Whether the fields of a model are all given, as a run's config.json has them."""
  return {field.name for field in dataclasses.fields(TransformerConfig)} <= model.keys()


def started(tree: dict) -> dict:
  """{"model", "data"}: fields that follow from the model that is started from; {} where all are given."""
  name, *given = (tree.get(key) or {} for key in ("init_from", "model", "objective", "distillation"))
  if not all(isinstance(one, dict) for one in given) or is_whole(given[0]):
    return {}
  _, objective, distillation = given
  if isinstance(teacher := distillation.get("teacher"), str):
    from fmjax.start import check_there

    check_there(teacher)
  if not isinstance(name, str):
    return {}
  from fmjax.start import fields_of

  return fields_of(name, objective.get("name", DEFAULT_NAMES["objective"]), tree.get("init_layers"))


def from_config_dict(tree, source: str = "the config") -> Config:
  """The config that `tree` (a ConfigDict or nested dicts) says; FmjaxError CONFIG names all that is wrong in it."""
  tree = dict(tree.to_dict() if hasattr(tree, "to_dict") else tree)
  problems, made, tables = [], {}, branches()
  for name in tree:
    if name not in tables and name not in VALUES:
      problems.append((name, tree[name], f"no such branch: {nearest(name, [*tables, *VALUES])}"))
  start = started(tree)
  for name, table in tables.items():
    given = tree.get(name, {})
    if not isinstance(given, dict):
      problems.append((name, given, f"is a branch: set its fields, as in {name}.FIELD"))
      continue
    cls, given = choose(name, table, given, problems)
    if name == "model" and made["objective"] and not is_whole(given):
      given = {**start.get(name, {}), **made["objective"].model_fields(), **given}
    elif name in ("data", "objective"):
      given = {**start.get(name, {}), **given}
    made[name] = cls and build(cls, given, name + ".", problems)
  if None not in made.values() and len(made) == len(tables):
    config = build(Config, {**made, **{name: tree[name] for name in VALUES if name in tree}}, "", problems)
  if problems:
    many = f"{len(problems)} fields of {source} are wrong" if len(problems) > 1 else f"a field of {source} is wrong"
    raise FmjaxError("CONFIG", many, rows=[f"{key}={value!r}: {law}" for key, value, law in problems])
  return config


def to_dict(config) -> dict:
  """The config as nested dicts of plain values: what config.json holds and `from_config_dict` takes back."""
  return dataclasses.asdict(config)
