"""A training run, from its folder to its last row: the only file with time, IO, logging and jit of the step."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import checkpoint, chips, decode, environment, metrics, optim, resume, sharding, spec, workdir
from fmjax.adapt import joined
from fmjax.assembly import (
  Updates,
  at_start,
  beginning,
  eval_batches,
  make_batches,
  sized,
  steps_of,
)  # fmt: skip
from fmjax.config import Config, to_dict
from fmjax.errors import FmjaxError
from fmjax.evaluate import Answers, evaluate, step_of
from fmjax.models.flops import train_flops
from fmjax.signals import Signals
from fmjax.step import abstract, judged, place
from fmjax.stopping import Stopping
from fmjax.teacher import taught


def run(path, given: Config | None = None, *, argv=(), started: float | None = None) -> dict:
  """Trains in the folder `path`, or goes on where the run there stopped; the last evaluation's row.

  `given` may be None where the folder holds a run. `started` is time.monotonic() at the start of the process.
  """
  started = time.monotonic() if started is None else started
  with workdir.claim(path) as home, Signals() as signals:
    clock = metrics.Clock(started)
    config, changes, before = resume.settle(home.path, given)
    writer = metrics.Writer(home.path, started, jax.process_index() == 0)
    writer.event("start", argv=list(argv), pid=os.getpid(), host=platform.node())
    if changes:
      writer.event("config", changes=[f"{key}: {old} -> {new}" for key, old, new in changes])
    try:
      return train(config, before, home.path, writer, clock, signals, argv)
    except FmjaxError as error:
      name = "preempt" if error.code == "INTERRUPTED" else "error"
      writer.event(name, code=error.code, what=error.what, clock=clock.totals())
      raise
    except Exception as error:
      writer.event("error", code="INTERNAL", what=f"{type(error).__name__}: {error}", clock=clock.totals())
      raise
    finally:
      writer.close()


def train(config: Config, before: Config | None, home: pathlib.Path, writer, clock, signals, argv) -> dict:
  prepared = resume.prepare(config, before, home)
  config = sized(config, prepared)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_divides(config, mesh)
  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    model = config.objective.model(config.model, jnp.dtype(config.train.dtype), config.train.remat)
    model, objective, begun = taught(config, model, spec.start(config, model, prepared.tokenizer), prepared.tokenizer)
    tx, make = beginning(config, model, begun)
    like, resting = abstract(make)
    metrics.parameter_table(*(list(environment.parameter_rows(tree)) for tree in (like["params"], resting)))

    saves = checkpoint.Checkpoints(
      home / "checkpoints", config.checkpoint.keep, lambda name, **f: writer.event(name, clock=clock.totals(), **f)
    )
    closing.callback(saves.close)
    state = resume.restore(saves, like, prepared, begun, home, writer, clock)
    config, prepared = resume.edit(config, before, prepared, state, writer)
    batches = make_batches(prepared, config, "train")
    total = steps_of(config, batches)
    learning_rate = optim.schedule(config.optimizer, total)
    environment.write(home, config, prepared, mesh, like, argv)
    with clock("compile"):
      update = Updates(config, model, objective, tx, like, resting, batches.lengths)
      state, resting = at_start(config, model, prepared, state, resting, make)
      begun, make = dataclasses.replace(begun, params={}), None  # else all that the run began with stays in memory
    writer.event("compile", seconds=clock.totals()["compile"])
    facts = environment.facts(config, prepared, base=begun.fingerprint, teacher=begun.teacher)
    step = start = int(state["step"])
    log = Log(config, model, total, writer, clock, batches, home, metrics.Progress())
    closing.callback(log.progress.close)
    check = Evaluation(config, model, resting, prepared, writer, clock, home)
    saves.best = check.stopping.best
    trace = closing.enter_context(contextlib.closing(Trace(config, home, writer)))
    ahead = closing.enter_context(contextlib.closing(batches.from_(start)))
    clock.base("step")
    signals.gentle = True
    while not signals.asked:
      if check.is_due(step, total) and check(step, judged(state), log, signals):
        log.save(saves, state, facts, best=True)
      if step >= total or check.stopping.over:
        break
      with clock("data wait"):
        number, batch = next(ahead)
      trace(step, log)
      with jax.transfer_guard("disallow"):
        knobs = place(dict(learning_rate=np.float32(learning_rate(step))))
        state, numbers = update(state, place(batch), knobs, resting)
      log(step, learning_rate(step), numbers, batch)
      step = number + 1
      if step == total or (config.checkpoint.every and step % config.checkpoint.every == 0):
        log.save(saves, state, facts)
    if step and log.saved != step and step not in saves.steps():
      log.save(saves, state, facts, blocking=True)
    with clock("checkpoint"):
      saves.wait()
    if check.is_due(total, total) and not check.stopping.over:  # a signal came first
      raise stopped(step, saves)
    writer.event("end", step=step, status="done", clock=clock.totals())
    return check.last | dict(metric=next(iter(config.objective.judged_by), None))


def stopped(step: int, saves) -> FmjaxError:
  saved = f"step {step} is saved" if step in saves.steps() else "no step was done"
  return FmjaxError("INTERRUPTED", f"stopped at step {step}; {saved}", fix="run the same command again to go on")


class Trace:
  """The xprof trace of the steps that train.profile names."""

  def __init__(self, config: Config, home: pathlib.Path, writer):
    self.first, self.last = config.train.profile or (None, None)
    self.home, self.writer, self.running = home, writer, False

  def __call__(self, step: int, log):
    if step == self.first:
      log.flush()
      jax.profiler.start_trace(str(self.home / "profile"))
      self.running = True
    elif step == self.last:
      log.flush()
      self.close()

  def close(self):
    if self.running:
      self.running = False
      jax.profiler.stop_trace()
      self.writer.event("profile", path="profile", first=self.first, last=self.last)


READ = ("tokens", "source_tokens")  # what of a batch goes through a stack


class Log:
  """Publishes an update's numbers while the next one runs, so that the device never waits for the log."""

  def __init__(self, config: Config, model, total, writer, clock, batches, home, progress):
    self.config, self.total, self.writer, self.clock = config, total, writer, clock
    self.batches, self.home, self.progress = batches, home, progress
    self.pending, self.saved, self.skips = None, None, 0
    self.mark = (None, None)  # (step, totals of the clock) at the last row
    mesh = jax.sharding.get_mesh()
    peak = chips.peak_flops(mesh.devices.flat[0])
    self.tokens = 0  # since the last row
    how = dict(packed=config.data.packed)
    shapes = config.objective.batch_shapes(config.train.batch_size, config.data.sequence_length, **how)
    length, source = (shapes[name].shape[1] if name in shapes else 0 for name in READ)
    share = length / (length + source)  # train_flops counts by the decoder's tokens
    self.flops = {} if peak is None else {
      name: share * train_flops(model.config, length, causal=causal, source_length=source) / peak / mesh.devices.size
      for name, causal in (("mfu", True), ("mfu_full", False))
    }  # fmt: skip

  def __call__(self, number: int, learning_rate: float, numbers: dict, batch: dict):
    """Takes the numbers of batch `number`, still on their way, and publishes those of the batch before."""
    if self.mark[0] is None:
      self.mark = (number, self.clock.totals())
    self.flush()
    self.tokens += jax.process_count() * sum(batch[name].size for name in READ if name in batch)
    self.pending = (number, learning_rate, numbers)

  def flush(self):
    if self.pending is None:
      return
    number, learning_rate, numbers = self.pending
    self.pending = None
    numbers = {name: float(value) for name, value in jax.device_get(numbers).items()}
    step = number + 1
    finite = numbers.pop("finite")
    self.skips = 0 if finite else self.skips + 1
    if not finite:
      self.refuse(number, numbers)
    if step % self.config.train.log_every == 0 or step == self.total or step == 1:
      self.publish(step, learning_rate, numbers)

  def save(self, saves, state, facts: dict, blocking: bool = False, best: bool = False):
    """Starts a save of `state`, with the row of its step already written: what is restored has all its rows.

    The `best` one so far is kept until a better one comes.
    """
    self.flush()
    if best:
      saves.best = int(state["step"])
    with self.clock("checkpoint"):
      saves.save(state, facts, blocking)
    self.saved = int(state["step"])

  def publish(self, step: int, learning_rate: float, numbers: dict):
    last, before = self.mark
    now = self.clock.totals()
    spent = {name: now[name] - before[name] for name in ("step", "data wait")}
    seconds = max(sum(spent.values()), 1e-9)
    speed = self.tokens / seconds
    wait = spent["data wait"] / seconds
    self.mark, self.tokens = (step, now), 0
    del numbers["weight"]
    shares = {name: speed * flops for name, flops in self.flops.items()}
    row = {f"train/{name}": value for name, value in numbers.items()}
    row |= {"train/learning_rate": learning_rate, "tokens_per_second": speed, "data_wait": wait, **shares}
    self.writer.row(step, row)
    eta = (self.total - step) * seconds / max(step - last, 1)
    self.progress.update(
      step, self.total, numbers["loss"], learning_rate, speed, shares.get("mfu"), wait, self.saved, eta
    )

  def refuse(self, number: int, numbers: dict):
    """Records an update that was not made because it was not finite, and ends the run where the config says so."""
    train = self.config.train
    self.writer.event("skip", step=number + 1, loss=numbers["loss"], grad_norm=numbers["grad_norm"])
    if train.on_nonfinite == "skip" and self.skips <= train.max_skips:
      return
    folder = self.home / "incidents" / str(number + 1)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "batch.npz", **self.batches[number])
    workdir.write_json(folder / "config.json", to_dict(self.config))
    examples = self.batches.records(number)
    workdir.write_json(folder / "incident.json", dict(batch=number, examples=examples, **metrics.strict(numbers)))
    row = f"{self.skips} in a row" if train.on_nonfinite == "skip" else "train.on_nonfinite is 'abort'"
    raise FmjaxError(
      "DIVERGED", f"the loss or gradient of step {number + 1} is not finite ({row})", where=folder,
      got=f"loss {numbers['loss']}, gradient norm {numbers['grad_norm']}",
      did="left the parameters as they were; saved the batch and the config in that folder",
      fix="resume with --config.train.on_nonfinite=skip, or start anew with a lower optimizer.learning_rate",
    )  # fmt: skip


