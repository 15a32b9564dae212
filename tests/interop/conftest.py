"""Golden folders: loaded once, or copied to be spoiled."""

import json

import pytest

from tests.interop.folders import GOLDEN, on_one_device


@pytest.fixture(scope="session")
def golden():
  """`golden(FAMILY/CLASS)`: the model of a golden folder, on one device."""
  return on_one_device


@pytest.fixture
def copied(tmp_path):
  """`copied(FAMILY/CLASS, **changes)`: a copy of a golden folder whose config.json is changed."""

  def copy(folder, **changes):
    to = tmp_path / "copy"
    to.mkdir()
    for path in (GOLDEN / folder).iterdir():
      (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))
    return to

  return copy
