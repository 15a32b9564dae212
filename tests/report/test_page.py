import dataclasses
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from fmjax import history, metrics, report
from fmjax.config import from_config_dict, to_dict
from fmjax.report import groups as report_groups
from fmjax.report import tasks as report_tasks
from fmjax.report.page import differences_from_defaults, differing

VOID = {"meta", "br", "input", "path"}
CONFIG = to_dict(from_config_dict({"model": {"V": 256, "D": 64}, "train": {"steps": 40}, "seed": 3}))
NASTY = "</script><script>alert(1)</script><img src=http://x.invalid/p.png onerror=alert(2)>'\"{{ 7*7 }}&lt;"


def clock(**seconds):
  return {bucket: seconds.get(bucket.replace("-", "_").replace(" ", "_"), 0.0) for bucket in metrics.BUCKETS}


def write(folder, rows=(), events=(), samples=(), config=None):
  folder.mkdir(parents=True, exist_ok=True)
  for name, records in ((metrics.ROWS, rows), (metrics.EVENTS, events), (metrics.SAMPLES, samples)):
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
  (folder / "config.json").write_text(json.dumps(config or {}))


def event(name, attempt, monotonic, **facts):
  wall = "2026-01-01T00:00:00.000+00:00"
  return {"event": name, "attempt": attempt, "monotonic": monotonic, "wall": wall, **facts}


def row(step, attempt, elapsed, loss=1.0, **more):
  return {"step": step, "attempt": attempt, "elapsed": elapsed, "train/loss": loss, **more}


class Page(html.parser.HTMLParser):
  """Checks that tags nest, and gathers what a browser would load, run and show."""

  def __init__(self, path):
    super().__init__()
    self.open, self.tags, self.loads, self.text, self.scripts = [], [], [], "", ""
    self.feed(pathlib.Path(path).read_text(encoding="utf-8"))
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self.loads += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
    assert not any(name.startswith("on") for name, _ in attributes)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ("script", "style"):
      self.scripts += data
    else:
      self.text += data

  def named(self, tag, **wanted):
    return [facts for name, facts in self.tags if name == tag and facts.items() >= wanted.items()]


def make(folder, shift=0.0, **config):
  rows = []
  for step in range(1, 41):
    rows.append(row(step, 1, 5 + step / 10, 3 - step / 40 + shift, tokens_per_second=1e4, data_wait=0.1,
                    **{"train/grad_norm": 1.0, "train/learning_rate": 1e-3}))  # fmt: skip
  rows += [{"step": step, "attempt": 1, "elapsed": 9.0, "eval/loss": 2.5 + shift, "eval/bits_per_byte": 1.25 + shift}
           for step in (20, 40)]  # fmt: skip
  events = [
    event("start", 1, 0.0, pid=1, host="elsewhere", command="fmjax train"),
    event("end", 1, 10.0, step=40, status="done",
          clock=clock(start_up=2.0, compile=3.0, data_wait=0.5, step=3.42, eval=0.54, checkpoint=0.54)),
  ]  # fmt: skip
  samples = [{"step": 40, "prompt": "def ", "text": "f(x): return x"}]
  tree = {**CONFIG, **{name: {**CONFIG[name], **fields} for name, fields in config.items()}}
  write(folder, rows, events, samples, tree)
  environment = dict(versions={"jax": "0.10.2"}, host="vm", device_kind="cpu", device_count=8, parameters=123456,
                     mesh={"data": 2, "fsdp": 4, "tensor": 1}, command="fmjax train --config=a.py",
                     data={"facts": {"train": {"tokens": 12345},
                                     "baselines": {"unigram": 4.5, "xz": 1.75}}})  # fmt: skip
  (folder / "environment.json").write_text(json.dumps(environment))
  return folder


def test_a_run_s_page_says_what_happened(tmp_path):
  out = report.build([make(tmp_path / "run")])
  assert out == tmp_path / "run" / "report.html"
  page = Page(out)
  for words in ("finished", "2.5000", "1.250", "29% below xz's 1.750", "72% below unigram's 4.500", "8 × cpu", "164k",
                "data 2 × fsdp 4", "12,345", "fmjax train --config=a.py", "f(x): return x", "jax"):  # fmt: skip
    assert words in page.text, words
  titles = re.findall(r"<figcaption><b>(.*?)</b>", out.read_text())
  assert titles == ["Loss", "Bits per byte", "Throughput", "Learning rate", "Gradient norm"]


