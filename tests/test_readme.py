"""The README tells the truth: its Python runs, its commands exist, its links lead somewhere."""

import pathlib
import re

import numpy as np

from fmjax.arguments import parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_its_python_trains_a_step():
  (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
  names = {}
  exec(code, names)
  assert names["state"]["step"] == 1 and np.isfinite(names["metrics"]["loss"])


def test_its_commands_and_flags_are_those_of_the_parser():
  commands = next(a for a in parser()._actions if a.dest == "command").choices
  lines = re.findall(r"^fmjax (\w+) +(.*)$", README, re.M)
  assert {name for name, _ in lines} == set(commands)
  for name, words in lines:
    text = commands[name].format_help()
    assert all(flag in text for flag in re.findall(r"--[a-z_]+", words)), name


def test_its_links_lead_somewhere():
  for target in re.findall(r"\]\(([^)#]+)\)", README):
    assert (ROOT / target).exists(), target


def test_nothing_in_it_waits_to_be_filled_in():
  texts = [README, *(path.read_text() for path in (ROOT / "experiments").rglob("*.md"))]
  assert not [word for text in texts for word in re.findall(r"@[A-Z]+@", text)]
