"""Preparation puts every token where the loss finds it, once per content, whole or not at all, and checked."""

import contextlib
import json
import lzma
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from fmjax import data
from fmjax.config import DataConfig
from fmjax.data import cache, preparation
from fmjax.data.progress import Progress
from fmjax.data.tokenizers import train_sentencepiece
from fmjax.errors import FmjaxError

TEXT = "".join(f"line {i} of a text,\n  {i * i} its square\n" for i in range(200))


def config(folder, text=TEXT, **fields):
  (folder / "input.txt").write_text(text)
  fields = dict(tokenizer="bytes", sequence_length=16, cache=str(folder / "cache")) | fields
  return DataConfig(source="text", path=str(folder / "input.txt"), **fields)


def records(prepared, split) -> list[np.ndarray]:
  source = ArrayRecordDataSource(prepared.shards(split))
  dtype = preparation.token_dtype(prepared.tokenizer.vocab_size)
  return [np.frombuffer(source[i], dtype) for i in range(len(source))]


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
    if split == "eval":
      assert (
        targets[-1] == end and prepared.tokenizer.decode(targets[:-1]) == text and len(targets) == facts["tokens"]
      )
    else:
      whole = [*prepared.tokenizer.encode(text), end]
      assert all(len(window) == 17 for window in windows)
      assert targets == whole[: len(targets)] and len(whole) - len(targets) < 16 and facts["tokens"] == len(whole)


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
  assert len(lines) >= 3 and all(line.startswith("fmjax: ") for line in lines)


def test_tiny_shakespeare_is_split_as_char_rnn_and_nanogpt_split_it(tmp_path, shared):
  path = str(shared / "tiny_shakespeare/input.txt")
  made = data.prepare(
    DataConfig(source="text", path=path, tokenizer="characters", sequence_length=64, cache=str(tmp_path))
  )
  assert made.facts["train"]["bytes"] == 1003854 and made.facts["eval"]["bytes"] == 111540  # nanoGPT's prepare.py
  assert len(made.tokenizer.characters) == 65


def test_the_second_time_reads_what_the_first_made(tmp_path, capsys):
  first = data.prepare(config(tmp_path))
  made = first.folder.stat().st_mtime_ns, (first.folder / "meta.json").stat().st_ino
  assert "fmjax: data ready" in capsys.readouterr().err
  second = data.prepare(config(tmp_path))
  assert capsys.readouterr().err == ""
  assert (second.folder, second.fingerprint, second.facts) == (first.folder, first.fingerprint, first.facts)
  assert made == (second.folder.stat().st_mtime_ns, (second.folder / "meta.json").stat().st_ino)
  assert first.tokenizer.fingerprint == second.tokenizer.fingerprint


def test_the_same_content_is_the_same_data_wherever_it_lies(tmp_path):
  (tmp_path / "elsewhere").mkdir()
  first, moved = data.prepare(config(tmp_path)), data.prepare(config(tmp_path / "elsewhere"))
  assert first.folder.name == moved.folder.name and first.fingerprint == moved.fingerprint
  data.check_fingerprint(first.fingerprint, moved)


@pytest.mark.parametrize(
  "change", [dict(text=TEXT.replace("line 7 ", "line 8 ", 1)), dict(sequence_length=17), dict(tokenizer="characters"),
             dict(eval_fraction=0.2)]
)  # fmt: skip
def test_other_content_is_other_data(tmp_path, change):
  first, second = data.prepare(config(tmp_path)), data.prepare(config(tmp_path, **change))
  with pytest.raises(FmjaxError) as caught:
    data.check_fingerprint(first.fingerprint, second)
  assert caught.value.code == "DATA_CHANGED"
  assert first.fingerprint in str(caught.value) and second.fingerprint in str(caught.value)


