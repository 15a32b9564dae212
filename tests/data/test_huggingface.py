"""A Hugging Face folder's tokenizer is kept, given back and checked: file by file, and by what it encodes."""

import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from fmjax import data
from fmjax.corpus import DataConfig
from fmjax.data import tokenizers as tk
from fmjax.errors import EXIT, FmjaxError

GOLDEN = pathlib.Path(__file__).parent / "golden_tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())["texts"]
FOLDERS = [
  "bert",
  "roberta",
  "qwen2",
  "t5",
  "albert",
  "xlm_roberta",
  "llama",
  "gemma",
  "marian",
  "llama3",
  "t5_saved",
]


def files_of(folder, but=("config.json", "expected.json")):
  return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.name not in but}


def assert_equal(one, other):
  assert [ids.tolist() for ids in one.encode_all(TEXTS)] == [ids.tolist() for ids in other.encode_all(TEXTS)]
  first, second = one(TEXTS, max_length=20), other(TEXTS, max_length=20)
  assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
  assert (one.special, one.end, one.vocab_size) == (other.special, other.end, other.vocab_size)
  assert [one.decode(ids) for ids in first["input_ids"]] == [other.decode(ids) for ids in first["input_ids"]]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_keeps_it_and_an_export_gives_it_back(tmp_path, name):
  tokenizer = tk.from_folder(GOLDEN / name)
  tokenizer.save(tmp_path / "run")
  again = tk.load_tokenizer(tmp_path / "run")
  assert again.fingerprint == tokenizer.fingerprint
  assert_equal(again, tokenizer)
  again.save_pretrained(tmp_path / "export")
  exported, published = files_of(tmp_path / "export"), files_of(GOLDEN / name)
  assert {file: exported[file] for file in published} == published
  assert exported.keys() - published.keys() <= {"tokenizer.json", "tokenizer_config.json"}
  model_type = json.loads((GOLDEN / name / "config.json").read_text())
  assert_equal(tk.from_folder(tmp_path / "export", model_type), tokenizer)


@pytest.mark.parametrize("name", ["gpt2", "t5", "marian"])
def test_a_worker_process_gets_it_whole(name):
  tokenizer = tk.from_folder(GOLDEN / name)
  assert_equal(pickle.loads(pickle.dumps(tokenizer)), tokenizer)


def test_everything_that_decides_an_encoding_is_in_the_fingerprint(tmp_path):
  prints = [tk.from_folder(GOLDEN / name).fingerprint for name in FOLDERS]
  prints.append(tk.from_folder(GOLDEN / "bert", {"model_type": "distilbert"}).fingerprint)
  shutil.copytree(GOLDEN / "bert", tmp_path, dirs_exist_ok=True)
  for config in ({"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    prints.append(tk.from_folder(tmp_path).fingerprint)
  assert len({*prints}) == len(prints)


def test_padding_goes_to_the_side_that_is_asked_for():
  tokenizer = tk.from_folder(GOLDEN / "bert")
  right, left = tokenizer(texts := ["hello", "the king of the land"]), tokenizer(texts, padding_side="left")
  for name in right:
    width = right["attention_mask"].sum(1)
    for b in range(2):
      np.testing.assert_array_equal(right[name][b, : width[b]], left[name][b, -width[b] :])
  assert (right["input_ids"][right["attention_mask"] == 0] == tokenizer.special["pad"]).all()
  assert left["attention_mask"][0, 0] == 0 and right["attention_mask"][0, -1] == 0
  assert (
    tokenizer("hello")["input_ids"].shape
    == tokenizer(["hello"])["input_ids"].shape
    == (1, right["attention_mask"][0].sum())
  )
  assert tokenizer([])["input_ids"].shape == (0, 0)


def test_a_house_tokenizer_is_called_alike():
  batch = tk.Bytes()(["abc", "de"], max_length=2, padding_side="left")
  assert {name: array.tolist() for name, array in batch.items()} == {
    "input_ids": [[97, 98], [100, 101]],
    "attention_mask": [[1, 1], [1, 1]],
  }
  assert tk.Bytes()(["a", "bc"], padding_side="left")["input_ids"].tolist() == [[256, 97], [98, 99]]
  with pytest.raises(FmjaxError, match="(?s)USAGE.*no template for a pair"):
    tk.Bytes()("a", "b")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "t5", "bert", "marian"])
