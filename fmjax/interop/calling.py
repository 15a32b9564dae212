"""A call by Hugging Face's names: arguments to a batch of the house's names, a forward pass, and results by name."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from fmjax.errors import FmjaxError
from fmjax.interop.family import OUTPUT, Family
from fmjax.models import Model
from fmjax.sharding import FLOWING
from fmjax.step import place


@dataclasses.dataclass(frozen=True)
class Results:
  """What a call gives, as numpy arrays under Hugging Face's names; None is what the class does not have."""

  logits: Any = None
  last_hidden_state: Any = None
  hidden_states: Any = None
  pooler_output: Any = None
  prediction_logits: Any = None
  seq_relationship_logits: Any = None
  sop_logits: Any = None
  start_logits: Any = None
  end_logits: Any = None
  decoder_hidden_states: Any = None
  encoder_last_hidden_state: Any = None
  encoder_hidden_states: Any = None


@functools.partial(jax.jit, static_argnames=("model", "task", "hiddens"))
def forward(params, batch: dict, *, model: Model, task: str, hiddens: bool) -> dict:
  """What the task gives for a batch of the house's names; the key names what its axes are (see `CUT`)."""
  outputs = model.apply(params, batch, hiddens=hiddens)
  found = dict(hidden_BTD=outputs.hidden, hiddens_LBTD=outputs.hiddens)
  found |= dict(source_BSD=outputs.source, sources_LBSD=outputs.source_hiddens)
  if task in OUTPUT:
    found["logits_BTV"] = model.logits(params, outputs.hidden)
  if model.config.head:
    name = "classes_BTC" if model.config.head == "token" else "classes_BC"
    found[name] = model.classify(params, outputs.hidden, batch)
  elif model.config.pooler:
    found["pooled_BD"] = model.pooled(params, outputs.hidden, batch)
  return {name: value for name, value in found.items() if value is not None}


def call(model: Model, params, mesh, given: dict, *, family: Family, task: str, hf: dict, hiddens: bool) -> Results:
  """`given` are arguments by Hugging Face's names, numpy arrays [B, T] ([B, choices, T] for multiple choice)."""
  ids = given.get("input_ids")
  if ids is None or ids.ndim != (3 if task == "choice" else 2):
    raise FmjaxError("USAGE", "a call needs input_ids", expected="[batch, choices, tokens]" if task == "choice" else
                     "[batch, tokens]", got=None if ids is None else list(ids.shape))  # fmt: skip
  if task == "choice":
    given = {name: value.reshape(-1, value.shape[-1]) for name, value in given.items()}
  batch = make_batch(model.config, family, task, hf, given)
  sizes = dict(B=len(batch["tokens"]), T=batch["tokens"].shape[1], V=model.config.V)
  if "source_tokens" in batch:
    sizes["S"] = batch["source_tokens"].shape[1]
  with jax.set_mesh(mesh):
    found = jax.device_get(
      forward(params, place(padded(model.config, mesh, batch)), model=model, task=task, hiddens=hiddens)
    )
  cut = {}
  for key, value in found.items():
    name, _, letters = key.partition("_")
    cut[name] = value[tuple(slice(sizes.get(letter)) for letter in letters)]
  return results(cut, task, family, ids.shape)


