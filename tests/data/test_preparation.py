"""Preparation puts every token where the loss finds it, once per content, whole or not at all, and checked."""

import contextlib
import dataclasses
import json
import lzma
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from fmjax import data
from fmjax.__main__ import main
from fmjax.cleaning import Cleaning
from fmjax.corpus import DataConfig
from fmjax.data import cache, documents, preparation, sources, tokenising
from fmjax.data import tokenizers as tk
from fmjax.data.dataset import Split
from fmjax.data.progress import Progress
from fmjax.errors import FmjaxError
from fmjax.objectives import MaskedToken
from fmjax.objectives.objective import Windows

TEXT = "".join(f"line {i} of a text,\n  {i * i} its square\n" for i in range(200))


def config(folder, text=TEXT, **fields):
  (folder / "input.txt").write_text(text)
  fields = dict(tokenizer="bytes", sequence_length=16, cache=str(folder / "cache")) | fields
  return DataConfig(source="text", path=str(folder / "input.txt"), **fields)


def records(prepared, split) -> list[np.ndarray]:
  (own,) = prepared.splits[split]
  return [one["tokens"] for one in own.read(list(range(own.examples)))]


def folder_of(prepared) -> pathlib.Path:
  return prepared.splits["train"][0].tokens.folder


def entries(folder) -> list[str]:
  return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "sentencepiece"])
def test_every_eval_token_is_a_target_once_and_train_drops_only_its_tail(tmp_path, tokenizer):
  prepared = data.prepare(config(tmp_path, tokenizer=tokenizer, vocab_size=300))
  end, middle = prepared.tokenizer.end, int(len(TEXT) * 0.9)
  for split, text in dict(train=TEXT[:middle], eval=TEXT[middle:]).items():
    windows = records(prepared, split)
    assert windows[0][0] == end
    assert all(before[-1] == after[0] for before, after in zip(windows, windows[1:]))
    targets = np.concatenate([window[1:] for window in windows]).tolist()
    facts = prepared.facts[split]
    assert (len(windows), facts["bytes"], facts["documents"]) == (facts["examples"], len(text.encode()), 1)
    assert facts["tokens"] == len(prepared.tokenizer.encode(text)) + 1
    if split == "eval":
      assert (
        targets[-1] == end and prepared.tokenizer.decode(targets[:-1]) == text and len(targets) == facts["tokens"]
      )
    else:
      whole = [*prepared.tokenizer.encode(text), end]
      assert all(len(window) == 17 for window in windows)
      assert targets == whole[: len(targets)] and len(whole) - len(targets) < 16


def test_documents_of_several_files_are_separated_by_an_end(tmp_path):
  for i in range(12):
    (tmp_path / f"{i:02d}.txt").write_text(f"document {i} " * 5)
  made = data.prepare(
    DataConfig(source="text", path=str(tmp_path / "*.txt"), tokenizer="bytes", sequence_length=8, eval_fraction=0.3,
               cache=str(tmp_path / "cache"))
  )  # fmt: skip
  targets = np.concatenate([window[1:] for window in records(made, "eval")])
  texts = bytes(np.where(targets == 256, 0, targets).astype(np.uint8)).decode().split("\0")
  assert len(texts) == made.facts["eval"]["documents"] + 1 and texts[-1] == ""
  assert all(text.startswith("document") and text.endswith(" ") for text in texts[:-1])


def test_baselines_are_a_unigram_model_and_xz_of_the_same_eval_bytes(tmp_path):
  prepared = data.prepare(config(tmp_path))
  middle = int(len(TEXT) * 0.9)
  train, held = TEXT[:middle].encode(), TEXT[middle:].encode()
  counts = Counter([*train, 256])
  bits = -sum(math.log2((counts[token] + 1) / (len(train) + 1 + 257)) for token in [*held, 256])
  assert prepared.facts["baselines"]["unigram"] == pytest.approx(bits / len(held), rel=1e-12)
  xz = len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME))
  assert prepared.facts["baselines"]["xz"] == 8 * xz / len(held)
  assert prepared.facts["eval_bytes_per_token"] == len(held) / (len(held) + 1)


