"""Where in a text each token stands: every kind says it of the tokens that it encodes to."""

import json
import pathlib

import numpy as np
import pytest

from fmjax.data import tokenizers as tk
from fmjax.errors import FmjaxError

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
TEXTS = ["", "hello  the King", "naïve Ångström 漢字 🙂x", " two\nlines ", "a\u2581b \u2581", "Romeo, Romeo!"]


def golden(name):
  return tk.from_folder(GOLDEN / name, json.loads((GOLDEN / name / "config.json").read_text()))


@pytest.fixture(scope="module")
def trained():
  text = ["hello the King of two lines", "naïve Romeo, Romeo!", "two lines\nhello"] * 20
  return {kind: tk.train(kind, text, 330) for kind in ("sentencepiece", "unigram", "wordpiece", "byte_bpe")}


@pytest.mark.parametrize("name", ["bytes", "characters", "sentencepiece", "unigram", "wordpiece", "byte_bpe", "bert",
                                  "roberta", "gpt2", "albert", "t5", "xlm_roberta", "llama", "gemma"])  # fmt: skip
def test_tokens_stand_where_their_text_is(name, trained):
  if name in ("bytes", "characters"):
    tokenizer = tk.Bytes() if name == "bytes" else tk.Characters("".join(sorted(set("".join(TEXTS)) - {"x"})))
  else:
    tokenizer = trained[name] if name in trained else golden(name)
  exact = name in ("bytes", "characters", "sentencepiece", "unigram", "byte_bpe", "gpt2")
  for text, (ids, spans), alone in zip(TEXTS, tokenizer.offsets(TEXTS), tokenizer.encode_all(TEXTS)):
    assert ids.dtype == spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    assert ids.tolist() == alone.tolist()
    assert (spans[:, 0] <= spans[:, 1]).all() and (np.diff(spans, axis=0) >= 0).all()
    covered = np.zeros(len(text) + 1, bool)
    for start, stop in spans.tolist():
      covered[start:stop] = True
    assert all(covered[place] or text[place].isspace() or text[place] == "\u2581" for place in range(len(text)))
    for token, (start, stop) in zip(ids.tolist(), spans.tolist()):
      piece = tokenizer.piece(token)
      if exact and piece and piece.decode(errors="ignore").encode() == piece:
        assert text[start:stop] == piece.decode()


def test_one_that_cannot_say_it_says_so():
  with pytest.raises(FmjaxError, match="TOKENIZER_BAD.*marian"):
    golden("marian").offsets(["a"])
