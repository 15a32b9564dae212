"""A study: members of one shape, trained side by side in one step, each in a folder that is a run of its own.

What a member leaves in its folder is what `fmjax train` of its config would, to rounding: its batches, its dropout
and its evaluations are those of its own seed. Like `train`, this file has time, IO, logging and jit of the step.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import (
  assembly,
  checkpoint,
  environment,
  evaluate,
  metrics,
  optim,
  resume,
  spec,
  train,
  workdir,
)
from fmjax.adapt import Adaptation
from fmjax.config import Config
from fmjax.data import check_fingerprint
from fmjax.errors import FmjaxError
from fmjax.sharding import check_divides, make_mesh
from fmjax.signals import Signals
from fmjax.step import abstract, judged, started
from fmjax.study import members, stacked
from fmjax.study.members import DIVERGED, DONE, RUNNING, STOPPED, Member
from fmjax.teacher import taught


class Run:
  """A member at work: what `train.train` has of one run."""

  def __init__(self, member: Member, given: Config | None, home: pathlib.Path, clock, started: float, argv):
    self.member, self.home, self.clock = member, home, clock
    self.config, changes, before = resume.settle(home, given)
    if before is not None:
      raise FmjaxError("CONFIG", "the mixture of a study is not edited", where="data.mixture",
                       fix="leave data.mixture as it was, or edit that of a member by fmjax train")  # fmt: skip
    self.writer = metrics.Writer(home, started, jax.process_index() == 0)
    self.writer.event("start", argv=list(argv), pid=os.getpid(), host=platform.node())
    if changes:
      self.writer.event("config", changes=[f"{key}: {old} -> {new}" for key, old, new in changes])
    keep = max(2, self.config.checkpoint.keep)  # a kill between the members' saves leaves a step that all have
    self.saves = checkpoint.Checkpoints(home / "checkpoints", keep, self.event)
    self.log = self.check = self.facts = None

  def event(self, name: str, **facts):
    self.writer.event(name, clock=self.clock.totals(), **facts)

  def close(self):
    self.writer.close()


def run(path, given: members.Given, *, argv=(), started: float | None = None) -> dict:
  """Trains the members in folders of `path`, or goes on where they stopped; what is in the study's file then.

  `given` is what `members.settle` says. `started` is time.monotonic() at the start of the process.
  """
  started = time.monotonic() if started is None else started
  with workdir.claim(path) as home, Signals() as signals, contextlib.ExitStack() as closing:
    clock, runs = metrics.Clock(started), []
    for name, (member, config) in given.items():
      folder = closing.enter_context(workdir.claim(home.path / name)).path
      runs.append(closing.enter_context(contextlib.closing(Run(member, config, folder, clock, started, argv))))
    try:
      together(home.path, runs, clock, signals, argv)
    except FmjaxError as error:
      name = "preempt" if error.code == "INTERRUPTED" else "error"
      tell(runs, name, code=error.code, what=error.what)
      raise
    except Exception as error:
      tell(runs, "error", code="INTERNAL", what=f"{type(error).__name__}: {error}")
      raise
    return members.write(home.path, [one.member for one in runs])


def tell(runs: list[Run], name: str, **facts):
  for one in runs:
    if not one.member.over:
      one.event(name, **facts)


def together(home: pathlib.Path, runs: list[Run], clock, signals, argv):
  prepared = resume.prepare(runs[0].config, None, runs[0].home)
  for one in runs:
    resume.check_tokenizer(one.home, prepared)
    one.config = assembly.sized(one.config, prepared)
  first = runs[0].config
  mesh = stacked.make_mesh(first.mesh, len(runs))
  check_divides(first, mesh)
  model, objective, begun = beginning(first, prepared, mesh)
  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    adaptation = Adaptation(first.adapt, model, begun.fresh)
    tx = optim.make(first.optimizer, adaptation.declarations())
    make = jax.jit(functools.partial(started, adaptation=adaptation, tx=tx, ema=first.train.ema))
    like, rests = abstract(make, jax.random.key(0), begun.params)
    metrics.parameter_table(*(list(environment.parameter_rows(tree)) for tree in (like["params"], rests)))
    states = restore(runs, like, prepared, begun, clock)
    every = [assembly.make_batches(prepared, one.config, "train") for one in runs]
    total = assembly.steps_of(first, every[0])
    for one in runs:
      environment.write(one.home, one.config, prepared, mesh, like, argv)
    members.write(home, [one.member for one in runs])
    with clock("compile"):
      state, resting = at_start(runs, states, rests, functools.partial(make, given=begun.params))
      begun = dataclasses.replace(begun, params={})  # else all that the study began with stays in memory
      step = Step(runs, every, total, model, objective, tx, state, resting)
    tell(runs, "compile", seconds=clock.totals()["compile"])
    progress = Progress(runs)
    closing.callback(progress.close)
    for one, batches in zip(runs, every):
      one.facts = environment.facts(one.config, prepared, base=begun.fingerprint, teacher=begun.teacher)
      one.log = train.Log(one.config, model, total, one.writer, clock, batches, one.home, progress)
      one.check = train.Evaluation(one.config, model, resting, prepared, one.writer, clock, one.home)
      one.saves.best = one.check.stopping.best
    evaluation = Evaluation(runs, prepared, model, resting, clock)
    loop(home, runs, state, step, evaluation, total, signals)


# --- before the first step


def beginning(config: Config, prepared, mesh):
  """(the model, the loss, what the members start from, on `mesh`)."""
  with jax.set_mesh(make_mesh(config.mesh)):
    model = config.objective.model(config.model, jnp.dtype(config.train.dtype), config.train.remat)
    model, objective, begun = taught(config, model, spec.start(config, model, prepared.tokenizer), prepared.tokenizer)
  return model, objective, dataclasses.replace(begun, params=stacked.moved(begun.params, mesh))


def restore(runs: list[Run], like, prepared, begun, clock) -> list[dict] | None:
  """The members' states of the newest step that all of them have, those that are over apart; None at the start."""
  left = going(runs)
  with clock("checkpoint"):
    found = [one.saves.restore(like) for one in left]
    step = 0 if None in found else min((int(state["step"]) for state, _ in found), default=0)
    for number, one in enumerate(left if step else ()):
      if int(found[number][0]["step"]) > step:
        found[number] = checkpoint.restore_step(one.home / "checkpoints", like, step)
  for one, state in zip(left, found):
    one.member.status = RUNNING
    if state is not None:
      check_fingerprint(state[1]["data_fingerprint"], prepared)
      spec.check_base(one.home, state[1], begun)
    lost = metrics.cut(one.home, step)
    if step or lost["rows"]:
      one.event("restore", step=step, **lost)
  if not step:
    return None
  states = iter(found)
  return [None if one.member.over else next(states)[0] for one in runs]


