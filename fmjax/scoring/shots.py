"""A task without training: which label a language model finds likeliest behind a record, after examples or none.

Brown et al. 2020 (arXiv:2005.14165), sections 2 and 2.4. A prompt is a few records of the train split, each with its
label, and the record that is asked about; every label is scored as what may follow.
"""

import dataclasses
import string

import numpy as np

from fmjax.config import Config
from fmjax.data import sources
from fmjax.errors import FmjaxError
from fmjax.laws import nearest
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
  train, asked = read(config)
  if not asked:
    raise FmjaxError("DATA_BAD", "there is no text to evaluate on", where="data", got="an empty eval split",
                     fix="set data.eval_path, data.eval_split or data.eval_fraction")  # fmt: skip
  if len(train) < shots:
    raise FmjaxError("DATA_BAD", "the train split has fewer records than shots", got=f"{len(train)} records",
                     expected=f"--shots={shots}", fix="ask for fewer")  # fmt: skip
  chosen = np.random.default_rng(config.data_seed).choice(len(train), shots, replace=False).tolist()
  examples = [Question(objective, asking, train[number]) for number in chosen]
  before = "".join(f"{one.text} {one.choices[one.label]}{BETWEEN}" for one in examples)
  questions = [Question(objective, asking, record) for record in asked]
  requests = [ids_of(subject, before + one.text, f" {choice}") for one in questions for choice in one.choices]
  log_p = np.empty(len(requests))
  for number, (found, _) in likelihood.loglikelihoods(subject, requests, subject.positions or LENGTH):
    log_p[number] = found
  ends = np.cumsum([len(one.choices) for one in questions])[:-1]
  return [
    answer(number, one, objective, own) for number, (one, own) in enumerate(zip(questions, np.split(log_p, ends)))
  ]


class Question:
  """A record's text, the texts of its choices, and the place of the right one."""

  def __init__(self, objective, asking: Asking, record: dict):
    labels = objective.labels
    if objective.name == "multiple_choice":
      choices = record["choices"]
      self.choices = choices.split("\n") if isinstance(choices, str) else choices
    else:
      self.choices = asking.label_texts or labels
    label, self.text = record["label"], asking.template.format(**record)
    self.label = labels.index(str(label)) if str(label) in labels else label
    if len(self.choices) != len(labels) or not isinstance(self.label, int) or not 0 <= self.label < len(labels):
      raise FmjaxError("DATA_BAD", "a record's label or choices are not those of the objective",
                       expected=", ".join(labels), got=repr(record)[:120],
                       fix="mend the record, or objective.labels")  # fmt: skip


def check(objective, asking: Asking):
  if objective.name not in TASKS:
    raise FmjaxError("USAGE", f"objective {objective.name!r} has no labels to choose from",
                     fix=f"give a config whose objective.name is {' or '.join(TASKS)}")  # fmt: skip
  columns = columns_of(objective)
  for _, key, _, _ in string.Formatter().parse(asking.template):
    if key is not None and (key not in columns or key in ("label", "choices")):
      raise FmjaxError("USAGE", f"--template has no column {key!r}", expected=f"{columns[:-1]}",
                       fix=nearest(key, columns[:-1]))  # fmt: skip
  if asking.label_texts is not None and len(asking.label_texts) != len(objective.labels):
    raise FmjaxError("USAGE", "--label_texts has no text for each label", expected=", ".join(objective.labels),
                     got=", ".join(asking.label_texts))  # fmt: skip


def columns_of(objective) -> tuple[str, ...]:
  return objective.layout(1, False).encoder.columns


def read(config: Config) -> tuple[list[dict], list[dict]]:
  """(the train split's records, the eval split's), by the objective's names for their columns."""
  columns, found = columns_of(config.objective), ([], [])
  for source in config.data.components:
    source = dataclasses.replace(source, columns=source.columns or columns)
    for part in sources.parts(source, config.data.eval_fraction, typed=True):
      for document in part.documents():
        held = document.held
        held = sources.held(document.name, config.data.eval_fraction) if held is None else held
        found[held].append(dict(zip(columns, document.values)))
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