def test_facts_are_json_and_stdlib_names_its_python(tmp_path, capsys):
  made = data.prepare(DataConfig(tokenizer="bytes", sequence_length=4096, cache=str(tmp_path)))
  assert json.loads(json.dumps(made.facts)) == made.facts
  assert made.facts["python"] == ".".join(map(str, sys.version_info[:3]))
  assert made.facts["eval"]["tokens"] == made.facts["eval"]["bytes"] + made.facts["eval"]["documents"]
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) >= 2 and all(line.startswith("fmjax: ") for line in lines)


def test_tiny_shakespeare_is_split_as_char_rnn_and_nanogpt_split_it(tmp_path, shared):
  path = str(shared / "tiny_shakespeare/input.txt")
  made = data.prepare(
    DataConfig(source="text", path=path, tokenizer="characters", sequence_length=64, cache=str(tmp_path))
  )
  assert made.facts["train"]["bytes"] == 1003854 and made.facts["eval"]["bytes"] == 111540  # nanoGPT's prepare.py
  assert len(made.tokenizer.characters) == 65


def test_the_second_time_reads_what_the_first_made(tmp_path, capsys):
  first = data.prepare(config(tmp_path))
  folder = folder_of(first)
  made = folder.stat().st_mtime_ns, (folder / "meta.json").stat().st_ino
  assert "fmjax: data ready" in capsys.readouterr().err
  second = data.prepare(config(tmp_path))
  assert capsys.readouterr().err == ""
  assert (folder_of(second), second.fingerprint, second.facts) == (folder, first.fingerprint, first.facts)
  assert made == (folder.stat().st_mtime_ns, (folder / "meta.json").stat().st_ino)
  assert first.tokenizer.fingerprint == second.tokenizer.fingerprint


def test_the_same_content_is_the_same_data_wherever_it_lies(tmp_path):
  (tmp_path / "elsewhere").mkdir()
  first, moved = data.prepare(config(tmp_path)), data.prepare(config(tmp_path / "elsewhere"))
  assert folder_of(first).name == folder_of(moved).name and first.fingerprint == moved.fingerprint
  data.check_fingerprint(first.fingerprint, moved)


@pytest.mark.parametrize(
  "change", [dict(text=TEXT.replace("line 7 ", "line 8 ", 1)), dict(tokenizer="characters"), dict(eval_fraction=0.2)]
)  # fmt: skip
def test_other_content_is_other_data(tmp_path, change):
  first, second = data.prepare(config(tmp_path)), data.prepare(config(tmp_path, **change))
  with pytest.raises(FmjaxError) as caught:
    data.check_fingerprint(first.fingerprint, second)
  assert caught.value.code == "DATA_CHANGED"
  assert first.fingerprint in str(caught.value) and second.fingerprint in str(caught.value)


@pytest.mark.parametrize(
  "how", [dict(sequence_length=17), dict(packed=True), dict(workers=2), dict(on_corrupt="skip")]
)
def test_the_same_tokens_serve_every_length_and_layout(tmp_path, how):
  first, second = data.prepare(config(tmp_path)), data.prepare(config(tmp_path, **how))
  data.check_fingerprint(first.fingerprint, second)
  assert folder_of(first) == folder_of(second)
  assert second.facts["train"]["tokens"] == first.facts["train"]["tokens"]


def test_one_trained_tokenizer_serves_every_sequence_length(tmp_path):
  settings = dict(tokenizer="sentencepiece", vocab_size=300)
  first = data.prepare(config(tmp_path, **settings))
  second = data.prepare(config(tmp_path, sequence_length=32, **settings))
  assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
  assert len([name for name in entries(tmp_path / "cache") if name.startswith("tokenizer")]) == 1
  from_file = data.prepare(config(tmp_path, tokenizer=str(folder_of(first) / "tokenizer/tokenizer.model")))
  assert from_file.tokenizer.fingerprint == first.tokenizer.fingerprint
  assert from_file.fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", tk.TRAINED)
