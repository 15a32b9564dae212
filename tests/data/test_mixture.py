"""Laws of a mixture: exact shares over any stretch, no example lost or twice, and a past that no edit touches."""

import dataclasses
import json
import math
import random

import numpy as np
import pytest

from fmjax.config import from_config_dict, to_dict
from fmjax.corpus import Component, DataConfig
from fmjax.data import mixture as mx
from fmjax.data.mixture import PERIOD, Mixture
from fmjax.errors import FmjaxError

B = 8


def parts(*fields, **named):
  """Components of stdlib: named a, b, c, ... or as given; a number is a weight."""
  named = named or dict(zip("abcdefgh", fields))
  of = {name: one if isinstance(one, dict) else dict(weight=one) for name, one in named.items()}
  return tuple(Component(name=name, **one) for name, one in of.items())


def made(components, examples=None, temperature=1.0):
  return Mixture(components, examples or [1000] * len(components), temperature, B)


def given(mixture, places):
  return [mixture.locate(place) for place in places]


def shares(mixture, first=0):
  """Of each source in the PERIOD places from `first` on."""
  sources = [source for source, _ in given(mixture, range(first, first + PERIOD))]
  return np.bincount(sources, minlength=len(mixture.names)).tolist()


def test_any_stretch_of_a_period_has_exactly_the_shares():
  mixture = made(parts(5, 3.3, 0.01, 1.7))
  expected = mx.counts([5, 3.3, 0.01, 1.7])
  assert sum(expected) == PERIOD
  for first in (0, 1, 4999, 9999, 10_000, 123_457, 10**15 + 7):
    assert shares(mixture, first) == list(expected)


def test_counts_are_whole_and_within_one_of_the_share():
  choose = random.Random(0)
  for _ in range(500):
    weights = [choose.choice([choose.random(), choose.randint(1, 9), 0.0]) for _ in range(choose.randint(1, 9))]
    if not any(weights):
      continue
    found = mx.counts(weights)
    assert sum(found) == PERIOD
    for count, weight in zip(found, weights):
      assert abs(count - weight / math.fsum(weights) * PERIOD) < 1 and (count == 0 or weight)


def test_each_source_counts_up_without_gaps():
  mixture = made(
    parts(dict(weight=3.0, epochs=2.5), dict(schedule=((0, 1.0), (700, 4.0), (2000, 0.0))), 2.0), [1001, 300, 7]
  )
  counters = [0, 0, 0]
  for place in range(5 * PERIOD):
    source, number = mixture.locate(place)
    assert number == counters[source]
    counters[source] += 1
  assert counters[0] == math.ceil(2.5 * 1001) and len(mixture.stages) == 4


def test_a_place_far_away_is_found_as_fast_as_a_near_one(monkeypatch):
  mixture = made(parts(2.0, 5.0))
  far = 10**15
  (source, number), periods = mixture.locate(far), far // PERIOD
  assert number == periods * mixture.stages[0].counts[source] + mixture.locate(far % PERIOD)[1]
  found = given(mixture, range(far, far + PERIOD))
  for source in (0, 1):
    numbers = [number for one, number in found if one == source]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
  # Nothing is counted up on the way: one lookup among the stages, one in the pattern.
  looked = []
  monkeypatch.setattr(mx.bisect, "bisect_right", lambda *args: looked.append(args) or 1)
  mixture.locate(far)
  assert len(looked) == 1


def test_sources_are_spread_evenly():
  weights = [0.5, 0.3, 0.15, 0.05]
  mixture = made(parts(*weights))
  sources = np.array([source for source, _ in given(mixture, range(PERIOD))])
  for source, weight in enumerate(weights):
    seen = np.cumsum(sources == source)
    assert np.abs(seen - weight * np.arange(1, PERIOD + 1)).max() < len(weights) / 2
    places = np.flatnonzero(sources == source)
    assert np.diff(places).max() <= 2 / weight + 1


def test_weights_by_size_temperature_and_cap():
  sizes = [100, 900, 9000]
  by_size = made(parts({}, {}, {}), sizes)
  assert shares(by_size) == [100, 900, 9000]
  warm = made(parts({}, {}, {}), sizes, temperature=2.0)
  assert shares(warm) == list(mx.counts([10, 30, math.sqrt(9000)]))
  equal = made(parts({}, {}, {}), sizes, temperature=1e9)
  assert shares(equal) == [3333, 3333, 3334] or max(shares(equal)) - min(shares(equal)) <= 1
  capped = made(parts({}, {}, dict(cap=1000)), sizes)
  assert shares(capped) == [500, 4500, 5000]


def test_a_weight_holds_whatever_the_size():
  assert shares(made(parts(1.0, 3.0), [10, 10_000])) == [2500, 7500]


