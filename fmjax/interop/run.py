"""A published model as a run that has not begun, and what a run's folder tells an export's card."""

import contextlib
import os
import pathlib
import shutil

import jax.numpy as jnp

from fmjax import metrics, recipe, workdir
from fmjax.checkpoint import Checkpoints
from fmjax.config import to_dict
from fmjax.errors import FmjaxError


def check_empty(out):
  out = pathlib.Path(out).absolute()
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise FmjaxError("USAGE", "the folder is not empty; nothing was written", where=out, fix="give another --out")


@contextlib.contextmanager
def whole(out):
  """A folder to fill: at the end of the `with` it is renamed to `out`, or gone. FmjaxError where `out` has files."""
  check_empty(out)
  out = pathlib.Path(out).absolute()
  draft = out.with_name(f".{out.name}.tmp{os.getpid()}")
  try:
    draft.mkdir(parents=True)
    yield draft
    os.replace(draft, out)
    workdir.sync_folder(out.parent)
  except OSError as error:
    raise workdir.trouble(error, out, fix="free some space there, or give another --out") or error from error
  finally:
    shutil.rmtree(draft, ignore_errors=True)


def import_to(out, found) -> pathlib.Path:
  """Writes the model of a SPEC into the new folder `out` as a workdir at step 0; `out`."""
  with whole(out) as draft:
    workdir.write_json(draft / "config.json", to_dict(found.config))
    if found.tokenizer is not None:
      (draft / "tokenizer").mkdir()
      found.tokenizer.save(draft / "tokenizer")
    if found.hf_config is not None:
      (draft / "hf").mkdir()
      workdir.write_json(draft / "hf" / "config.json", found.hf_config)
      workdir.write_json(draft / "hf" / "generation_config.json", found.generation_config or {})
    saves = Checkpoints(draft / "checkpoints", 1, lambda name, **facts: None)
    state = dict(step=jnp.zeros((), jnp.int32), params=found.params)
    state |= {} if found.config.train.ema is None else dict(ema=found.params)
    saves.save(state, dict(config_hash=recipe.config_hash(found.config), data_fingerprint=None), blocking=True)
  return pathlib.Path(out)


def facts_of(found, home) -> dict:
  """What the card says of a run: what it was trained on, and the last numbers of its evaluation."""
  home, config = pathlib.Path(home), found.config
  if not (home / metrics.ROWS).is_file():
    return {}
  steps, train = found.manifest["step"], config.train
  trained = {"started from": config.init_from, "adapted by": config.adapt.name} if config.init_from else {}
  trained |= {"data": config.data.path or config.data.source, "steps": steps, "examples an update": train.batch_size,
              "tokens an example": config.data.sequence_length, "optimizer": type(config.optimizer).__name__,
              "learning rate": config.optimizer.learning_rate}  # fmt: skip
  rows = [row for row in metrics.read(home / metrics.ROWS) if row["step"] <= steps]
  measured = {name: f"{float(value):.6g}" for row in rows for name, value in row.items() if name.startswith("eval/")}
  return {"Trained on": trained, "Measured": measured}
