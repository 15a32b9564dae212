"""The loader: a batch is a function of (seed, step) alone.

Batch `step` of train holds the examples at places [step * B, (step + 1) * B) of an endless sequence, or with
data.pool some of those of the batches beside it; with data.join several of them share a row. A mixture says which
source each place belongs to; a source gives its rows epoch after epoch, each epoch another permutation. Hosts,
devices and worker processes only decide who computes which part.
"""

import signal
import struct
import sys

import numpy as np
import xxhash

from fmjax.corpus import DataConfig, Subsample
from fmjax.data import weights
from fmjax.data.dataset import Prepared, Split
from fmjax.data.mixture import Mixture
from fmjax.data.rows import fields_of
from fmjax.data.runners import end_with_parent
from fmjax.objectives.labelled import side_by_side
from fmjax.objectives.objective import Documents, Examples

AHEAD = 4  # batches held ready
JOINED = 64  # tokens by which rows of several examples differ in length
DRAWS, POOLS = 1, 2  # what sets the numbers of a subsample, and of pools, apart from those of the order


def attach(worker: int, workers: int):
  """Ties a worker process to the run: it outlives Ctrl-C, which a terminal sends to all, but not the run's death."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  end_with_parent()


class Order:
  """The rows of a source, epoch after epoch, each in another order: row `order[n]` is its n-th example.

  With a `subsample` an epoch is of the `examples` rows that are drawn.
  """

  def __init__(self, rows: int, seed: int, number: int, subsample: Subsample | None = None):
    self.rows, self.subsample, self.examples = rows, subsample, drawn(rows, subsample)
    # Epoch e is shuffled by seed + e: neighbouring seeds would share epochs, were they not spread out first.
    self.seed = spread(seed, number)
    own = None if subsample is None else subsample.seed
    self.draws = spread(seed if own is None else own, number, DRAWS)
    self.shares = None if subsample is None or subsample.weights is None else weights.shares(subsample.weights, rows)

  def __getitem__(self, number: int) -> int:
    from grain.experimental import index_shuffle

    # What grain.MapDataset.shuffle gives, without the layers around it, which take three times as long.
    epoch, place = divmod(number, self.examples)
    place = index_shuffle(place, max_index=self.examples - 1, seed=(self.seed + epoch) % 2**32, rounds=4)
    if self.subsample is None:
      return place
    if self.subsample.replace:
      drawn = xxhash.xxh3_64_intdigest(struct.pack("<q", place), self.draws)
      return drawn % self.rows if self.shares is None else int(np.searchsorted(self.shares, drawn / 2**64, "right"))
    return index_shuffle(place, max_index=self.rows - 1, seed=self.draws, rounds=4)


def spread(seed: int, number: int, *apart: int) -> int:
  """A number below 2**32 of the source `number`, far from that of a neighbouring seed."""
  words = [seed, number, *apart] if number or apart else seed
  return int(np.random.SeedSequence(words).generate_state(1)[0])


def drawn(rows: int, subsample: Subsample | None) -> int:
  """How many of so many rows an epoch has."""
  return rows if subsample is None else max(1, round(rows * subsample.fraction))


def lengths_of(prepared: Prepared) -> tuple[int, ...]:
  """Those that a batch may have, ascending: data.buckets, if rows are not always full, and data.sequence_length."""
  config, layout = prepared.config, prepared.splits["train"][0].layout
  if config.buckets is None or not isinstance(layout, (Documents, Examples)) or getattr(layout, "room", None):
    return (config.sequence_length,)
  if prepared.objective.extent(dict.fromkeys(fields_of(layout), 0)) is None:
    return (config.sequence_length,)
  return *config.buckets, config.sequence_length


def joined_lengths(config: DataConfig) -> tuple[int, ...]:
  """Of rows that hold data.join examples: few, as each is compiled, up to the one that holds any."""
  longest = config.join * config.sequence_length
  return (*range(JOINED, longest, JOINED), longest)


class Batches:
  """Batches of `split` ("train" or "eval") as dicts of numpy arrays whose first axis is B.

  An example is `objective.transform(record, rng)`, where `rng` depends on (seed, epoch, row, source) alone. `rows` is
  the slice of a global batch that this host computes. `end` is one past the last step: None is never for train, and
  one pass for eval, which is of one `source` (its number), keeps its rows' order, and fills its last batch with rows
  that have no tokens.

  A batch is as long as one of `lengths`: with data.buckets the least that holds all its rows, those of other hosts
  too. Which rows it has, and what `rng` draws for them, does not depend on that. With data.pool the rows of so many
  train batches are sorted by length and dealt out again, and the batches shuffled.
  """

  def __init__(
    self,
    prepared: Prepared,
    split: str,
    batch_size: int,
    seed: int,
    rows: slice | None = None,
    workers: int = 0,
    end: int | None = None,
    source: int = 0,
  ):
    self.prepared, self.split, self.seed, self.workers, self.source = prepared, split, seed, workers, source
    self.rows = range(batch_size)[rows or slice(None)]
    self.batch_size = batch_size
    self.sources = prepared.splits[split]
    self.join = prepared.config.join if split == "train" else None
    self.lengths = lengths_of(prepared) if self.join is None else joined_lengths(prepared.config)
    self.vocabulary = prepared.tokenizer.vocabulary(prepared.objective.needs(prepared.config.sequence_length))
    if split == "train":
      sizes = [drawn(one.examples, prepared.config.subsample) for one in self.sources]
      components, temperature = prepared.config.components, prepared.config.temperature
      self.mixture = Mixture(components, sizes, temperature, batch_size)
      self.examples = sum(sizes) if self.mixture.end is None else self.mixture.end
      last = sys.maxsize if self.mixture.end is None else self.mixture.end // batch_size
      self.pool = prepared.config.pool if len(self.lengths) > 1 and self.examples >= batch_size else None
    else:
      self.pool = None
      self.examples = self.sources[source].examples
      last = -(-self.examples // batch_size)
    self.per_epoch = self.examples // batch_size if split == "train" else last
    self.last, self.end = last, min(last, sys.maxsize if end is None else end)
    self.orders, self.sorted = None, (-1, [])

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    if not 0 <= step < self.end:
      raise IndexError(step)
    wanted = self.wanted(step, self.rows)
    length = self.length(step)
    rngs = [self.rng(*one) for one in wanted]
    records = self.read([(source, row) for source, _, row in wanted])
    if partners := getattr(self.sources[0].layout, "partners", 0):
      chosen = [self.partners(source, row, rng, partners) for (source, _, row), rng in zip(wanted, rngs)]
      others = iter(self.read([one for every in chosen for one in every]))
      for record, every in zip(records, chosen):
        record["partners"] = [next(others) for _ in every]
    objective = self.prepared.objective
    own = length if self.join is None else self.prepared.config.sequence_length
    how = dict(vocabulary=self.vocabulary, length=own)
    examples = [objective.transform(record, rng, **how) for record, rng in zip(records, rngs)]
    if self.join is not None:
      groups = [examples[start : start + self.join] for start in range(0, len(examples), self.join)]
      examples = [side_by_side(group, length, getattr(objective, "pooling", "") == "last") for group in groups]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  def length(self, step: int) -> int:
    """That of batch `step`, by the sizes of all its rows."""
    *shorter, longest = self.lengths
    if not shorter:
      return longest
    needed = list(map(self.extent, self.wanted(step, range(self.batch_size))))
    if self.join is not None:
      cut = np.minimum(needed, self.prepared.config.sequence_length)
      needed = cut.reshape(-1, self.join).sum(1).tolist()
    least = max(needed)
    return next((length for length in shorter if length >= least), longest)

  def extent(self, one: tuple[int, int, int]) -> int:
    """The length that a row needs; of one past its source's last 0."""
    source, _, row = one
    if row >= self.sources[source].examples:
      return 0
    found = self.prepared.objective.extent(self.sources[source].sizes(row))
    return self.lengths[-1] if found is None else found

  def wanted(self, step: int, rows: range) -> list[tuple[int, int, int]]:
    """(source, epoch, row) of those places in batch `step`."""
    if self.pool is None:
      return [self.locate(step * self.batch_size + row) for row in rows]
    epoch = step // self.per_epoch * self.per_epoch  # its first step; no pool goes on into the next
    first = epoch + (step - epoch) // self.pool * self.pool
    known = self.sorted  # once: another thread may ask for another pool
    if known[0] != first:
      last = min(first + self.pool, epoch + self.per_epoch, self.last)
      known = self.sorted = first, self.batches_of(first, last)
    batch = known[1][step - first]
    return [batch[row] for row in rows]

  def batches_of(self, first: int, last: int) -> list[list[tuple[int, int, int]]]:
    """The batches [first, last), whose rows are dealt out by length."""
    size, count = self.batch_size, last - first
    rows = [self.locate(first * size + place) for place in range(count * size)]
    order = np.argsort([self.extent(one) for one in rows], kind="stable").reshape(count, size)
    shuffled = np.random.default_rng(spread(self.seed, first, POOLS)).permutation(count)
    return [[rows[place] for place in order[batch]] for batch in shuffled]

  def locate(self, place: int) -> tuple[int, int, int]:
    """(source, epoch, row) of a place; past the end of eval a row that is past the source's last."""
    if self.split == "eval":
      return self.source, 0, place
    source, number = self.mixture.locate(place)
    if self.orders is None:
      subsample = self.prepared.config.subsample
      self.orders = [Order(one.examples, self.seed, number, subsample) for number, one in enumerate(self.sources)]
    return source, number // self.orders[source].examples, self.orders[source][number]

  def rng(self, source: int, epoch: int, row: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, epoch, row, source] if source else [self.seed, epoch, row])

  def read(self, wanted: list[tuple[int, int]]) -> list[dict]:
    """The records of (source, row) pairs."""
    records: list = [None] * len(wanted)
    for source in sorted({source for source, _ in wanted}):
      places = [place for place, one in enumerate(wanted) if one[0] == source]
      for place, record in zip(places, self.sources[source].read([wanted[place][1] for place in places])):
        records[place] = record
    return records

  def partners(self, source: int, row: int, rng, count: int) -> list[tuple[int, int]]:
    """Random rows of the same source that belong to other documents; the row's own where it has no other."""
    split: Split = self.sources[source]
    if row >= split.examples:
      return [(source, row)] * count
    chosen, own = [], split.rows.document(row)
    for _ in range(count):
      other = int(rng.integers(split.examples))
      for _ in range(10):  # as often as BERT's code tries
        if split.rows.document(other) != own:
          break
        other = int(rng.integers(split.examples))
      chosen.append((source, other))
    return chosen

  def records(self, step: int) -> list[int] | list[tuple[str, int]]:
    """Which rows train batch `step` holds: their numbers, with a mixture (its source's name, the number)."""
    found = self.wanted(step, self.rows)
    if len(self.sources) == 1:
      return [row for _, _, row in found]
    return [(self.prepared.names[source], row) for source, _, row in found]

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
