"""Checkpoints that carry proof: Orbax holds the arrays, a manifest beside them holds the checksum of every file.

A step is a folder `checkpoints/STEP`. It is written under the name `STEP-tmp`, its `manifest.json` last, and renamed
when it is whole: a kill leaves a `-tmp` folder and never half a step, so a step that lacks anything is damaged.
Orbax sees a plain tree of nested dicts (a tuple's places are "0", "1", ...), so reading it needs no optimizer.
One process writes and holds all of the state.
"""

import contextlib
import functools
import logging
import os
import pathlib
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from fmjax import manifest as manifests
from fmjax.errors import FmjaxError, message
from fmjax.leaves import by_path, compare, describe, flatten, nested, snapshot, statehash
from fmjax.manifest import Damage
from fmjax.workdir import FULL, disk_errno, sync_folder, trouble

MARGIN = 1 << 20  # bytes to be free beyond the arrays, for Orbax's own files and the manifest
CHUNK = 64 << 20  # bytes of an array per stored piece: a shard is read without the rest of a large array
ONE_AT_A_TIME = threading.Lock()  # Orbax numbers what it saves for the whole process


# Orbax.


def quiet(record) -> bool:
  """A logging filter: what Orbax logs as an error it also raises, with more frames than a person can use.

  Its second failed write is told by asyncio, when the collector comes by.
  """
  of_orbax = "orbax" in record.pathname or (record.name == "asyncio" and "orbax" in record.getMessage())
  return not of_orbax or record.levelno == logging.WARNING


@functools.cache
def orbax():
  """Orbax v1, imported at first use: it takes a second.

  It leaves at the first write that fails; its other writers then say, past every `except`, that it has gone.
  """
  from orbax.checkpoint import v1 as ocp

  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(quiet)
  hook = sys.unraisablehook
  sys.unraisablehook = lambda late: str(late.exc_value) == "Event loop is closed" or hook(late)
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  return ocp


def write_arrays(path, arrays: dict):
  ocp = orbax()
  context = ocp.Context()
  context.array.saving.use_compression = False  # floats hardly shrink, and zstd would take cores from the step
  context.array.saving.storage_options.chunk_byte_size = CHUNK
  context.memory.deepcopy_host_arrays = False  # a snapshot is ours already
  try:
    with ONE_AT_A_TIME, context:
      ocp.save(pathlib.Path(path).absolute(), nested(arrays))
  except Exception as error:
    end_waiting()
    if disk_errno(error) is None:
      raise
    raise OSError(disk_errno(error), os.strerror(disk_errno(error)), str(path)) from None


def end_waiting():
  """Ends the threads that Orbax leaves waiting for a folder that will never be: Python would wait 300 s to exit."""
  from orbax.checkpoint._src.futures import future

  waiting = [thread for thread in threading.enumerate() if isinstance(thread, future._SignalingThread)]
  for thread in waiting:
    thread.cancel()
  for thread in waiting:
    future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def read_arrays(path, like: dict) -> dict:
  """The arrays that `like` names, as what it says they are: ShapeDtypeStructs become sharded jax.Arrays."""
  ocp = orbax()
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return by_path(ocp.load(pathlib.Path(path).absolute(), nested(like)))  # Orbax takes no other


def placed(leaf):
  """`leaf` with a sharding on real devices: `eval_shape` under a mesh gives abstract ones, and none to scalars."""
  import jax

  mesh, sharding = jax.sharding.get_mesh(), leaf.sharding
  if sharding is None:
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    sharding = alone if mesh.empty else jax.sharding.NamedSharding(mesh, jax.P())
  elif isinstance(sharding, jax.sharding.NamedSharding) and isinstance(sharding.mesh, jax.sharding.AbstractMesh):
    sharding = jax.sharding.NamedSharding(mesh, sharding.spec)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def load(path, manifest: dict, like):
  """The step in `path` as a tree like `like`; leaves that `like` does not have stay unread."""
  import jax

  paths, leaves, treedef = flatten(like)
  wanted = dict(zip(paths, map(placed, leaves), strict=True))
  compare(path, manifest["tree"], describe(wanted), wanted)
  found = read_arrays(path, wanted)
  return jax.tree.unflatten(treedef, [found[name] for name in paths])


# The folder of steps, read only.


def candidates(folder: pathlib.Path) -> list[int]:
  """The names in the folder that are steps, newest first, whether or not they are good."""
  names = os.listdir(folder) if folder.is_dir() else []
  return sorted((int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name)), reverse=True)


def steps(folder) -> list[int]:
  """The steps that have a manifest, oldest first."""
  folder = pathlib.Path(folder)
  return [step for step in reversed(candidates(folder)) if (folder / str(step) / manifests.NAME).is_file()]


def newest(folder) -> int | None:
  return max(steps(folder), default=None)