def test_a_tokenizer_is_trained_on_the_train_split_it_serves(tmp_path, kind):
  for text in (TEXT, TEXT.replace("square", "cube")):
    made = data.prepare(config(tmp_path, text, tokenizer=kind, vocab_size=400))
    assert made.tokenizer.fingerprint == tk.train(kind, [text[: int(len(text) * 0.9)]], 400).fingerprint


def test_special_tokens_of_an_objective_leave_the_tokens_as_they_are(tmp_path):
  plain, masked = data.prepare(config(tmp_path)), data.prepare(config(tmp_path), MaskedToken())
  assert masked.tokenizer.vocab_size > plain.tokenizer.vocab_size == 257
  assert masked.tokenizer.encode(TEXT) == plain.tokenizer.encode(TEXT)
  kept = [cache.verify(folder_of(prepared))[1]["columns"] for prepared in (plain, masked)]
  assert kept[0] == kept[1]


def damage(path, how):
  content = bytearray(path.read_bytes())
  if how == "flip":
    content[len(content) // 3] ^= 4
  path.write_bytes(content[:-1] if how == "cut" else content)
  if how == "remove":
    path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_named(tmp_path, how):
  settings = dict(tokenizer="sentencepiece", vocab_size=300, packed=True)
  prepared = data.prepare(config(tmp_path, **settings))
  folders = [folder for folder in (tmp_path / "cache").iterdir() if folder.is_dir()]
  assert sorted(folder.name.partition("-")[0] for folder in folders) == ["plan", "plan", "text", "tokenizer"]
  files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
  assert len(files) == 7 + 3 + 2 * 4
  for file in files:
    kept = file.read_bytes()
    damage(file, how)
    with pytest.raises(FmjaxError) as caught:
      data.prepare(config(tmp_path, **settings))
    assert caught.value.code == "DATA_BAD"
    assert f"where: {file}" in str(caught.value) and "delete the folder" in str(caught.value)
    file.write_bytes(kept)
  (folder_of(prepared) / "train-text-00001.arrayrecord").write_bytes(b"one more")
  with pytest.raises(FmjaxError, match="(?s)train-text-00001.*expected: no such file"):
    preparation.open_tokens(folder_of(prepared), "text")


def test_an_edited_fact_is_damage(tmp_path):
  prepared = data.prepare(config(tmp_path))
  meta = folder_of(prepared) / "meta.json"
  changed = meta.read_text().replace('"documents": 1', '"documents": 2')
  assert changed != meta.read_text()
  meta.write_text(changed)
  with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD.*{meta}.*checksum"):
    preparation.open_tokens(folder_of(prepared), "text")


def test_deleting_the_damaged_folder_mends_it(tmp_path):
  first = data.prepare(config(tmp_path))
  shutil.rmtree(folder_of(first))
  assert data.prepare(config(tmp_path)).fingerprint == first.fingerprint


@pytest.mark.parametrize("text, fields", [("abc", {}), (TEXT, dict(sequence_length=100_000))])
def test_a_text_shorter_than_one_example_is_refused_and_leaves_its_tokens_whole(tmp_path, text, fields):
  with pytest.raises(FmjaxError, match="(?s)DATA_BAD.*shorter than one example.*input.txt.*sequence_length"):
    data.prepare(config(tmp_path, text, **fields))
  assert [name.partition("-")[0] for name in entries(tmp_path / "cache")] == ["text", "tokenizer"]
  for folder in entries(tmp_path / "cache"):
    cache.verify(tmp_path / "cache" / folder)


def test_a_source_without_text_to_train_on_is_refused_with_what_was_left_out(tmp_path):
  with pytest.raises(FmjaxError, match="(?s)DATA_BAD.*no text to train on.*input.txt.*2 documents left out"):
    data.prepare(config(tmp_path, cleaning=Cleaning(min_characters=10**6)))
  assert not list((tmp_path / "cache").glob("text-*/meta.json"))


def lines(folder, count, seed=0) -> str:
  """A file of JSON lines, documents of up to some 1500 characters, one without any."""
  choose = random.Random(seed)
  words = "alpha beta gamma delta. Epsilon zeta eta! Theta iota kappa\n".split(" ")
  with open(folder / "lines.jsonl", "w") as file:
    for number in range(count):
      text = " ".join(choose.choices(words, k=choose.randrange(1, 250) if number else 0))
      file.write(json.dumps(dict(text=text, id=number)) + "\n")
  return str(folder / "lines.jsonl")


def of_lines(folder, path, **fields):
  fields = dict(tokenizer="bytes", cache=str(folder / "cache")) | fields
  return DataConfig(source="jsonl", path=path, sequence_length=64, **fields)


def stream_of(tokens, name) -> np.ndarray:
  split, _, field = name.partition("-")
  stream = Split(tokens, split, Windows(64, 1), None, False).streams[field]
  return stream.read([(-1, len(stream))])[0]


@pytest.mark.parametrize("sentences", [False, True])
def test_many_parts_hold_what_one_does(tmp_path, monkeypatch, sentences):
  config = of_lines(tmp_path, lines(tmp_path, 300), tokenizer="sentencepiece", vocab_size=300)
  (one,) = preparation.prepare(config, tokenising.Reads(sentences=sentences))
  monkeypatch.setattr(documents, "PART_BYTES", 10_000)
  monkeypatch.setattr(tokenising, "CHUNK", 700)
  (many,) = preparation.prepare(
    dataclasses.replace(config, cache=str(tmp_path / "many")), tokenising.Reads(sentences=sentences)
  )
  assert len(many.facts["columns"]["train-text"]["part_tokens"]) > 20
  for name in ("train-text", "eval-text"):
    own, whole = (dict(made.facts["columns"][name]) for made in (many, one))
    assert sum(own.pop("part_tokens")) == sum(whole.pop("part_tokens")) and own == whole and own["documents"]
    for kind in ("lengths", "sentences") if sentences else ("lengths",):
      assert (many.folder / f"{name}.{kind}.npy").read_bytes() == (one.folder / f"{name}.{kind}.npy").read_bytes()
    tokens = stream_of(many, name)
    np.testing.assert_array_equal(tokens, stream_of(one, name))
    lengths = np.load(many.folder / f"{name}.lengths.npy")
    assert (len(lengths), lengths.sum(), len(tokens)) == (own["documents"], own["tokens"], own["tokens"] + 1)
    assert np.flatnonzero(tokens == many.tokenizer.end).tolist() == [0, *np.cumsum(lengths)]
    if sentences:
      bounds = np.cumsum(np.load(many.folder / f"{name}.sentences.npy"))
      assert {*np.cumsum(lengths), *(np.cumsum(lengths) - 1)} <= {*bounds} and len(bounds) > 4 * len(lengths)
  assert many.facts["baseline_bits"] == one.facts["baseline_bits"] and many.facts["dropped"] == dict(empty=1)


PREPARE = """
import sys
from fmjax import data
from fmjax.__main__ import main
from fmjax.corpus import DataConfig
made = data.prepare(DataConfig(source="text", path=sys.argv[1], tokenizer="sentencepiece", vocab_size=300,
                               sequence_length=16, cache=sys.argv[2]))
print(made.splits["train"][0].tokens.folder, made.fingerprint)
"""
KILLED = """
import os, pathlib, signal, sys
from fmjax.data import cache
from fmjax.data.progress import Progress
def build(folder):
  (folder / "half").write_text("written")
  os.kill(os.getpid(), signal.SIGKILL)
cache.publish(pathlib.Path(sys.argv[1]), build, Progress())
"""


def start(code, *arguments):
  return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                          cwd=pathlib.Path(__file__).parents[2], stderr=subprocess.PIPE)  # fmt: skip


