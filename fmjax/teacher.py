"""The teacher of a run: read, held against its student, and put beside what the run starts from."""

import dataclasses

import jax

from fmjax import labels, spec
from fmjax.config import Config
from fmjax.errors import FmjaxError
from fmjax.interop.family import OUTPUT
from fmjax.leaves import by_path
from fmjax.objectives.distillation import PROJECTION, TEACHER, Distilled, Taught
from fmjax.objectives.objective import Objective


def taught(config: Config, model, begun: spec.Start, tokenizer):
  """(the model, the loss, what the run starts from), as they are where config.distillation names no teacher.

  Else the model is a Taught one, whose teacher's parameters are on the mesh that is set. FmjaxError where that
  cannot teach this student.
  """
  how = config.distillation
  if how.teacher is None:
    return model, config.objective, begun
  found = spec.load(how.teacher, config.mesh)
  teacher, params = found.model.alone(found.params)
  check(config, found, teacher.config, tokenizer)
  its_config = dataclasses.replace(teacher.config, scan_layers=model.config.scan_layers)
  teacher = dataclasses.replace(teacher, config=its_config, dtype=model.dtype)
  projects = bool(how.hidden_weight) and its_config.D != model.config.D
  both = Taught(model.config, model.dtype, model.remat, teacher, projects)
  begun = dataclasses.replace(
    begun,
    params=begun.params | {f"{TEACHER}/{path}": x for path, x in by_path(params).items()},
    fresh=begun.fresh | {PROJECTION},
    teacher=spec.fingerprint(how.teacher, found),
  )
  return both, Distilled(config.objective, how), begun


def check(config: Config, found: spec.Trained, its, tokenizer):
  """CHECKPOINT_MISMATCH with all that keeps `found`, whose TransformerConfig is `its`, from teaching this student."""
  rows = [*task_rows(config, found, its), *text_rows(config, found, its, tokenizer)]
  if rows:
    name = config.distillation.teacher
    raise FmjaxError("CHECKPOINT_MISMATCH", f"{name} cannot teach this model", rows=rows[:4], where=name,
                     fix="set distillation.teacher to a model that was trained for the same task")  # fmt: skip


def task_rows(config: Config, found: spec.Trained, its):
  """What the two tell, where it differs."""
  objective, own = config.objective, config.model
  task = spec.task_of(found)
  tells = found.hf_config is not None or type(found.config.objective).loss_from is not Objective.loss_from
  if not tells or (task != objective.task and not {task, objective.task} <= {*OUTPUT}):
    learnt = task if found.hf_config is not None else found.config.objective.name
    yield f"task: the teacher has learnt {learnt!r}, the student learns {objective.name!r}"
    return
  if its.kind != own.kind:
    yield f"kind: the teacher is of model.kind={its.kind}, the student of {own.kind}"
  if config.distillation.attention_weight and (its.N != own.N or its.positions == "relative"):
    yield f"attention: the teacher has {its.N} heads and positions={its.positions}, the student {own.N} heads"
  if config.distillation.attention_weight and its.windows[-1] != own.windows[-1]:
    yield f"attention: the teacher's last window is {its.windows[-1]}, the student's {own.windows[-1]}"
  if objective.task in OUTPUT:
    if its.V != own.V:
      yield f"vocabulary: the teacher has {its.V:,} tokens, the student {own.V:,}: set model.V={its.V}"
    return
  if (its.head, its.classes) != (own.head, own.classes):
    yield f"classes: the teacher has {its.classes} of a {its.head}, the student {own.classes} of a {own.head}"
  elif labels.differ(
    theirs := labels.labels_of(found), mine := getattr(objective, "labels", None), found.hf_config is not None
  ):
    yield f"labels: the teacher has {', '.join(theirs)}, the student {', '.join(mine)}"
  if own.head == "sequence" and its.pool != own.pool:
    yield f"pool: the teacher reads the {its.pool} token of a text, the student the {own.pool}"


def text_rows(config: Config, found: spec.Trained, its, tokenizer):
  """How the two read a text, where it differs."""
  length, ways = config.data.sequence_length, jax.sharding.get_abstract_mesh().shape["tensor"]
  if its.has_table and its.max_positions < length:
    yield f"positions: the teacher has {its.max_positions}, data.sequence_length={length}"
  if its.N % ways or its.K % ways:
    yield f"heads: the teacher's {its.N} (keys: {its.K}) do not divide over mesh.tensor={ways}"
  theirs, mine = (getattr(one, "framing", None) for one in (found.config.objective, config.objective))
  if theirs != mine and found.hf_config is None:
    yield f"framing: the teacher's texts are framed as {theirs}, the student's as {mine}"
  if its.V < tokenizer.vocab_size:
    yield f"vocabulary: the teacher has {its.V:,} tokens, the student's tokenizer {tokenizer.vocab_size:,}"
  elif found.tokenizer is not None:
    pairs = zip(meanings(found.tokenizer), meanings(tokenizer))
    other = next((f"token {n} is {a!r}, the student's {b!r}" for n, (a, b) in enumerate(pairs) if a != b), None)
    if other:
      yield f"tokenizer: the teacher's {other}"


def meanings(tokenizer) -> list:
  """What each token stands for: its text or bytes, or a special one's name."""
  return [tokenizer.piece(token) or shown for token, shown in enumerate(tokenizer.show(range(tokenizer.vocab_size)))]
