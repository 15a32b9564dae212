"""A tokenizer made here is given the special tokens that an objective needs; a published one has them or not."""

import functools
import io
import json
import pathlib
import pickle

import numpy as np
import pytest
import sentencepiece

from fmjax.data import special, vocabularies
from fmjax.data import tokenizers as tk
from fmjax.errors import FmjaxError
from fmjax.objectives import OBJECTIVES
from tests.objectives.examples import made

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())["texts"]
SPOKEN = ["<mask> [MASK] <pad></s><cls>", "<extra_id_0> <fim_prefix>[NLU]<|endoftext|>", "[SEP][CLS]", "", "the king"]
NEEDS = ("cls", "sep", "mask", "pad", "mode_r", "mode_s", "mode_x", "fim_prefix", "fim_suffix", "fim_middle",
         *(f"sentinel_{number}" for number in range(12)))  # fmt: skip


def model(**options):
  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(" ".join(TEXTS).split("\n") * 20), model_writer=made, hard_vocab_limit=False,
    vocab_size=500, num_threads=1, minloglevel=2, model_type="bpe", byte_fallback=True,
    normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, **options,
  )  # fmt: skip
  return tk.SentencePiece(made.getvalue())


MAKE = {
  "bytes": tk.Bytes,
  "characters": lambda: tk.Characters("".join(sorted({*"".join(TEXTS), *"".join(SPOKEN)}))),
  "without_an_end": lambda: model(eos_id=-1),
  **{kind: functools.partial(tk.train, kind, TEXTS * 20, 500) for kind in tk.TRAINED},
}
make = functools.cache(lambda kind: MAKE[kind]())


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_missing_comes_after_all_else_in_order(kind):
  plain = make(kind)
  missing = [name for name in NEEDS if name not in plain.special]
  assert len(missing) >= len(NEEDS) - 4
  given = plain.with_special(NEEDS)
  assert type(given) is type(plain) and given.vocab_size == plain.vocab_size + len(missing)
  assert [given.special[name] for name in missing] == list(range(plain.vocab_size, given.vocab_size))
  assert {name: given.special[name] for name in plain.special} == plain.special and given.end == plain.end
  assert given.with_special(NEEDS) is given and plain.with_special(()) is plain
  twice = plain.with_special(NEEDS[:5]).with_special(NEEDS)
  prints = [plain.fingerprint, given.fingerprint, plain.with_special(NEEDS[:-1]).fingerprint]
  prints.append(plain.with_special(NEEDS[::-1]).fingerprint)
  assert twice.fingerprint == given.fingerprint and len({*prints}) == 4


@pytest.mark.parametrize("kind", MAKE)
def test_text_is_encoded_as_before_whatever_it_says(kind):
  plain, given = make(kind), make(kind).with_special(NEEDS)
  before = [ids.tolist() for ids in plain.encode_all(TEXTS + SPOKEN)]
  assert [ids.tolist() for ids in given.encode_all(TEXTS + SPOKEN)] == before
  assert [given.encode(text) for text in TEXTS + SPOKEN] == before
  assert not {*given.special.values()} & {i for ids in before for i in ids} - {given.special.get("unk")}


@pytest.mark.parametrize("kind", MAKE)
def test_decoding_leaves_special_tokens_out(kind):
  tokenizer = make(kind).with_special(NEEDS)
  ids = tokenizer.encode("the king")
  mixed = [tokenizer.special["cls"], *ids[:2], tokenizer.special["sentinel_3"], *ids[2:], tokenizer.special["pad"]]
  assert tokenizer.decode(mixed) == tokenizer.decode(ids) == "the king"
  assert tokenizer.decode(np.array(mixed, np.int32)) == "the king"


def assert_equal(one, other):
  assert (one.special, one.end, one.vocab_size) == (other.special, other.end, other.vocab_size)
  texts = [text for text in TEXTS + SPOKEN if "a" * 100 not in text]  # a unigram model has equally good ways
  ids = [found.tolist() for found in one.encode_all(texts)]
  assert [found.tolist() for found in other.encode_all(texts)] == ids
  ids = [[one.special["cls"], *own, one.special["sentinel_3"]] for own in ids]
  assert [one.decode(own) for own in ids] == [other.decode(own) for own in ids]
  batches = [tokenizer(texts, max_length=9) for tokenizer in (one, other)]
  for name in ("input_ids", "attention_mask"):
    np.testing.assert_array_equal(batches[0][name], batches[1][name])
  assert (batches[0]["input_ids"][:, 0] == one.special["cls"]).all()


