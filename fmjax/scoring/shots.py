"""A task without training: which label a language model finds likeliest behind a record, after examples or none.

Brown et al. 2020 (arXiv:2005.14165), sections 2 and 2.4. A prompt is a few records of the train split, each with its
label, and the record that is asked about; every label is scored as what may follow.
"""

import dataclasses
import string

import numpy as np

from fmjax.config import Config
from fmjax.data import preparation, sources
from fmjax.errors import FmjaxError
from fmjax.laws import nearest
from fmjax.objectives import labelled, multiple_choice
from fmjax.objectives.objective import Refused
from fmjax.scoring import likelihood

BETWEEN = "\n\n"  # examples of a prompt
LENGTH = 2048  # tokens of a prompt and a label, where the model's positions have no end
TASKS = ("classification", "multiple_choice")


@dataclasses.dataclass(frozen=True)
class Asking:
  """How a record becomes a question, and a label an answer.

  template: what a record is written as, with the objective's columns in braces, as "Review: {text}\\nSentiment:".
  label_texts: what each label is written as, in the order of objective.labels; None: as it is called.
  """

  template: str
  label_texts: tuple[str, ...] | None = None


def answers(subject: likelihood.LanguageModel, config: Config, asking: Asking, shots: int) -> list[dict]:
  """The answers to the eval split of `config`, as its objective would give them.

  Which records of the train split come before is drawn by data.seed; they are the same for all questions.
  """
  objective = config.objective
  check(objective, asking)
  if subject.model.config.kind != "decoder":
    raise FmjaxError("USAGE", "a decoder answers tasks without training", got=subject.model.config.kind,
                     fix="give a causal language model")  # fmt: skip
  if shots < 0:
    raise FmjaxError("USAGE", "--shots is a number of examples", got=shots, fix="give 0 or more")
  train, asked = read(config)
  if not asked:
    raise FmjaxError("DATA_BAD", "there is no text to evaluate on", where="data", got="an empty eval split",
                     fix="set data.eval_path, data.eval_split or data.eval_fraction")  # fmt: skip
  if len(train) < shots:
    raise FmjaxError("DATA_BAD", "the train split has fewer records than shots", got=f"{len(train)} records",
                     expected=f"--shots={shots}", fix="ask for fewer")  # fmt: skip
  chosen = np.random.default_rng(config.data_seed).choice(len(train), shots, replace=False).tolist()
  examples = [Question(objective, asking, *train[number]) for number in chosen]
  before = "".join(f"{one.text} {one.choices[one.label]}{BETWEEN}" for one in examples)
  questions = [Question(objective, asking, *record) for record in asked]
  requests = [ids_of(subject, before + one.text, f" {choice}") for one in questions for choice in one.choices]
  log_p = np.empty(len(requests))
  for number, (found, _) in likelihood.loglikelihoods(subject, requests, subject.positions or LENGTH):
    log_p[number] = found
  ends = np.cumsum([len(one.choices) for one in questions])[:-1]
  return [
    answer(number, one, objective, own) for number, (one, own) in enumerate(zip(questions, np.split(log_p, ends)))
  ]


class Question:
  """A record's text, the texts of its choices, and the place of the right one; DATA_BAD names the record."""

  def __init__(self, objective, asking: Asking, name: str, record: dict):
    texts = [key for key in record if key not in ("label", "choices")]
    try:
      for key in texts:
        labelled.text_of(record[key], key, 0)
      if objective.name == "multiple_choice":
        self.choices = multiple_choice.choices_of(record["choices"], objective.labels, 0)
      else:
        self.choices = asking.label_texts or objective.labels
      self.label = labelled.label_of(record["label"], objective.labels, 0)
    except Refused as refused:
      raise FmjaxError("DATA_BAD", refused.what, where=name, **refused.labels) from refused
    self.text = asking.template.format(**record)


def check(objective, asking: Asking):
  columns = [key for key in columns_of(objective) if key not in ("label", "choices")]
  try:
    pieces = list(string.Formatter().parse(asking.template))
  except ValueError as error:
    raise FmjaxError("USAGE", "--template is no template", got=f"{asking.template!r}: {error}",
                     expected="columns in braces, and {{ for a brace itself") from error  # fmt: skip
  for _, key, form, how in pieces:
    if key is not None and (key not in columns or form or how):
      raise FmjaxError("USAGE", f"--template has no column {key!r}", expected=", ".join(columns),
                       fix=nearest(key, columns))  # fmt: skip
  if asking.label_texts is not None and len(asking.label_texts) != len(objective.labels):
    raise FmjaxError("USAGE", "--label_texts has no text for each label", expected=", ".join(objective.labels),
                     got=", ".join(asking.label_texts))  # fmt: skip


def check_task(tree: dict):
  """USAGE where the objective of a recipe's `tree` has no labels to choose from."""
  name = (tree.get("objective") or {}).get("name")
  if name not in TASKS:
    raise FmjaxError("USAGE", f"objective {name!r} has no labels to choose from",
                     fix=f"give a config whose objective.name is {' or '.join(TASKS)}")  # fmt: skip


def columns_of(objective) -> tuple[str, ...]:
  return objective.layout(1, False).encoder.columns


def read(config: Config) -> tuple[list[tuple[str, dict]], list[tuple[str, dict]]]:
  """(the train split's, the eval split's) records: each one's name, and its columns as the objective calls them."""
  columns, found = columns_of(config.objective), ([], [])
  for source in config.data.components:
    source = dataclasses.replace(source, columns=source.columns or columns)
    if len(source.columns) != len(columns):
      raise preparation.wrong_columns(source, columns)
    for part in sources.parts(source, config.data.eval_fraction, typed=True):
      for document in part.documents():
        held = document.held
        held = sources.held(document.name, config.data.eval_fraction) if held is None else held
        found[held].append((part.where(document.name), dict(zip(columns, document.values))))
  return found


def ids_of(subject: likelihood.LanguageModel, context: str, continuation: str) -> tuple[list[int], list[int]]:
  """The tokens of a context and what the whole text has behind them."""
  before, whole = subject.encode(context), subject.encode(context + continuation)
  return before, whole[len(before) :]


def answer(number: int, question: Question, objective, log_p) -> dict:
  p = np.exp(log_p - log_p.max())
  p, best = (p / p.sum()).tolist(), int(np.argmax(log_p))
  if objective.name == "multiple_choice":
    told = dict(predicted=best, expected=question.label, probabilities=p)
  else:
    labels = objective.labels
    told = dict(predicted=labels[best], expected=labels[question.label], probabilities=dict(zip(labels, p)))
  return dict(example=number, **told, text=question.text)
