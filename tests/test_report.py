import dataclasses
import html.parser
import json
import pathlib
import re

import pytest

from fmjax import history, metrics, report
from fmjax.config import from_config_dict, to_dict

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
  assert [one["values"] for one in report.differing([history.load(path) for path in runs])] == [["16", "32", "48"]]
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
  assert report.differences_from_defaults(CONFIG) == {"seed": 3, "model.V": 256, "model.D": 64, "train.steps": 40}
  lion = to_dict(from_config_dict({"model": {"V": 256}, "optimizer": {"name": "lion", "b2": 0.9}}))
  assert report.differences_from_defaults(json.loads(json.dumps(lion))) == {
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
