"""What a run goes on from: its config, against the one that is given now; its tokenizer; its newest good state."""

import dataclasses
import pathlib

from fmjax import data, metrics, recipe, spec, workdir
from fmjax.config import Config, from_config_dict
from fmjax.data.mixture import Mixture, same_until
from fmjax.errors import FmjaxError


def settle(home: pathlib.Path, given: Config | None):
  """(the config to run, what changed, the saved one where its mixture is edited).

  That is the config of the run in `home`, with the changes that `given` brings and a run may undergo.
  """
  path = home / "config.json"
  if not path.exists():
    if given is None:
      raise FmjaxError("USAGE", f"there is no run in {home} to resume", fix="give --config=FILE to start one")
    return given, [], None
  saved = from_config_dict(workdir.read_json(path), str(path))
  if given is None:
    return saved, [], None
  grew = saved.init_from is not None and given.model.V is not None and given.model.padded_V == saved.model.padded_V
  if given.model.V is None or grew:  # by the special tokens of its own objective
    given = dataclasses.replace(given, model=dataclasses.replace(given.model, V=saved.model.V))
  changes = recipe.differences(saved, given)
  if refused := [change for change in changes if not recipe.allowed(change[0])]:
    rows = [f"{key}: saved {old!r}, given {new!r}" for key, old, new in refused]
    raise FmjaxError(
      "CONFIG_CHANGED", f"the run in {home} has another config", rows=rows,
      fix="give the saved values, or leave --config out to resume, or start a new run in another --workdir",
    )  # fmt: skip
  edits = [change for change in changes if change[0] in recipe.EDITS]
  mixed = saved.data.mixture is not None or given.data.mixture is not None  # else there is nothing to share
  return given, [change for change in changes if change not in edits], saved if edits and mixed else None


def prepare(config: Config, before: Config | None, home: pathlib.Path):
  """The data of `config`, and of the sources that only `before` has; of the tokenizer that the run in `home` has."""
  prepared = data.prepare(config.data if before is None else data.union(before.data, config.data), config.objective)
  check_tokenizer(home, prepared)
  return prepared


def edit(config: Config, before: Config | None, prepared, state: dict | None, writer):
  """The config and its data, with the mixture of `before` up to the step of `state`, and then the config's own."""
  if before is None:
    return config, prepared
  if config.data.pool is not None:
    raise FmjaxError("CONFIG", "a mixture whose batches are pooled is not edited", where="data.mixture",
                     got=f"data.pool={config.data.pool}",
                     fix="leave data.mixture as it was, or start a new run")  # fmt: skip
  step = 0 if state is None else int(state["step"])
  sizes = {split.tokens.name: split.examples for split in prepared.splits["train"]}
  mixture = data.edited(before.data, config.data, step, sizes)
  check_past(before.data, mixture, step, config.train.batch_size, sizes)
  if mixture.mixture != before.data.mixture:
    weights = {one.name: [list(pair) for pair in one.schedule] for one in mixture.mixture}
    writer.event("mixture", step=step, schedules=weights)
  return dataclasses.replace(config, data=mixture), dataclasses.replace(prepared, config=mixture)


def check_past(old, new, step: int, batch_size: int, sizes: dict[str, int]):
  """CONFIG where the mixture `new` would have given other batches before `step` than `old` gave."""
  then, now = (
    Mixture(one.components, [sizes[part.name] for part in one.components], one.temperature, batch_size)
    for one in (old, new)
  )
  if not same_until(then, now, step * batch_size):
    raise FmjaxError(
      "CONFIG", f"the edited mixture would have given other batches before step {step}", where="data.mixture",
      fix="leave the `epochs` of its sources as they were; the weight 0 ends one from now on",
    )  # fmt: skip


def check_tokenizer(home: pathlib.Path, prepared):
  """TOKENIZER_BAD where the run in `home` has learnt another tokenizer's ids than the data now has."""
  if not (home / "tokenizer").is_dir():
    return
  saved = data.load_tokenizer(home / "tokenizer")
  if saved.fingerprint != prepared.tokenizer.fingerprint:
    raise FmjaxError(
      "TOKENIZER_BAD", "the data has another tokenizer than the run", where=home / "tokenizer",
      expected=saved.fingerprint, got=prepared.tokenizer.fingerprint,
      fix="restore the old data; a mixture whose sources change needs a tokenizer that is not trained on them",
    )  # fmt: skip


def restore(saves, like, prepared, begun, home, writer, clock):
  """The newest good state, with the rows past it cut off, or None at the start of a run."""
  with clock("checkpoint"):
    found = saves.restore(like)
  if found is None:
    lost = metrics.cut(home, 0)
    step, state = 0, None
  else:
    state, manifest = found
    data.check_fingerprint(manifest["data_fingerprint"], prepared)
    spec.check_base(home, manifest, begun)
    step = int(state["step"])
    lost = metrics.cut(home, step)
  if found or lost["rows"]:
    writer.event("restore", step=step, **lost)
  return state
