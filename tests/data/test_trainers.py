"""Tokenizers trained here: the same every time, read back from their folders, and made by one command."""

import json
import pathlib
import re
import unicodedata

import numpy as np
import pytest

from fmjax.__main__ import main
from fmjax.data import tokenizers as tk
from fmjax.data import trainers
from fmjax.errors import FmjaxError

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())["texts"]
PLAIN = "The King and the Queen, of the land; thou art a noble lord. " * 30
TEXT = PLAIN + "\n" + "\n".join(TEXTS) + "\n  def f(x):\n\treturn 'café', x_1\n" * 9


@pytest.mark.parametrize("kind", tk.TRAINED)
def test_the_same_text_gives_the_same_tokenizer(kind):
  made = [tk.train(kind, [TEXT, PLAIN], 400) for _ in range(4)]
  assert len({tokenizer.fingerprint for tokenizer in made}) == 1
  assert len({tk.train(kind, [PLAIN], 390).fingerprint, made[0].fingerprint}) == 2
  assert 200 < made[0].vocab_size <= 400
  assert len(made[0].encode(PLAIN)) < len(PLAIN) / 1.5


@pytest.mark.parametrize("kind", ["sentencepiece", "unigram", "byte_bpe"])
def test_every_text_comes_back_exactly(kind):
  tokenizer = tk.train(kind, [TEXT], 400)
  for text in [*TEXTS, TEXT, "", " ", "\n", "a\tb\r\nc\n\n", "<s></s><unk><0x0A><|endoftext|>", "漢字🙂\0 \u2581"]:
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == text and tokenizer.end not in ids


@pytest.mark.parametrize("kind", tk.TRAINED)
def test_its_folder_is_what_data_tokenizer_may_be(tmp_path, kind):
  tokenizer = tk.train(kind, [TEXT], 400)
  (tokenizer.save_pretrained if tokenizer.kind == "huggingface" else tokenizer.save)(tmp_path)
  again = tk.load_model(tmp_path)
  assert again.fingerprint == tokenizer.fingerprint and again.kind == tokenizer.kind
  assert (again.end, again.special) == (tokenizer.end, tokenizer.special)
  assert [ids.tolist() for ids in again.encode_all(TEXTS)] == [tokenizer.encode(text) for text in TEXTS]


def test_word_pieces_have_the_tokens_and_templates_of_bert():
  tokenizer = tk.train("wordpiece", [TEXT], 400)
  assert tokenizer.special == dict(pad=0, unk=1, cls=2, sep=3, mask=4) and tokenizer.end == 3
  ids = tokenizer.encode("the King [MASK]")
  assert 4 not in ids and tokenizer.decode(ids[:2]) == "the King"
  batch = tokenizer(["the King"], ["the land"])
  first, second = tokenizer.encode("the King"), tokenizer.encode("the land")
  assert batch["input_ids"][0].tolist() == [2, *first, 3, *second, 3]
  assert batch["token_type_ids"][0].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
  pieces = [tokenizer.backend.id_to_token(i) for i in range(5, tokenizer.vocab_size)]
  alone = [piece for piece in pieces if len(piece) == 1]
  inside = [piece for piece in pieces if re.fullmatch("##.", piece)]
  assert alone == sorted(alone) == pieces[: len(alone)] and inside == pieces[len(alone) : len(alone) + len(inside)]
  assert "##," not in pieces and "##e" in inside and "the" in pieces
  assert tokenizer.vocabulary().continues[5:].tolist() == [piece.startswith("##") for piece in pieces]


def test_lowercase_word_pieces_are_as_bert_uncased():
  cased, lower = (trainers.train_wordpiece([TEXT], 300, lowercase=lowercase) for lowercase in (False, True))
  assert lower.encode("The CAFÉ") == lower.encode("the cafe") and cased.encode("The") != cased.encode("the")
  assert lower.decode(lower.encode("The Café")) == "the cafe"
  pieces = [lower.backend.id_to_token(i) for i in range(5, lower.vocab_size)]
  assert all(piece == piece.lower() == unicodedata.normalize("NFC", piece) for piece in pieces)


def test_rare_characters_are_no_word_pieces():
  tokenizer = tk.train("wordpiece", [PLAIN * 20 + "ø"], 300)
  assert tokenizer.encode("ø") == [1] and 1 not in tokenizer.encode(PLAIN)
  assert trainers.frequent(["aaab", "bbc"], 2) == {"a", "b"} and trainers.frequent(["cb a"], 2) == {"a", "b"}
  assert trainers.frequent(["a" * 99_999 + "b" * 9 + " " * 9], 9) == {"a"}
  many = "".join(map(chr, range(0x4E00, 0x4F00)))
  assert sum(map(many.__contains__, tk.train("wordpiece", [many * 3], 400).backend.get_vocab())) == 100


