"""What gives a probability to text: a SPEC as a language model, and the log-likelihoods of continuations."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax import spec
from fmjax.decode.generate import ways
from fmjax.decode.prompts import bucket, padded_left, positions
from fmjax.errors import FmjaxError
from fmjax.interop.families import find_family
from fmjax.interop.family import OUTPUT, find_head
from fmjax.models import Model
from fmjax.sharding import flow
from fmjax.step import place

BATCH_TOKENS = 8192  # of a batch on one device
CHUNK_BYTES = 64 << 20  # of float32 logits at a time on one device


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A model with logits over its vocabulary, and how it reads a text.

  positions: those that it has, None where nothing limits them. ends: the ids that end its texts. document: the id
  that each document of a run began after, None of a published model. start: the first id of an encoder_decoder's
  target.
  """

  model: Model
  params: Any
  tokenizer: Any
  mesh: jax.sharding.Mesh
  positions: int | None
  ends: tuple[int, ...]
  document: int | None = None
  start: int | None = None

  def encode(self, text: str) -> list[int]:
    """The ids of a text from its beginning: by the published tokenizer's template, or as a document of the run."""
    if self.document is None:
      return self.tokenizer(text)["input_ids"][0].tolist()
    return [self.document, *self.tokenizer.encode(text)]

  @functools.cached_property
  def decoding(self):
    """The parameters as a step of decoding reads them best; on a CPU a second copy."""
    with jax.set_mesh(self.mesh):
      return self.model.for_decoding(self.params)


def load(name: str) -> LanguageModel:
  """The language model that a SPEC names; FmjaxError USAGE where it gives no probability to a text."""
  return language_model(spec.load(name))


def language_model(found) -> LanguageModel:
  """The same of what `spec.load` or `from_pretrained` gives."""
  hf, config, tokenizer = found.hf_config, found.model.config, found.tokenizer
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
  what = found.model, found.params, tokenizer, found.mesh
  if hf is None and config.kind == "encoder_decoder":
    raise FmjaxError("USAGE", "a run of pairs is evaluated on pairs that are read as its own", got="a text",
                     fix="leave --data out, or give --config.data.eval_path=FILE")  # fmt: skip
  if hf is None:
    limit, end = positions(config) or found.config.data.sequence_length, tokenizer.end
    return LanguageModel(*what, limit, (end,), document=end)
  said = {**family.defaults, **hf, **(found.generation_config or {})}
  ends = said.get("eos_token_id")
  ends = [tokenizer.end, *(ends if isinstance(ends, list) else [ends])]
  ends = tuple(dict.fromkeys(end for end in ends if end is not None))
  start = said.get("decoder_start_token_id") if config.kind == "encoder_decoder" else None
  return LanguageModel(*what, positions(config), ends, start=start)


@functools.partial(jax.jit, static_argnames=("model", "chunks"))
def score(params, batch: dict, *, model: Model, chunks: int):
  """(log-probability, whether it is the likeliest) of `targets` [B, W], which follow the last W tokens of each row.

  Both come in chunks of W, [chunks, B, W / chunks]; all logits at once would not fit.
  """
  inputs = {name: x for name, x in batch.items() if name != "targets"}
  targets_BW = flow(batch["targets"], "BW")
  W = targets_BW.shape[1]
  hidden_BWD = flow(model.apply(params, inputs).hidden, "BWD")[:, -W:]

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


def loglikelihoods(subject: LanguageModel, requests: Sequence, length: int, rows: int | None = None) -> Iterator:
  """(number of the request, (log-probability of the continuation, whether greedy decoding gives it)), as they come.

  A request is (context, continuation) in ids. A context too long for `length` tokens loses its beginning. `rows` of a
  batch: as many as BATCH_TOKENS hold.
  """
  groups = {}
  for number, (context, continuation) in enumerate(requests):
    if not context or not 0 < len(continuation) <= length:
      raise FmjaxError(
        "DATA_BAD", f"a continuation of {len(continuation)} tokens after {len(context)} cannot be scored",
        where=f"request {number}", expected=f"a context, and 1 to {length} tokens after it",
      )  # fmt: skip
    text = [*context, *continuation][-length - 1 :]
    shape = tuple(min(bucket(n, parts=1), length) for n in (len(text) - 1, len(continuation)))
    groups.setdefault(shape, []).append((number, text, len(continuation)))
  with jax.set_mesh(subject.mesh):
    for (T, W), group in sorted(groups.items(), reverse=True):  # what needs most memory first
      size = batch_rows(len(group), T, rows)
      for start in range(0, len(group), size):
        yield from score_rows(subject, group[start : start + size], T, W, size)


def batch_rows(count: int, T: int, rows: int | None) -> int:
  """Rows of a batch, a multiple of what the mesh that is set cuts it into: no more than `count` of them need."""
  rows = rows or ways() * max(1, BATCH_TOKENS // T)
  return math.ceil(min(rows, count) / ways()) * ways()


def score_rows(subject: LanguageModel, group, T: int, W: int, rows: int):
  """What `loglikelihoods` gives, of one batch; rows that fill it are copies of the first."""
  texts = [text for _, text, _ in group] + [group[0][1]] * (rows - len(group))
  tokens_BT, segments_BT = padded_left([text[:-1] for text in texts], T, 0)
  targets_BW = padded_left([text[1:][-W:] for text in texts], W, 0)[0]
  positions_BT = np.maximum(np.cumsum(segments_BT, 1, dtype=np.int32) - 1, 0)
  batch = place(dict(tokens=tokens_BT, segments=segments_BT, positions=positions_BT, targets=targets_BW))
  chunks = chunks_of(rows // ways(), W, subject.model.config.padded_V)
  log_p, likeliest = jax.device_get(score(subject.params, batch, model=subject.model, chunks=chunks))
  log_p_BW, likeliest_BW = (np.moveaxis(x, 0, 1).reshape(rows, W) for x in (log_p, likeliest))
  for (number, _, count), row, greedy in zip(group, log_p_BW, likeliest_BW):
    yield number, (float(row[-count:].sum(dtype=np.float64)), bool(greedy[-count:].all()))
