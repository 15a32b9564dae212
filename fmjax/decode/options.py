"""How a text goes on: the options of `generate`, their laws, and what a compiled step sees of them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fmjax.errors import FmjaxError
from fmjax.laws import Branch, Wrong, at_least, nearest

ENDS = 4  # ids of ends that a compiled step has room for, before it is compiled for more
NO_TOKEN = np.iinfo(np.int32).max  # outside of every vocabulary: equal to no token, and a scatter drops it


class Rules(NamedTuple):
  """What shapes the compiled step; everything else about the options is data."""

  sample: bool
  top_k: int | None
  no_repeat_ngram_size: int
  num_beams: int
  continuations: int  # of all beams of a row, that one step of beam search looks at


@dataclasses.dataclass(frozen=True)
class Generation(Branch):
  """Names, meanings and order of effect are those of transformers' `generate`; None and 0 turn an option off."""

  max_new_tokens: int = 20
  min_new_tokens: int = 0
  do_sample: bool = False  # False: the likeliest token, or beam search
  temperature: float = 1.0  # 0: the likeliest
  top_k: int | None = None
  top_p: float | None = None  # Holtzman et al. 2019, arXiv:1904.09751
  min_p: float | None = None  # Nguyen et al. 2024, arXiv:2407.01082
  repetition_penalty: float = 1.0  # Keskar et al. 2019, arXiv:1909.05858
  no_repeat_ngram_size: int = 0
  bad_words_ids: tuple = ()  # each a token, alone or in a list of its own
  num_beams: int = 1
  length_penalty: float = 1.0  # a beam's score is divided by its length to this power
  early_stopping: bool | str = False  # True: as soon as num_beams texts have ended; "never": once none can get better
  renormalize_logits: bool = False
  eos_token_id: int | tuple | None = None  # one, or several that all end a text
  pad_token_id: int | None = None  # what follows the end of a text; None: the first of eos_token_id
  forced_bos_token_id: int | None = None  # of texts that start from one token
  forced_eos_token_id: int | tuple | None = None  # of texts that reach max_new_tokens
  stop_strings: str | tuple = ()
  seed: int | tuple = 0  # a row's draws depend on it alone; several: one for each row

  def fill(self):
    def tuples(name):
      value = getattr(self, name)
      value = () if value is None else (value,) if isinstance(value, (int, str, np.integer)) else tuple(value)
      object.__setattr__(self, name, value)

    for name in ("eos_token_id", "forced_eos_token_id", "stop_strings", "bad_words_ids"):
      tuples(name)
    if not isinstance(self.seed, int):
      tuples("seed")
    words = tuple(tuple(w) if isinstance(w, (list, tuple)) else (w,) for w in self.bad_words_ids)
    # A text may always end: transformers passes over an end that is called a bad word.
    words = tuple(word for word in words if len(word) > 1 or word[0] not in self.eos_token_id)
    object.__setattr__(self, "bad_words_ids", words)

  def laws(self):
    yield from at_least(self, 1, "max_new_tokens", "num_beams")
    yield from at_least(self, 0, "min_new_tokens", "temperature", "top_k", "no_repeat_ngram_size", "pad_token_id")
    for name in ("eos_token_id", "forced_eos_token_id", "seed"):
      values = getattr(self, name)
      if any(value < 0 for value in (values if isinstance(values, tuple) else (values,))):
        yield name, values, "must be at least 0"
    if self.top_p is not None and not 0 < self.top_p <= 1:
      yield "top_p", self.top_p, "must lie in (0, 1]"
    if self.min_p is not None and not 0 <= self.min_p <= 1:
      yield "min_p", self.min_p, "must lie in [0, 1]"
    if not self.repetition_penalty > 0:
      yield "repetition_penalty", self.repetition_penalty, "must be above 0; 1 is none, more is less repetition"
    if self.early_stopping not in (False, True, "never"):
      yield "early_stopping", self.early_stopping, "must be False, True or 'never'"
    if self.num_beams > 1 and self.do_sample:
      yield "num_beams", self.num_beams, "beam search does not sample: set do_sample to False, or num_beams to 1"
    if any(len(word) != 1 for word in self.bad_words_ids):
      yield "bad_words_ids", self.bad_words_ids, "only words of one token can be forbidden"
    if "" in self.stop_strings:
      yield "stop_strings", self.stop_strings, "an empty string would stop every text"

  def checked(**fields) -> "Generation":
    """A Generation of words from outside; FmjaxError USAGE says what is wrong with them."""
    names = [field.name for field in dataclasses.fields(Generation)]
    for name in fields:
      if name not in names:
        raise FmjaxError("USAGE", f"generate has no option {name}: {nearest(name, names)}")
    try:
      return Generation(**fields)
    except Wrong as wrong:
      raise FmjaxError("USAGE", str(wrong)) from wrong

  @property
  def pad(self) -> int:
    """What fills a row behind its end."""
    return next((token for token in (self.pad_token_id, *self.eos_token_id) if token is not None), 0)

  @property
  def rules(self) -> Rules:
    sample = self.do_sample and self.temperature > 0
    top_k = self.top_k or None if sample else None
    # With so many, num_beams stay under way even where each beam's likeliest tokens are ends.
    continuations = max(2, 1 + len(self.eos_token_id)) * self.num_beams if self.num_beams > 1 else 0
    return Rules(sample, top_k, self.no_repeat_ngram_size, self.num_beams, continuations)

  def knobs(self, rows: int, prompt_length: int) -> dict:
    """The options as arrays; one that is off is absent, so that the compiled step does not hold it."""
    ends = np.full(-(-max(len(self.eos_token_id), 1) // ENDS) * ENDS, NO_TOKEN, np.int32)
    ends[: len(self.eos_token_id)] = self.eos_token_id
    knobs = dict(pad=np.int32(self.pad), eos=ends)
    if self.repetition_penalty != 1:
      knobs["repetition_penalty"] = np.float32(self.repetition_penalty)
    if self.bad_words_ids:
      knobs["bad_words"] = np.array(self.bad_words_ids, np.int32)[:, 0]
    if self.min_new_tokens and self.eos_token_id:
      knobs["min_new_tokens"] = np.int32(self.min_new_tokens)
    if self.forced_bos_token_id is not None and prompt_length == 1:
      knobs["forced_bos"] = np.int32(self.forced_bos_token_id)
    if self.forced_eos_token_id:
      knobs["forced_eos"] = np.array(self.forced_eos_token_id, np.int32)
    if self.num_beams > 1 or self.forced_eos_token_id:
      knobs["max_new_tokens"] = np.int32(self.max_new_tokens)
    if self.renormalize_logits:
      knobs["renormalize"] = np.int32(1)
    if self.num_beams > 1:
      knobs["length_penalty"] = np.float32(self.length_penalty)
      knobs["full_stop"] = np.bool_(self.early_stopping is True)
      knobs["never_stop"] = np.bool_(self.early_stopping == "never")
    if self.rules.sample:
      seeds = self.seed if isinstance(self.seed, tuple) else (self.seed,) * rows
      knobs["seed_B"] = np.array(seeds, np.uint32)
      knobs["temperature"] = np.float32(self.temperature)
      if self.top_p is not None and self.top_p < 1:
        knobs["top_p"] = np.float32(self.top_p)
      if self.min_p:
        knobs["min_p"] = np.float32(self.min_p)
    return knobs