def test_a_source_gives_its_epochs_and_leaves_its_part_to_the_others():
  mixture = made(parts(dict(weight=5.0, epochs=1.5), 3.0, 2.0), [101, 1000, 1000])
  found = given(mixture, range(4 * PERIOD))
  own = [place for place, (source, _) in enumerate(found) if source == 0]
  assert len(own) == math.ceil(1.5 * 101) == found[own[-1]][1] + 1
  assert mixture.end is None and mixture.stages[1].start == own[-1] + 1
  assert shares(mixture, own[-1] + 1) == [0, 6000, 4000]


def test_when_all_have_given_their_epochs_the_mixture_ends():
  mixture = made(parts(dict(weight=1.0, epochs=1), dict(weight=2.0, epochs=2.0), dict(epochs=0.5)), [333, 50, 1001])
  assert mixture.end == 333 + 100 + 501
  found = sorted(given(mixture, range(mixture.end)))
  assert found == [(0, n) for n in range(333)] + [(1, n) for n in range(100)] + [(2, n) for n in range(501)]


def test_a_schedule_changes_the_shares_at_its_step():
  still = made(parts(1.0, 1.0))
  moved = made(parts(dict(schedule=((0, 1.0), (500, 9.0))), dict(schedule=((0, 1.0), (900, 0.0)))))
  assert given(moved, range(500 * B)) == given(still, range(500 * B))
  first = mx.counts([9, 1])
  sources = np.array([source for source, _ in given(moved, range(500 * B, 900 * B))])
  assert np.bincount(sources).tolist() == pytest.approx([len(sources) * n / PERIOD for n in first], abs=1)
  assert shares(moved, 900 * B) == [PERIOD, 0]