def test_processes_that_prepare_at_once_make_it_once(tmp_path):
  config(tmp_path)
  processes = [start(PREPARE, tmp_path / "input.txt", tmp_path / "cache") for _ in range(3)]
  outputs = [process.communicate(timeout=120) for process in processes]
  assert [process.returncode for process in processes] == [0, 0, 0], outputs
  assert len({out for out, _ in outputs}) == 1
  assert sum("tokenising" in err for _, err in outputs) == 1
  assert sum("training a tokenizer" in err for _, err in outputs) == 1
  assert len(entries(tmp_path / "cache")) == 2  # the data set and its tokenizer


def test_a_terminal_gets_a_bar(tmp_path):
  config(tmp_path)
  terminal, end = os.openpty()
  command = [sys.executable, "-c", PREPARE, str(tmp_path / "input.txt"), str(tmp_path / "cache")]
  with subprocess.Popen(command, stderr=end, stdout=subprocess.DEVNULL, cwd=pathlib.Path(__file__).parents[2]):
    os.close(end)
    seen = b""
    with contextlib.suppress(OSError):  # what Linux says at a terminal's end
      while chunk := os.read(terminal, 65536):
        seen += chunk
  os.close(terminal)
  assert b"training a tokenizer" in seen and b"\x1b[" in seen and "\u2501".encode() in seen
  assert b"fmjax: " not in seen


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
  folder = tmp_path / "cache" / "some-data"
  killed = start(KILLED, folder)
  killed.communicate(timeout=60)
  assert killed.returncode == -signal.SIGKILL
  assert (tmp_path / "cache/some-data.tmp/half").exists() and not folder.exists()
  prepared = data.prepare(config(tmp_path))
  found = entries(tmp_path / "cache")
  assert len(found) == 2 and found[0] == folder_of(prepared).name and found[1].startswith("tokenizer-")


