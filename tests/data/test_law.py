"""The law of the loader: global batch `step` is the same bits for any processes, workers and place to start from."""

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import xxhash

from fmjax import data
from fmjax.config import fits
from fmjax.corpus import DataConfig
from fmjax.objectives import OBJECTIVES, NextToken

B, T, STEPS, SEED = 12, 64, 24, 5
ROOT = pathlib.Path(__file__).parents[2]
OBJECTIVE = NextToken(fim_rate=0.5)  # whose transform draws


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  """DataConfig's fields: a packed mixture of three sources of documents of many lengths."""
  folder = tmp_path_factory.mktemp("law")
  choose = random.Random(0)
  mixture = {}
  for name, count, words in (("a", 150, 12), ("b", 60, 90), ("c", 40, 30)):
    texts = [
      " ".join(choose.choices("one two three four five".split(), k=choose.randint(1, 2 * words)))
      for _ in range(count)
    ]
    (folder / f"{name}.jsonl").write_text(
      "".join(json.dumps(dict(text=f"{name}{n} {text}")) + "\n" for n, text in enumerate(texts))
    )
    mixture[name] = dict(source="jsonl", path=str(folder / f"{name}.jsonl"))
  # One runs out before the last step, one changes its share, one is seen for several epochs.
  mixture["a"] |= dict(weight=1.0, epochs=0.2)
  mixture["b"] |= dict(schedule=[[0, 1.0], [STEPS // 2, 3.0]])
  mixture["c"] |= dict(weight=4.0)
  return dict(mixture=mixture, packed=True, tokenizer="bytes", sequence_length=T, cache=str(folder / "cache"))


@pytest.fixture(scope="module")
def prepared(tree):
  return data.prepare(fits(tree, DataConfig), OBJECTIVE)


def digest(batch):
  """Of a batch's arrays: names, dtypes, shapes and bytes."""
  hasher = xxhash.xxh3_128()
  for name in sorted(batch):
    hasher.update(
      repr((name, batch[name].dtype.str, batch[name].shape)).encode() + np.ascontiguousarray(batch[name]).tobytes()
    )
  return hasher.hexdigest()


def joined(parts):
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def hashes(prepared):
  """Of each global batch, made by itself, the last one first."""
  made = {}
  for step in reversed(range(STEPS)):
    made[step] = digest(data.Batches(prepared, "train", B, SEED)[step])
  assert len(set(made.values())) == STEPS
  return [made[step] for step in range(STEPS)]


def test_the_batches_hold_what_makes_the_law_hard(prepared):
  batches = data.Batches(prepared, "train", B, SEED)
  sources = [[name for name, _ in batches.records(step)] for step in range(STEPS)]
  every = [name for names in sources for name in names]
  assert "a" in every and "a" not in sources[-1], "a source runs out"
  rows = [row for step in range(STEPS) for row in batches.records(step)]
  assert len(set(rows)) < len(rows), "a row is seen again"
  assert sources[-1].count("b") > sources[1].count("b"), "a share changes"
  assert max(batches[step]["segments"].max() for step in range(STEPS)) > 2, "rows hold several documents"


@pytest.mark.parametrize("hosts", [2, 3, 4, 12])
def test_the_rows_of_hosts_are_the_batch(prepared, hashes, hosts):
  slices = [slice(B * host // hosts, B * (host + 1) // hosts) for host in range(hosts)]
  own = [data.Batches(prepared, "train", B, SEED, rows) for rows in slices]
  for step, expected in enumerate(hashes):
    assert digest(joined([batches[step] for batches in own])) == expected


@pytest.mark.parametrize("start", [0, 1, STEPS // 2 - 1, STEPS - 2])
def test_a_start_anywhere_gives_the_rest(prepared, hashes, start):
  made = [(step, digest(batch)) for step, batch in data.Batches(prepared, "train", B, SEED, end=STEPS).from_(start)]
  assert made == list(enumerate(hashes))[start:]


RUN = """
import json, pathlib, sys
import numpy as np
from fmjax import data
from fmjax.config import fits
from fmjax.corpus import DataConfig
from fmjax.objectives import NextToken

if __name__ == "__main__":
  tree, out, (host, hosts, workers, start, end, batch_size, seed) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
  prepared = data.prepare(fits(json.loads(tree), DataConfig), NextToken(fim_rate=0.5))
  rows = slice(batch_size * host // hosts, batch_size * (host + 1) // hosts)
  for step, batch in data.Batches(prepared, "train", batch_size, seed, rows, workers, end).from_(start):
    np.savez(pathlib.Path(out) / f"{step}-{host}.npz", **batch)
"""


def hashes_of_processes(tree, folder, hosts, workers, start, end):
  """Of the global batches [start, end) that `hosts` real processes make, each its own rows."""
  (folder / "run.py").write_text(RUN)
  processes = [
    subprocess.Popen(
      [sys.executable, folder / "run.py", json.dumps(tree), folder,
       *map(str, (host, hosts, workers, start, end, B, SEED))],
      env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )
    for host in range(hosts)
  ]  # fmt: skip
  for process in processes:
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
  found = []
  for step in range(start, end):
    parts = []
    for host in range(hosts):
      with np.load(folder / f"{step}-{host}.npz") as batch:
        parts.append(dict(batch))
    found.append(digest(joined(parts)))
  return found


def test_two_processes_one_with_a_worker_make_the_same_batches(tree, hashes, tmp_path):
  assert hashes_of_processes(tree, tmp_path, 2, 1, 9, 14) == hashes[9:14]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_any_processes_and_workers_make_the_same_batches(tree, hashes, tmp_path, hosts, workers):
  for start in (0, random.Random(hosts + workers).randrange(1, STEPS - 3)):
    assert hashes_of_processes(tree, tmp_path, hosts, workers, start, STEPS) == hashes[start:]


FIELDS = dict(
  classification=dict(labels=("no", "yes")),
  tagging=dict(labels=("O", "B-X")),
  multiple_choice=dict(labels=("a", "b")),
  question_answering=dict(stride=8, question_tokens=8),
)


def record(choose) -> dict:
  """What every objective finds its columns in."""
  one, other = (". ".join("Ab cd ef " * choose.randint(1, 6) for _ in range(choose.randint(1, 6))) for _ in "12")
  words, turns = one.split(), [dict(role="user", content=one), dict(role="assistant", content=other)]
  return dict(
    text=one, source=one, target=other, label=choose.randrange(2), other=other, score=choose.random(),
    words=words, tags=[choose.choice(("O", "B-X")) for _ in words], messages=turns,
    context=one, choices=[other, one], id=choose.random(), question=other,
    answers=dict(text=["cd"], answer_start=[one.index("cd")]),
  )  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_law_holds_for_every_objective(name, tmp_path):
  """Its batches are those that it promised, whoever makes which rows, in whatever order."""
  objective = OBJECTIVES[name](**FIELDS.get(name, {}))
  choose, length = random.Random(1), 48
  (tmp_path / "a.jsonl").write_text("".join(json.dumps(record(choose)) + "\n" for _ in range(60)))
  config = DataConfig(source="jsonl", path=str(tmp_path / "a.jsonl"), tokenizer="bytes", sequence_length=length,
                      cache=str(tmp_path / "cache"))  # fmt: skip
  prepared = data.prepare(config, objective)
  batches = data.Batches(prepared, "train", 6, 0)
  promised = objective.batch_shapes(6, length, packed=False)
  steps = [0, 1, 2, 50]
  whole = {step: batches[step] for step in steps}
  for step in reversed(steps):
    assert {n: (x.shape, x.dtype) for n, x in whole[step].items()} == {
      n: (x.shape, x.dtype) for n, x in promised.items()
    }
    halves = [data.Batches(prepared, "train", 6, 0, rows)[step] for rows in (slice(0, 2), slice(2, 6))]
    assert digest(joined(halves)) == digest(whole[step])
  assert digest(whole[0]) != digest(whole[1])
  held = data.Batches(prepared, "eval", 7, 0)
  last = held[held.end - 1]
  assert {n: x.shape[1:] for n, x in last.items()} == {n: x.shape[1:] for n, x in promised.items()}