class Evaluation:
  """The eval split's numbers and a sample, once for each step that is due."""

  def __init__(self, config: Config, model, resting, prepared, writer, clock, home):
    self.config, self.model, self.prepared, self.writer, self.clock = config, model, prepared, writer, clock
    self.resting = resting
    self.sources = eval_batches(prepared, config)
    self.step = step_of(model, config.objective)
    rows = [row for row in metrics.read(home / metrics.ROWS) if "eval/loss" in row]
    self.last = rows[-1] if rows else {}
    self.stopping = Stopping(*(config.train.stop or (None, 0)), rows)

  def is_due(self, step: int, total: int) -> bool:
    every = self.config.train.eval_every
    due = step == total or (every is not None and step % every == 0 and step > 0)
    return due and self.last.get("step") != step

  def __call__(self, step: int, params, log, signals) -> bool:
    """Whether no step was better, of a run that looks for the best one."""
    log.flush()
    with self.clock("eval"):
      sources = {name: self.some(batches, signals) for name, batches in self.sources.items()}
      per_token, answers = self.prepared.bytes_per_token, Answers(self.sources)
      row = evaluate(self.step, params, sources, per_token, self.resting, answers)
      if signals.asked:  # half an evaluation is none; it is done again on resuming
        return False
      return self.tell(step, row, params)

  def tell(self, step: int, row: dict, params) -> bool:
    self.writer.row(step, row)
    self.last = dict(row, step=step)
    if self.config.train.sample_tokens:
      self.sample(step, params)
    self.writer.event("eval", step=step, clock=self.clock.totals())
    return self.stopping.add(self.last)

  def some(self, batches, signals):
    batches = itertools.islice(batches, self.config.train.eval_batches)
    return itertools.takewhile(lambda _: not signals.asked, batches)

  def sample(self, step: int, params):
    tokenizer, prompt = self.prepared.tokenizer, self.config.train.sample_prompt
    window = self.config.data.sequence_length
    ids = [tokenizer.end, *tokenizer.encode(prompt)][-window:]
    text = decode.stream(
      self.model, joined(self.resting, params), [ids], window=window, eos_token_id=tokenizer.end,
      max_new_tokens=self.config.train.sample_tokens, do_sample=True, temperature=0.8, seed=self.config.seed,
    )  # fmt: skip
    self.last["sample"] = prompt + tokenizer.decode([int(token_B[0]) for token_B in text])
    self.writer.sample(step, prompt, self.last["sample"])