def make_batch(config, family: Family, task: str, hf: dict, given: dict) -> dict:
  """A batch of the house's names, int32."""
  ids, mask, batch = given["input_ids"], given.get("attention_mask"), {}

  def special(name):
    value = hf.get(name, family.defaults.get(name))
    return value[0] if isinstance(value, list) else value

  if config.kind == "encoder_decoder":
    batch["source_tokens"] = source = ids
    if mask is not None:
      batch["source_segments"] = mask
    ids, mask = given.get("decoder_input_ids"), given.get("decoder_attention_mask")
    if ids is None:
      if task in OUTPUT and family.model_type != "bart":
        raise FmjaxError("USAGE", "a call needs decoder_input_ids", fix="give them, or call generate")
      start = np.full((len(source), 1), special("decoder_start_token_id"), source.dtype)
      ids = np.concatenate([start, source[:, :-1]], 1)
  check_ids(config, ids)
  batch["tokens"] = ids
  if mask is not None:
    batch["segments"] = mask
  if "token_type_ids" in given and config.token_types:
    batch["token_types"] = given["token_type_ids"]
  if "position_ids" in given:
    # RoBERTa's count rows of the table, those before the first position too.
    first = config.first_position if family.counts_tokens else 0
    batch["positions"] = np.broadcast_to(given["position_ids"] - first, ids.shape)
  elif family.counts_tokens:
    real = ids != special("pad_token_id")
    batch["positions"] = np.where(real, np.cumsum(real, 1) - 1, -1)
  if config.pool == "end":
    batch["pool"] = last(batch["source_tokens"] == special("eos_token_id"))
  elif config.pool == "last":
    pad = special("pad_token_id")
    batch["pool"] = np.full(len(ids), ids.shape[1] - 1) if pad is None else last(ids != pad)
  return {name: np.asarray(value, np.int32) for name, value in batch.items()}


def check_ids(config, ids):
  if ids.size and not 0 <= ids.min() <= ids.max() < config.V:
    raise FmjaxError("USAGE", "an id is not in the vocabulary", where="input_ids", expected=f"0 to {config.V - 1}",
                     got=f"{ids.min()} to {ids.max()}")  # fmt: skip


def last(chosen_BT):
  """The last place of each row that is chosen."""
  return np.max(np.where(chosen_BT, np.arange(chosen_BT.shape[1]), 0), 1)


def roomy(n: int) -> int:
  """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few sizes to compile, at most a third of each unused."""
  power = 1 << max(0, n - 1).bit_length()
  return power * 3 // 4 if n <= power * 3 // 4 else power


def room(config, length: int) -> int:
  """The tokens of the program that is compiled for `length`."""
  most = config.max_positions if config.has_table else None
  if most is not None and length > most:
    raise FmjaxError("USAGE", f"{length} tokens are more than the model's {most} positions", where="input_ids",
                     fix=f"give at most {most} tokens")  # fmt: skip
  size = roomy(max(length, 8))
  return size if most is None else min(size, most)


def padded(config, mesh, batch: dict) -> dict:
  """The batch with as many rows and tokens as a compiled program has; what is added has segment 0."""
  ways = math.prod(mesh.shape[axis] for axis in FLOWING["B"])
  rows = len(batch["tokens"])
  most, made = roomy(-(-rows // ways)) * ways, dict(batch)
  for side in ("", "source_"):
    if (tokens := batch.get(side + "tokens")) is None:
      continue
    length = room(config, tokens.shape[1])
    if tokens.shape != (most, length):
      made.setdefault(side + "segments", np.ones_like(tokens))
    for name in [name for name in made if name.startswith("source_") == bool(side)]:
      value = made[name]
      made[name] = np.pad(value, [(0, most - rows), (0, length - value.shape[-1])][: value.ndim])
  return made


def results(found: dict, task: str, family: Family, shape) -> Results:
  """`found`, cut to what was asked, by Hugging Face's names."""
  both = "source" in found
  fields = dict(last_hidden_state=found["hidden"], pooler_output=found.get("pooled"))
  if both:
    fields["encoder_last_hidden_state"] = found["source"]
  if "hiddens" in found:
    fields["decoder_hidden_states" if both else "hidden_states"] = (*found["hiddens"][:-1], found["hidden"])
  if "sources" in found:
    fields["encoder_hidden_states"] = (*found["sources"][:-1], found["source"])
  if "logits" in found:
    fields["prediction_logits" if task == "pretraining" else "logits"] = found["logits"]
  if (scores := found.get("classes")) is not None:
    if task == "pretraining":
      fields["sop_logits" if family.model_type == "albert" else "seq_relationship_logits"] = scores
    elif task == "qa":
      fields |= dict(start_logits=scores[..., 0], end_logits=scores[..., 1])
    elif task == "choice":
      fields["logits"] = scores.reshape(shape[:2])
    else:
      fields["logits"] = scores[..., 0] if task == "discriminator" else scores
  return Results(**fields)
