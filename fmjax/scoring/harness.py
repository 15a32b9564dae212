"""fmjax's models in lm-evaluation-harness (the extra `harness`), which count as its own "hf" models do.

In Python: `lm_eval.simple_evaluate(model=Harness("hf:FOLDER"), tasks=[...])`. In a shell this module is the harness's
command, with the model "fmjax" added: `python -m fmjax.scoring.harness --model fmjax --model_args model=hf:FOLDER`.
"""

import sys

import jax
import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from fmjax import backend
from fmjax.decode.generate import generate
from fmjax.errors import FmjaxError
from fmjax.scoring import likelihood

LENGTH = 2048  # of a context, where the model's positions have no end
NEW_TOKENS = 256  # where a task does not say


@register_model("fmjax")
class Harness(TemplateLM):
  """A decoder for the harness: `model` is a SPEC, or what `from_pretrained` or `spec.load` gave.

  max_length: of context and continuation, by default the model's positions. batch_size: rows of a batch, "auto" for
  as many as `likelihood.BATCH_TOKENS` hold. The harness always names a device and a largest batch; here JAX has all
  devices, and neither means anything.
  """

  def __init__(self, model, max_length=None, batch_size="auto", max_batch_size=None, device=None):
    super().__init__()
    backend.start()
    self.subject = likelihood.load(model) if isinstance(model, str) else likelihood.language_model(model)
    if self.subject.model.config.kind != "decoder":
      raise FmjaxError("USAGE", "the harness scores decoders", fix="give a causal language model")
    self.max_length = int(max_length or self.subject.positions or LENGTH)
    self.batch_size = None if batch_size in (None, "auto") else int(batch_size)
    special, named = self.subject.tokenizer.special, getattr(self.subject.tokenizer, "named", ())
    self.prefix = special["bos"] if "bos" in named else self.eot_token_id

  @property
  def eot_token_id(self) -> int:
    return self.subject.tokenizer.end

  @property
  def prefix_token_id(self) -> int:
    return self.prefix

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
    tokenizer = self.subject.tokenizer
    if add_special_tokens is None and tokenizer.kind == "huggingface":
      # A text that says its beginning, as those of chats do, is not given a second one.
      add_special_tokens = not string.startswith(tokenizer.backend.id_to_token(self.prefix) or "\0")
    return tokenizer.encode(string) if add_special_tokens is False else self.subject.encode(string)

  def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_) -> list[tuple[float, bool]]:
    found, pairs = [None] * len(requests), [request[1:] for request in requests]
    answers = likelihood.loglikelihoods(self.subject, pairs, self.max_length, self.batch_size)
    for number, answer in tqdm(answers, "Scoring", len(requests), disable=disable_tqdm):
      found[number] = answer
      if requests[number][0] is not None:
        self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
    return found

  def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
    """Log-probabilities of whole texts, in windows side by side that look back by one token."""
    owners, parts = [], []
    # The harness puts the prefix before what the tokenizer begins a text with, and so scores a beginning where there
    # is one; published numbers hold it. A run has never seen two.
    plain = None if self.subject.document is None else False
    for owner, (text,) in enumerate(request.args for request in requests):
      tokens = self.tok_encode(text, add_special_tokens=plain)
      windows = utils.get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
      for window in map(utils.make_disjoint_window, windows):
        owners.append(owner)
        parts.append((None, *window))
    found = [0.0] * len(requests)
    for owner, (log_probability, _) in zip(owners, self._loglikelihood_tokens(parts, disable_tqdm)):
      found[owner] += log_probability
    for request, total in zip(requests, found):
      self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
    return found

  def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
    """Texts that go on from contexts, each up to the first of its stop strings."""
    found, groups = [None] * len(requests), {}
    for number, (context, options) in enumerate(request.args for request in requests):
      groups.setdefault(repr(options), []).append((number, self.tok_encode(context)))
    progress = tqdm(total=len(requests), desc="Generating", disable=disable_tqdm)
    for group in groups.values():
      options = requests[group[0][0]].args[1]
      group.sort(key=lambda one: -len(one[1]))
      for numbers, texts in self.generated(group, options):
        for number, text in zip(numbers, texts):
          found[number] = text
          self.cache_hook.add_partial("generate_until", requests[number].args, text)
          progress.update()
    progress.close()
    return found

  def generated(self, group, options: dict):
    """(numbers, texts) of each batch of `group`, (number, ids) of contexts that share their options."""
    options = normalize_gen_kwargs(options, NEW_TOKENS)
    stops, new = options.pop("until"), options.pop("max_gen_toks")
    most = self.max_length - new
    if most < 1:
      raise FmjaxError("USAGE", f"max_gen_toks={new} leaves a context no room", got=f"{self.max_length} positions",
                       fix="give gen_kwargs with a smaller max_gen_toks")  # fmt: skip
    if not options["do_sample"]:
      options.pop("temperature", None)
    stops = tuple(stop for stop in stops if stop)
    with jax.set_mesh(self.subject.mesh):
      longest = min(most, len(group[0][1]))
      size = likelihood.batch_rows(len(group), longest + new, self.batch_size)
      for start in range(0, len(group), size):
        part = group[start : start + size]
        # Every batch has as many rows, so that the last needs no program of its own.
        numbers, contexts = zip(*part, *([part[0]] * (size - len(part))))
        contexts = [context[-most:] or [self.prefix_token_id] for context in contexts]
        ids_BT = generate(
          self.subject.model, self.subject.decoding, contexts, tokenizer=self.subject.tokenizer,
          eos_token_id=self.subject.ends, pad_token_id=self.eot_token_id, stop_strings=stops, max_new_tokens=new,
          seed=numbers, **options,
        )  # fmt: skip
        new_BT = np.asarray(ids_BT)[: len(part), max(map(len, contexts)) :]
        yield numbers[: len(part)], [self.text_of(ids.tolist(), stops) for ids in new_BT]

  def text_of(self, ids: list[int], stops) -> str:
    last = next((place for place, token in enumerate(ids) if token in self.subject.ends), len(ids))
    text = self.subject.tokenizer.decode(ids[:last])
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def main():
  from lm_eval.__main__ import cli_evaluate

  try:
    cli_evaluate()
  except FmjaxError as error:
    print(error, file=sys.stderr)
    sys.exit(error.status)


if __name__ == "__main__":
  main()
