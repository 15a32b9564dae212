"""From prompts to texts: unequal prompts made one batch, lengths rounded to buckets, tokens read one step late."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.decode import beam, step
from fmjax.decode.options import Generation
from fmjax.decode.prompts import Prompts, bucket
from fmjax.errors import FmjaxError
from fmjax.sharding import FLOWING


def generate(model, params, input_ids, attention_mask=None, *, tokenizer=None, window=None, **options) -> np.ndarray:
  """Token ids [B, T + new] as transformers returns them.

  A decoder's row holds its prompt; an encoder_decoder's, whose source `input_ids` is, starts with
  `decoder_start_token_id` or `decoder_input_ids`. Rows that end early are filled with `pad_token_id`. `input_ids` is
  an array with its `attention_mask`, padded on either side, or a list of lists; prompts come back padded on the left.
  `tokenizer` reads the texts where there are `stop_strings`. `window`: see `stream`. The other options are those of
  `Generation`, and `max_length` and `min_length`, which count the prompt.
  """
  prompts, options = Prompts.of(model, input_ids, attention_mask, options)
  prompts.check_room(model, options, None if options.num_beams > 1 else window)
  if options.num_beams > 1:
    new_BN = beams(model, params, prompts, options)
  else:
    new_BN = np.stack(list(tokens(model, params, prompts, options, tokenizer, window)), 1)
  return np.concatenate([prompts.shown(options.pad), new_BN], 1)


def stream(model, params, input_ids, attention_mask=None, *, tokenizer=None, window=None, **options) -> Iterator:
  """What `generate` gives, as it comes: the next token of each row, int32 [B], pad_token_id once a row has ended.

  A text longer than `window` (None: an error where the model's positions end) goes on from its last `window` tokens.
  """
  prompts, options = Prompts.of(model, input_ids, attention_mask, options)
  if options.num_beams > 1:
    raise FmjaxError(
      "USAGE", "beam search has no text before its end", fix="num_beams=1, or generate without streaming"
    )
  prompts.check_room(model, options, window)
  return tokens(model, params, prompts, options, tokenizer, window)


def tokens(model, params, prompts: Prompts, options: Generation, tokenizer, window) -> Iterator[np.ndarray]:
  """The next token of each row, until all have ended. The device is a step ahead of what is yielded."""
  rows, rules = prompts.rows, options.rules
  padded = prompts.padded(ways())
  knobs = place(options.knobs(len(padded.texts), prompts.width))
  texts, done_B = [list(text) for text in prompts.texts], np.zeros(rows, bool)
  stops = Stops(options, tokenizer, rows)
  at_B = np.arange(len(padded.texts)) % rows  # the rows that stand in for those that fill the batch

  def begin(number):
    longest = max(map(len, texts))
    left = options.max_new_tokens - number
    if window:
      left = min(left, max(window - longest, 0) + 1)
    batch, P = padded.batch([texts[row][-window:] if window else texts[row] for row in at_B])
    return step.start(
      params, place(batch), place(done_B[at_B]), place(np.int32(number)), knobs,
      model=model, rules=rules, length=bucket(P + left),
    )  # fmt: skip

  state, token_B = begin(0)
  for number in range(options.max_new_tokens):
    last = number + 1 == options.max_new_tokens
    full = window and max(map(len, texts)) + 1 > window
    ahead = None if last or full else step.step(params, state, knobs, model=model, rules=rules)
    token_B = np.where(done_B, options.pad, np.asarray(token_B)[:rows]).astype(np.int32)
    for row in np.flatnonzero(~done_B):
      texts[row].append(int(token_B[row]))
    done_B = done_B | stops(token_B, done_B)
    yield token_B
    if done_B.all() or last:
      return
    state, token_B = ahead or begin(number + 1)


def beams(model, params, prompts: Prompts, options: Generation) -> np.ndarray:
  """The new tokens [B, N] of each row's best text."""
  padded, rules = prompts.padded(ways()), options.rules
  knobs = place(options.knobs(len(padded.texts), prompts.width))
  batch, P = padded.batch(padded.texts)
  length = bucket(P + options.max_new_tokens)
  state, over = beam.start(params, place(batch), place(np.int32(0)), knobs, model=model, rules=rules, length=length)
  for _ in range(options.max_new_tokens - 1):
    state, after = beam.step(params, state, knobs, model=model, rules=rules)
    if over:  # of the step before: the device need not wait for the answer
      break
    over = after
  best_BS, length_B = (np.asarray(x)[: prompts.rows, 0] for x in (state.beams.best_BWS, state.beams.length_BW))
  new_BN = best_BS[:, P : P + length_B.max()].astype(np.int32)
  # transformers fills with the first end where the padding is 0, and so does a beam's text here.
  fill = options.pad or next(iter(options.eos_token_id), 0)
  return np.where(np.arange(new_BN.shape[1])[None] < length_B[:, None], new_BN, fill)


class Stops:
  """Which rows end with their newest token: with an end, or with a stop string in their new text."""

  def __init__(self, options: Generation, tokenizer, rows: int):
    if options.stop_strings and tokenizer is None:
      raise FmjaxError("USAGE", "stop_strings need a tokenizer to read the text", fix="give tokenizer=")
    self.options, self.tokenizer, self.new = options, tokenizer, [[] for _ in range(rows)]

  def __call__(self, token_B, done_B):
    ended_B = np.isin(token_B, self.options.eos_token_id)
    if self.options.stop_strings:
      for row in np.flatnonzero(~done_B):
        self.new[row].append(int(token_B[row]))
        text = self.tokenizer.decode(self.new[row])
        ended_B[row] |= any(stop in text for stop in self.options.stop_strings)
    return ended_B


def ways() -> int:
  """Into how many parts the mesh that is set cuts a batch."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return int(np.prod([sizes.get(axis, 1) for axis in FLOWING["B"]]))


def place(tree):
  """The arrays on every device of the mesh that is set, once for all steps."""
  return jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), jax.P()), tree)
