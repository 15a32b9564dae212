"""What gives a probability to text: a SPEC as a language model, and the log-likelihoods of continuations."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import spec
from fmjax.decode.generate import ways
from fmjax.decode.prompts import bucket, padded_left
from fmjax.errors import FmjaxError
from fmjax.interop.families import find_family
from fmjax.interop.family import OUTPUT, find_head
from fmjax.models import Model
from fmjax.step import place

BATCH_TOKENS = 8192  # of a batch on one device
CHUNK_BYTES = 64 << 20  # of float32 logits at a time on one device


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A model with logits over its vocabulary, and how it reads a text: `encode` gives the ids with their specials.

  positions: those that it has, None where nothing limits them. ends: the ids that end its texts. start: the first id
  of an encoder_decoder's target.
  """

  model: Model
  params: Any
  tokenizer: Any
  mesh: jax.sharding.Mesh
  encode: Callable[[str], list[int]]
  positions: int | None
  ends: tuple[int, ...]
  start: int | None = None

  @functools.cached_property
  def unstacked(self):
    """The parameters as decoding takes them fastest."""
    with jax.set_mesh(self.mesh):
      return jax.jit(self.model.unstack)(self.params)


def load(name: str) -> LanguageModel:
  """The language model that a SPEC names; FmjaxError USAGE where it gives no probability to a text."""
  return language_model(spec.load(name))


def language_model(found) -> LanguageModel:
  """Of what `spec.load` or `from_pretrained` gives. A published model reads a text as its tokenizer's template says;

  a run's documents began after an `end` each, and so does its text.
  """
  hf, config, tokenizer, start = found.hf_config, found.model.config, found.tokenizer, None
  name, task = "an encoder", "lm"
  if hf is not None:
    family = find_family(hf, "config.json")
    name, head = find_head(family, hf)
    task = head.task
  if task not in OUTPUT or config.kind == "encoder":
    raise FmjaxError(
      "USAGE", f"{name} gives no probability to a text", fix="give a model whose config.json names such a class",
      expected="a decoder with a language model's head, or an encoder_decoder with one",
    )  # fmt: skip
  if tokenizer is None:
    raise FmjaxError("TOKENIZER_BAD", "the model has no tokenizer", fix="put its tokenizer.json beside config.json")
  if tokenizer.kind == "marian":
    raise FmjaxError("USAGE", "a Marian's targets are not scored: its tokenizer reads the source's language alone",
                     fix="give a T5, an mT5 or a BART")  # fmt: skip
  if hf is None:
    end, encode = tokenizer.end, tokenizer.encode
    positions = config.max_positions or found.config.data.sequence_length
    how = (lambda text: [end, *encode(text)], positions, (end,))
    return LanguageModel(found.model, found.params, tokenizer, found.mesh, *how)
  said = {**family.defaults, **hf, **(found.generation_config or {})}
  if config.kind == "encoder_decoder":
    start = said.get("decoder_start_token_id")
  ends = said.get("eos_token_id")
  ends = [tokenizer.end, *(ends if isinstance(ends, list) else [ends])]
  return LanguageModel(
    found.model, found.params, tokenizer, found.mesh, lambda text: tokenizer(text)["input_ids"][0].tolist(),
    config.max_positions if config.positions != "relative" else None,
    tuple(dict.fromkeys(end for end in ends if end is not None)), start,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("model", "chunks"))
def score(params, batch: dict, *, model: Model, chunks: int):
  """(log-probability, whether it is the likeliest) of `targets` [B, W], which follow the last W tokens of each row.

  Both come in chunks of W, [chunks, B, W / chunks]; all logits at once would not fit.
  """
  targets_BW = batch["targets"]
  positions_BT = jnp.maximum(jnp.cumsum(batch["segments"], 1) - 1, 0)
  inputs = dict(tokens=batch["tokens"], segments=batch["segments"], positions=positions_BT)
  W = targets_BW.shape[1]
  hidden_BWD = model.apply(params, inputs).hidden[:, -W:]

  def part(number):
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=W // chunks, axis=1)
    z_BCV = model.logits(params, cut(hidden_BWD, number * (W // chunks)))
    is_target_BCV = jnp.arange(z_BCV.shape[-1])[None, None] == cut(targets_BW, number * (W // chunks))[..., None]
    target_BC = jnp.sum(jnp.where(is_target_BCV, z_BCV, 0.0), -1)
    return target_BC - jax.nn.logsumexp(z_BCV, -1), target_BC >= jnp.max(z_BCV, -1)

  return jax.lax.map(part, jnp.arange(chunks))


def chunks_of(rows: int, width: int, V: int) -> int:
  """The fewest equal parts of `width` whose logits fit into CHUNK_BYTES on a device, of `rows` rows there."""
  least = min(width, math.ceil(rows * width * V * 4 / CHUNK_BYTES))
  return next(n for n in range(least, width + 1) if width % n == 0)


def loglikelihoods(subject: LanguageModel, requests: Sequence, length: int, rows: int | None = None) -> list:
  """(log-probability of the continuation, whether greedy decoding gives it) of each (context, continuation) in ids.

  A context too long for `length` tokens loses its beginning. `rows` of a batch: as many as BATCH_TOKENS hold.
  """
  groups = {}
  for at, (context, continuation) in enumerate(requests):
    if not context or not 0 < len(continuation) <= length:
      raise FmjaxError(
        "DATA_BAD", f"a continuation of {len(continuation)} tokens after {len(context)} cannot be scored",
        where=f"request {at}", expected=f"a context, and 1 to {length} tokens after it",
      )  # fmt: skip
    text = [*context, *continuation][-length - 1 :]
    shape = tuple(min(bucket(n, parts=1), length) for n in (len(text) - 1, len(continuation)))
    groups.setdefault(shape, []).append((at, text, len(continuation)))
  found = [None] * len(requests)
  with jax.set_mesh(subject.mesh):
    for (T, W), group in sorted(groups.items(), reverse=True):  # what needs most memory first
      size = batch_rows(len(group), T, rows)
      for start in range(0, len(group), size):
        part = group[start : start + size]
        for (at, _, _), pair in zip(part, score_rows(subject, part, T, W, size)):
          found[at] = pair
  return found


def batch_rows(count: int, T: int, rows: int | None) -> int:
  """Rows of a batch, a multiple of what the mesh that is set cuts it into: no more than `count` of them need."""
  rows = rows or ways() * max(1, BATCH_TOKENS // T)
  return math.ceil(min(rows, count) / ways()) * ways()


def score_rows(subject: LanguageModel, group, T: int, W: int, rows: int):
  """The pairs of one batch; rows that fill it are copies of the first."""
  texts = [text for _, text, _ in group] + [group[0][1]] * (rows - len(group))
  tokens_BT, segments_BT = padded_left([text[:-1] for text in texts], T, 0)
  targets_BW = padded_left([text[1:][-W:] for text in texts], W, 0)[0]
  batch = place(dict(tokens=tokens_BT, segments=segments_BT, targets=targets_BW))
  chunks = chunks_of(rows // ways(), W, subject.model.config.padded_V)
  log_p, likeliest = jax.device_get(score(subject.params, batch, model=subject.model, chunks=chunks))
  log_p_BW, likeliest_BW = (np.moveaxis(x, 0, 1).reshape(rows, W) for x in (log_p, likeliest))
  for (_, _, count), row, greedy in zip(group, log_p_BW, likeliest_BW):
    yield float(row[-count:].sum(dtype=np.float64)), bool(greedy[-count:].all())
