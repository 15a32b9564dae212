"""Prompts of unequal lengths as one batch: rows end at the same slot, shapes are rounded so that few are compiled."""

import dataclasses

import numpy as np

from fmjax.decode.options import Generation
from fmjax.errors import FmjaxError

LEAST = 16  # slots; the least that is compiled for


def bucket(length: int, parts: int = 4) -> int:
  """`length` rounded up: `parts` steps from a power of two to the next."""
  size = max(LEAST, 1 << (length - 1).bit_length())
  grain = max(LEAST, size // 2 // parts)
  return -(-length // grain) * grain


def positions(config) -> int | None:
  """How many positions the model has, or None where it has no last one."""
  return None if config.positions == "relative" else config.max_positions


def rows_of(ids, mask, pad, ends) -> list[list[int]]:
  """The tokens of each row; without a mask, what is not padding (as long as padding is not also an end)."""
  if mask is None and not isinstance(ids, np.ndarray) and len({len(row) for row in ids}) > 1:
    return [list(map(int, row)) for row in ids]
  ids = np.atleast_2d(np.asarray(ids))
  if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
    raise FmjaxError("USAGE", "input_ids are no batch of token ids", expected="whole numbers [B, T]",
                     got=f"{ids.dtype} {list(ids.shape)}")  # fmt: skip
  if mask is None:
    mask = ids != pad if pad is not None and pad not in ends else np.ones(ids.shape, bool)
  mask = np.atleast_2d(np.asarray(mask)) != 0
  if mask.shape != ids.shape:
    raise FmjaxError("USAGE", "attention_mask and input_ids differ in shape", expected=ids.shape, got=mask.shape)
  return [row[real].tolist() for row, real in zip(ids, mask)]


@dataclasses.dataclass(frozen=True)
class Prompts:
  """`texts` of the decoder's side; `source` arrays of the encoder's side, or {}."""

  texts: list[list[int]]
  source: dict

  @staticmethod
  def of(model, input_ids, attention_mask, options: dict) -> tuple["Prompts", Generation]:
    """The prompts, and the options without those that belong to the prompts."""
    options = dict(options)
    start, given = (options.pop(name, None) for name in ("decoder_start_token_id", "decoder_input_ids"))
    longest, shortest = (options.pop(name, None) for name in ("max_length", "min_length"))
    checked = Generation.checked(**options)
    texts, source = rows_of(input_ids, attention_mask, checked.pad_token_id, checked.eos_token_id), {}
    check_tokens(texts, model.config.V)
    if model.config.kind == "encoder_decoder":
      source = source_of(texts, positions(model.config))
      if given is None and start is None:
        raise FmjaxError("USAGE", "an encoder_decoder needs a token to start from", fix="give decoder_start_token_id")
      texts = [[start]] * len(texts) if given is None else rows_of(given, None, None, ())
      if given is not None and start is not None and all(text[0] != start for text in texts):
        texts = [[start, *text] for text in texts]
      check_tokens(texts, model.config.V)
    elif model.config.kind != "decoder":
      raise FmjaxError("USAGE", "an encoder generates no text", fix="give a decoder or an encoder_decoder")
    prompts = Prompts(texts, source)
    if longest is not None and "max_new_tokens" not in options:
      options["max_new_tokens"] = longest - prompts.width
    if shortest and "min_new_tokens" not in options:
      options["min_new_tokens"] = max(0, shortest - prompts.width)
    checked = Generation.checked(**options)
    if isinstance(checked.seed, tuple) and len(checked.seed) != len(texts):
      raise FmjaxError("USAGE", "seed holds another number than there are rows", expected=len(texts),
                       got=len(checked.seed))  # fmt: skip
    return prompts, checked

  @property
  def rows(self) -> int:
    return len(self.texts)

  @property
  def width(self) -> int:
    return max(map(len, self.texts))

  def shown(self, pad: int) -> np.ndarray:
    """The prompts as the answer holds them, padded on the left."""
    return padded_left(self.texts, self.width, pad)[0]

  def check_room(self, model, options: Generation, window):
    limit = positions(model.config)
    if limit is None:
      return
    if self.width > limit:
      raise FmjaxError("USAGE", f"the prompt has {self.width} tokens, the model {limit} positions",
                       fix=f"shorten the prompt to {limit} tokens or less")  # fmt: skip
    if window is None and (most := limit + 1 - self.width) < options.max_new_tokens:
      raise FmjaxError(
        "USAGE", f"a prompt of {self.width} tokens leaves no room for {options.max_new_tokens} new ones",
        expected=f"at most {limit} positions, the last token's apart", fix=f"set max_new_tokens to {most} or less",
      )  # fmt: skip

  def padded(self, ways: int) -> "Prompts":
    """With rows repeated until the batch divides into `ways` parts."""
    at = np.arange(-(-self.rows // ways) * ways) % self.rows
    return Prompts([self.texts[row] for row in at], {name: x[at] for name, x in self.source.items()})

  def batch(self, texts) -> tuple[dict, int]:
    """(what the model's prefill takes, its number of slots)."""
    P = bucket(max(map(len, texts)), parts=1)
    tokens_BP, segments_BP = padded_left(texts, P, 0)
    return dict(tokens=tokens_BP, segments=segments_BP, **self.source), P


def check_tokens(texts, V: int):
  for row, text in enumerate(texts):
    if not text:
      raise FmjaxError("USAGE", f"row {row} of the prompt is empty", fix="give it a token to start from")
    if not 0 <= min(text) <= max(text) < V:
      raise FmjaxError("USAGE", f"row {row} of the prompt holds a token that the model does not know",
                       expected=f"0 to {V - 1}", got=max(text) if max(text) >= V else min(text))  # fmt: skip


def padded_left(texts, width: int, pad: int):
  """(tokens, segments), int32 [B, width], of rows that all end at the last slot."""
  tokens, segments = np.full((len(texts), width), pad, np.int32), np.zeros((len(texts), width), np.int32)
  for row, text in enumerate(texts):
    tokens[row, width - len(text) :] = text
    segments[row, width - len(text) :] = 1
  return tokens, segments


def source_of(texts, limit) -> dict:
  """The encoder's side, padded on the right."""
  longest = max(map(len, texts))
  if limit and longest > limit:
    raise FmjaxError("USAGE", f"the source has {longest} tokens, the model {limit} positions",
                     fix=f"shorten it to {limit} tokens or less")  # fmt: skip
  width = min(bucket(longest, parts=1), limit or longest * 2 + LEAST)
  tokens, segments = np.zeros((len(texts), width), np.int32), np.zeros((len(texts), width), np.int32)
  for row, text in enumerate(texts):
    tokens[row, : len(text)] = text
    segments[row, : len(text)] = 1
  return dict(source_tokens=tokens, source_segments=segments)
