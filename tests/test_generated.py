"""A task that is answered by a text, from its training to the answers that `fmjax eval` writes."""

import json

import pytest

from fmjax import evaluate, metrics, spec
from fmjax.__main__ import main

pytestmark = pytest.mark.slow  # each learns its few texts by heart

NOUNS, VERBS = ("sea", "day", "cat", "fog"), ("falls", "sings", "burns")
PAIRS = [(f"the {noun} {verb}", f"now {verb} the {noun} again") for noun in NOUNS for verb in VERBS]
SMALL = dict(D=64, L=2, N=4, scan_layers=False)
STEPS = dict(steps=250, batch_size=8, log_every=50)


def learnt(folder, patch, **tree):
  """The run of `tree` that has learnt what it is evaluated on."""
  patch.setenv("FMJAX_CACHE", str(folder / "cache"))
  tree["data"] |= dict(source="jsonl", path=f"{folder}/rows.jsonl", eval_path=f"{folder}/rows.jsonl")
  tree |= dict(optimizer=dict(learning_rate=3e-3, schedule="constant", warmup_steps=20), train=STEPS)
  (folder / "recipe.json").write_text(json.dumps(tree))
  assert main(["train", f"--config={folder}/recipe.json", f"--workdir={folder}/run"]) == 0
  return folder / "run"


def answered(home, out, capsys, *words):
  capsys.readouterr()
  assert main(["eval", f"--workdir={home}", f"--predictions={out}", *words]) == 0
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  return metrics.read(out), {row[0]: row[1] for row in rows if len(row) == 6 and row[3] == ".."}


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
  folder = tmp_path_factory.mktemp("translator")
  (folder / "rows.jsonl").write_text("".join(json.dumps(dict(source=s, target=t)) + "\n" for s, t in PAIRS))
  with pytest.MonkeyPatch.context() as patch:
    yield learnt(
      folder, patch, objective=dict(name="seq2seq"), model=dict(SMALL, kind="encoder_decoder", source_L=2),
      data=dict(tokenizer="characters", sequence_length=32),
    )  # fmt: skip


@pytest.mark.parametrize("words", [[], ["--beams=3"]], ids=["greedy", "beams"])
def test_a_translator_says_what_it_has_learnt(translator, tmp_path, capsys, words):
  answers, table = answered(translator, tmp_path / "out.jsonl", capsys, *words)
  assert [(one["text"].strip(), one["expected"]) for one in answers] == PAIRS
  assert [one["predicted"] for one in answers] == [target for _, target in PAIRS]
  assert {table[name] for name in ("bleu", "chrf", "exact_match")} == {"100.0000"}
  assert {table[name] for name in ("rouge1", "rougel")} == {"1.0000"}


def test_a_translators_targets_begin_elsewhere_as_in_training(translator):
  found = spec.load(str(translator))
  pad = found.tokenizer.with_special(("pad",)).special["pad"]
  assert spec.sent(found)["ids"] == dict(decoder_start_token_id=pad, pad_token_id=pad)


def test_generating_asks_as_training_did(translator, tmp_path, capsys):
  capsys.readouterr()
  for words in ([], ["--beams=2"]):
    assert main(["generate", f"--model={translator}", "--prompt=the fog sings", *words]) == 0
    assert capsys.readouterr().out.strip() == "now sings the fog again"


def test_an_answer_is_held_against_the_whole_target(translator, tmp_path, capsys):
  long = " ".join(["now falls the sea again"] * 4)
  (tmp_path / "long.jsonl").write_text(json.dumps(dict(source="the sea falls", target=long)) + "\n")
  answers, table = answered(
    translator, tmp_path / "out.jsonl", capsys, f"--config.data.eval_path={tmp_path}/long.jsonl"
  )
  assert answers[0]["expected"] == long and answers[0]["predicted"] == "now falls the sea again"
  assert float(table["bleu"]) < 30


def test_more_beams_than_one_are_another_search(translator, tmp_path, capsys):
  """A model that has hardly learnt: some answer differs, and so does what it is worth."""
  early = str(translator.parent / "early")
  words = ["train", f"--config={translator.parent}/recipe.json", f"--workdir={early}", "--config.train.steps=40"]
  assert main(words) == 0
  one, _ = answered(early, tmp_path / "one.jsonl", capsys)
  other, _ = answered(early, tmp_path / "other.jsonl", capsys, "--beams=4")
  assert [answer["expected"] for answer in one] == [answer["expected"] for answer in other]
  assert [answer["predicted"] for answer in one] != [answer["predicted"] for answer in other]


def test_an_assistant_says_what_it_has_learnt(tmp_path, monkeypatch, capsys):
  rows = [json.dumps(dict(prompt=source, response=target)) for source, target in PAIRS]
  (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
  home = learnt(
    tmp_path, monkeypatch, objective=dict(name="instruction", turns="pair"), model=dict(SMALL),
    data=dict(tokenizer="bytes", sequence_length=128),
  )  # fmt: skip
  answers, table = answered(home, tmp_path / "out.jsonl", capsys)
  assert [one["expected"] for one in answers] == [target for _, target in PAIRS]
  assert [one["predicted"] for one in answers] == [target for _, target in PAIRS]
  assert all(source in one["text"] for one, (source, _) in zip(answers, PAIRS))
  assert table["exact_match"] == "100.0000"


def test_a_prompt_that_fills_the_positions_gets_a_short_answer(tmp_path, monkeypatch, capsys):
  rows = [dict(prompt=word * size, response="so it is") for word, size in (("sea ", 3), ("day ", 90))]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  monkeypatch.setitem(STEPS, "steps", 20)
  home = learnt(
    tmp_path, monkeypatch, objective=dict(name="instruction", turns="pair"), model=dict(SMALL),
    data=dict(tokenizer="bytes", sequence_length=64),
  )  # fmt: skip
  answers, _ = answered(home, tmp_path / "out.jsonl", capsys)
  assert len(answers) == 2 and len(answers[1]["predicted"].encode()) <= 3 * 17


@pytest.mark.parametrize(
  "length, positions, prompt, room",
  [(64, None, 500, 64), (64, 64, 1, 49), (64, 64, 16, 49), (64, 64, 17, 33), (64, 64, 48, 17), (8, 64, 20, 8)],
)
def test_the_room_of_an_answer_is_that_behind_its_own_prompt(length, positions, prompt, room):
  most = None if positions is None else positions - positions // 4
  found = evaluate.room_behind([0] * prompt, length, positions, most)
  assert found == room and (positions is None or prompt + found - 1 <= positions)