def at_start(runs: list[Run], states, rests, make):
  """(the stacked state, what rests). A member that is over fills its place with a state that nobody reads."""
  found, resting = list(states or [None] * len(runs)), None
  for number, one in enumerate(runs):
    if found[number] is None or (rests and resting is None):
      new, resting = make(jax.random.key(one.config.seed))
      found[number] = found[number] or new
  step = next((state["step"] for state in states or () if state is not None), found[0]["step"])
  return stacked.stack_states([dict(state, step=step) for state in found]), resting or {}


class Step:
  """The members' update, compiled for batches of each shape before the first such one, and what the host gives it."""

  def __init__(self, runs: list[Run], every, total: int, model, objective, tx, state, resting):
    configs = [one.config for one in runs]
    self.resting, first = resting, configs[0]
    self.shared = len({config.data_seed for config in configs}) == 1
    self.batches = every[0] if self.shared else stacked.Batches(every)
    self.rates = [optim.schedule(config.optimizer, total) for config in configs]
    decays = [config.optimizer.weight_decay for config in configs]
    self.own = dict(weight_decay=np.float32(decays)) if len(set(decays)) > 1 else {}
    seeds = np.array([config.seed for config in configs], np.uint32)
    alike = len(set(seeds.tolist())) == 1
    self.seeds = stacked.place(dict(seeds=seeds[0] if alike else seeds), alike)["seeds"]
    update = functools.partial(
      stacked.train_step, model=model, objective=objective, tx=tx, accumulate=first.train.accumulate,
      ema=first.train.ema, shared=self.shared,
    )  # fmt: skip
    self.update, self.compiled = jax.jit(update, donate_argnums=0), {}
    shapes = assembly.batch_shapes(first, every[0].lengths[-1])
    self.compile(state, assembly.flowing(shapes) if self.shared else stacked.flowing(shapes, len(runs)))

  def compile(self, state, rows: dict):
    lowered = self.update.lower(state, rows, self.knobs(0), self.seeds, self.resting)
    self.compiled[assembly.shapes_of(rows)] = lowered.compile()

  def knobs(self, step: int) -> dict:
    return stacked.place(dict(learning_rate=np.float32([rate(step) for rate in self.rates]), **self.own))

  def __call__(self, state, step: int, batch: dict):
    rows = stacked.place(batch, self.shared)
    if assembly.shapes_of(rows) not in self.compiled:
      with jax.transfer_guard("allow"):
        self.compile(state, rows)
    update = self.compiled[assembly.shapes_of(rows)]
    return update(state, rows, self.knobs(step), self.seeds, self.resting)

  def batch_of(self, batch: dict, number: int) -> dict:
    return batch if self.shared else {name: x[number] for name, x in batch.items()}