PARTS = """
import sys
from fmjax.corpus import DataConfig
from fmjax.data import documents, preparation, runners
documents.PART_BYTES = int(sys.argv[4])
config = DataConfig(source="jsonl", path=sys.argv[1], tokenizer="sentencepiece", vocab_size=300, cache=sys.argv[2])
(made,) = preparation.prepare(config, runner=runners.Local(sys.argv[3] == "parallel"))
print(made.folder.name, made.fingerprint)
"""


def identity(path):
  about = path.stat()
  return about.st_ino, about.st_mtime_ns, about.st_size


def contents(folder) -> dict:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_preparation_goes_on_with_the_parts_that_are_left(tmp_path):
  """And its files are those of one process that nothing stops, byte for byte."""
  path, size = lines(tmp_path, 6000), 50_000
  parts = -(-os.path.getsize(path) // size)
  killed = start(PARTS, path, tmp_path / "cache", "parallel", size)

  def done():
    return sorted((tmp_path / "cache").glob("jsonl-*.tmp/part-*.json"))

  while len(done()) < 4 and killed.poll() is None:
    time.sleep(0.002)
  killed.kill()
  _, err = killed.communicate(timeout=60)  # returns when the last process that holds the pipe has ended
  assert killed.returncode == -signal.SIGKILL, err
  (folder,) = (tmp_path / "cache").glob("jsonl-*.tmp")
  numbers = [fact.stem.removeprefix("part-") for fact in done()]
  assert 4 <= len(numbers) < parts - 4
  before = {file.name: identity(file) for number in numbers for file in folder.glob(f"*-{number}.arrayrecord")}
  assert len(before) >= len(numbers)

  again = start(PARTS, path, tmp_path / "cache", "parallel", size)
  out, err = again.communicate(timeout=120)
  assert again.returncode == 0, err
  made = folder.with_suffix("")
  assert made.is_dir() and not folder.exists()
  assert {name: identity(made / name) for name in before} == before, "what was done is not done again"

  whole = start(PARTS, path, tmp_path / "whole", "alone", size)
  other, err = whole.communicate(timeout=120)
  assert whole.returncode == 0, err
  assert out == other
  mine, theirs = contents(made), contents(tmp_path / "whole" / made.name)
  assert mine.keys() == theirs.keys() and sum(name.endswith(".arrayrecord") for name in mine) >= parts
  assert [name for name in mine if mine[name] != theirs[name]] == []


class Killed(BaseException):
  """A kill at a moment of the test's choice."""


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 4, 5, 6, 8, 11, 15, 20])
def test_a_preparation_killed_at_any_moment_of_its_end_is_made_whole(tmp_path, monkeypatch, moment):
  """Its end takes away what the parts left beside their tokens."""
  config = of_lines(tmp_path, lines(tmp_path, 60), cleaning=Cleaning(exact_duplicates=True))
  monkeypatch.setattr(documents, "PART_BYTES", 20_000)
  unlink, counted = pathlib.Path.unlink, []

  def killed(self, *args, **kwargs):
    if "jsonl-" in str(self):
      if len(counted) == moment:
        raise Killed
      counted.append(self)
    unlink(self, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "unlink", killed)
    with pytest.raises(Killed):
      preparation.prepare(config)
  (made,) = preparation.prepare(config)
  (whole,) = preparation.prepare(dataclasses.replace(config, cache=str(tmp_path / "whole")))
  assert contents(made.folder) == contents(whole.folder)


