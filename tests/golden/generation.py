"""Generation's golden cases: what transformers generates from a tiny model, where no answer hangs by a hair."""

import itertools
import json

import numpy as np
import torch
import transformers

NEW = 64
NOISE = 3e-4  # of a log-probability at each step; two exact implementations differ by a hundredth of it
DRAWS = 3
BEAMS = [
  dict(num_beams=beams, length_penalty=penalty, early_stopping=early)
  for beams, penalty, early in itertools.product((3, 4), (0.6, 1.0, 2.0), (False, True))
]
FULL = {"gpt2", "t5", "bart"}  # the other families have every third of BEAMS


class Noise(transformers.LogitsProcessor):
  def __init__(self, seed: int):
    self.generator = torch.Generator().manual_seed(seed)

  def __call__(self, input_ids, scores):
    return scores + NOISE * (2 * torch.rand(scores.shape, generator=self.generator) - 1)


def wanted(config) -> list[tuple[dict, bool]]:
  """(arguments, whether an end token ends a row) of each case."""
  searches = BEAMS if config.model_type in FULL else BEAMS[::3]
  cases = [({}, False), ({}, True), ({"repetition_penalty": 1.3}, False), ({"min_new_tokens": 30}, True)]
  cases += [(dict(search), True) for search in searches]
  cases += [(dict(num_beams=3, length_penalty=1.0, early_stopping=False), False)]
  cases += [(dict(num_beams=3, repetition_penalty=1.3, min_new_tokens=20, early_stopping=True), True)]
  if config.model_type == "bart":  # as bart-large-cnn is published
    published = dict(num_beams=4, length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=3)
    cases += [(published | dict(forced_bos_token_id=0, forced_eos_token_id=2, min_new_tokens=10), True)]
  if config.model_type == "marian":  # as opus-mt is published
    published = dict(num_beams=4, bad_words_ids=[[config.pad_token_id]], forced_eos_token_id=0)
    cases += [(published, True)]
  return cases


def run(model, inputs: dict, arguments: dict, noise: int | None = None):
  """The generated ids, and the winning beams' scores."""
  model.generation_config = transformers.GenerationConfig(**arguments, do_sample=False)
  out = model.generate(
    **{name: torch.from_numpy(array) for name, array in inputs.items()},
    logits_processor=[] if noise is None else [Noise(noise)],
    return_dict_in_generate=True,
    output_scores=True,
  )
  scores = out.sequences_scores.tolist() if arguments.get("num_beams", 1) > 1 else None
  return out.sequences.numpy(), scores


def prompts(rng, config, tokens) -> dict:
  ids, mask = tokens(rng, config, (9, 6, 4))
  if not config.is_encoder_decoder:  # a decoder's prompt ends where its answer begins
    order = np.argsort(mask, axis=-1, kind="stable")
    ids, mask = np.take_along_axis(ids, order, -1), np.take_along_axis(mask, order, -1)
  return dict(input_ids=ids, attention_mask=mask)


def end_tokens(answers, rng) -> list[int]:
  """Tokens that some row reaches between its 6th and its 50th, in random order."""
  firsts = {
    int(token): [row.tolist().index(token) for row in answers if token in row] for token in np.unique(answers)
  }
  return [int(token) for token in rng.permutation(list(firsts)) if any(6 <= n < 50 for n in firsts[int(token)])]


def lengths(case: dict, start: int) -> list[int]:
  """How many tokens each row has generated, its end token included."""
  ends, answers = case["arguments"]["eos_token_id"], [row[start:] for row in case["sequences"]]
  ends = ends if isinstance(ends, list) else [ends]
  return [next((n + 1 for n, token in enumerate(row) if token in ends), len(row)) for row in answers]


def candidate(model, tokens, arguments: dict, ends: bool, two: bool, rng):
  """A case on fresh prompts; None where no row ends early as it should, or where noise changes the answer."""
  inputs = prompts(rng, model.config, tokens)
  start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
  if ends:
    answers, _ = run(model, inputs, {k: v for k, v in arguments.items() if k != "min_new_tokens"})
    found = end_tokens(answers[:, start:], rng)
    if not found:
      return None
    arguments = arguments | dict(eos_token_id=found[:2] if two and len(found) > 1 else found[0])
  ids, scores = run(model, inputs, arguments)
  case = dict(arguments=arguments, **{name: array.tolist() for name, array in inputs.items()}, sequences=ids.tolist())
  case["lengths"] = lengths(case, start)
  if ends and not (min(case["lengths"]) < NEW and max(case["lengths"]) > 8):
    return None
  for draw in range(DRAWS):
    if not np.array_equal(run(model, inputs, arguments, noise=draw)[0], ids):
      return None
  return case if scores is None else case | dict(sequences_scores=scores)


def variety(model, tokens) -> float:
  """How many different tokens a row has, on average, in the greedy answer to some prompt."""
  config = model.config
  arguments = dict(max_new_tokens=NEW, eos_token_id=None, pad_token_id=config.pad_token_id)
  if config.is_encoder_decoder:
    arguments["decoder_start_token_id"] = config.decoder_start_token_id
  answers, _ = run(model, prompts(np.random.default_rng(0), config, tokens), arguments)
  return float(np.mean([len(np.unique(row)) for row in answers[:, -NEW:]]))


def cases(model, tokens, seed: int) -> list[dict]:
  """Each case has its own prompts: the first of a row of seeds that gives one."""
  config = model.config
  fixed = dict(max_new_tokens=NEW, eos_token_id=None, pad_token_id=config.pad_token_id)
  if config.is_encoder_decoder:
    fixed["decoder_start_token_id"] = config.decoder_start_token_id
  made = []
  for number, (arguments, ends) in enumerate(wanted(config)):
    rngs = (np.random.default_rng((seed, number, trial)) for trial in range(100))
    found = (candidate(model, tokens, fixed | arguments, ends, number % 3 == 2, rng) for rng in rngs)
    case = next((case for case in found if case), None)
    if case is None:
      raise SystemExit(f"no prompts for {arguments}")
    print("  ", arguments, "ends with", case["arguments"]["eos_token_id"], "after", case.pop("lengths"), flush=True)
    made.append(case)
  return made


def dump(cases: list[dict]) -> str:
  """One line a field."""
  fields = [",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in case.items()) for case in cases]
  return "[\n" + ",\n".join(f"  {{\n{text}\n  }}" for text in fields) + "\n]\n"
