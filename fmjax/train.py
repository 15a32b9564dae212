"""A training run, from its folder to its last row: the only file with time, IO, logging and jit of the step."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import checkpoint, chips, data, decode, environment, metrics, optim, resume, sharding, workdir
from fmjax.config import Config, to_dict
from fmjax.errors import FmjaxError
from fmjax.evaluate import evaluate
from fmjax.models.flops import train_flops
from fmjax.signals import Signals
from fmjax.step import abstract_state, eval_step, init_state, place, train_step


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
    tx = optim.make(config.optimizer, model.declarations())
    like = abstract_state(model=model, tx=tx)
    metrics.parameter_table(list(environment.parameter_rows(like["params"])))

    saves = checkpoint.Checkpoints(
      home / "checkpoints", config.checkpoint.keep, lambda name, **f: writer.event(name, clock=clock.totals(), **f)
    )
    closing.callback(saves.close)
    state = resume.restore(saves, like, prepared, home, writer, clock)
    config, prepared = resume.edit(config, before, prepared, state, writer)
    batches = make_batches(prepared, config, "train")
    total = steps_of(config, batches)
    learning_rate = optim.schedule(config.optimizer, total)
    environment.write(home, config, prepared, mesh, like, argv)
    with clock("compile"):
      if state is None:
        state = jax.jit(functools.partial(init_state, model=model, tx=tx))(jax.random.key(config.seed))
      update = compiled(config, model, tx, like)
    writer.event("compile", seconds=clock.totals()["compile"])

    facts = environment.facts(config, prepared)
    step = start = int(state["step"])
    log = Log(config, model, total, writer, clock, batches, home)
    closing.callback(log.progress.close)
    check = Evaluation(config, model, prepared, writer, clock, home)
    trace = closing.enter_context(contextlib.closing(Trace(config, home, writer)))
    ahead = closing.enter_context(contextlib.closing(batches.from_(start)))
    clock.base("step")
    signals.gentle = True
    while not signals.asked:
      if check.is_due(step, total):
        check(step, state["params"], log, signals)
      if step >= total:
        break
      with clock("data wait"):
        number, batch = next(ahead)
      trace(step, log)
      with jax.transfer_guard("disallow"):
        knobs = place(dict(learning_rate=np.float32(learning_rate(step))))
        state, numbers = update(state, place(batch), knobs)
      log(step, learning_rate(step), numbers)
      step = number + 1
      if step == total or (config.checkpoint.every and step % config.checkpoint.every == 0):
        log.save(saves, state, facts)
    if step > start and log.saved != step:
      log.save(saves, state, facts, blocking=True)
    with clock("checkpoint"):
      saves.wait()
    if check.is_due(total, total):  # a signal came first
      raise stopped(step, saves)
    writer.event("end", step=step, status="done", clock=clock.totals())
    return check.last


# --- before the first step


def sized(config: Config, prepared) -> Config:
  """The config with the vocabulary of the data's tokenizer."""
  size = prepared.tokenizer.vocab_size
  if config.model.V is not None and config.model.V < size:
    raise FmjaxError(
      "CONFIG", "the model's vocabulary is smaller than the tokenizer's", where="model.V", got=config.model.V,
      expected=f"at least {size}", fix="leave model.V out: it is then the tokenizer's",
    )  # fmt: skip
  return dataclasses.replace(config, model=dataclasses.replace(config.model, V=config.model.V or size))


def steps_of(config: Config, batches) -> int:
  """The number of updates that the config asks for and the data has."""
  train = config.train
  total = train.steps or min(math.ceil(train.epochs * batches.examples / train.batch_size), batches.end)
  if total > batches.end:
    raise FmjaxError("CONFIG", "the mixture gives no more examples before the run ends", where="data.mixture",
                     expected=f"{total} steps", got=f"{batches.end} until each source has given its epochs",
                     fix=f"set train.steps={batches.end}, or leave a source without epochs")  # fmt: skip
  return total


def make_batches(prepared, config: Config, split: str, source: int = 0):
  rows = config.train.batch_size // jax.process_count()
  first = rows * jax.process_index()
  return data.Batches(
    prepared, split, config.train.batch_size, config.seed, slice(first, first + rows),
    config.data.workers if split == "train" else 0, source=source,
  )  # fmt: skip


def eval_batches(prepared, config: Config) -> dict:
  """Name -> batches of each source that has an eval split."""
  every = enumerate(prepared.names)
  found = {name: make_batches(prepared, config, "eval", source) for source, name in every}
  return {name: batches for name, batches in found.items() if batches.end}


def batch_shapes(config: Config) -> dict:
  data = config.data
  return config.objective.batch_shapes(config.train.batch_size, data.sequence_length, packed=data.packed)


def flowing(shapes: dict) -> dict:
  """A batch's shapes with their shardings, for compiling before there is a batch."""
  mesh = jax.sharding.get_mesh()

  def placed(x):
    where = jax.NamedSharding(mesh, sharding.flowing("BT"[: len(x.shape)], x.shape))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return {name: placed(x) for name, x in shapes.items()}


