"""One pass over the eval split of each source: sums over batches, their ratios as metrics, and a task's answers."""

import math

import jax
import numpy as np

from fmjax.adapt import joined
from fmjax.measures import tasks
from fmjax.objectives.labelled import text_of_bits
from fmjax.step import eval_step, place, ratios

SIMILAR = 16  # lengths of prompts up to the same multiple of it
TEXT = 500  # characters of an example's text that stand beside its answer


def step_of(model, objective):
  """The jitted step: (params, batch, resting) -> (sums, predictions), one pass of the model for both."""

  def step(params, batch, resting):
    sums = eval_step(params, batch, resting, model=model, objective=objective)
    predicts = objective.judged_by and not objective.generates
    return sums, objective.predict(model, joined(resting, params), batch) if predicts else {}

  return jax.jit(step)


def evaluate(step, params, sources: dict, bytes_per_token: float | None, resting=None, answers=None) -> dict:
  """{"eval/loss" in nats a token, "eval/accuracy", ...} over all (number, batch) pairs of `sources`, or {}.

  Of several sources each has its own "eval/NAME/loss" and so on. A loss of every token of the text, for which
  `bytes_per_token` is given, is told as "eval/bits_per_byte" too; `answers` (Answers) takes what is predicted, and
  a task's metrics stand beside its loss.
  """
  totals = {}
  for name, batches in sources.items():
    for number, batch in batches:
      sums, predicted = jax.device_get(step(params, place(batch), resting or {}))
      totals[name] = added(totals.get(name), sums)
      if predicted:
        answers.add(name, number, predicted)
  return row_of(totals, bytes_per_token, answers)


def added(total, sums):
  """Two batches' sums, or one's, in float64."""
  sums = jax.tree.map(np.float64, sums)
  return sums if total is None else jax.tree.map(np.add, total, sums)


def row_of(totals: dict, bytes_per_token: float | None, answers=None) -> dict:
  """What `evaluate` gives, of each source's sums."""
  if not totals:
    return {}
  row = {}
  for name, sums in totals.items() if len(totals) > 1 else ():
    own = ratios(sums) | (answers.worth(name) if answers else {})
    row |= {f"eval/{name}/{key}": float(value) for key, value in own.items()}
  own = ratios(jax.tree.map(lambda *x: sum(x), *totals.values())) | (answers.worth() if answers else {})
  row = {f"eval/{key}": float(value) for key, value in own.items()} | row
  if bytes_per_token is None:
    return row
  return row | {"eval/bits_per_byte": row["eval/loss"] / math.log(2) / bytes_per_token}


class Answers:
  """What a model predicts of the rows of `sources`, {name: Batches}, and what the objective answers by it."""

  def __init__(self, sources: dict):
    self.sources, self.predicted = sources, {name: [] for name in sources}

  def __bool__(self):
    return any(self.predicted.values())

  def add(self, name: str, number: int, predicted: dict):
    """Of batch `number`, {name: array [B, ...]}; the rows that only fill it are left out."""
    batches = self.sources[name]
    rows = min(batches.batch_size, batches.examples - number * batches.batch_size)
    self.predicted[name] += [{key: x[row] for key, x in predicted.items()} for row in range(rows)]

  def of(self, name: str) -> list[dict]:
    batches, rows = self.sources[name], self.predicted[name]
    if not rows:
      return []
    prepared = batches.prepared
    records = records_of(batches, len(rows))
    real = [number for number, record in enumerate(records) if holds(record)]
    predicted = {key: [rows[number][key] for number in real] for key in rows[0]}
    return prepared.objective.answers([records[number] for number in real], predicted, prepared.tokenizer)

  def worth(self, *names: str) -> dict[str, float]:
    """The metrics of the answers of all sources, or of those that are named."""
    answers = [one for name in names or self.sources for one in self.of(name)]
    objective = next(iter(self.sources.values())).prepared.objective
    return {name: one.value for name, one in tasks.metrics(objective, answers).items()}


