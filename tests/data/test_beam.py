"""A Beam pipeline prepares the same bytes as this machine does alone."""

import dataclasses
import json
import sys

import pytest

from fmjax import data
from fmjax.cleaning import Cleaning
from fmjax.corpus import DataConfig
from fmjax.data import documents
from fmjax.data.beam import Beam
from fmjax.errors import FmjaxError


def config(folder, cache: str) -> DataConfig:
  cleaning = Cleaning(min_characters=4, exact_duplicates=True)
  return DataConfig(source="jsonl", path=str(folder / "texts.jsonl"), tokenizer="bytes", sequence_length=32,
                    packed=True, cleaning=cleaning, cache=str(folder / cache))  # fmt: skip


def files(prepared) -> dict[str, bytes]:
  folder = prepared.splits["train"][0].tokens.folder
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_a_pipeline_makes_the_bytes_that_a_local_preparation_makes(tmp_path, monkeypatch):
  pytest.importorskip("apache_beam")
  monkeypatch.setattr(documents, "PART_BYTES", 1000)
  lines = [json.dumps(dict(text=f"text {n % 150} " * (n % 5 + 1))) for n in range(800)]
  (tmp_path / "texts.jsonl").write_text("\n".join(lines))
  local = data.prepare(config(tmp_path, "local"))
  beam = data.prepare(config(tmp_path, "beam"), runner=Beam("DirectRunner", ["direct_num_workers=1"]))
  one, other = files(local), files(beam)
  assert len([name for name in one if name.endswith(".arrayrecord")]) > 8
  assert local.facts["sources"]["jsonl"]["dropped"]["duplicate"] > 50
  assert one.keys() == other.keys()
  assert not [name for name in one if one[name] != other[name]]
  assert local.fingerprint == beam.fingerprint


def test_without_beam_there_is_one_message(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
  with pytest.raises(FmjaxError, match=r"(?s)USAGE.*Beam is not installed.*fmjax\[beam\]"):
    Beam("DirectRunner", [])


@pytest.mark.filterwarnings("ignore")
def test_a_bad_record_is_told_as_without_beam(tmp_path):
  pytest.importorskip("apache_beam")
  (tmp_path / "texts.jsonl").write_text(json.dumps(dict(text="x" * 30)) + "\n{bad\n")
  told = []
  for number, runner in enumerate((None, Beam("DirectRunner", ["direct_num_workers=1"]))):
    with pytest.raises(FmjaxError, match="a record is not JSON") as caught:
      data.prepare(dataclasses.replace(config(tmp_path, str(number)), cleaning=Cleaning()), runner=runner)
    told.append(str(caught.value))
  assert told[0] == told[1]