def compiled(config: Config, model, tx, like):
  """The training step, compiled before there is a batch; it takes over the state that it is given."""
  update = functools.partial(
    train_step, model=model, objective=config.objective, tx=tx, accumulate=config.train.accumulate, seed=config.seed
  )
  shapes = batch_shapes(config)
  knobs = flowing(dict(learning_rate=jax.ShapeDtypeStruct((), jnp.float32)))
  return jax.jit(update, donate_argnums=0).lower(like, flowing(shapes), knobs).compile()


# --- while it runs


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


class Log:
  """Publishes an update's numbers while the next one runs, so that the device never waits for the log."""

  def __init__(self, config: Config, model, total, writer, clock, batches, home):
    self.config, self.total, self.writer, self.clock = config, total, writer, clock
    self.batches, self.home = batches, home
    self.progress = metrics.Progress()
    self.pending, self.saved, self.skips = None, None, 0
    self.mark = (None, None)  # (step, totals of the clock) at the last row
    mesh = jax.sharding.get_mesh()
    peak = chips.peak_flops(mesh.devices.flat[0])
    shapes = batch_shapes(config)
    length, source = (shapes[name].shape[1] if name in shapes else 0 for name in ("tokens", "source_tokens"))
    self.tokens = config.train.batch_size * (length + source)
    share = length / (length + source)  # train_flops counts by the decoder's tokens
    self.flops = {} if peak is None else {
      name: share * train_flops(model.config, length, causal=causal, source_length=source) / peak / mesh.devices.size
      for name, causal in (("mfu", True), ("mfu_full", False))
    }  # fmt: skip

  def __call__(self, number: int, learning_rate: float, numbers: dict):
    """Takes the numbers of batch `number`, still on their way, and publishes those of the batch before."""
    if self.mark[0] is None:
      self.mark = (number, self.clock.totals())
    self.flush()
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

  def save(self, saves, state, facts: dict, blocking: bool = False):
    """Starts a save of `state`, with the row of its step already written: what is restored has all its rows."""
    self.flush()
    with self.clock("checkpoint"):
      saves.save(state, facts, blocking)
    self.saved = int(state["step"])

  def publish(self, step: int, learning_rate: float, numbers: dict):
    last, before = self.mark
    now = self.clock.totals()
    spent = {name: now[name] - before[name] for name in ("step", "data wait")}
    seconds = max(sum(spent.values()), 1e-9)
    speed = (step - last) * self.tokens / seconds
    wait = spent["data wait"] / seconds
    self.mark = (step, now)
    del numbers["weight"]
    shares = {name: speed * flops for name, flops in self.flops.items()}
    row = {f"train/{name}": value for name, value in numbers.items()}
    row |= {"train/learning_rate": learning_rate, "tokens_per_second": speed, "data_wait": wait, **shares}
    self.writer.row(step, row)
    eta = (self.total - step) * self.tokens / max(speed, 1e-9)
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

  def __init__(self, config: Config, model, prepared, writer, clock, home):
    self.config, self.model, self.prepared, self.writer, self.clock = config, model, prepared, writer, clock
    self.sources = eval_batches(prepared, config)
    self.step = jax.jit(functools.partial(eval_step, model=model, objective=config.objective))
    rows = [row for row in metrics.read(home / metrics.ROWS) if "eval/loss" in row]
    self.last = rows[-1] if rows else {}

  def is_due(self, step: int, total: int) -> bool:
    every = self.config.train.eval_every
    due = step == total or (every is not None and step % every == 0 and step > 0)
    return due and self.last.get("step") != step

  def __call__(self, step: int, params, log, signals):
    log.flush()
    with self.clock("eval"):
      sources = {name: self.some(batches, signals) for name, batches in self.sources.items()}
      row = evaluate(self.step, params, sources, self.prepared.bytes_per_token)
      if signals.asked:  # half an evaluation is none; it is done again on resuming
        return
      self.writer.row(step, row)
      self.last = dict(row, step=step)
      if self.config.train.sample_tokens:
        self.sample(step, params)
    self.writer.event("eval", step=step, clock=self.clock.totals())

  def some(self, batches, signals):
    batches = itertools.islice(batches, self.config.train.eval_batches)
    return itertools.takewhile(lambda _: not signals.asked, batches)

  def sample(self, step: int, params):
    tokenizer, prompt = self.prepared.tokenizer, self.config.train.sample_prompt
    window = self.config.data.sequence_length
    ids = [tokenizer.end, *tokenizer.encode(prompt)][-window:]
    text = decode.stream(
      self.model, params, [ids], window=window, eos_token_id=tokenizer.end,
      max_new_tokens=self.config.train.sample_tokens, do_sample=True, temperature=0.8, seed=self.config.seed,
    )  # fmt: skip
    self.last["sample"] = prompt + tokenizer.decode([int(token_B[0]) for token_B in text])
    self.writer.sample(step, prompt, self.last["sample"])