def test_the_page_needs_nothing_else(tmp_path):
  for out in (
    report.build([make(tmp_path / "a")]),
    report.build([tmp_path / "a", make(tmp_path / "b")], tmp_path / "o"),
  ):
    page = Page(out)
    assert not [load for load in page.loads if re.match(r"\s*(\w+:|//)", load)]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(", page.scripts)


def test_no_text_of_a_run_becomes_markup(tmp_path):
  clean = Page(report.build([make(tmp_path / "clean")]))
  folder = make(tmp_path / "<b>bold<b> & 'run'", data={"path": NASTY})
  write(folder, [row(1, 1, 1.0, **{"eval/loss": 1.0, f"eval/{NASTY}/loss": 1.0})],
        [event(NASTY, 1, 1.0, path=NASTY), event("profile", 1, 1.0, path=NASTY), event("error", 1, 2.0, code=NASTY)],
        [{"step": 1, "prompt": NASTY, "text": NASTY}], json.loads((folder / "config.json").read_text()))  # fmt: skip
  environment = {
    "command": NASTY,
    "host": NASTY,
    "versions": {NASTY: NASTY},
    "data": {NASTY: NASTY},
    "device_kind": NASTY,
  }
  (folder / "environment.json").write_text(json.dumps(environment))
  incident = folder / "incidents" / "1"
  incident.mkdir(parents=True)
  (incident / "facts.json").write_text(NASTY)
  page = Page(report.build([folder]))
  assert page.text.count(NASTY) >= 8 and "<b>bold<b> & 'run'" in page.text
  assert len(page.named("script")) == len(clean.named("script")) == 1 and not page.named("img")
  assert page.scripts.count("alert") == 0
  for figure in page.named("figure"):
    json.loads(figure["data-hover"])


def test_every_run_is_in_the_curves_and_the_differences(tmp_path):
  runs = [make(tmp_path / str(n) / "run", shift=n / 10, train={"batch_size": 16 * (n + 1)}) for n in range(3)]
  page = Page(report.build(runs, tmp_path / "out.html"))
  names = [f"{n}/run" for n in range(3)]
  for figure in page.named("figure"):
    curves = json.loads(figure["data-hover"])["curves"]
    assert {curve["label"].split(" · ")[0] for curve in curves} == set(names)
    assert {curve["color"] for curve in curves} == {0, 1, 2}
  for kind in ("thin", "line", "dots"):
    for color in range(3):
      assert page.named("path", **{"class": f"{kind} c{color}"})
  assert [one["values"] for one in differing([history.load(path) for path in runs])] == [["16", "32", "48"]]
  assert "train.batch_size" in page.text


def test_the_clock_s_shares_sum_to_a_hundred(tmp_path):
  page = Page(report.build([make(tmp_path / "run")]))
  shares = re.findall(r"([\d.]+) %", page.text)
  assert sum(round(10 * float(share)) for share in shares[:-1]) == 1000 and shares[-1] == "100.0"
  drawn = [float(re.search("flex:([0-9.]+)", facts["style"])[1]) for facts in page.named("i") if "flex" in str(facts)]
  assert sum(drawn) == pytest.approx(100.0)


def hardly(folder, change):
  make(folder)
  change(folder)
  return folder


def keep_rows(count):
  def change(folder):
    rows = (folder / metrics.ROWS).read_text().splitlines(keepends=True)[:count]
    (folder / metrics.ROWS).write_text("".join(rows) + '{"step": 41, "train/lo')

  return change


def without(*names):
  return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
  "change, words",
  [
    (keep_rows(0), "No step has been logged yet"),
    (keep_rows(1), "Training loss 2.9750 nats per token; not evaluated"),
    (keep_rows(3), "not evaluated"),
    (without(metrics.EVENTS), "not finished"),
    (without(metrics.ROWS), "No step has been logged yet"),
    (without("environment.json", metrics.SAMPLES), "2.5000"),
    (without("config.json"), "2.5000"),
    (lambda folder: (folder / "config.json").write_text('{"model": {"D": 64}, "tra'), "2.5000"),
    (lambda folder: (folder / "config.json").write_text('{"model": {"of_tomorrow": 64}}'), "of_tomorrow"),
    (lambda folder: write(folder, [row(n, 1, 1.0, "nan") for n in range(30)]), "30 logged losses are not finite"),
    (lambda folder: write(folder, [row(1, 1, 1.0, 2.0), row(2, 1, 1.0, "inf")]), "One logged loss is not finite"),
  ],
)
def test_a_run_in_any_state_has_a_page(tmp_path, change, words):
  page = Page(report.build([hardly(tmp_path / "run", change), make(tmp_path / "whole")], tmp_path / "two.html"))
  assert words in page.text
  assert words in Page(report.build([tmp_path / "run"])).text