# --- while it runs


def loop(home, runs: list[Run], state, step: Step, evaluation, total: int, signals):
  clock, first = runs[0].clock, runs[0].config
  done = int(state["step"])
  with contextlib.ExitStack() as closing:
    trace = closing.enter_context(contextlib.closing(train.Trace(first, runs[0].home, runs[0].writer)))
    ahead = closing.enter_context(contextlib.closing(step.batches.from_(done)))
    clock.base("step")
    signals.gentle = True
    while not signals.asked:
      evaluated(home, runs, state, evaluation, done, total, signals)
      if done >= total or not going(runs):
        break
      with clock("data wait"):
        number, batch = next(ahead)
      trace(done, runs[0].log)
      with jax.transfer_guard("disallow"):
        state, numbers = step(state, done, batch)
      for place, one in enumerate(runs):
        log(home, runs, one, done, step.rates[place](done), numbers[place], step.batch_of(batch, place))
      done = number + 1
      if done == total or (first.checkpoint.every and done % first.checkpoint.every == 0):
        save(home, runs, state)
    save(home, runs, state, [one for one in runs if done and one.log.saved != done and done not in one.saves.steps()])
  with clock("checkpoint"):
    for one in runs:
      one.saves.wait()
  left = going(runs)
  if any(one.check.is_due(total, total) for one in left):  # a signal came first
    raise train.stopped(done, left[0].saves)
  for one in left:
    end(one, done, DONE)
  if all(one.member.status == DIVERGED for one in runs):
    raise FmjaxError("DIVERGED", "every member has diverged", where=home,
                     fix="start anew with lower learning rates")  # fmt: skip


def going(runs: list[Run]) -> list[Run]:
  return [one for one in runs if not one.member.over]


def end(one: Run, step: int, status: str):
  one.event("end", step=step, status="done")
  one.member.status = status


def log(home, runs: list[Run], one: Run, *update):
  """Logs a member's update, or of none what is pending. One that would end the run of its own ends the member."""
  if one.member.over:
    return
  try:
    one.log(*update) if update else one.log.flush()
  except FmjaxError as error:
    if error.code != "DIVERGED":
      raise
    one.event("error", code=error.code, what=error.what)
    one.member.status = DIVERGED
    members.write(home, [run.member for run in runs])  # nobody waits for its next step


