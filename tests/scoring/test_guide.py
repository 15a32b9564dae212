"""The guide on evaluation tells the truth: its commands and its Python run, on golden models and tasks in files."""

import json
import pathlib
import re
import shlex
import shutil

import pytest

from fmjax.__main__ import main
from tests import guides
from tests.scoring import folders, tasks

GUIDE, COMMANDS = guides.read("evaluation"), guides.commands("evaluation")


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder that holds what the guide names."""
  folders.write("gpt2", tmp_path / "gpt2")
  folders.write("t5", tmp_path / "t5")
  shutil.copy(folders.HERE / "text.txt", tmp_path)
  text = (tmp_path / "text.txt").read_text()
  lines = "".join(json.dumps(dict(text=part)) + "\n" for part in text.split("\n\n"))
  (tmp_path / "documents.jsonl").write_text(lines)
  (tmp_path / "pairs.jsonl").write_text(json.dumps(dict(source="At noon", target="the wind turns.")) + "\n")
  tasks.write(tmp_path / "tasks")
  monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "--shots" in line])
def test_a_task_is_answered_without_training(here, command, capsys):
  data = dict(source="csv", path="reviews.csv", columns=["review", "stars"], eval_fraction=0.5)
  objective = dict(name="classification", labels=["poor", "good"])
  tree = dict(data=data, objective=objective)
  recipe = f"import ml_collections\n\ndef get_config():\n  return ml_collections.ConfigDict({tree})\n"
  pathlib.Path("reviews.py").write_text(recipe)
  rows = "".join(f"film {number},{('poor', 'good')[number % 2]}\n" for number in range(24))
  pathlib.Path("reviews.csv").write_text("review,stars\n" + rows)
  assert main(shlex.split(command)[1:]) == 0
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy")]
  assert 0 <= float(line.split()[1]) <= 1


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("fmjax") and "--data" in line])
def test_its_commands_run(here, command, capsys):
  assert main(shlex.split(command)[1:]) == 0
  lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
  assert float(lines["eval/perplexity"]) > 1
  said = {"window", "begins_with", "scored", "eval/loss", "eval/perplexity", "eval/bits_per_byte"}
  assert said - lines.keys() <= ({"window"} if "t5" in command else set())
  assert said <= set(re.findall(r"^\| `([a-z/_]+)`", GUIDE, re.M))


@pytest.mark.filterwarnings("ignore")
def test_its_python_runs(here, tmp_path, monkeypatch, capsys):
  pytest.importorskip("lm_eval")
  monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  (code,) = guides.python("evaluation")
  exec(code, {})
  expected = json.loads((folders.HERE / "harness.json").read_text())["gpt2"]["choices"]["metrics"]["acc_norm,none"]
  assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(expected)


def test_the_harness_command_is_the_one_that_is_tested():
  (command,) = [line for line in COMMANDS if line.startswith("python")]
  tested = (pathlib.Path(__file__).parent / "test_harness.py").read_text()
  assert all(word in tested for word in re.findall(r"--\w+|fmjax\.harness", command))


@pytest.mark.parametrize(
  "words, status",
  [
    (["--data=no.txt"], 65),
    (["--stride=4"], 64),
    (["--length=4"], 64),
    ([], 64),
    (["--data=text.txt", "--length=97"], 64),
    (["--data=text.txt", "--stride=0"], 64),
  ],
)
def test_what_cannot_be_evaluated_is_one_message(here, words, status, capsys):
  assert main(["eval", "--model=hf:gpt2", *words]) == status
  out, err = capsys.readouterr()
  assert not out and err.count("fmjax: error") == 1
