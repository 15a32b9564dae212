"""A task without training: answers are those of likelihoods that are computed prompt by prompt."""

import dataclasses
import json

import numpy as np
import pytest

import fmjax
from fmjax import metrics
from fmjax.__main__ import main
from fmjax.config import from_config_dict
from fmjax.errors import FmjaxError
from fmjax.scoring import likelihood, shots
from tests.scoring import folders

TRAIN = [("warm and bright", "good"), ("dull", "bad"), ("a joy", "good"), ("too long", "bad")]
ASKED = [("grey", "bad"), ("so funny!", "good"), ("a bore", "bad")]
TEMPLATE = "Film: {text}\nIt is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shots")
  folders.write("gpt2", folder / "gpt2")
  for name, rows in dict(train=TRAIN, dev=ASKED).items():
    (folder / f"{name}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
  return folder


@pytest.fixture(scope="module")
def found(folder, on):
  with on():
    return fmjax.from_pretrained(folder / "gpt2")


def config_of(folder, **objective):
  objective = objective or dict(name="classification", labels=("bad", "good"))
  data = dict(source="csv", path=str(folder / "train.tsv"), eval_path=str(folder / "dev.tsv"), columns=("0", "1"))
  return from_config_dict(dict(objective=objective, data=data, model=dict(kind="encoder")))


def log_p(found, prompt, said) -> float:
  """Of `said` behind `prompt`, from the logits of the whole text."""
  before, whole = (found.tokenizer(text)["input_ids"][0].tolist() for text in (prompt, prompt + said))
  z = found([whole[:-1]]).logits[0].astype(np.float64)
  rows = z[len(before) - 1 :]
  rows -= np.log(np.exp(rows).sum(1, keepdims=True))
  return float(rows[np.arange(len(rows)), whole[len(before) :]].sum())


def answers(found, config, asking, count):
  return shots.answers(likelihood.language_model(found), config, asking, count)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("texts", [None, ("poor", "great")])
def test_the_likeliest_label_is_the_answer(found, folder, count, texts):
  config, names = config_of(folder), dict(zip(("bad", "good"), texts or ("bad", "good")))
  chosen = np.random.default_rng(config.data_seed).choice(len(TRAIN), count, replace=False)
  before = "".join(f"Film: {TRAIN[n][0]}\nIt is {names[TRAIN[n][1]]}\n\n" for n in chosen)
  told = answers(found, config, shots.Asking(TEMPLATE, texts), count)
  assert [(one["text"], one["expected"]) for one in told] == [
    (f"Film: {text}\nIt is", label) for text, label in ASKED
  ]
  for one, (text, _) in zip(told, ASKED):
    scores = np.array([log_p(found, f"{before}Film: {text}\nIt is", f" {names[label]}") for label in ("bad", "good")])
    p = np.exp(scores - scores.max())
    assert list(one["probabilities"].values()) == pytest.approx((p / p.sum()).tolist(), rel=1e-3)
    assert one["predicted"] == ("bad", "good")[scores.argmax()]


def test_choices_are_scored_behind_their_question(found, tmp_path):
  rows = [dict(context="It rained.", choices=["It was wet", "It was dry", "no"], label=n % 3) for n in range(3)]
  for name in ("train", "dev"):
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  data = dict(source="jsonl", path=str(tmp_path / "train.jsonl"), eval_path=str(tmp_path / "dev.jsonl"))
  objective = dict(name="multiple_choice", labels=("0", "1", "2"))
  config = from_config_dict(dict(objective=objective, data=data, model=dict(kind="encoder")))
  told = answers(found, config, shots.Asking("{context} So"), 0)
  scores = [log_p(found, "It rained. So", f" {choice}") for choice in rows[0]["choices"]]
  assert [one["predicted"] for one in told] == [int(np.argmax(scores))] * 3
  assert [one["expected"] for one in told] == [0, 1, 2]


@pytest.mark.parametrize(
  "asking, count, code, what",
  [
    (shots.Asking("{txt}"), 0, "USAGE", "no column 'txt'"),
    (shots.Asking("{label}"), 0, "USAGE", "no column 'label'"),
    (shots.Asking("{text}", ("one",)), 0, "USAGE", "no text for each label"),
    (shots.Asking("{text}"), 5, "DATA_BAD", "fewer records than shots"),
    (shots.Asking("{text}"), -1, "USAGE", "a number of examples"),
    (shots.Asking("{text"), 0, "USAGE", "is no template"),
    (shots.Asking("{text:>3}"), 0, "USAGE", "no column 'text'"),
  ],
)
def test_what_cannot_be_asked_is_refused(found, folder, asking, count, code, what):
  with pytest.raises(FmjaxError, match=what) as caught:
    answers(found, config_of(folder), asking, count)
  assert caught.value.code == code


@pytest.mark.parametrize("name", ["regression", "masked_token", "next_token", None])
def test_a_task_without_labels_is_refused(name):
  with pytest.raises(FmjaxError, match="no labels to choose from"):
    shots.check_task(dict(objective=dict(name=name)) if name else {})


@pytest.mark.parametrize(
  "rows, fields, what",
  [
    ("bright\tnice\n", {}, "not one of objective.labels"),
    ("bright\t1\textra\n", dict(columns=("0",)), "reads 2 columns"),
  ],
)
def test_records_are_read_as_in_training(found, tmp_path, rows, fields, what):
  for name in ("train", "dev"):
    (tmp_path / f"{name}.tsv").write_text(rows)
  config = config_of(tmp_path)
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))
  with pytest.raises(FmjaxError, match=what) as caught:
    answers(found, config, shots.Asking("{text}"), 0)
  assert caught.value.code in ("DATA_BAD", "CONFIG")


def test_an_encoder_decoder_answers_nothing_so(folder, on):
  folders.write("t5", folder / "t5")
  with on():
    other = fmjax.from_pretrained(folder / "t5")
  with pytest.raises(FmjaxError, match="a decoder answers"):
    answers(other, config_of(folder), shots.Asking("{text}"), 0)


def test_the_command_prints_a_table_and_writes_the_answers(folder, tmp_path, capsys):
  (tmp_path / "task.json").write_text(
    json.dumps(
      dict(
        init_from="hf:nowhere", objective=dict(name="classification", labels=["bad", "good"]),
        data=dict(source="csv", path=str(folder / "train.tsv"), columns=["0", "1"]),
      )
    )
  )  # fmt: skip
  words = ["eval", f"--model=hf:{folder}/gpt2", f"--config={tmp_path}/task.json", "--shots=1",
           f"--config.data.eval_path={folder}/dev.tsv"]  # fmt: skip
  assert main([*words, "--template=Film: {text}\\nIt is", f"--predictions={tmp_path}/out.jsonl"]) == 0
  shown = capsys.readouterr().out
  told = metrics.read(tmp_path / "out.jsonl")
  right = np.mean([one["predicted"] == one["expected"] for one in told])
  assert [line.split()[1] for line in shown.splitlines() if line.startswith("accuracy")] == [f"{right:.4f}"]
  assert told[0]["text"] == "Film: grey\nIt is" and "classification: 3 answers" in shown
  assert main(words) == 0  # each text on a line, and no file
  assert main(["eval", f"--model=hf:{folder}/gpt2", "--shots=1"]) == 64
  assert main([*words, "--combine=vote"]) == 64
