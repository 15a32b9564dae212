"""A tokenizer made here, exported as `tokenizer.json`, encodes and decodes as before."""

import io
import json
import pathlib
import random

import pytest
import sentencepiece

from fmjax.data import tokenizers as tk
from fmjax.data import trainers, vocabularies

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())["texts"]
LETTERS = [
  *"aeinst rlhd  \n\n\t.,'A1é漢🙂\u2581\u0301\u00a0\x01",
  "  ",
  "</s>",
  "<unk>",
  "<0x0A>",
  "<|end|>",
  "the ",
  "\r\n",
]


def hard_texts(count=300):
  draw = random.Random(0)
  return TEXTS + ["".join(draw.choice(LETTERS) for _ in range(draw.randrange(60))) for _ in range(count)]


def pieces(**options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(" ".join(TEXTS).split("\n") * 20), model_writer=model, hard_vocab_limit=False,
    vocab_size=500, num_threads=1, minloglevel=2, **options,
  )  # fmt: skip
  return tk.SentencePiece(model.getvalue())


def trained():
  return trainers.train_sentencepiece(TEXTS * 20, 500)


def without_an_end():
  return pieces(model_type="bpe", eos_id=-1, byte_fallback=True, normalization_rule_name="identity",
                add_dummy_prefix=False, remove_extra_whitespaces=False)  # fmt: skip


@pytest.mark.parametrize("make", [tk.Bytes, lambda: tk.Characters("aeinst \nk\u2581"), trained, without_an_end])
def test_an_exported_tokenizer_encodes_alike(tmp_path, make):
  tokenizer = make()
  tokenizer.save_pretrained(tmp_path)
  exported = tk.from_folder(tmp_path)
  texts = hard_texts()
  ids = [tokenizer.encode(text) for text in texts]
  assert [exported.encode(text) for text in texts] == ids
  assert [exported.decode(i) for i in ids] == [tokenizer.decode(i) for i in ids]
  assert (exported.vocab_size, exported.end) == (tokenizer.vocab_size, tokenizer.end)
  assert exported.special == {"eos": tokenizer.end}
  assert not any(tokenizer.end in i for i in ids)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_with_a_normaliser_is_exported_too(tmp_path, kind):
  tokenizer = pieces(model_type=kind)
  tokenizer.save_pretrained(tmp_path)
  exported = tk.from_folder(tmp_path)
  # Left out: a control piece in text, which only one of them takes for the piece; and two ways of equal score.
  texts = [text for text in TEXTS if not any(odd in text for odd in ("<", "\u2581", "a" * 100))]
  assert [exported.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


def test_merges_are_in_the_order_of_the_pieces():
  assert vocabularies.merges_of(["a", "b", "ab", "c", "abc", "bc"]) == [
    ("a", "b"),
    ("a", "bc"),
    ("ab", "c"),
    ("b", "c"),
  ]


@pytest.mark.parametrize(
  "name, file", [("t5", "spiece.model"), ("llama", "tokenizer.model"), ("albert", "spiece.model")]
)
def test_plain_text_is_what_the_sentencepiece_library_makes_of_it(name, file):
  processor = sentencepiece.SentencePieceProcessor(model_file=str(GOLDEN / name / file))
  tokenizer = tk.from_folder(GOLDEN / name)
  for text in ("hello the king", "thou art a noble lord, and i shall follow thee.", "what is 3 and 14?"):
    assert tokenizer.encode(text) == processor.encode(text)


@pytest.mark.parametrize(
  "path", sorted(GOLDEN.glob("*/*.model")) + sorted(GOLDEN.glob("*/*.spm")), ids=lambda p: p.parent.name
)
def test_a_models_pieces_are_those_of_the_sentencepiece_library(path):
  parsed, processor = (
    vocabularies.parse(path.read_bytes()),
    sentencepiece.SentencePieceProcessor(model_file=str(path)),
  )
  ids = range(processor.vocab_size())
  assert parsed.scored == [(processor.id_to_piece(i), processor.get_score(i)) for i in ids]
  assert [kind == vocabularies.CONTROL for kind in parsed.types] == [processor.is_control(i) for i in ids]
  assert parsed.unknown == processor.unk_id() and parsed.byte_fallback == any(map(processor.is_byte, ids))