def aside(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
  """(step, folder) of the steps that were found damaged before."""
  return [(int(path.name.partition(".")[0]), path) for path in sorted(folder.glob("[0-9]*.corrupt*"))]


def missing(folder, what="there is no checkpoint") -> FmjaxError:
  there = ", ".join(map(str, steps(folder))) or "none"
  return FmjaxError("CHECKPOINT_MISSING", what, where=folder, got=f"steps there: {there}")


def corrupt(folder, what, rows) -> FmjaxError:
  fix = f"examine: fmjax verify {pathlib.Path(folder).parent}; train anew in another --workdir"
  return FmjaxError("CHECKPOINT_CORRUPT", what, rows=rows, where=folder, fix=fix)


@contextlib.contextmanager
def one_step(folder: pathlib.Path, step: int):
  """What goes wrong inside is told of one step that was asked for by its number."""
  if not (folder / str(step)).exists():
    raise missing(folder, f"there is no checkpoint step {step}")
  try:
    yield folder / str(step)
  except Damage as damage:
    raise corrupt(folder, f"checkpoint step {step} is damaged", [damage]) from damage


def read_manifest(folder, step: int) -> dict:
  with one_step(pathlib.Path(folder), step) as path:
    return manifests.read(path)


def search(folder: pathlib.Path) -> tuple[int, dict, dict[int, Damage]]:
  """(newest good step, its manifest, the damage of each newer one); CHECKPOINT_CORRUPT if all is bad."""
  damages = {}
  for step in candidates(folder):
    try:
      return step, manifests.examine(folder / str(step), step), damages
    except Damage as damage:
      damages[step] = damage
  rows = [str(damage) for damage in damages.values()] + [f"{path} was set aside before" for _, path in aside(folder)]
  if rows:
    raise corrupt(folder, "every checkpoint of this run is damaged", rows[:3])
  raise missing(folder)


def note(step, damage: Damage, did: str, folder: pathlib.Path):
  labels = {"where": damage, "did": did, "fix": f"nothing to do; to examine: fmjax verify {folder.parent}"}
  print(message("note", "CHECKPOINT_CORRUPT", f"checkpoint step {step} is damaged", (), labels), file=sys.stderr)


def restore_step(folder, like, step: int | None = None):
  """(state, manifest) of `step`, or of the newest good one; changes nothing on disk. `like` may be a part of a state.

  Raises CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH.
  """
  folder = pathlib.Path(folder)
  if step is None:
    step, manifest, damages = search(folder)
    for bad, damage in damages.items():
      note(bad, damage, f"used step {step} instead", folder)
  else:
    with one_step(folder, step) as path:
      manifest = manifests.examine(path, step)
  return load(folder / str(step), manifest, like), manifest


def verdict(path, step: int) -> tuple[bool, str]:
  try:
    manifest = manifests.examine(path, step)
  except Damage as damage:
    return False, f"damaged: {damage}"
  digest = statehash(orbax().load(pathlib.Path(path).absolute()))
  if digest != manifest["statehash"]:
    return False, f"written wrongly: the arrays hash to {digest}, at the save they did to {manifest['statehash']}"
  return True, f"ok {digest}"


def verify(workdir) -> Iterator[tuple[int, bool | None, str]]:
  """(step, good, text) for each step, oldest first, from the bytes on disk alone; good is None for one set aside."""
  folder = pathlib.Path(workdir) / "checkpoints"
  there = [(step, folder / str(step)) for step in candidates(folder)] + aside(folder)
  if not there:
    raise missing(folder)
  for step, path in sorted(there):
    good, text = verdict(path, step)
    yield step, good if path.name == str(step) else None, f"step {path.name} {text}"


# The folder of steps, written.


class Checkpoints:
  """The checkpoints of a run that this process owns: saved in a thread, restored from the newest good one.

  `event(name, **facts)` is told of save, corrupt and tidy; of save from the thread.
  """

  def __init__(self, folder: pathlib.Path, keep: int, event: Callable[..., None]):
    self.folder, self.keep, self.event = pathlib.Path(folder), keep, event
    self.thread, self.error = None, None
    self.best = None  # a step that stays however many come after it

  def steps(self) -> list[int]:
    return steps(self.folder)

  def save(self, state, facts: dict, blocking: bool = False):
    """Saves `state` as step int(state["step"]), `facts` in its manifest; it may be donated when this returns.

    Raises what went wrong in the save before; DISK_FULL when there is no room.
    """
    self.wait()
    begun = time.monotonic()
    arrays = snapshot(state)
    step = int(arrays["step"])
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      free = shutil.disk_usage(self.folder).free
    except OSError as error:
      raise trouble(error, self.folder) from error
    if free < self._needed(arrays) and not (self.folder / str(step)).exists():
      raise self._full(step, arrays, "there is no room for")
    held = time.monotonic() - begun
    self.thread = threading.Thread(
      target=self._save, args=(step, arrays, facts, held, blocking), name=f"checkpoint {step}"
    )
    self.thread.start()
    if blocking:
      self.wait()

  def wait(self):
    """Returns when the save that is under way is safe on disk; raises what went wrong in it."""
    if self.thread is not None:
      self.thread.join()
      self.thread = None
    if self.error is not None:
      error, self.error = self.error, None
      raise error

  def close(self):
    self.wait()

  def restore(self, like):
    """(state, manifest) of the newest good step, placed as `like` says, or None if this run never saved one.

    A damaged newer step is set aside, with an event and a note. Raises CHECKPOINT_CORRUPT when no step is good.
    """
    self.wait()
    self._tidy()
    try:
      step, manifest, damages = search(self.folder)
    except FmjaxError as error:
      if error.code == "CHECKPOINT_MISSING":
        return None
      raise
    wanted = describe(by_path(like))
    compare(self.folder / str(step), manifest["tree"], wanted, manifest["tree"] | wanted)
    state = load(self.folder / str(step), manifest, like)
    for bad, damage in damages.items():
      name = self._set_aside(bad)
      note(bad, damage, f"set it aside as {name}; restored step {step} instead", self.folder)
      self.event("corrupt", step=bad, file=str(damage.path), expected=damage.expected, got=damage.got, moved_to=name)
    return state, manifest

  def _set_aside(self, step: int) -> str:
    names = (f"{step}.corrupt{suffix}" for suffix in ["", *(f".{n}" for n in range(2, 1000))])
    name = next(name for name in names if not (self.folder / name).exists())
    os.rename(self.folder / str(step), self.folder / name)
    sync_folder(self.folder)
    return name

  def _tidy(self):
    """Ends what a kill has interrupted: a whole folder between two names becomes its step, the rest goes."""
    left = sorted(self.folder.glob("*-tmp*"))
    for path in left:
      step, _, kind = path.name.partition("-")
      if step.isdigit() and kind in ("tmp", "old-tmp") and not (self.folder / step).exists():
        with contextlib.suppress(Damage):
          manifests.examine(path, int(step))
          os.rename(path, self.folder / step)
          continue
      shutil.rmtree(path)
    if left:
      self.event("tidy", names=[path.name for path in left])

  def _save(self, step, arrays, facts, held, blocking):
    begun = time.monotonic()
    if not blocking and sys.platform == "linux":  # there a thread has a priority of its own: the steps come first
      os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    draft = self.folder / f"{step}-tmp"
    try:
      digest = statehash(arrays)
      if not self._has(step, digest):
        self._drop(draft)
        write_arrays(draft, arrays)
        manifests.write(draft, {**facts, "step": step, "statehash": digest, "tree": describe(arrays)})
        self._publish(draft, step)
        seconds = time.monotonic() - begun + held
        size = sum(array.nbytes for array in arrays.values())
        self.event("save", step=step, seconds=seconds, held=held, bytes=size, statehash=digest)
    except BaseException as error:
      self._drop(draft)
      self.error = self._failure(error, step, arrays)

  def _has(self, step: int, digest: str) -> bool:
    try:
      return manifests.examine(self.folder / str(step), step)["statehash"] == digest
    except Damage:
      return False

  def _publish(self, draft, step):
    """Gives the draft its name, then lets steps beyond `keep` go; at each moment a good step stands."""
    replaced = self.folder / f"{step}-old-tmp"
    if (self.folder / str(step)).exists():
      os.rename(self.folder / str(step), replaced)
    os.rename(draft, self.folder / str(step))
    sync_folder(self.folder)
    self._drop(replaced)
    for old in [known for known in self.steps() if known <= step and known != self.best][: -self.keep]:
      doomed = self.folder / f"{old}-old-tmp"  # a kill must not leave half a step
      os.rename(self.folder / str(old), doomed)
      self._drop(doomed)

  def _drop(self, draft):
    for path in self.folder.glob(f"{draft.name}*"):
      for _ in range(10):  # Orbax gives up at the first error while other files of it are still being written
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
          break
        time.sleep(0.1)

  def _needed(self, arrays) -> int:
    return sum(array.nbytes for array in arrays.values()) + MARGIN

  def _full(self, step, arrays, what) -> FmjaxError:
    free = shutil.disk_usage(self.folder).free
    last = max((known for known in self.steps() if known != step), default=None)
    resumes = "" if last is None else f"; it resumes at {last}"
    return FmjaxError(
      "DISK_FULL",
      f"{what} checkpoint step {step}",
      where=self.folder,
      got=f"{self._needed(arrays) / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free",
      did="nothing is saved yet" if last is None else f"left step {last} as it was, intact",
      fix=f"free some space there and run the same command again{resumes}",
    )

  def _failure(self, error, step, arrays) -> FmjaxError:
    if isinstance(error, FmjaxError):
      return error
    if disk_errno(error) in FULL:
      failure = self._full(step, arrays, f"cannot write ({os.strerror(disk_errno(error))})")
    else:
      failure = trouble(error, self.folder / str(step)) or FmjaxError(
        "INTERNAL", f"saving checkpoint step {step} failed", got=f"{type(error).__name__}: {error}"
      )
    failure.__cause__ = error
    return failure