def test_one_trained_tokenizer_serves_every_sequence_length(tmp_path):
  settings = dict(tokenizer="sentencepiece", vocab_size=300)
  first = data.prepare(config(tmp_path, **settings))
  second = data.prepare(config(tmp_path, sequence_length=32, **settings))
  assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
  assert len([name for name in entries(tmp_path / "cache") if name.startswith("tokenizer")]) == 1
  from_file = data.prepare(config(tmp_path, tokenizer=str(first.folder / "tokenizer.model")))
  assert from_file.tokenizer.fingerprint == first.tokenizer.fingerprint
  assert from_file.fingerprint == first.fingerprint


def test_a_tokenizer_is_trained_on_the_train_split_it_serves(tmp_path):
  settings = dict(tokenizer="sentencepiece", vocab_size=300)
  for text in (TEXT, TEXT.replace("square", "cube")):
    made = data.prepare(config(tmp_path, text, **settings))
    assert made.tokenizer.fingerprint == train_sentencepiece([text[: int(len(text) * 0.9)]], 300).fingerprint


def damage(path, how):
  content = bytearray(path.read_bytes())
  if how == "flip":
    content[len(content) // 3] ^= 4
  path.write_bytes(content[:-1] if how == "cut" else content)
  if how == "remove":
    path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_named(tmp_path, how):
  prepared = data.prepare(config(tmp_path, tokenizer="sentencepiece", vocab_size=300))
  names = entries(prepared.folder)
  assert len(names) == 5
  for name in names:
    kept = (prepared.folder / name).read_bytes()
    damage(prepared.folder / name, how)
    with pytest.raises(FmjaxError) as caught:
      data.prepare(config(tmp_path, tokenizer="sentencepiece", vocab_size=300))
    assert caught.value.code == "DATA_BAD"
    assert f"where: {prepared.folder / name}" in str(caught.value) and "delete the folder" in str(caught.value)
    (prepared.folder / name).write_bytes(kept)
  (prepared.folder / "train-00001.arrayrecord").write_bytes(b"one more")
  with pytest.raises(FmjaxError, match="(?s)train-00001.*expected: no such file"):
    preparation.open_prepared(prepared.folder)


def test_an_edited_fact_is_damage(tmp_path):
  prepared = data.prepare(config(tmp_path))
  meta = prepared.folder / "meta.json"
  meta.write_text(meta.read_text().replace('"sequence_length": 16', '"sequence_length": 8'))
  with pytest.raises(FmjaxError, match=f"(?s)DATA_BAD.*{meta}.*checksum"):
    preparation.open_prepared(prepared.folder)


def test_deleting_the_damaged_folder_mends_it(tmp_path):
  first = data.prepare(config(tmp_path))
  shutil.rmtree(first.folder)
  assert data.prepare(config(tmp_path)).fingerprint == first.fingerprint


@pytest.mark.parametrize("text, fields", [("abc", {}), (TEXT, dict(sequence_length=100_000))])
def test_a_text_shorter_than_one_example_is_refused_and_leaves_nothing(tmp_path, text, fields):
  with pytest.raises(FmjaxError, match="(?s)DATA_BAD.*shorter than one example.*input.txt.*sequence_length"):
    data.prepare(config(tmp_path, text, **fields))
  assert entries(tmp_path / "cache") == []


def test_two_shards_hold_what_one_does(tmp_path, monkeypatch):
  one = [window.tolist() for window in records(data.prepare(config(tmp_path)), "train")]
  shutil.rmtree(tmp_path / "cache")
  monkeypatch.setattr(preparation, "SHARD_BYTES", 1000)
  many = data.prepare(config(tmp_path))
  assert len(many.shards("train")) > 5
  assert [window.tolist() for window in records(many, "train")] == one


PREPARE = """
import sys
from fmjax import data
from fmjax.config import DataConfig
made = data.prepare(DataConfig(source="text", path=sys.argv[1], tokenizer="sentencepiece", vocab_size=300,
                               sequence_length=16, cache=sys.argv[2]))
print(made.folder, made.fingerprint)
"""
KILLED = """
import os, pathlib, signal, sys
from fmjax.data import cache
from fmjax.data.progress import Progress
from fmjax.data.tokenizers import train_sentencepiece
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
  assert sum("writing examples" in err for _, err in outputs) == 1
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
  assert entries(tmp_path / "cache") == [prepared.folder.name]


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