def test_a_text_shown_token_by_token_is_the_text_shown_whole(name):
  """As the command line streams: what ends in half a character waits."""
  tokenizer = tk.from_folder(GOLDEN / name)
  ids = tokenizer.encode("the king 🙂 of café 漢字 and thee .")
  shown = ""
  for i in range(len(ids)):
    text = tokenizer.decode(ids[: i + 1])
    if not text.endswith("\ufffd"):
      assert text.startswith(shown)
      shown = text
  assert shown == tokenizer.decode(ids)


def test_marian_has_pieces_that_its_source_does_not_know(tmp_path):
  """The target's, which are in the vocabulary that both share."""
  shutil.copytree(GOLDEN / "marian", tmp_path, dirs_exist_ok=True)
  texts, vocabulary = ["the \u9b31", "the king", ">>de<< king"], json.loads((tmp_path / "vocab.json").read_text())
  plain = tk.from_folder(tmp_path)
  unknown = set(plain.processor.encode(texts[0], out_type=str)) - vocabulary.keys()
  number = plain.vocab_size
  (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {piece: number for piece in unknown}))
  tokenizer = tk.from_folder(tmp_path)
  assert plain.encode(texts[0])[-1] == plain.special["unk"] and tokenizer.encode(texts[0])[-1] == number
  assert [ids.tolist() for ids in tokenizer.encode_all(texts)] == [tokenizer.encode(text) for text in texts]


def test_half_a_character_is_a_replacement_character():
  for name in ("gpt2", "llama", "gemma"):
    tokenizer = tk.from_folder(GOLDEN / name)
    ids = tokenizer.encode("a🙂")
    assert tokenizer.decode(ids) == "a🙂" and "\ufffd" in tokenizer.decode(ids[:-1])


def test_ids_beyond_the_vocabulary_give_no_text():
  for name in ("bert", "llama", "marian"):
    tokenizer = tk.from_folder(GOLDEN / name)
    ids = tokenizer.encode("the king")
    assert tokenizer.decode([*ids, tokenizer.vocab_size + 3, tokenizer.end]) == tokenizer.decode(ids)


def test_the_models_config_names_what_the_tokenizer_does_not(tmp_path):
  shutil.copy(GOLDEN / "llama3" / "tokenizer.json", tmp_path)
  assert tk.from_folder(tmp_path).end is None
  named = tk.from_folder(tmp_path, {"model_type": "llama", "bos_token_id": 4, "eos_token_id": [7, 8]})
  assert named.special == {"bos": 4, "eos": 7} and named.end == 7
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*no token that ends a document"):
    tk.load_model(tmp_path)
  assert tk.load_model(GOLDEN / "llama3").end == tk.from_folder(GOLDEN / "llama3").special["eos"]


def test_tokens_added_beside_the_vocabulary_have_the_ids_they_say(tmp_path):
  shutil.copytree(GOLDEN / "bert", tmp_path, dirs_exist_ok=True)
  size = tk.from_folder(tmp_path).vocab_size
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": size, "<newer>": size + 1}))
  tokenizer = tk.from_folder(tmp_path)
  assert tokenizer.vocab_size == size + 2 and tokenizer.encode("the<newer>the<new>")[1::2] == [size + 1, size]
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": size + 5}))
  with pytest.raises(FmjaxError, match=f"(?s)TOKENIZER_BAD.*'<new>' has id {size}, not {size + 5}"):
    tk.from_folder(tmp_path)


def test_a_folder_without_a_tokenizer_gives_none_or_says_what_was_looked_for(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  assert tk.from_folder(tmp_path) is None
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*tokenizer.json, vocab.txt, .*spiece.model"):
    tk.load_model(tmp_path)


def test_a_vocabulary_larger_than_the_models_is_refused():
  tokenizer = tk.from_folder(GOLDEN / "bert")
  tk.check_vocabulary(tokenizer, tokenizer.vocab_size, GOLDEN / "bert")
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*more tokens than the model.*at most 399"):
    tk.check_vocabulary(tokenizer, 399, GOLDEN / "bert")


def truncate(path):
  path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


def remove(path):
  path.unlink()


def words(path):
  """A SentencePiece model of whole words."""
  import io

  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c d"] * 9), model_writer=model, vocab_size=7, model_type="word", minloglevel=2
  )
  path.write_bytes(model.getvalue())


