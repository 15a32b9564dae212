"""Mixtures: which source an example comes from, and which of its examples it is, as a function of its place alone.

The endless sequence of places is cut into stages, between which the weights change: where a schedule says so, or
where a source has given all the epochs that it may. Within a stage a pattern of PERIOD places repeats, with whole
numbers of places for each source, spread evenly: any PERIOD places in a row hold exactly these numbers.
"""

import bisect
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from fmjax.corpus import Component, DataConfig
from fmjax.errors import FmjaxError

PERIOD = 10_000


class Stage(NamedTuple):
  start: int  # the first place
  before: tuple[int, ...]  # examples of each source that were given until then
  counts: tuple[int, ...]  # of each source in a period
  pattern: np.ndarray  # [PERIOD] the source of each place
  rank: np.ndarray  # [PERIOD] how many places of the same source lie before it in the period


class Mixture:
  """`examples` are those of each source in an epoch. `end` is one past the last place; None: there is none."""

  def __init__(self, components: tuple[Component, ...], examples: list[int], temperature: float, batch_size: int):
    self.names = [one.name for one in components]
    steps = changes_of(components)
    changes = [(step * batch_size, weights_at(components, examples, temperature, step)) for step in steps]
    limits = [
      math.inf if one.epochs is None else math.ceil(one.epochs * size) for one, size in zip(components, examples)
    ]
    self.stages, self.end = stages(changes, limits)
    self.starts = [stage.start for stage in self.stages]

  def locate(self, place: int) -> tuple[int, int]:
    """(source, number of the example in the source's own endless sequence)."""
    stage = self.stages[bisect.bisect_right(self.starts, place) - 1]
    period, slot = divmod(place - stage.start, PERIOD)
    source = int(stage.pattern[slot])
    return source, stage.before[source] + period * stage.counts[source] + int(stage.rank[slot])


def changes_of(components) -> list[int]:
  """The steps from which weights hold."""
  return sorted({0} | {step for one in components for step, _ in one.schedule or ()})


def weights_at(components, examples, temperature: float, step: int) -> list[float]:
  """Each source's weight from `step` on, not normed."""
  found = []
  for one, size in zip(components, examples):
    if one.schedule is not None:
      found.append(max((pair for pair in one.schedule if pair[0] <= step), key=lambda pair: pair[0])[1])
    elif one.weight is not None:
      found.append(one.weight)
    else:
      found.append(min(size, one.cap or size) ** (1 / temperature))
  return found


def counts(weights) -> tuple[int, ...]:
  """Whole numbers that sum to PERIOD, each within 1 of its weight's share (largest remainders)."""
  share = np.asarray(weights, float) / math.fsum(weights) * PERIOD
  whole = np.floor(share).astype(int)
  most = np.argsort(whole - share, kind="stable")[: PERIOD - whole.sum()]
  whole[most] += 1
  return tuple(whole.tolist())


def spread(numbers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """(pattern, rank): the k-th place of a source that has n lies near (k + 1/2) / n of the period."""
  due = np.concatenate([(np.arange(n) + 0.5) / n for n in numbers if n])
  source = np.repeat(np.arange(len(numbers)), numbers)
  rank = np.concatenate([np.arange(n) for n in numbers])
  order = np.argsort(due, kind="stable")
  return source[order], rank[order]


def stages(changes: list[tuple[int, list[float]]], limits: list[float]) -> tuple[list[Stage], int | None]:
  """(stages, one past the last place) of weights that hold from their places on, and at most `limits` examples."""
  made, before, place = [], tuple(0 for _ in limits), 0
  todo = [*changes]
  weights = todo.pop(0)[1]
  while True:
    alive = [weight if given < limit else 0.0 for weight, given, limit in zip(weights, before, limits)]
    until = todo[0][0] if todo else math.inf
    if not any(alive):
      later = [w for _, weights in todo for w, given, limit in zip(weights, before, limits) if given < limit]
      if not made or any(later):
        raise FmjaxError("CONFIG", "no source of the mixture has a weight", where="data.mixture",
                         got=f"0 for each at its example {place}, of those that may give more",
                         fix="give one of them a weight, or a longer schedule")  # fmt: skip
      return made, place
    numbers = counts(alive)
    stage = Stage(place, before, numbers, *spread(numbers))
    last = min([until, *(exhausted(stage, source, limit) for source, limit in enumerate(limits))])
    made.append(stage)
    if last == math.inf:
      return made, None
    periods, slots = divmod(last - place, PERIOD)
    part = np.bincount(stage.pattern[:slots], minlength=len(limits))
    before = tuple(b + periods * n + int(p) for b, n, p in zip(before, numbers, part))
    place = last
    if last == until:
      weights = todo.pop(0)[1]


def exhausted(stage: Stage, source: int, limit: float) -> float:
  """One past the place that gives the last example that a source may give, in a stage that never ends."""
  left = limit - stage.before[source]
  if left == math.inf or not stage.counts[source]:
    return math.inf
  periods, rest = divmod(int(left) - 1, stage.counts[source])
  slot = int(np.flatnonzero(stage.pattern == source)[rest])
  return stage.start + periods * PERIOD + slot + 1


def union(old: DataConfig, new: DataConfig) -> DataConfig:
  """`new` with the sources that only `old` has after its own."""
  known = {one.name: one for one in (*old.components, *new.components)}
  return dataclasses.replace(new, mixture=tuple(known.values()))


def edited(old: DataConfig, new: DataConfig, step: int, examples: dict[str, int]) -> DataConfig:
  """`new` with the past of `old` in its schedules: until `step` every batch is what it was."""
  mixture = union(old, new).components
  then, now = {one.name: one for one in old.components}, weights_of(new, step, examples)

  def past(name):
    """Its own weights as they are written: another number, or another step, might move a place."""
    if name not in then:
      return [(0, 0.0)]
    return then[name].schedule or [(0, weights_of(old, 0, examples)[name])]

  changes = {at: weights_of(new, at, examples) for at in changes_of(new.components) if at > step}
  goes_on = alike(weights_of(old, step, examples), now)
  if not goes_on:
    changes[step] = now

  def schedule(name):
    before = [pair for pair in past(name) if pair[0] < step + goes_on]
    return (*before, *((at, changes[at].get(name, 0.0)) for at in sorted(changes)))

  mixture = tuple(dataclasses.replace(one, weight=None, schedule=schedule(one.name)) for one in mixture)
  return dataclasses.replace(new, mixture=mixture)


def weights_of(config: DataConfig, step: int, examples: dict[str, int]) -> dict[str, float]:
  parts = config.components
  weights = weights_at(parts, [examples[one.name] for one in parts], config.temperature, step)
  return dict(zip((one.name for one in parts), weights))


def alike(one: dict[str, float], other: dict[str, float]) -> bool:
  """Whether each source has the same share in both."""
  sums = math.fsum(one.values()), math.fsum(other.values())
  return all(math.isclose(one.get(x, 0.0) * sums[1], other.get(x, 0.0) * sums[0]) for x in {*one, *other})


def same_until(old: Mixture, new: Mixture, place: int) -> bool:
  """Whether both give the same examples before `place`; the sources of `old` are the first ones of `new`."""

  known = slice(len(old.names))

  def past(mixture):
    return [(one.start, one.before[known], one.counts[known]) for one in mixture.stages if one.start < place]

  return past(old) == past(new) and (new.end is None or new.end >= place)
