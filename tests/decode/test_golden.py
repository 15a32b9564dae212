"""Greedy and beam search give what transformers gave, token for token, over 64 tokens."""

import json
import pathlib

import numpy as np
import pytest

from fmjax.interop.pretrained import from_pretrained

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/generate.json"))
QUICK = ("gpt2", "llama", "t5")  # the others run these cases with pytest -m slow
assert FOLDERS


def check(folder, cases, mesh):
  model = from_pretrained(folder, mesh=mesh)
  for case in cases:
    rows = model.generate(case["input_ids"], case["attention_mask"], **case["arguments"])
    np.testing.assert_array_equal(rows, case["sequences"], err_msg=str(case["arguments"]))


def few(cases):
  """Greedy with an end, and the first two beam searches that stop differently."""
  beams = {
    case["arguments"].get("early_stopping"): case for case in reversed(cases) if "num_beams" in case["arguments"]
  }
  return [cases[1], *(beams[early] for early in (False, True))]


def read(folder):
  return json.loads((folder / "generate.json").read_text())


@pytest.mark.parametrize(
  "folder", [path for path in FOLDERS if path.parent.name in QUICK], ids=lambda p: p.parent.name
)
def test_generation_is_that_of_transformers(folder, one_device):
  check(folder, few(read(folder)), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.parent.name)
def test_every_case_is_that_of_transformers(folder, one_device):
  check(folder, read(folder), one_device)


@pytest.mark.slow
@pytest.mark.parametrize(
  "folder", [path for path in FOLDERS if path.parent.name in QUICK], ids=lambda p: p.parent.name
)
def test_a_mesh_generates_the_same(folder, on):
  import jax

  with on(fsdp=8):
    mesh = jax.sharding.get_mesh()
  check(folder, few(read(folder)), mesh)