@pytest.mark.parametrize(
  "kind, size", [(kind, size) for kind in tk.TRAINED for size in (50, 200) if (kind, size) != ("wordpiece", 200)]
)
def test_a_vocabulary_too_small_is_refused(kind, size):
  with pytest.raises(FmjaxError, match=f"(?s)TOKENIZER_BAD.*{size} pieces.*fix:"):
    tk.train(kind, [TEXT], size)


@pytest.mark.parametrize("kind", ["sentencepiece", "unigram", "wordpiece"])
def test_no_text_is_refused(kind):
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*pieces of this text.*fix:"):
    tk.train(kind, ["\n", ""], 400)


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece", "byte_bpe"])
def test_a_sample_decides_where_there_is_more(monkeypatch, kind):
  lines = [f"line {i} of the long text of king number {i * 7919 % 1000}" for i in range(1000)]
  monkeypatch.setattr(tk, "SAMPLE_BYTES", 10_000)
  sample = list(trainers.sample_lines(["\n".join(lines)]))
  assert 5_000 < sum(map(len, sample)) < 15_000
  whole = tk.train(kind, ["\n".join(lines[:500]), "\n".join(lines[500:])], 400)
  monkeypatch.undo()
  assert tk.train(kind, ["\n".join(sample)], 400).fingerprint == whole.fingerprint


# --- the command


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece", "byte-bpe"])
def test_the_command_trains_on_files(tmp_path, capsys, kind):
  (tmp_path / "a.txt").write_text(PLAIN)
  (tmp_path / "b.txt").write_text(TEXT)
  out = tmp_path / "made" / "it"
  words = ["tokenizer", "train", f"--kind={kind}", "--vocab_size=400", f"--out={out}"]
  assert main([*words, str(tmp_path / "*.txt"), str(tmp_path / "a.txt")]) == 0
  printed = capsys.readouterr().out.splitlines()
  assert printed[-1].split() == ["tokenizer", str(out)]
  tokenizer = tk.load_model(out)
  assert tokenizer.fingerprint == tk.train(trainers.KINDS[kind], [PLAIN, TEXT], 400).fingerprint
  assert f"{tokenizer.vocab_size:,}" in printed[0]
  assert main([*words, str(tmp_path / "a.txt")]) == 64 and "not empty" in capsys.readouterr().err
  assert tk.load_model(out).fingerprint == tokenizer.fingerprint


def test_the_command_trains_in_lower_case_and_on_a_sample(tmp_path, monkeypatch):
  text = "\n".join(f"Line {i} of the long text of king number {i * 7919 % 1000}" for i in range(200))
  (tmp_path / "a.txt").write_text(text)
  monkeypatch.setattr(tk, "SAMPLE_BYTES", 2000)
  words = ["tokenizer", "train", "--kind=wordpiece", "--vocab_size=300", str(tmp_path / "a.txt"), "--lowercase"]
  assert main([*words, f"--out={tmp_path / 'out'}"]) == 0
  sample = "\n".join(trainers.lines(text, 2000 / len(text)))
  assert 1000 < len(sample) < 3000 < len(text)
  monkeypatch.undo()
  assert tk.load_model(tmp_path / "out").fingerprint == trainers.train_wordpiece([sample], 300, True).fingerprint


def latin(path):
  path.write_bytes("é".encode("latin-1"))


@pytest.mark.parametrize("make, words, code, message", [
  (None, ["--kind=bpe", "--vocab_size=400"], 65, "DATA_MISSING  there is no such file"),
  (latin, ["--kind=wordpiece", "--vocab_size=400"], 65, "DATA_BAD  the file is not UTF-8 text"),
  (lambda path: path.write_text(TEXT), ["--kind=bpe", "--vocab_size=400", "--lowercase"], 64, "USAGE  --lowercase"),
  (lambda path: path.write_text(TEXT), ["--kind=bpe", "--vocab_size=20"], 65, "TOKENIZER_BAD"),
  (lambda path: path.write_text(TEXT), ["--kind=words", "--vocab_size=400"], 64, "choose from"),
])  # fmt: skip
def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path, capsys, make, words, code, message):
  file = tmp_path / "a.txt"
  if make:
    make(file)
  assert main(["tokenizer", "train", *words, f"--out={tmp_path / 'out'}", str(file)]) == code
  told = capsys.readouterr().err
  assert message in told and len(told.splitlines()) <= 6
  assert {path.name for path in tmp_path.iterdir()} <= {"a.txt"}


def test_the_speed_of_encoding_needs_no_loop_over_tokens(monkeypatch):
  """`encode` of one text is never called where a batch is encoded."""
  for kind in tk.TRAINED:
    tokenizer = tk.train(kind, [TEXT], 400)
    expected = [tokenizer.encode(text) for text in TEXTS]
    monkeypatch.setattr(type(tokenizer), "encode", None)
    found = tokenizer.encode_all(TEXTS)
    monkeypatch.undo()
    assert [ids.tolist() for ids in found] == expected and all(ids.dtype == np.int32 for ids in found)