def test_two_that_do_the_same_part_at_once_leave_it_whole(tmp_path, monkeypatch):
  """As a pipeline's workers may, one of which was thought to be dead."""
  config = of_lines(tmp_path, lines(tmp_path, 200))
  (whole,) = preparation.prepare(dataclasses.replace(config, cache=str(tmp_path / "whole")))
  encode, others = tk.Bytes.encode_all, []

  def runner(function, tasks, done):
    def interrupted(self, texts):
      if not others:
        others.append(tasks[0])
        function(tasks[0])  # from beginning to end, while the first one is in its middle
        tasks[0].facts.unlink()
      return encode(self, texts)

    monkeypatch.setattr(tk.Bytes, "encode_all", interrupted)
    for task in tasks:
      function(task)
      done(task)

  (made,) = preparation.prepare(config, runner=runner)
  assert others and contents(made.folder) == contents(whole.folder)


@pytest.mark.parametrize("days, stays", [(cache.KEEP_DAYS - 1, True), (cache.KEEP_DAYS + 1, False)])
def test_what_may_go_on_stays_for_some_days(tmp_path, days, stays):
  def killed(folder):
    (folder / "half").write_text("written")
    raise Killed

  with pytest.raises(Killed):
    cache.publish(tmp_path / "cache/slow", killed, Progress(), keep=True)
  unfinished = tmp_path / "cache/slow.tmp"
  then = time.time() - days * 86400
  os.utime(unfinished / cache.KEEP, (then, then))
  cache.publish(tmp_path / "cache/other", lambda folder: {}, Progress())
  assert (unfinished / "half").exists() == stays
  cache.publish(tmp_path / "cache/slow", lambda folder: dict(found=(folder / "half").exists()), Progress(), keep=True)
  assert cache.verify(tmp_path / "cache/slow")[1] == dict(found=stays)
  assert "half" in contents(tmp_path / "cache/slow") or not stays
  assert entries(tmp_path / "cache") == ["other", "slow"]