def test_the_config_shows_what_had_to_be_said_and_no_more():
  assert differences_from_defaults(CONFIG) == {"seed": 3, "model.V": 256, "model.D": 64, "train.steps": 40}
  lion = to_dict(from_config_dict({"model": {"V": 256}, "optimizer": {"name": "lion", "b2": 0.9}}))
  assert differences_from_defaults(json.loads(json.dumps(lion))) == {
    "model.V": 256, "optimizer.name": "lion", "optimizer.b2": 0.9}  # fmt: skip


def test_a_profile_and_an_incident_are_linked_from_where_the_page_lies(tmp_path):
  folder = make(tmp_path / "run")
  (folder / "profile").mkdir()
  (folder / "incidents" / "30").mkdir(parents=True)
  (folder / "incidents" / "30" / "incident.json").write_text('{"loss": "nan"}')
  with open(folder / metrics.EVENTS, "a") as file:
    file.write(json.dumps(event("profile", 1, 8.0, path=str(folder / "profile"))) + "\n")
  (tmp_path / "pages").mkdir()
  page = Page(report.build([folder], tmp_path / "pages" / "p.html"))
  assert {facts["href"] for facts in page.named("a")} == {"../run/profile", "../run/incidents/30"}
  assert all((tmp_path / "pages" / facts["href"]).exists() for facts in page.named("a"))
  assert '{"loss": "nan"}' in page.text


def test_a_long_history_is_cut_and_says_so(tmp_path):
  folder = make(tmp_path / "run")
  (folder / metrics.EVENTS).write_text("".join(json.dumps(event("save", 1, n, step=n)) + "\n" for n in range(500)))
  assert "500 events, the last 200 shown" in Page(report.build([folder])).text


def test_a_run_without_a_name_of_its_own_is_found_from_inside(tmp_path, monkeypatch):
  monkeypatch.chdir(make(tmp_path / "run"))
  page = Page(report.build([pathlib.Path(".")]))
  assert (
    "run" in page.text.split() and dataclasses.is_dataclass(history.load(".")) and history.load(".").name == "run"
  )


# --- a task's answers


def task(folder, objective, answers, name="eval-40.jsonl", accuracy=0.75, **config):
  make(folder)
  tree = dict(model=dict(V=256, D=64, kind="encoder"), objective=objective, train=dict(steps=40), **config)
  (folder / "config.json").write_text(json.dumps(to_dict(from_config_dict(tree))))
  with open(folder / metrics.ROWS, "a") as file:
    for step in (20, 40):
      file.write(json.dumps({"step": step, "attempt": 1, "eval/accuracy": accuracy - 0.1 * (step == 20)}) + "\n")
  (folder / "predictions").mkdir(exist_ok=True)
  (folder / "predictions" / name).write_text("".join(json.dumps(one) + "\n" for one in answers))
  return folder


def classified(labels, count=120, seed=0, **more):
  rng, found = np.random.default_rng(seed), []
  for number in range(count):
    p_C = rng.dirichlet(np.full(len(labels), 0.5))
    predicted, expected = labels[int(p_C.argmax())], labels[int(rng.integers(len(labels)))]
    found.append(dict(example=number, predicted=predicted, expected=expected,
                      probabilities=dict(zip(labels, p_C.tolist())), text=f"text {number}",
                      length=int(rng.integers(3, 40)), **more))  # fmt: skip
  return found


