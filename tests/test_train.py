"""Laws of the loop: rerunning resumes, bit for bit; signals lose no step; a changed config is shown; bad input is
one message, the right exit status, and nothing lost."""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fmjax import checkpoint, data, metrics, workdir
from fmjax.__main__ import main
from fmjax.config import from_config_dict

RECIPE = str(pathlib.Path(__file__).parent / "recipes" / "tiny.py")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """A text with something to learn in it."""
  path = tmp_path_factory.mktemp("data") / "text.txt"
  words = ["alpha", "beta", "gamma", "delta", "epsilon"]
  choose = random.Random(0)
  path.write_text(" ".join(choose.choice(words) for _ in range(2000)))
  return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def words(home, text, *more, steps=6):
  return ["train", f"--config={RECIPE}", f"--workdir={home}", f"--config.data.path={text}",
          f"--config.train.steps={steps}", *more]  # fmt: skip


def rows(home, name="train/loss"):
  return [(row["step"], row[name]) for row in metrics.read(home / "metrics.jsonl") if name in row]


def last_hash(home):
  return checkpoint.read_manifest(home / "checkpoints", checkpoint.newest(home / "checkpoints"))["statehash"]


def events(home, name):
  return [event for event in metrics.read(home / "events.jsonl") if event["event"] == name]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
  """A run that nothing interrupted."""
  home = tmp_path_factory.mktemp("whole") / "run"
  os.environ["FMJAX_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
  assert main(words(home, text)) == 0
  return home


def same_run(home, whole):
  assert rows(home) == rows(whole)
  assert rows(home, "eval/loss") == rows(whole, "eval/loss")
  assert last_hash(home) == last_hash(whole)


def test_a_run_leaves_what_it_promises(whole, capsys):
  names = {path.name for path in whole.iterdir()}
  assert names >= {"config.json", "environment.json", "metrics.jsonl", "events.jsonl", "checkpoints", "tensorboard",
                   "report.html", "tokenizer"}  # fmt: skip
  assert [step for step, _ in rows(whole)] == [1, 2, 3, 4, 5, 6]
  assert [step for step, _ in rows(whole, "eval/loss")] == [3, 6]
  losses = [loss for _, loss in rows(whole)]
  assert losses[-1] < losses[0]
  first = metrics.read(whole / "metrics.jsonl")[0]
  assert {"step", "train/loss", "train/grad_norm", "train/learning_rate", "tokens_per_second", "data_wait"} <= set(
    first
  )
  assert [event["event"] for event in metrics.read(whole / "events.jsonl")][-1] == "end"
  assert checkpoint.steps(whole / "checkpoints") == [2, 4, 6]


def test_a_finished_run_is_not_trained_again(whole, text, capsys):
  before = (whole / "metrics.jsonl").read_bytes()
  assert main(words(whole, text)) == 0
  assert (whole / "metrics.jsonl").read_bytes() == before
  assert "bits a byte" in capsys.readouterr().out


def test_resuming_equals_never_stopping(whole, text, tmp_path):
  home = tmp_path / "run"
  assert main(words(home, text, steps=4)) == 0
  assert main(words(home, text)) == 0  # a harmless change
  assert rows(home) == rows(whole) and last_hash(home) == last_hash(whole)
  assert events(home, "config")[0]["changes"] == ["train.steps: 4 -> 6"]
  assert events(home, "restore")[0]["step"] == 4
  # ... and needs the folder alone.
  assert main(words(home, text, steps=7)) == 0
  assert main(["train", f"--workdir={home}", "--config.train.steps=8"]) == 0
  assert main(["train", f"--workdir={home}"]) == 0
  assert [step for step, _ in rows(home)] == list(range(1, 9))


def test_resuming_on_another_mesh_restores_the_same_bits(whole, text, tmp_path):
  home = tmp_path / "run"
  assert main(words(home, text, steps=4)) == 0
  assert main(words(home, text, "--config.mesh.tensor=2")) == 0
  for (_, a), (_, b) in zip(rows(home), rows(whole), strict=True):
    assert a == pytest.approx(b, rel=1e-5)
  assert rows(home)[:4] == rows(whole)[:4]


# --- mixtures


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mixture")
  for name, letters in (("a", "abcdefgh "), ("b", "01234567 "), ("c", "ABCDEFGH ")):
    (folder / name).write_text("".join(random.Random(name).choices(letters, k=5000)))
  return folder


def mixed(home, sources, *more, steps=6, **weights):
  mixture = {name: dict(source="text", path=str(sources / name), weight=weight) for name, weight in weights.items()}
  return ["train", f"--config={RECIPE}", f"--workdir={home}", f"--config.data.mixture={mixture}",
          f"--config.train.steps={steps}", *more]  # fmt: skip


def rows_by_source(home, steps):
  """(how many rows of each source, which ones) of each batch that the run in `home` has."""
  config = from_config_dict(workdir.read_json(home / "config.json"))
  prepared = data.prepare(config.data, config.objective)
  batches = data.Batches(prepared, "train", config.train.batch_size, config.seed)
  every = [batches.records(step) for step in range(steps)]
  return [collections.Counter(name for name, _ in one) for one in every], every


def test_a_mixture_may_be_edited_on_resume(sources, tmp_path):
  home = tmp_path / "run"
  assert main(mixed(home, sources, a=1.0, b=1.0, steps=4)) == 0
  before, (_, seen) = rows(home), rows_by_source(home, 4)
  assert main(mixed(home, sources, b=1.0, c=3.0, steps=6)) == 0
  (event,) = events(home, "mixture")
  assert event["step"] == 4 and event["schedules"] == dict(a=[[0, 1], [4, 0]], b=[[0, 1], [4, 1]], c=[[0, 0], [4, 3]])
  assert events(home, "config")[-1]["changes"] == ["train.steps: 4 -> 6"]
  counts, now = rows_by_source(home, 6)
  assert rows(home)[:4] == before and now[:4] == seen
  assert all(count == dict(a=4, b=4) for count in counts[:4])
  assert all(count == dict(b=2, c=6) for count in counts[4:])
  # What is given again, or nothing, changes nothing.
  assert main(mixed(home, sources, b=1.0, c=3.0, steps=7)) == 0
  assert main(["train", f"--workdir={home}", "--config.train.steps=8"]) == 0
  assert main(["train", f"--workdir={home}"]) == 0
  assert events(home, "mixture") == [event]
  assert rows_by_source(home, 6)[1] == now
  # Each source has its own evaluation, those that gave up too.
  last = metrics.read(home / "metrics.jsonl")[-1]
  assert {f"eval/{name}/loss" for name in "abc"} <= last.keys() and last["step"] == 8
  # The run is the one that has this schedule from its start.
  whole = tmp_path / "whole"
  mixture = json.dumps(workdir.read_json(home / "config.json")["data"]["mixture"]).replace("null", "None")
  assert main(["train", f"--config={RECIPE}", f"--workdir={whole}", f"--config.data.mixture={mixture}",
               "--config.train.steps=8"]) == 0  # fmt: skip
  assert rows(whole) == rows(home) and last_hash(whole) == last_hash(home)


def test_an_edit_that_would_change_the_past_is_refused(sources, tmp_path, capsys):
  home = tmp_path / "run"
  assert main(mixed(home, sources, a=1.0, b=1.0, steps=4)) == 0
  kept = (home / "config.json").read_bytes()
  assert main(mixed(home, sources, "--config.data.mixture.a.epochs=0.001", a=1.0, b=1.0)) == 78
  assert "before step 4" in capsys.readouterr().err and (home / "config.json").read_bytes() == kept
  (sources / "b").rename(sources / "elsewhere")
  (sources / "b").write_text("other text " * 1000)
  try:
    assert main(mixed(home, sources, a=1.0, b=1.0)) == 65
  finally:
    (sources / "elsewhere").rename(sources / "b")
  assert "DATA_CHANGED" in capsys.readouterr().err


def test_a_mixture_whose_batches_are_pooled_is_not_edited(tmp_path, capsys, monkeypatch):
  """An edit within a pool would deal out again what its first batches have trained on."""
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
  for name in "ab":
    lines = [json.dumps(dict(source="x" * (n % 9 + 1), target=name * (n % 5 + 1))) for n in range(80)]
    (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
  mixture = {name: dict(source="jsonl", path=f"{tmp_path}/{name}.jsonl", weight=1.0) for name in "ab"}
  tree = dict(
    objective=dict(name="seq2seq"), model=dict(kind="encoder_decoder", D=16, L=1, source_L=1, N=2),
    data=dict(mixture=mixture, columns=None, tokenizer="bytes", sequence_length=16, buckets=[8], pool=4),
    train=dict(steps=2, batch_size=8, log_every=1),
  )  # fmt: skip
  (tmp_path / "recipe.json").write_text(json.dumps(tree))
  words = ["train", f"--config={tmp_path}/recipe.json", f"--workdir={tmp_path}/run"]
  assert main(words) == 0
  kept = (tmp_path / "run" / "config.json").read_bytes()
  assert main([*words, "--config.data.mixture.a.weight=3", "--config.train.steps=4"]) == 78
  assert "pooled is not edited" in capsys.readouterr().err
  assert (tmp_path / "run" / "config.json").read_bytes() == kept
  assert main([*words, "--config.train.steps=4"]) == 0


def test_without_a_mixture_its_temperature_is_nothing_to_edit(whole, text, tmp_path):
  home = tmp_path / "run"
  shutil.copytree(whole, home)
  assert main(words(home, text, "--config.data.temperature=2")) == 0
  assert not events(home, "mixture")


def run(home, text, *more, **how):
  # Eight threads' worth of fake devices would only slow a process that is to be killed.
  environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8")
  command = [sys.executable, "-m", "fmjax", *words(home, text, *more)]
  return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE, **how)


def wait_for_step(home, step, process):
  while process.poll() is None and len(rows(home)) < step:
    time.sleep(0.005)


def killed_and_run_again(home, text, whole, kills, seed, *more):
  """Kills a run `kills` times at random moments, then lets it end."""
  choose = random.Random(seed)
  for number in range(kills):
    process = run(home, text, *more)
    if number % 4 == 3:
      time.sleep(choose.uniform(0.2, 6))  # also before the first step
    else:
      wait_for_step(home, len(rows(home)) + choose.randint(1, 2), process)
      time.sleep(choose.uniform(0, 0.1))
    process.kill()
    process.communicate()
  process = run(home, text, *more)
  _, err = process.communicate()
  assert process.returncode == 0, err
  same_run(home, whole)


def test_kill_9_and_run_again_equals_never_stopping(text, whole, tmp_path):
  killed_and_run_again(tmp_path / "run", text, whole, 2, seed=0)


@pytest.mark.slow
def test_twenty_kills(text, tmp_path):
  more = ("--config.train.steps=60",)
  home = tmp_path / "whole"
  process = run(home, text, *more)
  _, err = process.communicate()
  assert process.returncode == 0, err
  killed_and_run_again(tmp_path / "run", text, home, 24, 1, *more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_and_exits_75(number, text, whole, tmp_path):
  home = tmp_path / "run"
  process = run(
    home, text, "--config.train.steps=5000", "--config.train.eval_every=None", "--config.checkpoint.every=None"
  )
  wait_for_step(home, 2, process)
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == 75, err
  assert re.search(r"error INTERRUPTED  stopped at step (\d+); step \1 is saved", err)
  assert checkpoint.newest(home / "checkpoints") == rows(home)[-1][0] == int(re.search(r"at step (\d+);", err)[1])
  assert rows(home)[:2] == rows(whole)[:2] and events(home, "preempt")
  assert "Traceback" not in err
  assert err.count("fmjax: attention: xla (") == 1  # which kernel, and why, said once


def test_a_second_run_is_refused_and_a_dead_ones_lock_is_taken_over(text, tmp_path):
  home = tmp_path / "run"
  first = run(home, text, "--config.train.steps=5000", "--config.train.eval_every=None")
  wait_for_step(home, 1, first)
  second = run(home, text)
  _, err = second.communicate()
  assert second.returncode == 64 and "WORKDIR_BUSY" in err and str(first.pid) in err
  first.kill()
  first.communicate()
  assert main(words(home, text, steps=len(rows(home)) + 1)) == 0


def test_a_changed_config_is_shown_and_refused(whole, text, capsys):
  before = sorted(
    (path, path.stat().st_mtime_ns) for path in whole.rglob("*") if path.is_file() and path.name != "lock"
  )
  assert main(words(whole, text, "--config.optimizer.learning_rate=0.5", "--config.train.log_every=2")) == 78
  err = capsys.readouterr().err
  assert "optimizer.learning_rate: saved 0.01, given 0.5" in err and "log_every" not in err
  after = sorted(
    (path, path.stat().st_mtime_ns) for path in whole.rglob("*") if path.is_file() and path.name != "lock"
  )
  assert before == after


def test_a_bad_gradient_ends_the_run_or_is_skipped(text, tmp_path, capsys):
  home = tmp_path / "run"
  huge = "--config.optimizer.learning_rate=1e30"
  assert main(words(home, text, huge)) == 70
  err = capsys.readouterr().err
  assert "DIVERGED" in err and "incidents" in err
  (incident,) = (home / "incidents").iterdir()
  names = {path.name for path in incident.iterdir()}
  assert names == {"batch.npz", "config.json", "incident.json"}
  told = json.loads((incident / "incident.json").read_text())
  assert len(told["examples"]) == 8 and told["batch"] + 1 == int(incident.name)
  assert np.load(incident / "batch.npz")["tokens"].shape == (8, 16)
  assert main(words(home, text, huge, "--config.train.on_nonfinite=skip", "--config.train.max_skips=2")) == 70
  assert "3 in a row" in capsys.readouterr().err
  assert main(words(home, text, huge, "--config.train.on_nonfinite=skip", "--config.train.eval_every=None")) == 0
  assert len(events(home, "skip")) >= 6


def test_a_profile_is_traced_and_linked(text, tmp_path):
  home = tmp_path / "run"
  assert main(words(home, text, "--config.train.profile=(2,4)", "--config.train.eval_every=None")) == 0
  assert list((home / "profile").rglob("*.xplane.pb"))
  assert events(home, "profile")[0]["path"] == "profile" and "profile" in (home / "report.html").read_text()


def test_other_data_is_refused_with_expected_and_got(text, tmp_path, capsys):
  mine = tmp_path / "mine.txt"
  mine.write_text(text.read_text())
  home = tmp_path / "run"
  assert main(words(home, mine)) == 0
  mine.write_text(text.read_text().replace("alpha", "omega"))
  capsys.readouterr()
  assert main(words(home, mine, steps=8)) == 65
  err = capsys.readouterr().err
  assert "DATA_CHANGED" in err and "expected" in err and "got" in err


def test_generating_and_evaluating_from_a_run(whole, capsys):
  assert main(["generate", f"--model={whole}", "--prompt=alpha", "--max_new_tokens=8", "--seed=1"]) == 0
  one = capsys.readouterr().out
  assert one.startswith("alpha")
  main(["generate", f"--model={whole}@6", "--prompt=alpha", "--max_new_tokens=8", "--seed=1"])
  assert capsys.readouterr().out == one
  assert main(["eval", f"--workdir={whole}"]) == 0
  value = float(re.search(r"eval/loss +(\S+)", capsys.readouterr().out)[1])
  assert value == pytest.approx(rows(whole, "eval/loss")[-1][1], rel=1e-5)


def test_a_run_may_be_named_by_a_relative_path(whole, capsys, monkeypatch):
  monkeypatch.chdir(whole.parent)
  assert main(["verify", whole.name]) == 0
  assert main(["generate", f"--model={whole.name}", "--max_new_tokens=2"]) == 0
  assert main(["eval", f"--model={whole.name}"]) == 0
  assert main(["report", whole.name]) == 0


def test_verify_prints_the_statehash_and_names_damage(text, tmp_path, capsys):
  home = tmp_path / "run"
  assert main(words(home, text)) == 0
  capsys.readouterr()
  assert main(["verify", str(home)]) == 0
  assert f"step 6 ok {last_hash(home)}" in capsys.readouterr().out.splitlines()
  damaged = max((home / "checkpoints" / "6").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
  content = bytearray(damaged.read_bytes())
  content[len(content) // 2] ^= 4
  damaged.write_bytes(content)
  assert main(["verify", str(home)]) == 65
  assert damaged.name in capsys.readouterr().out
  assert main(words(home, text, steps=7)) == 0
  err = capsys.readouterr().err
  assert "CHECKPOINT_CORRUPT" in err and "restored step 4" in err
  assert [step for step, _ in rows(home)] == [1, 2, 3, 4, 5, 6, 7]


BAD = {
  "no command": ([], 64, "USAGE"),
  "unknown command": (["trian"], 64, "USAGE"),
  "unknown flag": (["train", "--workdir={home}", "--wat"], 64, "USAGE"),
  "nothing to resume": (["train", "--workdir={home}"], 64, "no run"),
  "no recipe": (["train", "--config=nowhere.py", "--workdir={home}"], 78, "nowhere.py"),
  "unknown field": (["{train}", "--config.model.Dim=3"], 78, "model.Dim"),
  "no such data": (["{train}", "--config.data.path={home}/none.txt"], 65, "none.txt"),
  "empty text": (["{train}", "--config.data.path={empty}"], 65, "empty.txt"),
  "not text": (["{train}", "--config.data.path={binary}"], 65, "UTF-8"),
  "text too short": (["{train}", "--config.data.sequence_length=100000"], 65, "100000"),
  "no tokenizer": (["{train}", "--config.data.tokenizer={home}/none.model"], 65, "none.model"),
  "not a tokenizer": (["{train}", "--config.data.tokenizer={binary}.model"], 65, "binary.model"),
  "wrong mesh": (["{train}", "--config.mesh.tensor=3"], 78, "2 or 4"),
  "wrong batch": (["{train}", "--config.train.batch_size=12"], 78, "8 or 16"),
  "small vocabulary": (["{train}", "--config.model.V=20"], 78, "model.V"),
  "workdir is a file": (["{train}", "--workdir={empty}"], 74, "empty.txt"),
  "workdir below a file": (["{train}", "--workdir={empty}/x"], 74, "empty.txt"),
  "generate from nothing": (["generate", "--model={home}"], 65, "no run"),
  "generate at a word": (["generate", "--model={home}@last"], 64, "number"),
  "generate too cold": (["generate", "--model={home}", "--temperature=-1"], 64, "temperature"),
  "report of nothing": (["report", "{home}"], 65, ""),
  "verify nothing": (["verify", "{home}"], 65, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_the_right_status(name, text, tmp_path, capsys):
  arguments, status, word = BAD[name]
  (tmp_path / "empty.txt").write_text("")
  for binary in ("binary", "binary.model"):
    (tmp_path / binary).write_bytes(b"\xff\xfe\x00" * 50)
  places = dict(
    home=tmp_path / "run", empty=tmp_path / "empty.txt", binary=tmp_path / "binary", text=text, recipe=RECIPE
  )
  given = []
  for argument in arguments:
    given += words(tmp_path / "run", text) if argument == "{train}" else [argument.format(**places)]
  assert main(given) == status
  err = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"fmjax: \w+ing|fmjax: data", line)]
  first = next(number for number, line in enumerate(err) if line.startswith("fmjax: error "))
  message = err[first:]
  assert len(message) <= 6 and word in "\n".join(message)
  assert "Traceback" not in "\n".join(err)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_full_disk_ends_with_74_and_the_last_good_step(text, tmp_path, capsys):
  disk = tmp_path / "disk"
  disk.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
    pytest.skip("may not mount")
  try:
    home = disk / "run"
    status = main(words(home, text, "--config.checkpoint.keep=100", "--config.train.eval_every=None", steps=400))
    assert status == 74
    err = capsys.readouterr().err
    assert "DISK_FULL" in err
    told = err[err.index("fmjax: error") :].splitlines()
    assert len(told) <= 6
    good = [step for step, ok, _ in checkpoint.verify(home) if ok]
    assert good and f"{good[-1]}" in err
    assert {path.name for path in (home / "checkpoints").iterdir()} == {str(step) for step in good}
  finally:
    subprocess.run(["umount", str(disk)], check=True)


def test_unreadable_json_in_a_run_is_named(whole, tmp_path, capsys):
  home = tmp_path / "run"
  home.mkdir()
  (home / "config.json").write_text("{")
  assert main(["train", f"--workdir={home}"]) == 65
  assert "config.json" in capsys.readouterr().err


def test_the_loop_makes_no_implicit_transfer(text, tmp_path, capsys, monkeypatch):
  """The loop's own guard is on: a batch left in the host's memory ends the run."""
  from fmjax import train

  monkeypatch.setattr(train, "place", lambda rows: rows)
  assert main(words(tmp_path / "run", text)) == 70
  assert "isallowed" in capsys.readouterr().err


def test_a_source_without_an_eval_split_is_trained_on_all_the_same(tmp_path, capsys):
  (tmp_path / "one.jsonl").write_text('{"text": "abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz"}\n')
  source = ["--config.data.source=jsonl", "--config.data.tokenizer=bytes", "--config.train.sample_tokens=None"]
  assert main(words(tmp_path / "run", tmp_path / "one.jsonl", *source, steps=2)) == 0
  assert "no text to evaluate on" in capsys.readouterr().out