def test_what_a_living_process_builds_is_left_alone(tmp_path):
  def build(folder):
    data.prepare(config(tmp_path))
    assert folder.is_dir()
    return {}

  cache.publish(tmp_path / "cache/other", build, Progress())
  assert (tmp_path / "cache/other/meta.json").exists()


def test_a_build_that_fails_leaves_nothing(tmp_path):
  def build(folder):
    (folder / "half").write_text("written")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cache.publish(tmp_path / "cache/x", build, Progress())
  assert entries(tmp_path / "cache") == []


def to_full_disk_by_python():
  with open("/dev/full", "w") as file:
    file.write("x" * 100_000)


def to_full_disk_by_array_record():
  writer = ArrayRecordWriter("/dev/full", "group_size:1,uncompressed")
  for _ in range(1000):
    writer.write(b"x" * 1000)
  writer.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("write", [to_full_disk_by_python, to_full_disk_by_array_record])
def test_a_full_disk_is_told_as_one(tmp_path, write):
  with pytest.raises(FmjaxError) as caught:
    cache.publish(tmp_path / "cache/x", lambda folder: write(), Progress())
  assert caught.value.code == "DISK_FULL" and "FMJAX_CACHE" in str(caught.value)
  assert entries(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
  (tmp_path / "file").write_text("not a folder")
  with pytest.raises(FmjaxError) as caught:
    data.prepare(config(tmp_path, cache=str(tmp_path / "file/cache")))
  assert caught.value.code == "PERMISSION" and "FMJAX_CACHE" in str(caught.value)


def test_the_cache_is_where_the_config_or_the_environment_says(tmp_path, monkeypatch):
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "environment"))
  assert cache.root(DataConfig()) == tmp_path / "environment"
  assert cache.root(DataConfig(cache=str(tmp_path / "config"))) == tmp_path / "config"
  monkeypatch.delenv("FMJAX_CACHE")
  assert cache.root(DataConfig()) == pathlib.Path.home() / ".cache/fmjax"


def test_a_large_source_is_read_again_only_when_its_files_changed(tmp_path, monkeypatch):
  monkeypatch.setattr(preparation, "SMALL", 10)
  looked = []
  monkeypatch.setattr(sources, "digest", lambda parts, real=sources.digest: looked.append(1) or real(parts))
  same = config(tmp_path)
  first = data.prepare(same)
  assert data.prepare(same).fingerprint == first.fingerprint and len(looked) == 1
  assert data.prepare(config(tmp_path, TEXT + "more")).fingerprint != first.fingerprint and len(looked) == 2


@pytest.mark.parametrize(
  "objective, packed, told",
  [
    ("next_token", False, False),
    ("next_token", True, True),
    ("masked_token", False, True),
    ("seq2seq", False, False),
  ],
)
def test_the_command_tells_what_each_layout_has(tmp_path, monkeypatch, capsys, objective, packed, told):
  """A share of what is full where rows have one length and places that are not; windows have none."""
  rows = [dict(text=f"text {n} " * 9, source="abc " * 9, target=f"{n} " * 9) for n in range(200)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  kind = dict(next_token="decoder", seq2seq="encoder_decoder").get(objective, "encoder")
  made = dict(source="jsonl", path=str(tmp_path / "rows.jsonl"), tokenizer="bytes", sequence_length=64, packed=packed,
              cache=str(tmp_path / "cache"), eval_fraction=0.2)  # fmt: skip
  if objective == "seq2seq":
    made["columns"] = ["source", "target"]
  tree = dict(objective=dict(name=objective), model=dict(kind=kind, D=8, L=1, N=1), data=made)
  (tmp_path / "recipe.json").write_text(json.dumps(tree))
  assert main(["prepare", f"--config={tmp_path}/recipe.json"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["train", "eval", "jsonl"]
  shares = [float(line.rpartition(", ")[2].removesuffix("% full")) / 100 for line in lines if line.endswith("full")]
  assert len(shares) == 2 * told and all(0.6 < share < 1.05 for share in shares)