def tagged(tags, count=40):
  rng = np.random.default_rng(0)
  rows = [[[str(rng.choice(tags)) for _ in range(number % 7 + 1)] for _ in range(2)] for number in range(count)]
  return [dict(words=["w"] * len(a), predicted=a, expected=b, example=n) for n, (a, b) in enumerate(rows)]


def choice(n):
  return dict(predicted=n % 2, expected=int(n % 3 == 0), probabilities=[0.5 + n % 2 / 9, 0.5 - n % 2 / 9], text="q")


def span(n):
  expected = ["a b c"] if n % 2 else []
  return dict(id=f"q{n}", predicted="a b" if n % 3 else "", expected=expected, text="t", length=n)


def numbered(n):
  return dict(predicted=n / 7, expected=float(n % 5), text="t", length=n)


SPANS, MANY = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], [f"c{n}" for n in range(40)]
KINDS = {
  "class": (dict(name="classification", labels=["no", "yes"]), classified(["no", "yes"]), "Wrong, and most certain"),
  "many": (dict(name="classification", labels=MANY), classified(MANY), "of the right label's"),
  "choice": (dict(name="multiple_choice", labels=["a", "b"]), [*map(choice, range(30))], "Reliability"),
  "spans": (dict(name="tagging", labels=SPANS), tagged(SPANS), "sentences have a wrong span"),
  "tags": (dict(name="tagging", labels=["DET", "NOUN"], scheme=None), tagged(["DET", "NOUN"]), "wrong tag"),
  "number": (dict(name="regression"), [*map(numbered, range(30))], "Furthest off"),
  "text": (dict(name="question_answering", no_answer=True, stride=4, question_tokens=8), [*map(span, range(30))],
           "Worst by F1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_every_kind_have_a_page(tmp_path, kind):
  objective, answers, words = KINDS[kind]
  page = Page(report.build([task(tmp_path / "run", objective, answers)]))
  assert words in page.text and "Not judged" not in page.text and f"{len(answers)} answers" in page.text
  (view,) = report_tasks.views(history.load(tmp_path / "run"))
  assert view["scores"] and view["errors"]["rows"]
  assert ("Confusion" in page.text) == (kind not in ("number", "text"))
  assert "Slices" in page.text or kind in ("spans", "tags")


def test_a_confusion_has_every_answer_and_the_worst_errors_come_first(tmp_path):
  objective, answers, _ = KINDS["class"]
  (view,) = report_tasks.views(history.load(task(tmp_path / "run", objective, answers)))
  cells = [[int(cell["count"] or 0) for cell in row["cells"]] for row in view["confusion"]["rows"]]
  for row, right in zip(cells, ("no", "yes")):
    for count, predicted in zip(row, ("no", "yes")):
      assert count == sum((one["expected"], one["predicted"]) == (right, predicted) for one in answers)
  wrong = [one for one in answers if one["predicted"] != one["expected"]]
  sure = sorted((max(one["probabilities"].values()) for one in wrong), reverse=True)
  rows = view["errors"]["rows"]
  assert [row[-1]["text"] for row in rows] == [f"{p:.1%}" for p in sure[: report_tasks.ERRORS]]
  by = {one["example"]: one for one in answers}
  assert all(by[row[0]["text"]]["text"] == row[1]["text"] and by[row[0]["text"]] in wrong for row in rows)
  assert [kind["gold"] for kind in view["kinds"]] == [str(sum(row)) for row in cells]


def test_a_part_that_is_served_worse_is_marked(tmp_path):
  places = ("north", "south", "west")
  right = ["no" if n % 4 == 0 and n % 3 else "yes" for n in range(240)]
  answers = [dict(predicted="yes", expected=label, group=places[n % 3]) for n, label in enumerate(right)]
  (view,) = report_tasks.views(history.load(task(tmp_path / "run", KINDS["class"][0], answers)))
  rows = {row["name"]: row for row in view["slices"]["rows"] if row["by"] == "group"}
  assert {name: row["n"] for name, row in rows.items()} == dict(north="80", south="80", west="80")
  assert rows["north"]["off"] == "above" and rows["north"]["value"] == "1.0000"
  assert rows["south"]["value"] == "0.7500" and float(rows["south"]["low"]) < 0.75 < float(rows["south"]["high"])
  (whole,) = [row for row in view["slices"]["rows"] if row["name"] == "all"]
  for row in view["slices"]["rows"]:
    low, value, high = (float(one) for one in (row["low"], whole["value"], row["high"]))
    assert row["off"] == ("below" if high < value else "above" if low > value else "")


def test_answers_that_are_none_are_said_to_be_none(tmp_path):
  objective, answers, _ = KINDS["class"]
  folder = task(tmp_path / "run", objective, answers)
  for number, text in enumerate(("", "{", '{"a": 1}\n', '{"predicted": "maybe", "expected": "no"}\n', "\0\xff")):
    (folder / "predictions" / f"foreign{number}-1.jsonl").write_text(text)
  (folder / "predictions" / "torn-1.jsonl").write_text(json.dumps(answers[0]) + "\n" + json.dumps(answers[1])[:-9])
  page = Page(report.build([folder]))
  assert page.text.count("Not judged") == 5 and page.text.count(" answers\n") >= 2
  text_run = make(tmp_path / "text")
  (text_run / "predictions").mkdir()
  (text_run / "predictions" / "eval-1.jsonl").write_text(json.dumps(answers[0]) + "\n")
  assert "has no metrics of answers" in Page(report.build([text_run])).text


def test_an_older_step_s_answers_are_kept_short(tmp_path):
  objective, answers, _ = KINDS["class"]
  folder = task(tmp_path / "run", objective, answers)
  task(folder, objective, classified(["no", "yes"], 60, 1), "eval-9.jsonl")
  task(folder, objective, classified(["no", "yes"], 50, 2), "dev-x-20.jsonl")
  found = report_tasks.views(history.load(folder))
  assert [(one["name"], one["older"]) for one in found] == [
    ("dev-x-20.jsonl", False), ("eval-40.jsonl", False), ("eval-9.jsonl", True)]  # fmt: skip
  page = Page(report.build([folder]))
  assert page.text.count("Wrong, and most certain") == 2 and "eval-9.jsonl" in page.text


def test_no_text_of_an_answer_becomes_markup(tmp_path):
  labels = ["no", NASTY]
  answers = classified(labels, 30, **{NASTY: NASTY, "half": "x"})
  for one in answers[:15]:
    one |= {"half": NASTY, "text": NASTY}
  tags = [dict(words=[NASTY], predicted=["B-<b>"], expected=["O"], example=NASTY)]
  for name, objective, told in (
    ("a", dict(name="classification", labels=labels), answers),
    ("b", dict(name="tagging", labels=["O", "B-<b>"]), tags),
  ):
    folder = task(tmp_path / name, objective, told)
    page = Page(report.build([folder]))
    assert NASTY in page.text and "Not judged" not in page.text
    assert (
      len(page.named("script")) == 1 and not page.named("img") and not [tag for tag, _ in page.tags if tag == "8"]
    )
    assert page.scripts.count("alert") == 0
    two = Page(report.build([folder, task(tmp_path / f"{name}2", objective, told)], tmp_path / "two.html"))
    assert len(two.named("script")) == 1 and not two.named("img")


def test_a_task_s_page_tells_its_metric_and_its_own_units(tmp_path):
  objective, answers, _ = KINDS["class"]
  folder = task(tmp_path / "run", objective, answers)
  out = report.build([folder])
  page = Page(out)
  assert "accuracy 0.7500" in page.text and "nats per example" in page.text and "nats per token" not in page.text
  assert "Accuracy" in re.findall(r"<figcaption><b>(.*?)</b>", out.read_text())
  figures = [json.loads(figure["data-hover"]) for figure in page.named("figure") if "data-hover" in figure]
  (evals,) = [curve for figure in figures for curve in figure["curves"] if curve["texts"] == ["0.6500", "0.7500"]]
  assert evals["steps"] == [20, 40] and evals["label"] == "eval"
  losses = [curve["label"] for curve in figures[0]["curves"]]
  assert len(losses) == len(set(losses))  # no curve twice


# --- runs that differ in their seed


def seeds(folder, values, name="a", rate=1e-3, parameters=100):
  made = []
  for seed, accuracy in enumerate(values):
    run = folder / f"{name}-seed{seed}"
    task(run, KINDS["class"][0], classified(["no", "yes"], seed=seed), accuracy=accuracy, seed=seed,
         optimizer=dict(learning_rate=rate))  # fmt: skip
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | dict(parameters=parameters)))
    made.append(run)
  return made


