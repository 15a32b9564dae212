"""What `fmjax eval` says of a task: one table, whose numbers are those of the file that it writes."""

import json
import random
import types

import numpy as np
import pytest

from fmjax import evaluate, judging, metrics
from fmjax.__main__ import main
from fmjax.config import from_config_dict
from fmjax.measures import tasks as measures
from fmjax.objectives import OBJECTIVES
from fmjax.objectives.classification import Classification
from tests.objectives import tasks

LABELS = ("bad", "good")
RECIPE = """
import ml_collections

def get_config():
  return ml_collections.ConfigDict(dict(
    objective=dict(name="classification", labels=("bad", "good")),
    model=dict(kind="encoder", D=16, L=1, N=2, F=16, max_positions=32, token_types=2),
    data=dict(source="csv", columns=("0", "1"), tokenizer="bytes", sequence_length=32),
    optimizer=dict(schedule="constant", learning_rate=1e-3),
    train=dict(steps=2, batch_size=8, log_every=1),
  ))
"""


def lines(path, count, seed):
  choose, made = random.Random(seed), []
  for _ in range(count):
    label = choose.randrange(2)
    words = choose.choices(("dull", "film") if label == 0 else ("warm", "film"), k=choose.randint(1, 4))
    made.append((" ".join(words), LABELS[label]))
  path.write_text("".join(f"{text}\t{label}\n" for text, label in made))
  return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(its folder, what it is evaluated on)."""
  folder = tmp_path_factory.mktemp("task")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("FMJAX_CACHE", str(folder / "cache"))
    lines(folder / "train.tsv", 24, 0)
    told = lines(folder / "dev.tsv", 11, 1)  # no whole number of batches
    (folder / "recipe.py").write_text(RECIPE)
    for name, seed in dict(run=0, other=1).items():
      words = ["train", f"--config={folder}/recipe.py", f"--workdir={folder / name}", f"--config.seed={seed}"]
      words += [f"--config.data.path={folder}/train.tsv", f"--config.data.eval_path={folder}/dev.tsv"]
      assert main(words) == 0
    yield folder / "run", told


def test_an_evaluation_from_its_table_to_its_file(run, capsys):
  home, told = run
  capsys.readouterr()
  assert main(["eval", f"--workdir={home}"]) == 0
  shown = capsys.readouterr().out
  assert max(map(len, shown.splitlines()[:-1])) <= 80
  path = home / "predictions" / "eval-2.jsonl"
  assert shown.splitlines()[-1] == f"predictions  {path}"
  answers = metrics.read(path)
  assert [one["example"] for one in answers] == list(range(11))
  assert [(one["text"], one["expected"]) for one in answers] == told
  assert [one["length"] for one in answers] == [len(text) for text, _ in told]
  for one in answers:
    assert sum(one["probabilities"].values()) == pytest.approx(1) and tuple(one["probabilities"]) == LABELS
    assert one["predicted"] == max(one["probabilities"], key=one["probabilities"].get)
  words = [line.split() for line in shown.splitlines()]
  for score in measures.scores(Classification(labels=LABELS), answers):
    row = [score.name, f"{score.value:.4f}", f"{score.low:.4f}", "..", f"{score.high:.4f}", "11"]
    assert words.count(row) == 1 and shown.count(score.name) <= 2  # a signature may stand below
  assert "eval/accuracy" not in shown and shown.count("eval/loss") == 1
  last = [row for row in metrics.read(home / "metrics.jsonl") if "eval/loss" in row][-1]
  assert f"{last['eval/loss']:.6f}" in shown
  assert last["eval/accuracy"] == np.mean([one["predicted"] == one["expected"] for one in answers])

  before = path.read_bytes()
  assert main(["eval", f"--workdir={home}"]) == 64
  assert "the file of predictions exists" in capsys.readouterr().err and path.read_bytes() == before

  assert main(["report", str(home)]) == 0
  page = (home / "report.html").read_text()
  assert "eval-2.jsonl" in page and "Wrong, and most certain" in page and told[0][0] in page


@pytest.mark.parametrize("how", [None, "vote", "3,1"])
def test_several_runs_answer_together(run, tmp_path, capsys, how):
  home, told = run
  other = home.parent / "other"
  for name in (home, other):
    assert main(["eval", f"--workdir={name}", f"--predictions={tmp_path / name.name}.jsonl"]) == 0
  capsys.readouterr()
  words = ["eval", f"--model={home}", f"--model={other}", f"--predictions={tmp_path}/both.jsonl"]
  assert main(words + ([f"--combine={how}"] if how else [])) == 0
  shown = capsys.readouterr().out.splitlines()
  one, two, both = (metrics.read(tmp_path / f"{name}.jsonl") for name in ("run", "other", "both"))
  assert [(answer["text"], answer["expected"]) for answer in both] == told
  for a, b, answer in zip(one, two, both, strict=True):
    if how != "vote":
      share = {None: 0.5, "3,1": 0.75}[how]
      mean = {x: share * a["probabilities"][x] + (1 - share) * b["probabilities"][x] for x in LABELS}
      assert answer["probabilities"] == pytest.approx(mean)
    elif a["predicted"] == b["predicted"]:
      assert answer["predicted"] == a["predicted"]
  rows = [line.split() for line in shown if " accuracy " in line]
  accuracies = [np.mean([x["predicted"] == x["expected"] for x in answers]) for answers in (one, two, both)]
  assert [row[-5] for row in rows] == [f"{value:.4f}" for value in accuracies]
  assert rows[-1][:3] == [how or "average", "of", "2"] and rows[0][0] == str(home)


def test_a_member_is_trained_on_what_those_before_it_got_wrong(run, tmp_path, capsys):
  home, train = run[0], run[0].parent / "train.tsv"
  file, words = tmp_path / "weights.npy", [f"--config.data.eval_path={train}", f"--predictions={tmp_path}/all.jsonl"]
  assert main(["eval", f"--model={home}", *words, f"--boost={file}"]) == 0
  shown = capsys.readouterr().out
  wrong = np.array([one["predicted"] != one["expected"] for one in metrics.read(tmp_path / "all.jsonl")])
  assert 0 < wrong.sum() < 12 and f"--config.data.subsample.weights={file}" in shown
  assert f"--combine=vote:{np.log((24 - wrong.sum()) / wrong.sum()):.4f}" in shown
  weights = np.load(file)
  np.testing.assert_allclose([weights[wrong].sum(), weights[~wrong].sum()], 0.5)
  more = [f"--config={home.parent}/recipe.py", f"--config.data.path={train}", f"--workdir={tmp_path}/next",
          f"--config.data.eval_path={home.parent}/dev.tsv", f"--config.data.subsample.weights={file}"]  # fmt: skip
  assert main(["train", *more]) == 0
  np.save(file, weights[::-1])
  capsys.readouterr()
  assert main(["train", f"--workdir={tmp_path}/next", "--config.train.steps=3"]) == 65
  assert "DATA_CHANGED" in capsys.readouterr().err
  capsys.readouterr()
  words[1] = f"--predictions={tmp_path}/more.jsonl"
  assert main(["eval", f"--model={home}", *words, f"--boost={file}"]) == 64
  assert "the file of weights exists" in capsys.readouterr().err
  file.unlink()  # which no evaluation reads
  assert main(["eval", f"--model={tmp_path}/next"]) == 0
  assert main(["eval", f"--model={home}", f"--data={train}", f"--boost={tmp_path}/b.npy"]) == 64


def test_combining_is_for_several_models(run, capsys):
  home, _ = run
  assert main(["eval", f"--model={home}", "--combine=vote"]) == 64
  assert main(["eval", f"--model={home}", f"--model={home.parent}/other", "--combine=0.5"]) == 64
  assert "no weight for each" in capsys.readouterr().err


def test_other_data_has_a_file_of_its_own(run, tmp_path, capsys):
  home, _ = run
  told = lines(tmp_path / "other.tsv", 5, 2)
  out = tmp_path / "answers.jsonl"
  words = ["eval", f"--workdir={home}", f"--config.data.eval_path={tmp_path}/other.tsv"]
  assert main([*words, f"--predictions={out}"]) == 0
  assert [(one["text"], one["expected"]) for one in metrics.read(out)] == told
  assert not (home / "predictions" / "other-2.jsonl").exists()
  assert main(words) == 0
  assert (home / "predictions" / "other-2.jsonl").read_bytes() == out.read_bytes()
  assert "classification: 5 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
  "change, status, what",
  [
    ("data.tokenizer=characters", 65, "the data has another tokenizer than the run"),
    ("model.D=32", 64, "an evaluation has no --config.model.D"),
  ],
)
def test_what_would_judge_another_model_is_refused(run, capsys, change, status, what):
  home, _ = run
  before = set((home / "predictions").glob("*")) if (home / "predictions").exists() else set()
  assert main(["eval", f"--workdir={home}", f"--config.{change}", f"--predictions={home}/no.jsonl"]) == status
  assert what in capsys.readouterr().err
  assert not (home / "no.jsonl").exists()
  assert main(["eval", f"--workdir={home}", "--beams=2", f"--predictions={home}/no.jsonl"]) == 64
  assert before == (set((home / "predictions").glob("*")) if (home / "predictions").exists() else set())


# --- without a run


def stand_in(objective, records, length):
  """Batches of one split that has `records`, as far as `evaluate.shown` looks at them."""
  rows = tasks.read(objective, records, length)
  made = tasks.tokenizer("bert").with_special(objective.needs(length))
  split = types.SimpleNamespace(examples=len(rows), read=lambda wanted: [rows[row] for row in wanted])
  prepared = types.SimpleNamespace(objective=objective, tokenizer=made, splits=dict(eval=[split]),
                                   config=types.SimpleNamespace(sequence_length=length))  # fmt: skip
  vocabulary = made.vocabulary(objective.needs(length))
  return rows, types.SimpleNamespace(prepared=prepared, split="eval", source=0, vocabulary=vocabulary)


def of(name, **fields):
  return OBJECTIVES[name](**fields)


@pytest.mark.parametrize(
  "objective, record, text",
  [
    (of("classification", labels=LABELS), ("the light", "good"), "the light"),
    (of("classification", labels=LABELS, pair=True), ("the light", "the sea", "good"), "the light\nthe sea"),
    (of("regression", pair=True), ("the light", "the sea", 1.5), "the light\nthe sea"),
    (of("similarity"), ("the light", "the sea", 0.5), "the light\nthe sea"),
    (of("tagging", labels=("O", "B-X")), (["the", "light"], ["O", "B-X"]), "the light"),
    (of("multiple_choice", labels=("a", "b")), ("the sea", ["the light", "the day"], "b"),
     "the sea\nthe light\nthe day"),
    (of("seq2seq", prefix="tell: "), ("the light", "the sea"), "tell : the light"),
  ],
)  # fmt: skip
def test_an_answer_comes_with_what_was_asked(objective, record, text):
  rows, batches = stand_in(objective, [record], 32)
  (answer,) = evaluate.shown(batches, [dict(predicted="x", expected="y")])
  assert answer["text"] == text and answer["example"] == 0 and answer["predicted"] == "x"
  fields = objective.shows or ("source",)
  assert answer["length"] == sum(len(rows[0][name]) for name in fields if name in rows[0]) + bool(objective.generates)


def test_a_question_of_several_windows_is_the_first_of_them():
  objective = of("question_answering", stride=4, question_tokens=6)
  questions = [(name, "where is it", "the light of the sea " * 9, ["sea"], [17]) for name in ("q1", "q2")]
  rows, batches = stand_in(objective, questions, 24)
  assert len(rows) > 4
  answers = evaluate.shown(
    batches, [dict(id="q2", predicted="", expected=[]), dict(id="q1", predicted="", expected=[])]
  )
  assert [one["example"] for one in answers] == [len(rows) // 2, 0]
  assert answers[0]["text"].startswith("where is it\nthe light of the sea")


def test_a_long_text_is_cut():
  rows, batches = stand_in(of("classification", labels=LABELS), [("sea " * 400, "good")], 32)
  (answer,) = evaluate.shown(batches, [dict(predicted="good", expected="good")])
  assert len(answer["text"]) == evaluate.TEXT and answer["length"] == len(rows[0]["text"]) > 32


def test_a_record_that_is_left_out_has_no_answer():
  objective = of("classification", labels=LABELS)
  rows, batches = stand_in(objective, [("the light", "good"), ("the sea", "bad"), ("the day", "good")], 32)
  rows[1] = dict.fromkeys(rows[1], np.empty(0, np.int32))
  batches.batch_size, batches.examples = 4, 3
  told = evaluate.Answers(dict(a=batches))
  told.add("a", 0, dict(probabilities=np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5]], np.float32)))
  answers = evaluate.shown(batches, told.of("a"))
  assert [(one["example"], one["predicted"]) for one in answers] == [(0, "good"), (2, "bad")]
  assert told.worth()["accuracy"] == 0.5


def test_several_sources_have_a_row_each_and_one_together():
  objective, rng = Classification(labels=LABELS), np.random.default_rng(0)

  def made(count):
    return [dict(predicted=LABELS[rng.integers(2)], expected=LABELS[rng.integers(2)]) for _ in range(count)]

  answers = dict(news=made(30), forum=made(50))
  row = {"eval/loss": 0.7, "eval/news/loss": 0.6, "eval/news/accuracy": 0.5, "eval/accuracy": 0.5}
  text = judging.in_words(objective, answers, row)
  accuracies = [line.split() for line in text if " accuracy " in f" {line} "]
  assert [(cells[0], cells[-1]) for cells in accuracies] == [("news", "30"), ("forum", "50"), ("all", "80")]
  assert [line.split()[0] for line in text if line.startswith("eval/")] == ["eval/loss", "eval/news/loss"]
  shares = [np.mean([one["predicted"] == one["expected"] for one in every]) for every in answers.values()]
  assert [float(cells[2]) for cells in accuracies][:2] == pytest.approx(shares, abs=1e-4)


def test_a_table_is_as_narrow_with_a_long_signature(tmp_path):
  score = measures.Score(
    "bleu", 31.41592, 30.0, 33.0, 1000, "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6"
  )
  table = judging.table(dict(eval=[score]))
  assert max(map(len, table)) <= 80 and "31.4159" in table[-1] and "1,000" in table[-1]


@pytest.mark.parametrize(
  "objective, answers",
  [
    (of("tagging", labels=("NOUN", "VERB"), scheme=None), [dict(predicted=["NOUN", ""], expected=["NOUN", "VERB"])]),
    (of("multiple_choice", labels=("0", "1")), [dict(predicted=1, expected=1, probabilities=[0.25, 0.75])]),
  ],
)
def test_answers_of_other_kinds_are_judged(objective, answers):
  found = {name: metric.value for name, metric in measures.metrics(objective, answers).items()}
  assert found["accuracy"] == (0.5 if "tagging" in objective.name else 1.0)
  assert found.get("calibration_error", 0.25) == pytest.approx(0.25)


def test_answers_are_lines_of_json(tmp_path):
  judging.write(tmp_path / "deep" / "a.jsonl", dict(news=[dict(predicted="ä")], forum=[dict(predicted="b")]))
  found = [json.loads(line) for line in (tmp_path / "deep" / "a.jsonl").read_text().splitlines()]
  assert found == [dict(source="news", predicted="ä"), dict(source="forum", predicted="b")]
  judging.write(tmp_path / "b.jsonl", dict(news=[dict(predicted="a")]))
  assert "source" not in json.loads((tmp_path / "b.jsonl").read_text())


def test_the_default_file_is_named_by_step_and_data():
  found = types.SimpleNamespace(manifest=dict(step=7))
  named = [str(judging.default_file(["runs/a@7"], found, changes)) for changes in (
    {}, {"data.eval_path": "x/dev-*.tsv"}, {"data.eval_split": "validation"})]  # fmt: skip
  assert named == [f"runs/a/predictions/{name}-7.jsonl" for name in ("eval", "dev-", "validation")]
  several = judging.default_file(["avg:runs/a@3,runs/b", "runs/c"], found, {})
  assert str(several) == "runs/a/predictions/eval-of-3-7.jsonl"
  assert from_config_dict(dict(model=dict(V=9))).objective.judged_by == ()
