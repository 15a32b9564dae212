"""A SPEC and a prompt's text to the text that goes on from it: what `fmjax generate` prints."""

from collections.abc import Iterator

import jax
import numpy as np

from fmjax import decode, spec
from fmjax.decode.prompts import positions
from fmjax.errors import FmjaxError
from fmjax.interop.pretrained import with_usual

NEW_TOKENS = 128  # where neither the command nor the model's positions say less
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def asked(beams: int | None, stop: list[str], **options) -> dict:
  """The options of `decode.generate` that a command line's words mean; None is a word that was not said."""
  options = {name: value for name, value in options.items() if value is not None}
  if stop:
    options["stop_strings"] = tuple(stop)
  if beams is not None:
    options |= dict(num_beams=beams, do_sample=False)
  if (beams or 1) == 1 and any(name in options for name in SAMPLING):
    options |= dict(num_beams=1, do_sample=True)
  decode.Generation.checked(**options)
  return options


def published(found: spec.Trained, prompt: str, options: dict):
  """(the options with those of its folder, the prompt's ids, no window) of a model that was published."""
  if found.tokenizer is None:
    raise FmjaxError("TOKENIZER_BAD", "the model has no tokenizer", fix="put its tokenizer.json into its folder")
  ids = found.tokenizer(prompt)["input_ids"][0].tolist()
  start = found.tokenizer.special.get("bos", found.tokenizer.end)
  return with_usual(options, found.hf_config, found.generation_config), ids or [start], None


def trained(found: spec.Trained, prompt: str, options: dict):
  """The same of a run. Its documents start after an `end`, and longer texts go on from their last window.

  A source is read as in training, with its objective's prefix, and answered with what is likeliest.
  """
  end, objective = found.tokenizer.end, found.config.objective
  if found.model.config.kind == "encoder_decoder":
    length = found.config.data.sequence_length
    known = found.tokenizer.vocabulary(objective.needs(length))
    ids = found.tokenizer.encode(getattr(objective, "prefix", "") + prompt)
    ids = objective.framed(np.array(ids, np.int32), objective.sizes(length)[0], known).tolist()
    usual = dict(eos_token_id=end, pad_token_id=known["pad"], decoder_start_token_id=objective.start(known))
    return usual | options, ids, None
  options = dict(do_sample=True, eos_token_id=end) | options
  return options, [end, *found.tokenizer.encode(prompt)], found.config.data.sequence_length


def continuation(name: str, prompt: str, options: dict) -> Iterator[str]:
  """The model's text after `prompt`, piece by piece: a decoder's with the prompt, a source's answer alone."""
  found = spec.load(name)
  options, ids, window = (trained if found.hf_config is None else published)(found, prompt, options)
  config, tokenizer = found.model.config, found.tokenizer
  answers = config.kind == "encoder_decoder"
  if not {"max_new_tokens", "max_length"} & set(options):
    limit = None if window else positions(config)
    room = limit + 1 - (1 if answers else len(ids)) if limit else NEW_TOKENS
    options["max_new_tokens"] = max(1, min(NEW_TOKENS, room))
  prompts = [ids], [[1] * len(ids)]  # a mask, so that no token of the text is taken for padding
  with jax.set_mesh(found.mesh):
    params = found.model.for_decoding(found.params)
    if options.get("num_beams", 1) > 1:
      row = decode.generate(found.model, params, *prompts, tokenizer=tokenizer, **options)[0]
      new = iter(row[1 if answers else len(ids) :])
    else:
      rows = decode.stream(found.model, params, *prompts, tokenizer=tokenizer, window=window, **options)
      new = (token_B[0] for token_B in rows)
    if not answers:
      yield prompt
    yield from decode.pieces(tokenizer, [] if answers else ids, map(int, new), options.get("stop_strings", ()))
