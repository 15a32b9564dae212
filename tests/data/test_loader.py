"""A batch is a function of (seed, step): of nothing else, on any host, in any process."""

import dataclasses
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from fmjax import data
from fmjax.config import fits
from fmjax.corpus import DataConfig
from fmjax.data import streams
from fmjax.data.loader import Order
from fmjax.errors import FmjaxError
from fmjax.objectives import NextToken

T, B = 8, 6
ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Drawing(NextToken):
  """Next-token prediction that tells what its generator drew."""

  def transform(self, record, rng, **how):
    return super().transform(record, rng, **how) | dict(drawn=rng.integers(1 << 60))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Windows that can be told apart: each holds its own characters."""
  folder = tmp_path_factory.mktemp("data")
  (folder / "input.txt").write_text("".join(chr(0x4E00 + i) for i in range(1000)))
  config = DataConfig(source="text", path=str(folder / "input.txt"), tokenizer="characters", sequence_length=T,
                      eval_fraction=0.2, cache=str(folder / "cache"))  # fmt: skip
  return data.prepare(config, Drawing())


def train(prepared, seed=0, batch_size=B, rows=None, workers=0, end=None):
  return data.Batches(prepared, "train", batch_size, seed, rows, workers, end)


def evaluation(prepared, batch_size=B, **fields):
  return data.Batches(prepared, "eval", batch_size, 0, **fields)


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name in one:
    assert one[name].dtype == other[name].dtype
    np.testing.assert_array_equal(one[name], other[name])


def record_numbers(batch):
  """Which window each row is: characters are in code-point order, so a window's second token is its place."""
  return (batch["targets"][:, 0] // T).tolist()


def test_a_batch_depends_on_nothing_that_was_read_before(prepared):
  ahead = train(prepared)
  forwards = [ahead[step] for step in range(40)]
  for step in (39, 0, 17, 17):
    assert_equal(train(prepared)[step], forwards[step])
  with pytest.raises(AssertionError):
    assert_equal(train(prepared, seed=1)[3], forwards[3])


def test_every_epoch_is_another_permutation_of_all_records(prepared):
  examples = prepared.facts["train"]["examples"]
  assert examples % B, "an epoch must end inside a batch for this test"
  batches = train(prepared)
  steps = -(-3 * examples // B)
  places = [record for step in range(steps) for record in record_numbers(batches[step])]
  epochs = [places[e * examples : (e + 1) * examples] for e in range(3)]
  assert all(sorted(epoch) == list(range(examples)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  assert batches.per_epoch == examples // B


def test_orders_of_neighbouring_seeds_and_epochs_are_unrelated(prepared):
  examples = prepared.facts["train"]["examples"]
  orders = [record_numbers(train(prepared, seed, examples)[epoch]) for seed in range(4) for epoch in range(4)]
  for i, one in enumerate(orders):
    for other in orders[:i] + [list(range(examples))]:
      assert abs(np.corrcoef(one, other)[0, 1]) < 0.45  # 4.5 standard deviations at 100 records
    assert (np.abs(np.diff(one)) == 1).sum() < 10  # 2 expected of neighbours that stay neighbours


def test_the_records_of_a_batch_are_known_without_reading_it(prepared):
  for step in (0, 40):
    assert train(prepared).records(step) == record_numbers(train(prepared)[step])


def test_rows_of_hosts_make_up_the_batch_and_each_reads_only_its_own(prepared):
  read = []

  @dataclasses.dataclass(frozen=True)
  class Counted(Drawing):
    def transform(self, record, rng, **how):
      read.append(record["tokens"][1])
      return super().transform(record, rng, **how)

  counted = dataclasses.replace(prepared, objective=Counted())
  for step in (0, 30):
    whole = train(prepared)[step]
    parts = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 6)):
      read.clear()
      parts.append(data.Batches(counted, "train", B, 0, rows)[step])
      assert len(read) == rows.stop - rows.start
    assert_equal({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_the_random_generator_belongs_to_seed_epoch_and_record(prepared):
  examples = prepared.facts["train"]["examples"]

  def drawn(seed, batch_size, epoch):
    batches, found = train(prepared, seed, batch_size), {}
    for step in range(epoch * examples // batch_size, -(-(epoch + 1) * examples // batch_size)):
      batch = batches[step]
      for row, record in enumerate(record_numbers(batch)):
        if (step * batch_size + row) // examples == epoch:
          found[record] = int(batch["drawn"][row])
    return found

  assert drawn(0, 6, 1) == drawn(0, 7, 1) and len(set(drawn(0, 6, 1).values())) == examples
  assert not set(drawn(0, 6, 1).values()) & set(drawn(0, 6, 0).values())
  assert not set(drawn(0, 6, 1).values()) & set(drawn(1, 6, 1).values())


def test_iterating_from_any_step_gives_the_same_batches(prepared):
  batches = train(prepared)
  ahead = batches.from_(25)
  for expected in range(25, 45):
    step, batch = next(ahead)
    assert step == expected
    assert_equal(batch, batches[step])
  ahead.close()
  assert [step for step, _ in train(prepared, end=28).from_(25)] == [25, 26, 27]
  assert [step for step, _ in train(prepared, end=3)] == [0, 1, 2]
  assert list(train(prepared, end=3).from_(3)) == []


def test_worker_processes_give_the_same_batches(prepared):
  batches = train(prepared)
  ahead = train(prepared, workers=2).from_(7)
  kept = [next(ahead) for _ in range(9)]
  ahead.close()
  for expected, (step, batch) in enumerate(kept, 7):
    assert step == expected and all(value.flags.owndata for value in batch.values())
    assert_equal(batch, batches[step])


WORKERS = """
import multiprocessing, signal, sys, os
from fmjax import data
from fmjax.corpus import DataConfig
if __name__ == "__main__":
  config = DataConfig(source="text", path=sys.argv[1], tokenizer="characters", sequence_length=8, eval_fraction=0.2,
                      cache=sys.argv[2])
  ahead = data.Batches(data.prepare(config), "train", 6, 0, workers=2).from_(0)
  first = next(ahead)[0], next(ahead)[0]  # one from each worker: both are ready
  workers = [child.pid for child in multiprocessing.active_children()]
  print(*workers, flush=True)
  for pid in workers:
    os.kill(pid, signal.SIGINT)
  print(*first, *(next(ahead)[0] for _ in range(50)), flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_outlive_an_interrupt_and_end_with_a_killed_run(prepared, tmp_path):
  (tmp_path / "run.py").write_text(WORKERS)
  config = prepared.config
  run = subprocess.Popen([sys.executable, tmp_path / "run.py", config.path, config.cache], stdout=subprocess.PIPE,
                         text=True, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
  workers = [int(pid) for pid in run.stdout.readline().split()]
  try:
    assert len(workers) == 2
    rest, _ = run.communicate(timeout=60)  # returns when the last process that holds the pipe has ended
    assert rest.splitlines()[0].split() == [str(step) for step in range(52)]
  except subprocess.TimeoutExpired:
    for pid in workers:
      os.kill(pid, signal.SIGKILL)
    raise


@pytest.mark.parametrize("batch_size", [1, 6, 26, 100])
def test_eval_sees_every_target_once_in_order_and_pads_with_weight_zero(prepared, batch_size):
  facts = prepared.facts["eval"]
  batches = evaluation(prepared, batch_size)
  found = list(batches)
  assert [step for step, _ in found] == list(range(batches.per_epoch)) and facts["tokens"] % T
  assert all(batch["tokens"].shape == (batch_size, T) for _, batch in found)
  targets = np.concatenate([batch["targets"][batch["weights"] > 0] for _, batch in found])
  assert targets.tolist() == [*range(800, 1000), prepared.tokenizer.end] and len(targets) == facts["tokens"]
  assert sum(batch["weights"].sum() for _, batch in found) == facts["tokens"]
  assert_equal(batches[batches.per_epoch - 1], found[-1][1])
  with pytest.raises(IndexError):
    batches[batches.per_epoch]


def test_eval_stops_at_its_end_and_shares_rows(prepared):
  assert [step for step, _ in evaluation(prepared, end=2)] == [0, 1]
  assert len(list(evaluation(prepared, end=1000))) == evaluation(prepared).per_epoch
  last = evaluation(prepared).per_epoch - 1
  halves = [evaluation(prepared, rows=rows)[last]["targets"] for rows in (slice(0, 3), slice(3, 6))]
  np.testing.assert_array_equal(np.concatenate(halves), evaluation(prepared)[last]["targets"])


# --- damage


def of_text(folder, monkeypatch, **fields):
  """4500 rows of train, in records of two rows."""
  monkeypatch.setattr(streams, "BLOCK", 16)
  (folder / "input.txt").write_text("".join(chr(0x4E00 + i % 20_000) for i in range(40_000)))
  return DataConfig(source="text", path=str(folder / "input.txt"), tokenizer="characters", sequence_length=T,
                    cache=str(folder / "cache"), **fields)  # fmt: skip


def damage(prepared, *numbers):
  """A bit of these records of train is flipped."""
  (split,) = prepared.splits["train"]
  (file,) = (pathlib.Path(name) for name in split.streams["text"].files)
  content = bytearray(file.read_bytes())
  for number in numbers:
    (tokens,) = split.streams["text"].read([(16 * number, 16 * number + 16)])
    place = content.index(tokens.astype("<u2").tobytes())
    content[place + 5] ^= 16
  file.write_bytes(content)
  return file


def opened_anew(prepared):
  """As another process has it."""
  return pickle.loads(pickle.dumps(prepared))


def test_a_record_that_cannot_be_read_names_its_file_and_its_number(tmp_path, monkeypatch):
  made = data.prepare(of_text(tmp_path, monkeypatch))
  file = damage(made, 100)
  batches = train(opened_anew(made))
  with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD  record 100 of.*{re.escape(str(file))}.*on_corrupt=skip"):
    for step in range(batches.per_epoch + 1):
      batches[step]


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_record_may_be_left_out_and_is_counted(tmp_path, monkeypatch, capsys, packed):
  made = data.prepare(of_text(tmp_path, monkeypatch, on_corrupt="skip", packed=packed))
  batches = train(made)
  intact = [batches[step] for step in range(batches.per_epoch + 1)]
  file = damage(made, 100)
  spoilt = {200, 201, 202} if not packed else set()  # the last one for the token before its first
  batches, lost, seen = train(opened_anew(made)), [], capsys.readouterr()
  for step, expected in enumerate(intact):
    batch, rows = batches[step], batches.records(step)
    empty = batch["weights"].sum(1) == 0
    lost += [row for row, one in zip(rows, empty) if one]
    for name in batch:
      np.testing.assert_array_equal(batch[name][~empty], expected[name][~empty])
    assert (batch["targets"][empty] == made.tokenizer.end).all()
  assert set(lost) == (spoilt or set(lost)) and 2 <= len(set(lost)) <= 3
  batches.sources[0].read([*lost, *lost])
  err = capsys.readouterr().err
  assert err.count("DATA_SKIPPED") == len(set(lost)), "each is told once"
  assert f"got:   {len(set(lost))} rows so far" in err and str(file) in err and not seen.err.count("DATA_SKIPPED")


def test_more_than_a_thousandth_is_too_much_to_leave_out(tmp_path, monkeypatch, capsys):
  made = data.prepare(of_text(tmp_path, monkeypatch, on_corrupt="skip"))
  examples = made.facts["train"]["examples"]
  assert 4 < examples / 1000 < 5
  damage(made, 100, 900)  # 6 rows
  batches = train(opened_anew(made))
  with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD  more than 0.1% of the rows.*got:   5 of {examples}"):
    for step in range(batches.per_epoch + 1):
      batches[step]
  assert capsys.readouterr().err.count("DATA_SKIPPED") == 5


# --- mixtures


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
  """Three sources whose characters tell which one a row is of, and its number in it."""
  folder = tmp_path_factory.mktemp("mixed")
  mixture, starts = {}, dict(a=0x4E00, b=0x5A00, c=0x6000)
  for (name, start), (size, weight) in zip(starts.items(), ((400, 1.0), (300, 1.0), (80, 2.0))):
    (folder / f"{name}.txt").write_text("".join(chr(start + i) for i in range(size)))
    mixture[name] = dict(source="text", path=str(folder / f"{name}.txt"), weight=weight)
  tree = dict(mixture=mixture, tokenizer="characters", sequence_length=T, eval_fraction=0.2, cache=str(folder / "c"))
  return data.prepare(fits(tree, DataConfig), Drawing())


def rows_of(mixed, batch):
  """(source's name, its row) of each row of a batch."""
  letters = mixed.tokenizer.characters
  found = []
  for target in batch["targets"][:, 0].tolist():
    start = max(code for code in (0x4E00, 0x5A00, 0x6000) if code <= ord(letters[target]))
    found.append(("abc"[(0x4E00, 0x5A00, 0x6000).index(start)], (ord(letters[target]) - start) // T))
  return found


def test_a_mixtures_rows_are_those_of_its_sources(mixed):
  batches = train(mixed)
  every = []
  for step in range(120):
    rows = rows_of(mixed, batches[step])
    assert batches.records(step) == rows
    every += rows
  names = [name for name, _ in every]
  assert [names.count(name) / len(names) for name in "abc"] == pytest.approx([0.25, 0.25, 0.5], abs=0.005)
  for source, name in enumerate("abc"):
    own = [row for one, row in every if one == name]
    examples = mixed.splits["train"][source].examples
    epochs = [own[at : at + examples] for at in range(0, len(own) - examples + 1, examples)]
    assert len(epochs) > 3 and all(sorted(epoch) == list(range(examples)) for epoch in epochs)
    assert all(one != other for one, other in zip(epochs, epochs[1:]))


def test_sources_draw_apart(mixed):
  """Neither an order nor a generator of one source is another's."""
  batches, drawn = train(mixed), {}
  for step in range(60):
    batch = batches[step]
    for (name, row), number in zip(rows_of(mixed, batch), batch["drawn"].tolist()):
      drawn.setdefault(number, set()).add((name, row))
  assert all(len(rows) == 1 for rows in drawn.values()) and len(drawn) == 60 * B
  orders = [[Order(100, 0, number)[n] for n in range(100)] for number in range(3)]
  for one, other in ((0, 1), (0, 2), (1, 2)):
    assert abs(np.corrcoef(orders[one], orders[other])[0, 1]) < 0.45


def test_a_mixture_of_one_is_that_one(mixed):
  alone = dataclasses.replace(mixed.config, mixture=mixed.config.mixture[:1], tokenizer="bytes")
  single = DataConfig(source="text", path=alone.mixture[0].path, tokenizer="bytes", sequence_length=T,
                      eval_fraction=0.2, cache=alone.cache)  # fmt: skip
  one, other = data.prepare(alone, Drawing()), data.prepare(single, Drawing())
  for step in (0, 50):
    assert_equal(train(one)[step], train(other)[step])
  assert one.fingerprint == f"a:{other.fingerprint}", "a mixture may be edited, whatever its size"


def test_each_source_is_evaluated_on_its_own(mixed):
  for source, name in enumerate("abc"):
    batches = evaluation(mixed, source=source)
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for _, batch in batches]).tolist()
    text = pathlib.Path(mixed.config.mixture[source].path).read_text()
    assert targets == [*mixed.tokenizer.encode(text[int(len(text) * 0.8) :]), mixed.tokenizer.end]
    assert mixed.names[source] == name


def test_a_mixture_ends_with_its_last_whole_batch(mixed):
  parts = tuple(dataclasses.replace(one, epochs=0.5) for one in mixed.config.mixture)
  ended = dataclasses.replace(mixed, config=dataclasses.replace(mixed.config, mixture=parts))
  batches = train(ended)
  halves = [-(-split.examples // 2) for split in mixed.splits["train"]]
  assert batches.examples == sum(halves) and batches.end == batches.per_epoch == sum(halves) // B
  rows = [row for step in range(batches.end) for row in rows_of(mixed, batches[step])]
  assert len(set(rows)) == len(rows)
  with pytest.raises(IndexError):
    batches[batches.end]


def test_fingerprints_of_mixtures(mixed):
  parts = mixed.config.mixture
  other = data.prepare(dataclasses.replace(mixed.config, mixture=parts[:2], tokenizer="bytes"))
  more = data.prepare(dataclasses.replace(mixed.config, tokenizer="bytes"))
  data.check_fingerprint(other.fingerprint, more)  # a source came
  data.check_fingerprint(more.fingerprint, other)  # and went
  renamed = dataclasses.replace(parts[0], name="b")
  swapped = data.prepare(dataclasses.replace(mixed.config, mixture=(renamed, parts[2]), tokenizer="bytes"))
  with pytest.raises(FmjaxError, match="DATA_CHANGED"):
    data.check_fingerprint(other.fingerprint, swapped)
