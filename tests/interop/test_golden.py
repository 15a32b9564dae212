"""What transformers computes, fmjax computes: every family and class, at real tokens, to 2e-5 in float32."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmjax.interop import Pretrained, from_pretrained
from fmjax.interop.families import FAMILIES as KNOWN
from tests.interop.folders import FOLDERS, GOLDEN, mesh_of

TOLERANCE = 2e-5
GENERATING = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "MTModel", "ForMaskedLM")
# One class of each family runs in every way that a model can be compiled; the others share its blocks.
FAMILIES = {folder.split("/")[0]: folder for folder in FOLDERS}
FAMILIES |= {folder.split("/")[0]: folder for folder in FOLDERS if folder.endswith(GENERATING)}
# Settings of a family that is there already: their ways to be compiled are no others.
VARIANTS = ("albert-v1", "electra-square", "llama-linear", "marian-relu", "t5-v1.1-tied")
WAYS = [
  pytest.param(folder, id=name, marks=[pytest.mark.slow] * (name in VARIANTS or name.endswith("-decoder")))
  for name, folder in FAMILIES.items()
]


def worst(model, folder: str) -> float:
  """The largest difference from the folder's expected outputs."""
  held = load_file(GOLDEN / folder / "expected.safetensors")
  inputs = {name.removeprefix("in/"): array for name, array in held.items() if name.startswith("in/")}
  found, largest = model(**inputs, output_hidden_states=True), 0.0
  masks = {False: inputs.get("attention_mask"), True: inputs.get("attention_mask")}
  if "decoder_input_ids" in inputs or model.config.kind == "encoder_decoder":
    masks[False] = inputs.get("decoder_attention_mask")
  for name, expected in held.items():
    side, _, name = name.partition("/")
    if side != "out":
      continue
    field, _, number = name.partition("/")
    got = getattr(found, field)
    assert got is not None, f"{field} is not given"
    got = got[int(number)] if number else got
    assert got.shape == expected.shape, name
    mask = masks[field.startswith("encoder")]
    if mask is not None and mask.ndim == 2 and got.shape[:2] == mask.shape:
      got, expected = got[mask == 1], expected[mask == 1]
    largest = max(largest, float(np.abs(got - expected).max()))
  return largest


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_class_computes_what_transformers_does(folder, golden):
  assert worst(golden(folder), folder) < TOLERANCE


@pytest.mark.parametrize("folder", WAYS)
def test_unrolled_too(folder, golden):
  scanned = golden(folder)
  model = dataclasses.replace(scanned.model, config=dataclasses.replace(scanned.config, scan_layers=False))
  flat = Pretrained(model, scanned.params, None, scanned.mesh, scanned.hf_config, scanned.architecture, {})
  assert worst(flat, folder) < TOLERANCE


@pytest.mark.parametrize("folder", WAYS)
def test_on_eight_devices_too(folder, golden):
  config = golden(folder).config
  ways = math.gcd(config.N, config.K, 4)
  model = from_pretrained(GOLDEN / folder, mesh=mesh_of(8 // ways, ways))
  assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(model.params)} == {8}
  assert worst(model, folder) < TOLERANCE


LEFT = [folder for folder in FOLDERS if "left/logits" in load_file(GOLDEN / folder / "expected.safetensors")]


@pytest.mark.parametrize("folder", LEFT)
def test_padding_on_the_left(folder, golden):
  held = load_file(GOLDEN / folder / "expected.safetensors")
  mask_BT = held["left/attention_mask"]
  positions_BT = np.maximum(np.cumsum(mask_BT, 1) - 1, 0)
  found = golden(folder)(held["left/input_ids"], mask_BT, position_ids=positions_BT)
  assert np.abs(found.logits - held["left/logits"])[mask_BT == 1].max() < TOLERANCE


def test_every_family_is_here(golden):
  assert {golden(folder).family.model_type for folder in FAMILIES.values()} == set(KNOWN)