PAUSE = (0, 1.0), (5, 0.0)
WITHOUT = {
  "never any": (parts(0.0, 0.0), 0),
  "none at first": (parts(dict(schedule=((0, 0.0), (5, 1.0)))), 0),
  "a pause": (parts(dict(schedule=(*PAUSE, (9, 1.0)))), 5 * B),
  "a pause with a change in it": (parts(dict(schedule=(*PAUSE, (7, 0.0), (9, 1.0)))), 5 * B),
  "between two": (parts(dict(schedule=PAUSE), dict(schedule=((0, 0.0), (9, 1.0)))), 5 * B),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_time_without_any_weight_is_refused(name):
  components, place = WITHOUT[name]
  with pytest.raises(FmjaxError, match=f"(?s)CONFIG  no source of the mixture has a weight.*example {place},"):
    made(components)


# --- edits


def config(components, temperature=1.0):
  return DataConfig(mixture=components, temperature=temperature)


SIZES = dict(a=1000, b=300, c=50_000, d=7)


def mixture_of(config):
  return Mixture(config.components, [SIZES[one.name] for one in config.components], config.temperature, B)


def named(config, places):
  """(name of the source, number) at each place."""
  mixture = mixture_of(config)
  return [(mixture.names[source], number) for source, number in given(mixture, places)]


def after(config, place):
  """{name: share} in the period from `place` on, of the sources that have one."""
  mixture = mixture_of(config)
  return {name: n for name, n in zip(mixture.names, shares(mixture, place)) if n}


def test_an_edit_changes_the_shares_from_its_step_on_and_nothing_before():
  old, new = config(parts(1.0, 1.0)), config(parts(a=1.0, b=3.0))
  edited = mx.edited(old, new, 100, SIZES)
  assert named(edited, range(100 * B)) == named(old, range(100 * B))
  assert after(edited, 100 * B) == dict(a=2500, b=7500)
  assert mx.same_until(mixture_of(old), mixture_of(edited), 100 * B)
  assert not mx.same_until(mixture_of(old), mixture_of(edited), 100 * B + 1)


def test_sources_come_and_go():
  old, new = config(parts(a=1.0, b=1.0)), config(parts(c=1.0, b=4.0))
  edited = mx.edited(old, new, 50, SIZES)
  assert [one.name for one in edited.mixture] == ["a", "b", "c"], "each keeps its number"
  assert named(edited, range(50 * B)) == named(old, range(50 * B))
  assert after(edited, 50 * B) == dict(b=8000, c=2000)
  # The counters of those that stay go on, those that come begin at 0.
  numbers = dict(b=[], c=[])
  for name, number in named(edited, range(50 * B + 1000)):
    numbers.setdefault(name, []).append(number)
  assert all(found == list(range(len(found))) for found in numbers.values())


def test_editing_back_and_forth():
  one, other = config(parts(a=1.0, b=1.0)), config(parts(a=9.0, b=1.0, c=1.0))
  run, seen, step = one, [], 0
  for number in range(1, 7):
    seen, step = named(run, range((step + 37) * B)), step + 37
    run = mx.edited(run, other if number % 2 else one, step, SIZES)
    assert named(run, range(step * B)) == seen
    expected = after(other if number % 2 else one, 0)
    assert after(run, step * B) == expected


def test_the_same_edit_again_is_none():
  old, new = config(parts(a=1.0, b={}), 2.0), config(parts(a=3.0, b=dict(schedule=((0, 1.0), (70, 2.0)))))
  edited = mx.edited(old, new, 50, SIZES)
  for step in (50, 51, 69, 70, 71, 1000):
    assert mx.edited(edited, new, step, SIZES).mixture == edited.mixture


def test_an_edit_at_the_start_is_the_new_mixture():
  old, new = config(parts(a=1.0, b=1.0)), config(parts(a=3.0, b=1.0))
  assert named(mx.edited(old, new, 0, SIZES), range(500)) == named(new, range(500))


def test_an_edited_config_is_a_config():
  edited = mx.edited(config(parts(a=1.0, b=1.0)), config(parts(a=1.0, b=3.0, c={})), 9, SIZES)
  tree = to_dict(from_config_dict(dict(data=dataclasses.asdict(edited))))
  assert from_config_dict(json.loads(json.dumps(tree))).data == edited


def test_epochs_that_would_change_the_past_are_seen():
  old = config(parts(a=dict(weight=1.0, epochs=1.0), b=1.0))
  until = 250 * B  # all 1000 of `a` are given
  for epochs in (None, 0.5, 2.0):
    new = config(parts(a=dict(weight=1.0, epochs=epochs), b=1.0))
    assert not mx.same_until(mixture_of(old), mixture_of(mx.edited(old, new, 300, SIZES)), 300 * B)
    early = mx.edited(old, new, 100, SIZES)
    assert mx.same_until(mixture_of(old), mixture_of(early), 100 * B) == (until > 100 * B and epochs != 0.5) or epochs
  only = config(parts(a=1.0))
  ended = config(parts(a=dict(weight=1.0, epochs=0.1)))
  assert not mx.same_until(mixture_of(only), mixture_of(mx.edited(only, ended, 100, SIZES)), 100 * B)


def anyone(choose, names):
  """A random config of some sources: with weights, by size, or scheduled."""
  chosen = sorted(choose.sample(names, choose.randint(1, len(names))))
  fields = {}
  for name in chosen:
    kind = choose.randrange(4)
    if kind == 0:
      fields[name] = dict(weight=choose.choice([choose.randint(1, 12), round(choose.random(), 2) + 0.01]))
    elif kind == 1:
      fields[name] = dict(cap=choose.choice([None, 100]))
    else:
      steps = [0, *sorted(choose.sample(range(1, 120), choose.randint(0, 3)))]
      weights = [round(choose.random(), 2) + 0.01 for _ in steps]
      fields[name] = dict(schedule=tuple(zip(steps, map(float, weights))))
  return config(parts(**fields), choose.choice([1.0, 1.0, 3.0]))


def test_no_edit_touches_the_past():
  choose = random.Random(1)
  for _ in range(150):
    old, step = anyone(choose, "abcd"), 0
    for _ in range(3):
      step += choose.randint(1, 60)
      new = anyone(choose, "abcd")
      edited = mx.edited(old, new, step, SIZES)
      assert mx.same_until(mixture_of(old), mixture_of(edited), step * B)
      places = [*range(0, step * B, 7), step * B - 1]
      assert named(edited, places) == named(old, places)
      weights = mx.weights_of(new, step, SIZES)
      now = mixture_of(edited).stages[mx.bisect.bisect_right(mixture_of(edited).starts, step * B) - 1].counts
      found = dict(zip((one.name for one in edited.mixture), now))
      total = math.fsum(weights.values())
      assert all(abs(found[x] - weights.get(x, 0.0) / total * PERIOD) < 1 for x in found)
      old = edited


def test_the_past_is_exact_where_shares_in_place_of_weights_would_move_it():
  """Weights whose share of a period, once rounded, goes to another source."""
  weights = [2, 0.17, 0.3, 0.69, 0.5]
  old = config(tuple(Component(name=name, weight=weight) for name, weight in zip("abcde", map(float, weights))))
  sizes = dict.fromkeys("abcde", 100)
  edited = mx.edited(old, config((*old.mixture[:4], Component(name="e", weight=9.0))), 10, sizes)
  then = [Mixture(one.components, [100] * 5, 1.0, B).stages[0].counts for one in (old, edited)]
  assert then[0] == then[1]
