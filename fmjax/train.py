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
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import checkpoint, chips, data, decode, metrics, optim, recipe, sharding, workdir
from fmjax.config import Config, from_config_dict, to_dict
from fmjax.errors import FmjaxError
from fmjax.evaluate import evaluate
from fmjax.models import Model
from fmjax.models.flops import train_flops
from fmjax.signals import Signals
from fmjax.step import abstract_state, eval_step, init_state, place, train_step

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "fmjax")


def run(path, given: Config | None = None, *, argv=(), started: float | None = None) -> dict:
  """Trains in the folder `path`, or goes on where the run there stopped; the last evaluation's row.

  `given` may be None where the folder holds a run. `started` is time.monotonic() at the start of the process.
  """
  started = time.monotonic() if started is None else started
  with workdir.claim(path) as home, Signals() as signals:
    clock = metrics.Clock(started)
    config, changes = settle(home.path, given)
    writer = metrics.Writer(home.path, started, jax.process_index() == 0)
    writer.event("start", argv=list(argv), pid=os.getpid(), host=platform.node())
    if changes:
      writer.event("config", changes=[f"{key}: {old} -> {new}" for key, old, new in changes])
    try:
      return train(config, home.path, writer, clock, signals, argv)
    except FmjaxError as error:
      name = "preempt" if error.code == "INTERRUPTED" else "error"
      writer.event(name, code=error.code, what=error.what, clock=clock.totals())
      raise
    except Exception as error:
      writer.event("error", code="INTERNAL", what=f"{type(error).__name__}: {error}", clock=clock.totals())
      raise
    finally:
      writer.close()


def train(config: Config, home: pathlib.Path, writer, clock, signals, argv) -> dict:
  prepared = data.prepare(config.data)
  config = sized(config, prepared)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_divides(config, mesh)
  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    model = Model(config.model, jnp.dtype(config.train.dtype), config.train.remat)
    tx = optim.make(config.optimizer, model.declarations())
    like = abstract_state(model=model, tx=tx)
    batches = make_batches(prepared, config, "train")
    total = config.train.steps or math.ceil(config.train.epochs * batches.examples / config.train.batch_size)
    learning_rate = optim.schedule(config.optimizer, total)
    metrics.parameter_table(list(parameter_rows(like["params"])))

    saves = checkpoint.Checkpoints(
      home / "checkpoints", config.checkpoint.keep, lambda name, **f: writer.event(name, clock=clock.totals(), **f)
    )
    closing.callback(saves.close)
    state = restore(saves, like, prepared, home, writer, clock)
    write_facts(home, config, prepared, mesh, like, argv)
    with clock("compile"):
      if state is None:
        state = jax.jit(functools.partial(init_state, model=model, tx=tx))(jax.random.key(config.seed))
      update = compiled(config, model, tx, like)
    writer.event("compile", seconds=clock.totals()["compile"])

    facts = dict(config_hash=recipe.config_hash(config), data_fingerprint=prepared.fingerprint, versions=versions())
    step = start = int(state["step"])
    log = Log(config, model, total, writer, clock, batches, home)
    closing.callback(log.progress.close)
    check = Evaluation(config, model, prepared, writer, clock, home)
    trace = Trace(config, home, writer)
    closing.callback(trace.close)
    ahead = batches.from_(start)
    closing.callback(ahead.close)
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


def settle(home: pathlib.Path, given: Config | None):
  """(the config to run, what changed): that of the run in `home`, with the harmless changes that `given` brings."""
  path = home / "config.json"
  if not path.exists():
    if given is None:
      raise FmjaxError("USAGE", f"there is no run in {home} to resume", fix="give --config=FILE to start one")
    return given, []
  saved = from_config_dict(workdir.read_json(path), str(path))
  if given is None:
    return saved, []
  if given.model.V is None:
    given = dataclasses.replace(given, model=dataclasses.replace(given.model, V=saved.model.V))
  changes = recipe.differences(saved, given)
  if refused := [change for change in changes if not recipe.harmless(change[0])]:
    rows = [f"{key}: saved {old!r}, given {new!r}" for key, old, new in refused]
    raise FmjaxError(
      "CONFIG_CHANGED", f"the run in {home} has another config", rows=rows,
      fix="give the saved values, or leave --config out to resume, or start a new run in another --workdir",
    )  # fmt: skip
  return given, changes


