"""A batch is a function of (seed, step): of nothing else, on any host, in any process."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from fmjax import data
from fmjax.config import DataConfig
from fmjax.errors import FmjaxError

T, B = 8, 6
ROOT = pathlib.Path(__file__).parents[2]


def transform(record, rng):
  tokens = record["tokens"]
  weights = (np.arange(len(tokens) - 1) < record["length"]).astype(np.float32)
  return dict(tokens=tokens[:-1], targets=tokens[1:], weights=weights, drawn=rng.integers(1 << 60))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Windows that can be told apart: each holds its own characters."""
  folder = tmp_path_factory.mktemp("data")
  (folder / "input.txt").write_text("".join(chr(0x4E00 + i) for i in range(1000)))
  return data.prepare(DataConfig(source="text", path=str(folder / "input.txt"), tokenizer="characters",
                                 sequence_length=T, eval_fraction=0.2, cache=str(folder / "cache")))  # fmt: skip


def train(prepared, seed=0, batch_size=B, rows=None, workers=0, end=None):
  return data.Batches(prepared, "train", transform, batch_size, seed, rows, workers, end)


def evaluation(prepared, batch_size=B, **fields):
  return data.Batches(prepared, "eval", transform, batch_size, 0, **fields)


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

  def counted(record, rng):
    read.append(record["tokens"][1])
    return transform(record, rng)

  for step in (0, 30):
    whole = train(prepared)[step]
    parts = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 6)):
      read.clear()
      parts.append(data.Batches(prepared, "train", counted, B, 0, rows)[step])
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
import multiprocessing, pathlib, signal, sys, time, os
from fmjax import data
from fmjax.data.preparation import open_prepared
def transform(record, rng):
  return dict(tokens=record["tokens"])
if __name__ == "__main__":
  ahead = data.Batches(open_prepared(pathlib.Path(sys.argv[1])), "train", transform, 6, 0, workers=2).from_(0)
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
  run = subprocess.Popen([sys.executable, tmp_path / "run.py", prepared.folder], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
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


def test_a_record_that_cannot_be_read_names_its_file(prepared, tmp_path):
  batches = train(prepared)
  broken = tmp_path / "train-00000.arrayrecord"
  content = bytearray(pathlib.Path(batches.shards[0]).read_bytes())
  content[1000] ^= 1
  broken.write_bytes(content)
  batches.shards = [str(broken)]
  with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD.*{broken}"):
    for step in range(batches.per_epoch + 1):
      batches[step]