def records_of(batches, count: int | None = None) -> list[dict]:
  """The first `count` of the split, or all."""
  split = batches.prepared.splits[batches.split][batches.source]
  return split.read(list(range(split.examples if count is None else count)))


def holds(record: dict) -> bool:
  """Whether the record has anything: one that data.on_corrupt=skip leaves out has not."""
  return any(map(len, record.values()))


def shown(batches, answers: list[dict]) -> list[dict]:
  """The answers to the whole split, each with the `example` that it is of, a number of the split from 0, its `text`,
  cut at 500 characters, and its `length` in tokens. Of several windows of a text the first is meant."""
  objective, tokenizer = batches.prepared.objective, batches.prepared.tokenizer
  records, found = records_of(batches), []
  for number, answer in zip(numbers(records, answers), answers, strict=True):
    record = records[number]
    if objective.generates:
      parts = [objective.prompt(record, batches.vocabulary, batches.prepared.config.sequence_length)]
    else:
      parts = [record[name] for name in objective.shows if name in record]
    text = "\n".join(tokenizer.decode(part.tolist()) for part in parts)
    found.append(dict(example=number, **answer, text=text[:TEXT], length=sum(map(len, parts))))
  return found


def numbers(records: list[dict], answers: list[dict]) -> list[int]:
  """Of which record each answer is: it has one, or a record's id, and then is of the first with that id."""
  real = [number for number, record in enumerate(records) if holds(record)]
  if not answers or "id" not in answers[0]:
    return real
  first = {text_of_bits(records[number]["id"]): number for number in reversed(real)}
  return [first[answer["id"]] for answer in answers]


def generated(model, params, batches, size: int, **options) -> list[dict]:
  """The objective's answers to the whole split, by what the model generates; `size` rows at a time, or fewer.

  An answer has data.sequence_length tokens at most, or what a decoder's positions leave behind its prompt; of a
  prompt that leaves less than a quarter of them, the first tokens are left out.
  """
  from fmjax import decode

  prepared, end = batches.prepared, batches.prepared.tokenizer.end
  objective, length = prepared.objective, prepared.config.sequence_length
  records = [record for record in records_of(batches) if holds(record)]
  prompts = [objective.prompt(record, batches.vocabulary, length).tolist() for record in records]
  pad, source = batches.vocabulary.special.get("pad", end), model.config.kind == "encoder_decoder"
  usual = dict(eos_token_id=end, pad_token_id=pad)
  options = (usual | dict(decoder_start_token_id=objective.start(batches.vocabulary)) if source else usual) | options
  positions = None if source else model.config.max_positions
  most = None if positions is None else positions - positions // 4
  prompts = [prompt if most is None else prompt[-most:] for prompt in prompts]
  rooms = [room_behind(prompt, length, positions, most) for prompt in prompts]
  told = [[] for _ in prompts]
  params = model.for_decoding(params)
  for room in sorted(set(rooms)):
    own = [row for row in range(len(prompts)) if rooms[row] == room]
    own.sort(key=lambda row: len(prompts[row]))  # little of a batch is padding
    for start in range(0, len(own), size):
      chosen = own[start : start + size]
      rows = [prompts[row] for row in chosen]
      new = decode.generate(model, params, rows, tokenizer=prepared.tokenizer, **dict(max_new_tokens=room) | options)
      skip = 1 if source else max(map(len, rows))
      for row, tokens in zip(chosen, new):
        told[row] = np.asarray(tokens[skip:])
  return objective.answers(records, dict(tokens=told), prepared.tokenizer)


def room_behind(prompt: list[int], length: int, positions: int | None, most: int | None) -> int:
  """How many tokens an answer may have, whatever stands beside it in a batch; of SIMILAR prompts the same."""
  if positions is None:
    return length
  return min(length, positions + 1 - min(-(-len(prompt) // SIMILAR) * SIMILAR, most))