def test_runs_that_differ_in_their_seed_alone_are_a_group(tmp_path):
  one, other = seeds(tmp_path, [0.7, 0.8, 0.75]), seeds(tmp_path, [0.9, 0.6], "b", 1e-4, 9000)
  runs = [history.load(path) for path in (one[0], other[0], *one[1:], other[1])]
  groups = report_groups.grouped(runs)
  assert [(group.name, len(group.runs)) for group in groups] == [("a", 3), ("b", 2)]
  overview = report_groups.overview(groups)
  low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem([0.7, 0.8, 0.75]))
  assert overview["rows"][0]["cells"][:3] == ["3", "100", f"0.7500 ± {(high - low) / 2:.4f}"]
  page = Page(report.build([*one, *other], tmp_path / "out.html"))
  assert "a (3 seeds)" in page.text and "b (2 seeds)" in page.text and "parameters that train" in page.text
  assert page.named("path", **{"class": "band c0"}) and not page.named("path", **{"class": "band c1"})
  figures = [json.loads(figure["data-hover"]) for figure in page.named("figure") if "data-hover" in figure]
  assert {curve["color"] for figure in figures for curve in figure["curves"]} == {0, 1}
  (mean,) = [curve for curve in figures[2]["curves"] if curve["label"] == "a · eval"]
  assert mean["texts"][-1] == f"0.7500 ± {(high - low) / 2:.4f}"


