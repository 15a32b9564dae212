"""`fmjax data` shows a batch as the model sees it, and neither it nor `fmjax prepare` needs a device."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from fmjax import data
from fmjax.__main__ import main
from fmjax.corpus import DataConfig
from fmjax.data import inspection
from fmjax.objectives import MaskedToken, NextToken

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = str(ROOT / "tests/recipes/tiny.py")
TEXT = "".join(f"Line {i} of a text. It goes on {i * i}.\n" for i in range(300))


@pytest.fixture
def text(tmp_path):
  (tmp_path / "text.txt").write_text(TEXT)
  return tmp_path / "text.txt"


def words(command, text, *more):
  return [
    command,
    f"--config={RECIPE}",
    f"--config.data.path={text}",
    f"--config.data.cache={text.parent}/cache",
    *more,
  ]


def test_neither_command_starts_a_backend(text):
  """JAX fails at its first array where it is told of a platform that there is not."""
  code = (
    "import sys\nfrom fmjax.__main__ import main\nfrom jax._src import xla_bridge\n"
    f"assert main({words('prepare', text)}) == 0\nassert main({words('data', text)}) == 0\n"
    "assert not xla_bridge.backends_are_initialized()\n"
  )
  environment = os.environ | {"JAX_PLATFORMS": "nonsense"}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  assert "batch 0:" in done.stdout and "0.3 " in done.stdout
  (folder,) = re.findall(rf"({text.parent}/cache/text-\w+)", done.stdout)
  assert pathlib.Path(folder).is_dir() and "Traceback" not in done.stderr


def test_the_rows_are_those_of_the_batch(text, capsys):
  assert main(words("data", text, "--step=3", "--rows=2", "--config.seed=9")) == 0
  shown = capsys.readouterr().out
  config = DataConfig(source="text", path=str(text), tokenizer="bytes", sequence_length=16, eval_fraction=0.2,
                      cache=f"{text.parent}/cache")  # fmt: skip
  prepared = data.prepare(config, NextToken())
  batch = data.Batches(prepared, "train", 8, 9)[3]
  for row in range(2):
    (line,) = [line for line in shown.splitlines() if line.startswith(f"3.{row} ")]
    assert "".join(prepared.tokenizer.show(batch["targets"][row])) in line
  assert "3.2 " not in shown and "batch 3: 128 places, 100.0% filled, 0.0% padding" in shown


def prepared_of(text, objective, **fields):
  fields = dict(tokenizer="bytes", sequence_length=64, cache=f"{text.parent}/cache") | fields
  return data.prepare(DataConfig(source="text", path=str(text), **fields), objective)


def test_a_packed_batch_tells_its_documents_and_its_padding(text):
  for number in range(50):
    (text.parent / f"{number}.txt").write_text(f"Document {number}. " * (1 + number % 9))
  prepared = prepared_of(text.parent / "[0-9]*.txt", NextToken(), packed=True, sequence_length=100)
  batches = data.Batches(prepared, "train", 20, 0)
  batch = batches[0]
  found = inspection.facts(batch, batches, 0)
  assert (found.tokens, found.sources) == (2000, dict(text=20))
  assert len({*batch["segments"].max(1)}) > 1
  assert found.filled == pytest.approx((batch["segments"] > 0).mean()) and found.filled < 1
  assert found.documents == pytest.approx(batch["segments"].max(1).mean()) and found.documents > 1
  for row, ((name, pieces),) in enumerate(inspection.rows_of(batch, prepared)):
    assert name == "targets"
    assert sum(piece.style == "padding" for piece in pieces) == (batch["segments"][row] == 0).sum()
    assert sum(piece.style == "target" for piece in pieces) == batch["weights"][row].sum()


def test_a_masked_token_shows_what_it_was(text):
  prepared = prepared_of(text, MaskedToken())
  batch = data.Batches(prepared, "train", 4, 0)[0]
  for row, lines in enumerate(inspection.rows_of(batch, prepared)):
    pieces = dict(lines)["tokens"]
    wanted = [piece.text for piece in pieces if piece.style == "target"]
    order = np.argsort(batch["places"][row], kind="stable")
    order = order[batch["weights"][row][order] > 0]
    assert wanted == [f"({one})" for one in prepared.tokenizer.show(batch["targets"][row][order])]
    assert len(pieces) == 64 + len(wanted)


@pytest.mark.parametrize("word", ["--step=-1", "--rows=-1"])
def test_a_batch_that_is_not_there_is_one_message(word, tmp_path, capsys):
  (tmp_path / "text.txt").write_text("some text " * 100)
  recipe = pathlib.Path(__file__).parents[1] / "recipes" / "tiny.py"
  where = [f"--config.data.path={tmp_path / 'text.txt'}", f"--config.data.cache={tmp_path / 'cache'}"]
  assert main(["data", f"--config={recipe}", *where, word]) == 64
  assert "USAGE  there is no such batch" in capsys.readouterr().err