def japanese(path):
  """Of a class whose words are not BERT's."""
  path.write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')


BAD = [
  ("t5_saved", "tokenizer.json", truncate, "cannot be read"),
  ("bert_saved", "tokenizer_config.json", truncate, "cannot be read"),
  ("bert", "config.json", truncate, "cannot be read"),
  ("bert", "tokenizer_config.json", japanese, "its class is BertJapaneseTokenizer; known .* bert, "),
  ("gpt2", "vocab.json", truncate, "cannot be read"),
  ("gpt2", "merges.txt", remove, "vocab.json has no merges.txt beside it"),
  ("gpt2", "merges.txt", lambda path: path.write_text("#version: 0.2\na\n"), "no pair: 'a'"),
  ("bert", "vocab.txt", lambda path: path.write_text(""), "cannot be read"),
  ("t5", "spiece.model", truncate, "not a SentencePiece model"),
  ("t5", "spiece.model", words, "type is 'word'"),
  ("llama", "tokenizer.model", lambda path: path.write_bytes(b""), "not a SentencePiece model"),
  ("marian", "source.spm", truncate, "not a SentencePiece model"),
  ("marian", "vocab.json", remove, "source.spm has no vocab.json beside it"),
]  # fmt: skip


@pytest.mark.parametrize(
  "name, file, harm, message", BAD, ids=[f"{name}-{file}-{i}" for i, (name, file, *_) in enumerate(BAD)]
)
def test_a_damaged_folder_is_one_clear_message(tmp_path, name, file, harm, message):
  shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
  harm(tmp_path / file)
  with pytest.raises(FmjaxError, match=f"(?s)TOKENIZER_BAD.*{message}") as caught:
    tk.from_folder(tmp_path)
  assert EXIT[caught.value.code] == 65 and str(tmp_path) in str(caught.value) and "fix:" in str(caught.value)
  assert len(str(caught.value).splitlines()) <= 6


def test_a_run_whose_published_files_are_gone_or_changed_is_refused(tmp_path):
  tk.from_folder(GOLDEN / "bert").save(tmp_path)
  path = tmp_path / "huggingface" / "vocab.txt"
  path.write_bytes(path.read_bytes().replace(b"king", b"kink"))
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*not the one that was saved"):
    tk.load_tokenizer(tmp_path)
  path.unlink()
  with pytest.raises(FmjaxError, match="(?s)TOKENIZER_BAD.*there is no tokenizer here"):
    tk.load_tokenizer(tmp_path)


def test_a_length_without_room_for_the_special_tokens_is_refused():
  for name, text in (("bert", 2), ("marian", 1)):
    tokenizer = tk.from_folder(GOLDEN / name)
    assert tokenizer("the king", max_length=text)["input_ids"].shape == (1, text)
    with pytest.raises(FmjaxError, match="(?s)USAGE.*no room for the special tokens"):
      tokenizer("the king", max_length=text - 1)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_text_is_prepared_with_it(tmp_path, name):
  """`data.tokenizer` may be the folder."""
  (tmp_path / "input.txt").write_text("the king and the queen\n" * 200)
  config = DataConfig(
    source="text", path=str(tmp_path / "input.txt"), tokenizer=str(GOLDEN / name), sequence_length=16,
    cache=str(tmp_path / "cache"),
  )  # fmt: skip
  prepared = data.prepare(config)
  assert prepared.tokenizer.fingerprint == tk.from_folder(GOLDEN / name).fingerprint
  assert data.prepare(config).fingerprint == prepared.fingerprint
  assert prepared.facts["vocab_size"] == prepared.tokenizer.vocab_size


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_bare_model_of_a_family_that_begins_its_texts_begins_them(tmp_path, name):
  shutil.copy(GOLDEN / name / "tokenizer.model", tmp_path)
  tokenizer = tk.from_folder(tmp_path, {"model_type": name})
  bos = tokenizer.special["bos"]
  assert tokenizer("the king")["input_ids"][0].tolist() == [bos, *tokenizer.encode("the king")]
  (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true}')
  tokenizer = tk.from_folder(tmp_path, {"model_type": name})
  assert tokenizer("the king")["input_ids"][0].tolist() == [*tokenizer.encode("the king"), tokenizer.end]
