"""Loss, perplexity and bits per byte of a file: transformers' numbers, any batch, any mesh, bad files."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

import fmjax
from fmjax.errors import FmjaxError
from fmjax.scoring import likelihood as scoring
from fmjax.scoring import perplexity
from tests.scoring import folders

TEXT = folders.HERE / "text.txt"
EXPECTED = json.loads((folders.HERE / "expected.json").read_text())


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
  """`subject(name)`: a golden model that reads characters, on one device."""
  made = {}
  one = jax.make_mesh((1,) * 6, ("data", "fsdp", "tensor", "context", "expert", "stage"), devices=jax.devices()[:1])

  def load(name):
    if name not in made:
      folder = folders.write(name, tmp_path_factory.mktemp("folders") / name)
      with jax.set_mesh(one):
        made[name] = scoring.language_model(fmjax.from_pretrained(folder))
    return made[name]

  return load


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mistral"])
def test_a_file_costs_what_it_costs_in_transformers(subject, name):
  for case in EXPECTED[name]:
    row = perplexity.table(subject(name), TEXT, case["length"], case["stride"])
    assert row["scored"] == f"{case['tokens']:,}"
    assert row["eval/loss"] == pytest.approx(case["loss"], abs=1e-5)
    assert row["eval/perplexity"] == pytest.approx(math.exp(case["loss"]), rel=1e-5)
    of_tokens = row["eval/loss"] / math.log(2) * int(row["tokens"]) / len(TEXT.read_bytes())
    assert row["eval/bits_per_byte"] == pytest.approx(of_tokens, rel=1e-9)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_targets_after_their_sources_cost_what_they_cost_in_transformers(subject, name, tmp_path):
  file = tmp_path / "pairs.jsonl"
  file.write_text("".join(json.dumps(dict(source=s, target=t)) + "\n\n" for s, t in EXPECTED[name]["pairs"]))
  row = perplexity.table(subject(name), file)
  assert row["scored"] == str(EXPECTED[name]["tokens"])
  assert row["eval/loss"] == pytest.approx(EXPECTED[name]["loss"], abs=1e-5)


def test_windows_score_every_token_but_the_first_once():
  for tokens, length, stride in ((1, 8, 4), (5, 8, 4), (8, 8, 3), (29, 8, 3), (29, 8, 7), (64, 16, 1)):
    scored = [place for _, end, first in perplexity.windows(tokens, length, stride) for place in range(first, end)]
    assert scored == list(range(1, tokens))
    assert all(end - begin <= length for begin, end, _ in perplexity.windows(tokens, length, stride))
  # Windows side by side lose the first token of each.
  assert list(perplexity.windows(10, 4, 4)) == [(0, 4, 1), (4, 8, 5), (8, 10, 9)]


def test_what_begins_a_document_is_said_and_counted(subject):
  without, begins = (perplexity.table(subject(name), TEXT) for name in ("gpt2", "llama"))
  characters = len(TEXT.read_text())
  assert without["begins_with"].startswith("nothing") and without["scored"] == str(characters - 1)
  assert begins["begins_with"].startswith("token 75") and begins["scored"] == str(characters)
  assert without["tokens"] == begins["tokens"] == str(characters)


def test_documents_are_scored_apart_whatever_the_batch(subject, tmp_path, monkeypatch):
  paragraphs = TEXT.read_text().split("\n\n")
  alone = []
  for number, paragraph in enumerate(paragraphs):
    (tmp_path / f"{number}.txt").write_text(paragraph)
    row = perplexity.table(subject("llama"), tmp_path / f"{number}.txt", 64, 16)
    alone.append((row["eval/loss"] * int(row["scored"]), int(row["scored"])))
  file = tmp_path / "all.jsonl"
  file.write_text("".join(json.dumps(dict(text=paragraph, other=1)) + "\n" for paragraph in paragraphs))
  mean = sum(total for total, _ in alone) / sum(count for _, count in alone)
  for batch_tokens in (8192, 3 * 64):
    monkeypatch.setattr(scoring, "BATCH_TOKENS", batch_tokens)
    assert perplexity.table(subject("llama"), file, 64, 16)["eval/loss"] == pytest.approx(mean, rel=1e-6)


def test_a_mesh_changes_nothing(subject, on, tmp_path):
  one = perplexity.table(subject("llama"), TEXT, 64, 32)
  folder = folders.write("llama", tmp_path / "llama")
  with on(data=2, fsdp=4):
    many = perplexity.table(scoring.language_model(fmjax.from_pretrained(folder)), TEXT, 64, 32)
  assert many["eval/loss"] == pytest.approx(one["eval/loss"], rel=1e-6)
  assert many["scored"] == one["scored"]


def test_a_text_too_short_to_score_is_refused(subject, tmp_path):
  (tmp_path / "a.txt").write_text("A")
  with pytest.raises(FmjaxError, match="no token to score"):
    perplexity.table(subject("gpt2"), tmp_path / "a.txt")
  row = perplexity.table(subject("llama"), tmp_path / "a.txt")
  assert row["scored"] == "1" and np.isfinite(row["eval/loss"])


@pytest.mark.parametrize(
  "name, content, what",
  [
    ("a.txt", b"", "the text is empty"),
    ("a.txt", b"caf\xe9 au lait", "not UTF-8"),
    ("a.jsonl", b"\n\n", "the text is empty"),
    ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n', "a line of the file"),
    ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', "a line of the file"),
    ("a.jsonl", b'{"text": "one"}\n["text"]\n', "a line of the file"),
    ("a.jsonl", b'{"text": "one"}\n{"text": "tw\n', "a line of the file"),
    (None, b"", "no such file"),
    ("a.txt/b", b"", "is a folder"),
  ],
)
def test_a_bad_file_is_one_message(tmp_path, name, content, what):
  path = tmp_path / (name or "a")
  path.parent.mkdir(exist_ok=True)
  if name:
    path.write_bytes(content)
  with pytest.raises(FmjaxError, match=what) as caught:
    perplexity.read(path.parent if "/" in (name or "") else path, ("text",))
  assert caught.value.status == 65
  if what.startswith("a line"):
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("length, stride", [(97, None), (1, None), (0, 4), (64, 65), (64, 0), (None, -1)])
def test_a_window_that_cannot_be_is_refused(subject, length, stride):
  with pytest.raises(FmjaxError) as caught:
    perplexity.table(subject("gpt2"), TEXT, length, stride)
  assert caught.value.status == 64


def test_what_is_no_language_model_is_refused(subject, tmp_path):
  for name, kind in (("bert", "BertForMaskedLM"), ("gpt2", "GPT2Model"), ("llama", "LlamaForSequenceClassification")):
    folder = folders.write(name, tmp_path / kind, kind)
    with pytest.raises(FmjaxError, match=f"{kind} gives no probability"):
      scoring.language_model(fmjax.from_pretrained(folder))
  (tmp_path / "GPT2Model" / "tokenizer.json").unlink()
  with pytest.raises(FmjaxError, match="pairs of texts"):
    perplexity.table(subject("t5"), TEXT)
  bare = folders.write("gpt2", tmp_path / "bare")
  pathlib.Path(bare, "tokenizer.json").unlink()
  with pytest.raises(FmjaxError, match="no tokenizer"):
    scoring.language_model(fmjax.from_pretrained(bare))
