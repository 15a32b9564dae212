"""The loader: a batch is a function of (seed, step) alone.

Batch `step` of train holds the records at places [step * B, (step + 1) * B) of an endless sequence of epochs, each
epoch another permutation of all records. Hosts, devices and worker processes only decide who computes which part.
"""

import multiprocessing
import os
import signal
import sys
import threading

import numpy as np

from fmjax.data.preparation import Prepared, token_dtype
from fmjax.errors import FmjaxError

AHEAD = 4  # batches held ready


def attach(worker: int, workers: int):
  """Ties a worker process to the run: it outlives Ctrl-C, which a terminal sends to all, but not the run's death."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()


class Batches:
  """Batches of `split` ("train" or "eval") as dicts of numpy arrays whose first axis is B.

  `transform(record, rng)` makes one example of {"tokens": int32 [T + 1], "length": number of valid targets}; `rng`
  depends on (seed, epoch, record) alone. `rows` is the slice of a global batch that this host computes. `end` is one
  past the last step: None is never for train, and one pass for eval, which keeps the stream's order and fills its
  last batch with records of length 0.
  """

  def __init__(
    self,
    prepared: Prepared,
    split: str,
    transform,
    batch_size: int,
    seed: int,
    rows: slice | None = None,
    workers: int = 0,
    end: int | None = None,
  ):
    self.split, self.transform, self.seed, self.workers = split, transform, seed, workers
    self.rows = range(batch_size)[rows or slice(None)]
    self.batch_size, self.examples = batch_size, prepared.facts[split]["examples"]
    self.T, self.fill = prepared.facts["sequence_length"], prepared.tokenizer.end
    self.dtype = token_dtype(prepared.facts["vocab_size"])
    self.shards = prepared.shards(split)
    self.per_epoch = self.examples // batch_size if split == "train" else -(-self.examples // batch_size)
    self.end = min(self.per_epoch if split == "eval" else sys.maxsize, sys.maxsize if end is None else end)
    self.source = self.order = None

  def open(self):
    import grain

    # Grain shuffles epoch e by seed + e: neighbouring seeds would share epochs, were they not spread out first.
    seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
    self.order = grain.MapDataset.range(self.examples).shuffle(seed=seed).repeat()
    self.source = grain.sources.ArrayRecordDataSource(self.shards)  # last: another thread takes it for a sign

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    if not 0 <= step < self.end:
      raise IndexError(step)
    if self.source is None:
      self.open()
    examples = [self.example(step * self.batch_size + row) for row in self.rows]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  def records(self, step: int) -> list[int]:
    """The numbers, within their split, of the records of train batch `step`, row by row."""
    if self.source is None:
      self.open()
    return [int(self.order[step * self.batch_size + row]) for row in self.rows]

  def example(self, place: int) -> dict[str, np.ndarray]:
    """The example at one place of the endless sequence; past the end of eval, one without targets."""
    epoch, record = divmod(place, self.examples) if self.split == "train" else (0, place)
    if self.split == "train":
      record = self.order[place]
    tokens = self.read(record) if record < self.examples else np.empty(0, np.int32)
    padded = np.full(self.T + 1, self.fill, np.int32)
    padded[: len(tokens)] = tokens
    rng = np.random.default_rng([self.seed, epoch, record])
    return self.transform({"tokens": padded, "length": max(0, len(tokens) - 1)}, rng)

  def read(self, record: int) -> np.ndarray:
    try:
      return np.frombuffer(self.source[record], self.dtype)
    except Exception as error:  # ArrayRecord raises what its C++ raised: no narrower type is promised
      raise FmjaxError(
        "DATA_BAD",
        f"record {record} of the {self.split} split cannot be read",
        where=self.shards[0],
        got=f"{type(error).__name__}: {error}",
        fix="run again: damage is looked for, and named, at the start",
      ) from error

  def numbered(self, step: int) -> tuple[int, dict[str, np.ndarray]]:
    return step, self[step]

  def __iter__(self):
    return self.from_(0)

  def from_(self, start: int):
    """Yields (step, batch) from `start` on, reading ahead; close it to end its thread or processes."""
    import grain

    batches = grain.MapDataset.range(start, max(start, self.end)).map(self.numbered)
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))
    if self.workers:
      from absl import flags

      # Grain hands absl's flags on to its processes and refuses to before they are parsed; fmjax has none.
      flags.FLAGS.mark_as_parsed()
      options = grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=AHEAD)
      batches = batches.mp_prefetch(options, worker_init_fn=attach)
    ahead = iter(batches)
    try:
      for step, batch in ahead:
        # Copies: a batch from a process is a view of shared memory that is unmapped behind JAX's back.
        yield int(step), {name: np.array(value) for name, value in batch.items()} if self.workers else batch
    finally:
      ahead.close()