def sized(config: Config, prepared) -> Config:
  """The config with the vocabulary of the data's tokenizer."""
  size = prepared.tokenizer.vocab_size
  if config.model.V is not None and config.model.V < size:
    raise FmjaxError(
      "CONFIG", "the model's vocabulary is smaller than the tokenizer's", where="model.V", got=config.model.V,
      expected=f"at least {size}", fix="leave model.V out: it is then the tokenizer's",
    )  # fmt: skip
  return dataclasses.replace(config, model=dataclasses.replace(config.model, V=config.model.V or size))


def restore(saves, like, prepared, home, writer, clock):
  """The newest good state, with the rows past it cut off, or None at the start of a run."""
  with clock("checkpoint"):
    found = saves.restore(like)
  if found is None:
    lost = metrics.cut(home, 0)
    step, state = 0, None
  else:
    state, manifest = found
    data.check_fingerprint(manifest["data_fingerprint"], prepared)
    step = int(state["step"])
    lost = metrics.cut(home, step)
  if found or lost["rows"]:
    writer.event("restore", step=step, **lost)
  return state


def make_batches(prepared, config: Config, split: str):
  rows = config.train.batch_size // jax.process_count()
  first = rows * jax.process_index()
  return data.Batches(
    prepared, split, config.objective.transform, config.train.batch_size, config.seed,
    slice(first, first + rows), config.data.workers if split == "train" else 0,
  )  # fmt: skip


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
  shapes = config.objective.batch_shapes(config.train.batch_size, config.data.sequence_length)
  knobs = flowing(dict(learning_rate=jax.ShapeDtypeStruct((), jnp.float32)))
  return jax.jit(update, donate_argnums=0).lower(like, flowing(shapes), knobs).compile()


def parameter_rows(params):
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    held = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    axes = ", ".join("-" if axis is None else str(axis) for axis in x.sharding.spec)
    yield (
      jax.tree_util.keystr(path, simple=True, separator="/"),
      x.shape,
      x.dtype.name,
      axes,
      held,
      math.prod(x.shape),
    )


def versions() -> dict:
  return dict(python=platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES})


def write_facts(home, config: Config, prepared, mesh, like, argv):
  """What the run is and where it runs, for people, for resuming, and for whoever takes the model from here."""
  if jax.process_index() != 0:
    return
  device = mesh.devices.flat[0]
  counts = [math.prod(x.shape) for x in jax.tree.leaves(like["params"])]
  facts = dict(
    versions=versions(), host=platform.node(), platform=device.platform, device_kind=device.device_kind,
    device_count=mesh.devices.size, process_count=jax.process_count(), mesh=dict(mesh.shape),
    parameters=sum(counts), data=prepared.facts, command=" ".join(argv),
  )  # fmt: skip
  workdir.write_json(home / "environment.json", facts)
  workdir.write_json(home / "config.json", to_dict(config))
  prepared.tokenizer.save(home / "tokenizer")


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
    length = config.data.sequence_length
    self.tokens = config.train.batch_size * length
    self.flops = {} if peak is None else {
      name: train_flops(model.config, length, causal=causal) / peak / mesh.devices.size
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
    self.batches = make_batches(prepared, config, "eval")
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
      batches = itertools.islice(self.batches, self.config.train.eval_batches)
      batches = itertools.takewhile(lambda _: not signals.asked, batches)
      row = evaluate(self.step, params, batches, self.prepared.facts["eval_bytes_per_token"])
      if signals.asked:  # half an evaluation is none; it is done again on resuming
        return
      self.writer.row(step, row)
      self.last = dict(row, step=step)
      if self.config.train.sample_tokens:
        self.sample(step, params)
    self.writer.event("eval", step=step, clock=self.clock.totals())

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
