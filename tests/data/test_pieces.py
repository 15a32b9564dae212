"""Which tokens go on with a word, and what they look like."""

import pathlib

import numpy as np
import pytest

from fmjax.data import tokenizers as tk
from fmjax.data.pieces import goes_on, printable

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"


@pytest.mark.parametrize("text", ["a", "Z", "é", "ж", "7", "_", "\u0301", "ing", "ß!", "א"])
def test_letters_digits_marks_and_underscores_go_on(text):
  assert goes_on(text.encode())


@pytest.mark.parametrize("text", ["", " ", "\n", "\t", " a", ",", "'s", "(", "€", "漢", "か", "글", "🙂", "\0"])
def test_spaces_signs_and_wide_characters_do_not(text):
  assert not goes_on(text.encode())


def test_parts_of_characters():
  latin, chinese, smile = "é".encode(), "漢".encode(), "🙂".encode()
  assert goes_on(latin[:1]) and goes_on(latin[1:])
  assert not goes_on(chinese[:1]) and not goes_on(chinese[:2]) and goes_on(chinese[1:]) and goes_on(chinese[2:])
  assert not goes_on(smile[:1]) and goes_on(smile[1:])


def test_what_is_shown():
  assert printable(b" king") == " king" and printable("漢é".encode()) == "漢é"
  assert printable(b"\n\t\0") == "\\n\\t\\x00" and printable("\u2028\ufeff".encode()) == "\\u2028\\ufeff"
  assert printable("漢".encode()[:2]) == "<0xE6><0xBC>"


def words(tokenizer, text):
  """The text in words, as `continues` cuts it."""
  ids = tokenizer.encode(text)
  starts = np.flatnonzero(~tokenizer.vocabulary().continues[ids])
  cuts = [0, *(start for start in starts if start), len(ids)]
  shown = tokenizer.show(ids)
  return ["".join(shown[a:b]) for a, b in zip(cuts, cuts[1:])]


@pytest.mark.parametrize("make", [tk.Bytes, lambda: tk.Characters("".join(sorted({*"thé king,of_2漢\nI"})))])
def test_words_of_bytes_and_characters(make):
  # What follows a space belongs to it, and a newline is like one.
  expected = ["thé", " king", ",", " of_2", "\\n"]
  found = words(make(), "thé king, of_2\n漢")
  assert found[:5] == [part if make is not tk.Bytes else part.replace("é", "<0xC3><0xA9>") for part in expected]
  assert len(found) == 6


@pytest.mark.parametrize(
  "name", ["gpt2", "roberta", "qwen2", "t5", "llama", "gemma", "albert", "xlm_roberta", "marian"]
)
def test_words_of_published_pieces_begin_with_a_space(name):
  tokenizer = tk.from_folder(GOLDEN / name)
  found = words(tokenizer, "thou art a noble lord")
  assert [word.strip() for word in found] == "thou art a noble lord".split()
  assert all(word[0] == " " for word in found[1:])
  assert len(tokenizer.encode("thou art a noble lord")) > 5, "some word has several pieces"


def test_words_of_word_pieces_go_on_with_two_signs():
  tokenizer = tk.from_folder(GOLDEN / "bert")
  vocabulary, names = tokenizer.vocabulary(), tokenizer.show(range(tokenizer.vocab_size))
  assert vocabulary.continues.tolist() == [name.startswith("##") for name in names]
  assert 0 < vocabulary.continues.sum() < vocabulary.size
  assert not vocabulary.continues[list(tokenizer.special.values())].any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_byte_pieces_are_shown_as_their_text_or_as_bytes(name):
  tokenizer = tk.from_folder(GOLDEN / name)
  ids = tokenizer.encode("a\n鬱")
  assert "\\n" in tokenizer.show(ids) and tokenizer.show(ids)[-1] == "<0xB1>"
  continues = tokenizer.vocabulary().continues[ids]
  assert continues[-2:].all() and not continues[-3] and not continues[tokenizer.show(ids).index("\\n")]
