"""Every tokenizer gives every text back, saves itself, and refuses a damaged copy."""

import io
import json

import pytest
import sentencepiece

from fmjax.data import tokenizers as tk
from fmjax.data import trainers
from fmjax.errors import FmjaxError

TEXT = "def f(x):\n    return x + 1\n\n\nclass A:\n\tvalue = 'é漢字'\n" * 20
HARD = ["", " ", "\n", "  lead and trail  ", "a\tb\r\nc\n\n\n", "x   \u2581 y\u2581", "\ufeffé漢字🙂\u2028", "a\0b",
        "<s></s><unk><0x0A>", "    def  f():\n        return\n"]  # fmt: skip


def trained():
  return trainers.train_sentencepiece([TEXT], 320)


def characters():
  return tk.Characters("".join(sorted({*TEXT, *"".join(HARD)})))


@pytest.mark.parametrize("make", [tk.Bytes, characters, trained])
def test_decoding_gives_the_text_back(make):
  tokenizer = make()
  for text in [*HARD, "".join(HARD), TEXT]:
    ids = tokenizer.encode(text)
    assert all(type(i) is int and 0 <= i < tokenizer.vocab_size and i != tokenizer.end for i in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == text
  assert [ids.tolist() for ids in tokenizer.encode_all(HARD)] == [tokenizer.encode(text) for text in HARD]


def test_characters_are_in_order_and_an_unknown_one_has_an_id():
  tokenizer = tk.Characters("abc")
  assert tokenizer.encode("cab!") == [2, 0, 1, tokenizer.unknown]
  assert tokenizer.decode([2, tokenizer.unknown, tokenizer.end]) == "c\ufffd"
  assert tokenizer.vocab_size == 5


def test_training_learns_pieces_and_is_the_same_every_time():
  first, again = trained(), trained()
  assert first.model == again.model and first.fingerprint == again.fingerprint
  assert first.vocab_size <= 320
  assert len(first.encode(TEXT)) < len(TEXT.encode()) / 2


def test_a_newline_is_its_own_piece_and_indentation_one():
  tokenizer = trained()
  pieces = [tokenizer.processor.id_to_piece(i) for i in tokenizer.encode("def f(x):\n    return x\n")]
  assert pieces.count("\n") == 2 and "\u2581" * 4 in pieces
  assert not any("\n" in piece for piece in pieces if piece != "\n")


def test_lines_beyond_the_sample_are_left_out(monkeypatch):
  lines = [f"line {i} of the text" for i in range(2000)]
  assert list(trainers.sample_lines(["\n".join(lines)])) == lines
  monkeypatch.setattr(tk, "SAMPLE_BYTES", 10_000)
  sample = list(trainers.sample_lines(["\n".join(lines)]))
  assert 5_000 < sum(map(len, sample)) < 15_000 and set(sample) < set(lines)
  assert list(trainers.sample_lines(["\n".join(reversed(lines))])) == sample[::-1]


@pytest.mark.parametrize("make", [tk.Bytes, trained, lambda: tk.Characters('ab\nc"\\é')])
def test_a_saved_tokenizer_comes_back(tmp_path, make):
  tokenizer = make()
  tokenizer.save(tmp_path / "run/tokenizer")
  again = tk.load_tokenizer(tmp_path / "run/tokenizer")
  assert (again.fingerprint, again.vocab_size, again.end) == (
    tokenizer.fingerprint,
    tokenizer.vocab_size,
    tokenizer.end,
  )
  assert again.encode("abc\né") == tokenizer.encode("abc\né")
  assert not [path for path in (tmp_path / "run/tokenizer").iterdir() if path.name.startswith(".")]


def test_fingerprints_tell_tokenizers_apart():
  all_of_them = [tk.Bytes(), tk.Characters("ab"), tk.Characters("abc"), trained()]
  assert len({tokenizer.fingerprint for tokenizer in all_of_them}) == 4


def test_a_model_without_an_end_gets_one():
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXT.split("\n")), model_writer=model, vocab_size=300, byte_fallback=True,
    hard_vocab_limit=False, eos_id=-1, minloglevel=2, num_threads=1,
  )  # fmt: skip
  tokenizer = tk.SentencePiece(model.getvalue())
  assert tokenizer.end == tokenizer.processor.vocab_size() == tokenizer.vocab_size - 1
  assert tokenizer.decode([*tokenizer.encode("return x"), tokenizer.end]) == "return x"


def remove(path):
  path.unlink()


def truncate(path):
  path.write_bytes(path.read_bytes()[:-20])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def other(path):
  if path.suffix == ".json":
    path.write_text(json.dumps({"kind": "words"}))
  else:
    path.write_bytes(trainers.train_sentencepiece([TEXT + "another text"], 310).model)


@pytest.mark.parametrize("harm", [remove, truncate, flip, other])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_damaged_tokenizer_is_refused(tmp_path, name, harm):
  trained().save(tmp_path)
  harm(tmp_path / name)
  with pytest.raises(FmjaxError) as caught:
    tk.load_tokenizer(tmp_path)
  assert caught.value.code == "TOKENIZER_BAD" and str(tmp_path) in str(caught.value) and "fix:" in str(caught.value)


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*there is no tokenizer here.*tokenizer.json"):
    tk.load_tokenizer(tmp_path)


@pytest.mark.parametrize("path", ["sentencepeice", "."])
def test_a_name_that_is_no_model_file_lists_the_choices(path):
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*bytes, characters, sentencepiece") as caught:
    tk.load_model(path)
  assert len(str(caught.value).splitlines()) <= 6


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*100 pieces.*fix:"):
    trainers.train_sentencepiece([TEXT], 100)