def test_quantiles_are_student_s():
  expected = stats.t.ppf(0.975, np.arange(1, len(report_groups.QUANTILES) + 1))
  np.testing.assert_allclose(report_groups.QUANTILES, expected, atol=5e-5)
  values = np.random.default_rng(0).normal(size=50).tolist()
  mean, half = report_groups.interval(values)
  assert mean == pytest.approx(np.mean(values))
  assert half == pytest.approx(stats.t.ppf(0.975, 30) * stats.sem(values), rel=1e-4)
  assert report_groups.interval([3.0]) == (3.0, None) and report_groups.interval([1.0, float("nan")])[1] is None


@pytest.mark.parametrize(
  "names, name",
  [(["lora0", "lora1"], "lora"), (["lora10", "lora11"], "lora"), (["sst2-0", "sst2-1"], "sst2"), (["x"], "x"),
   (["a-seed=1", "a-seed=2"], "a"), (["one", "two"], "one"), (["1/run", "2/run"], "1/run")],
)  # fmt: skip
def test_what_a_group_is_called(names, name):
  assert report_groups.common_name(names) == name


def test_answers_side_by_side_are_means_over_seeds(tmp_path):
  one, other = seeds(tmp_path, [0.7, 0.8, 0.75]), seeds(tmp_path, [0.9], "b", 1e-4, 9000)
  groups = report_groups.grouped([history.load(path) for path in (*one, *other)])
  (table,) = report_groups.side_by_side(groups)
  rows = {(row["by"], row["name"]): row for row in table["rows"]}
  shares = []
  for seed in range(3):
    answers = classified(["no", "yes"], seed=seed)
    shares.append(np.mean([one["predicted"] == one["expected"] for one in answers]))
  several, alone = rows["", "accuracy"]["cells"]
  assert several["text"] == f"{np.mean(shares):.4f}" and several["about"].startswith("± ") and several["n"] == "120"
  assert alone["text"] == f"{shares[0]:.4f}" and " to " in alone["about"]
  labels = [row["cells"] for key, row in rows.items() if key[0] == "accuracy by label"]
  assert len(labels) == 2 and all(cells[0] and cells[1] for cells in labels)