@pytest.mark.parametrize("kind", MAKE)
def test_it_is_saved_exported_and_handed_to_a_worker_with_them(tmp_path, kind):
  given = make(kind).with_special(NEEDS)
  given.save(tmp_path / "run")
  again = tk.load_tokenizer(tmp_path / "run")
  assert again.fingerprint == given.fingerprint and again.with_special(NEEDS) is again
  given.save_pretrained(tmp_path / "export")
  for other in (again, tk.from_folder(tmp_path / "export"), pickle.loads(pickle.dumps(given))):
    assert_equal(given, other)


@pytest.mark.parametrize("name", ["added", "fingerprint"])
def test_a_folder_that_says_otherwise_is_refused(tmp_path, name):
  tk.Bytes().with_special(NEEDS).save(tmp_path)
  description = json.loads((tmp_path / "tokenizer.json").read_text())
  description[name] = {"added": ["cls", "sep"], "fingerprint": tk.Bytes().fingerprint}[name]
  (tmp_path / "tokenizer.json").write_text(json.dumps(description))
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*not the one that was saved"):
    tk.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text(json.dumps(description | {"added": ["nonsense"]}))
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*cannot be read"):
    tk.load_tokenizer(tmp_path)


def test_a_pair_has_types_in_an_export_too(tmp_path):
  given = make("sentencepiece").with_special(("cls", "sep"))
  given.save_pretrained(tmp_path)
  batch = tk.from_folder(tmp_path, {"model_type": "bert"})("the king", "the land")
  first, second = given.encode("the king"), given.encode("the land")
  cls, sep = given.special["cls"], given.special["sep"]
  assert batch["input_ids"][0].tolist() == [cls, *first, sep, *second, sep]
  assert batch["token_type_ids"][0].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_a_models_own_symbols_are_known_and_another_ones_text_is_avoided(tmp_path):
  tokenizer = model(user_defined_symbols=["<mask>", "<extra_id_0>"])
  given = tokenizer.with_special(("mask", "sentinel_0", "sentinel_1"))
  born = tokenizer.processor.piece_to_id("<extra_id_0>")
  assert given.special == dict(
    eos=tokenizer.end, sentinel_0=born, mask=tokenizer.vocab_size, sentinel_1=tokenizer.vocab_size + 1
  )
  given.save_pretrained(tmp_path)
  exported = tk.from_folder(tmp_path)
  assert (exported.special, exported.vocab_size) == (given.special, given.vocab_size)
  assert exported.encode("x<mask>y<extra_id_0>z") == given.encode("x<mask>y<extra_id_0>z")
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*all texts of the special token mode_r are taken"):
    backend = tk.Bytes().to_backend()
    backend.add_tokens(list(special.texts_of("mode_r")))
    vocabularies.add_special(backend, ("mode_r",))


def test_a_published_one_has_them_by_name():
  t5 = tk.from_folder(GOLDEN / "t5")
  vocabulary = t5.vocabulary(("pad", "sentinel_0", "sentinel_99"))
  assert t5.show([vocabulary["sentinel_0"], vocabulary["pad"], t5.end]) == ["<sentinel_0>", "<pad>", "<eos>"]
  assert [t5.backend.id_to_token(int(i)) for i in vocabulary.sentinels] == [f"<extra_id_{n}>" for n in range(100)]
  bert = tk.from_folder(GOLDEN / "bert")
  assert bert.with_special(("cls", "sep", "mask", "pad")) is bert
  assert bert.vocabulary()["mask"] == bert.special["mask"]
  roberta = tk.from_folder(GOLDEN / "roberta")
  assert roberta.special["bos"] == roberta.special["cls"] and roberta.show([roberta.special["cls"]]) == ["<bos>"]


def with_tokens(folder, *texts):
  """GPT-2's, with special tokens that its config adds."""
  tk.from_folder(GOLDEN / "gpt2_saved").save_pretrained(folder)
  config = json.loads((folder / "tokenizer_config.json").read_text())
  (folder / "tokenizer_config.json").write_text(json.dumps(config | {"additional_special_tokens": texts}))
  return tk.from_folder(folder)