def save(home, runs: list[Run], state, chosen: list[Run] | None = None, best: bool = False):
  """Starts a save of the `chosen` members, or of all, that are not over; the ones before are safe on disk then."""
  for one in runs:
    log(home, runs, one)
    with one.clock("checkpoint"):
      one.saves.wait()
  if chosen == []:
    return
  for one, own in zip(runs, stacked.unstack_states(state)):
    if not one.member.over and (chosen is None or one in chosen):
      one.log.save(one.saves, own, one.facts, best=best)


def evaluated(home, runs: list[Run], state, evaluation, done: int, total: int, signals):
  """Evaluates the members that are due; keeps the best state of one, and ends one that has stopped."""
  due = [one for one in going(runs) if one.check.is_due(done, total)]
  for one in due:
    log(home, runs, one)
  rows = evaluation(judged(state), signals) if due else None
  if rows is None:
    return
  params, best = [None] * len(runs), []
  if runs[0].config.train.sample_tokens:
    params = stacked.unstack(judged(state))
  for one, row, own in zip(runs, rows, params):
    if one in due and not one.member.over and one.check.tell(done, row, own):
      best.append(one)
  save(home, runs, state, best, best=True)
  stopped = [one for one in due if one.check.stopping.over]
  save(home, runs, state, [one for one in stopped if one.log.saved != done])
  for one in stopped:
    one.saves.wait()
    end(one, done, STOPPED)
  members.write(home, [one.member for one in runs])


class Evaluation:
  """One pass over the eval split for all members at once."""

  def __init__(self, runs: list[Run], prepared, model, resting, clock):
    self.runs, self.resting, self.clock = runs, resting, clock
    self.per_token = prepared.bytes_per_token
    self.step = stacked.eval_step(model, runs[0].config.objective)
    self.alike = len({one.config.data_seed for one in runs}) == 1

  def __call__(self, params, signals) -> list[dict] | None:
    """A row of each member, or None where a signal came."""
    checks = [one.check for one in self.runs]
    totals = [{} for _ in checks]
    answers = [evaluate.Answers(check.sources) for check in checks]
    with self.clock("eval"):
      for name in checks[0].sources:
        drawn = [check.some(check.sources[name], signals) for check in (checks[:1] if self.alike else checks)]
        for numbered in zip(*drawn):
          found = self.of_batch(params, [batch for _, batch in numbered])
          for number, (sums, predicted) in enumerate(found):
            totals[number][name] = evaluate.added(totals[number].get(name), sums)
            if predicted:
              answers[number].add(name, numbered[0][0], predicted)
      if signals.asked:
        return None
      return [evaluate.row_of(total, self.per_token, told) for total, told in zip(totals, answers)]

  def of_batch(self, params, batches: list[dict]) -> list[tuple]:
    """(sums, predictions) of each member; where their batches are the same, these are computed on once."""
    shared = stacked.same(batches)
    rows = batches[0] if shared else {name: np.stack([one[name] for one in batches]) for name in batches[0]}
    found = jax.device_get(self.step(shared)(params, stacked.place(rows, shared), self.resting))
    return [jax.tree.map(lambda x, number=number: x[number], found) for number in range(len(self.runs))]


class Progress:
  """The live line of all members: their mean loss, and the sum of their speeds."""

  def __init__(self, runs: list[Run]):
    self.line, self.runs, self.told = metrics.Progress(), runs, []

  def update(self, *numbers):
    self.told = [one for one in self.told if one[0] == numbers[0]] + [numbers]
    if len(self.told) == len(going(self.runs)):
      step, total, _, rate, _, mfu, wait, saved, eta = numbers
      loss, speed = np.mean([one[2] for one in self.told]), sum(one[4] for one in self.told)
      self.line.update(step, total, loss, rate, speed, mfu, wait, saved, eta)

  def close(self):
    self.line.close()