@pytest.mark.parametrize("name, texts", [
  ("fim_prefix", ("<fim_prefix>", "<|fim_prefix|>", "<PRE>", "\u2581<PRE>")),
  ("fim_suffix", ("<fim_suffix>", "<|fim_suffix|>", "<SUF>", "\u2581<SUF>")),
  ("fim_middle", ("<fim_middle>", "<|fim_middle|>", "<MID>", "\u2581<MID>")),
  ("mode_r", ("[NLU]",)), ("mode_x", ("[NLG]",)), ("mode_s", ("[S2S]",)),
  ("sentinel_0", ("<extra_id_0>", "\u2581<extra_id_0>")),
])  # fmt: skip
def test_a_name_has_the_texts_of_several_families(tmp_path, name, texts):
  for number, text in enumerate(texts):
    tokenizer = with_tokens(tmp_path / str(number), text)
    assert tokenizer.special[name] == tokenizer.backend.token_to_id(text)
    assert tokenizer.with_special((name,)) is tokenizer


def test_special_tokens_that_nobody_names_are_no_text(tmp_path):
  tokenizer = with_tokens(tmp_path, "begin")
  vocabulary, token = tokenizer.vocabulary(), tokenizer.backend.token_to_id("begin")
  assert vocabulary["begin"] == token and not vocabulary.ordinary[token] and not vocabulary.continues[token]
  assert tokenizer.show([token]) == ["<begin>"]


@pytest.mark.parametrize("name, needs, missing", [
  ("gpt2", ("mask", "fim_prefix"), "mask, fim_prefix \\('<fim_prefix>' or '<|fim_prefix|>'"),
  ("bert", ("cls", "sentinel_0", "sentinel_1", "sentinel_2", "sentinel_3", "sentinel_4"), "sentinel_0 .*and 2 more"),
  ("t5", ("pad", "sentinel_99", "sentinel_100"), "sentinel_100 .'<extra_id_100>'"),
  ("marian", ("cls",), "cls"),
])  # fmt: skip
def test_a_published_one_that_lacks_them_says_which(name, needs, missing):
  tokenizer = tk.from_folder(GOLDEN / name)
  with pytest.raises(FmjaxError, match=f"(?s)TOKENIZER_BAD.*expected: {missing}.*fix:.*wordpiece") as caught:
    tokenizer.vocabulary(needs)
  assert len(str(caught.value).splitlines()) <= 6
  assert "cls," not in str(caught.value)


@pytest.mark.parametrize("kind", MAKE)
def test_a_vocabulary_says_what_is_no_text(kind):
  tokenizer = make(kind)
  vocabulary = tokenizer.vocabulary(NEEDS)
  given = tokenizer.with_special(NEEDS)
  assert (vocabulary.size, vocabulary.end) == (given.vocab_size, tokenizer.end)
  assert {name: vocabulary[name] for name in NEEDS} == {name: given.special[name] for name in NEEDS}
  assert vocabulary.sentinels.tolist() == [given.special[f"sentinel_{n}"] for n in range(12)]
  assert vocabulary.continues.dtype == bool and vocabulary.continues.shape == (vocabulary.size,)
  assert not vocabulary.continues[~vocabulary.ordinary].any()
  used = np.concatenate(tokenizer.encode_all(TEXTS))
  unknown = vocabulary.special.get("unk", -1)
  assert vocabulary.ordinary[used[used != unknown]].all() and not vocabulary.ordinary[[*given.special.values()]].any()
  assert tokenizer.vocabulary().size == tokenizer.vocab_size
  expected = dict(characters=getattr(tokenizer, "unknown", None), wordpiece=1).get(kind, 0)
  assert unknown == expected or kind in ("bytes", "byte_bpe")


@pytest.mark.parametrize("kind", MAKE)
def test_tokens_are_shown(kind):
  tokenizer = make(kind).with_special(NEEDS)
  shown = tokenizer.show([tokenizer.special["mask"], *tokenizer.encode("the king"), tokenizer.special["sentinel_7"]])
  assert shown[0] == "<mask>" and shown[-1] == "<sentinel_7>"
  assert "".join(shown[1:-1]).replace("##", "").replace(" ", "") == "theking"
  everything = tokenizer.show(range(tokenizer.vocab_size))
  assert all(text.isprintable() and text for text in everything)
  assert tokenizer.show([tokenizer.end]) == (["<sep>"] if kind == "wordpiece" else ["<eos>"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_every_objective_needs_can_be_given(name, tmp_path):
  needs = made(name).needs(64)
  given = tk.Bytes().with_special(needs)
  given.save_pretrained(tmp_path)
  assert tk.from_folder(tmp_path).special == given.special and given.special.keys() == {"eos", *needs}
