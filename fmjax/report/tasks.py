"""What a page says of a task's answers, which `fmjax eval` leaves in a run's folder, a line each."""

import pathlib
import re

import numpy as np

from fmjax import metrics
from fmjax.errors import FmjaxError
from fmjax.measures import answers as texts
from fmjax.measures import classes, correlation, metric, spans, tasks
from fmjax.measures.slices import slices, span_confusion
from fmjax.report.charts import Cloud, reliability, scatter

LABELS = 30  # of a matrix that a page has room for
ERRORS = 15  # answers that are shown, the worst first
WORDS = 80  # of a sentence
POINTS = 1000  # of a picture
PERCENT = ("bleu", "chrf", "exact_match", "answer_f1")  # metrics of 0 to 100
UNITS = dict(classification="nats per example", multiple_choice="nats per example", tagging="nats per word",
             question_answering="nats per example", regression="squared error", similarity="squared error",
             contrastive="nats per example")  # fmt: skip


def unit(objective) -> str:
  """What a loss is in."""
  return UNITS.get(objective.name, "nats per token") if objective else "nats per token"


def first_metric(run) -> str | None:
  """The one that counts."""
  return next(iter(run.objective.judged_by), None) if run.objective else None


def title(name: str) -> str:
  """A metric's name, for people."""
  words = name.replace("_", " ")
  return {"bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rougel": "ROUGE-L", "mse": "squared error"}.get(
    name, re.sub(r"\bf1\b", "F1", words)
  )


def number(name: str, value: float) -> str:
  return f"{value:.2f}" if name in PERCENT else f"{value:.4f}"


# --- the files


def files(run) -> list[tuple[str, int, pathlib.Path]]:
  """(the data that it is of, the step, path) of each file of answers; of the same data the newest step first."""
  found = []
  for path in run.predictions:
    name, _, step = path.stem.rpartition("-")
    found.append((name, int(step), path) if name and step.isdecimal() else (path.stem, 0, path))
  return sorted(found, key=lambda one: (one[0], -one[1]))


def newest(run) -> dict[str, pathlib.Path]:
  """The newest file of each data set."""
  return {name: path for name, _, path in reversed(files(run))}


def read(path) -> list[dict]:
  answers = metrics.read(path)
  if not answers or not all("predicted" in one and "expected" in one for one in answers):
    raise ValueError("it holds no answers")
  return answers


class Judged:
  """The answers of a file: their metrics, the one that is told of parts with its name, and the parts."""

  def __init__(self, objective, answers: list[dict]):
    self.objective, self.answers = objective, answers
    self.metrics = tasks.metrics(objective, answers)
    self.kind = kind_of(objective)
    self.name, self.measure = next(iter(self.metrics.items()))
    labels = None
    if self.kind == "number":  # a correlation within a part is another question
      self.name, self.measure = "mse", correlation.metrics(*map(np.array, tasks.both(answers)))["mse"]
      labels = [one["expected"] for one in answers]
    elif self.kind in ("class", "choice"):
      labels = [self.label(one["expected"]) for one in answers]
    self.slices = slices(answers, labels)

  def label(self, answer) -> str:
    return self.objective.labels[answer] if self.kind == "choice" else answer


def kind_of(objective) -> str:
  if objective.task in ("token", "choice"):
    return objective.task
  if "pearson" in objective.judged_by:
    return "number"
  return "class" if objective.task == "sequence" else "text"


def judged(run, path) -> Judged | str:
  """The answers in a file, or why there is nothing to say of them."""
  if first_metric(run) is None:
    return "the run's objective has no metrics of answers"
  try:
    return Judged(run.objective, read(path))
  except FmjaxError as error:
    return error.what
  except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError) as error:
    return f"it does not hold answers of objective {run.objective.name!r} ({type(error).__name__}: {error})"


def views(run) -> list[dict]:
  """Of each file what the page shows; those of which there is a newer step have `older`."""
  found, chosen = [], set(newest(run).values())
  for name, step, path in files(run):
    about = dict(name=path.name, data=name, step=step, older=path not in chosen, trouble=None)
    one = judged(run, path)
    found.append(about | (dict(trouble=one) if isinstance(one, str) else view(one)))
  return found


def view(one: Judged) -> dict:
  about = dict(count=f"{len(one.answers):,}", scores=[score_row(score) for score in tasks.scored(one.metrics)],
               kinds=[], confusion=None, pictures=[], slices=slice_rows(one))  # fmt: skip
  return about | VIEWS[one.kind](one)


def score_row(score) -> dict:
  top = 100.0 if score.name in PERCENT else 1.0
  return dict(
    name=title(score.name), value=number(score.name, score.value), low=number(score.name, score.low),
    high=number(score.name, score.high), n=f"{score.examples:,}", signature=score.signature,
    strip=None if score.name == "mse" else strip(score, 0.0, top),
  )  # fmt: skip


def strip(score, bottom: float, top: float) -> dict:
  """Percent of the way from bottom to top: where an interval begins, how long it is, where the value is."""
  ends = np.nan_to_num([score.low, score.high, score.value])
  low, high, value = np.clip((ends - bottom) / ((top - bottom) or 1.0), 0, 1) * 100
  return dict(low=round(float(low), 2), wide=round(float(high - low), 2), value=round(float(value), 2))


def slice_rows(one: Judged) -> dict | None:
  """The metric of all and of each part, by what the answers are cut by; None where there is no part."""
  if not one.slices:
    return None
  every = [one.measure, *(part.of(one.measure) for part in one.slices)]
  every = [tasks.scored({one.name: measure})[0] for measure in every]
  whole, name = every[0], one.name
  bottom, top = np.nanmin([score.low for score in every]), np.nanmax([score.high for score in every])
  rows = []
  for part, score in zip([None, *one.slices], every):
    off = "below" if score.high < whole.value else "above" if score.low > whole.value else ""
    rows.append(dict(
      by="" if part is None else part.by, name="all" if part is None else part.name, n=f"{score.examples:,}",
      value=number(name, score.value), low=number(name, score.low), high=number(name, score.high), off=off,
      strip=strip(score, bottom, top),
    ))  # fmt: skip
  line = strip(whole, bottom, top)["value"]
  return dict(metric=title(name), line=line, rows=rows, off=sum(bool(row["off"]) for row in rows))


# --- the kinds of answers


def of_classes(one: Judged) -> dict:
  labels = list(one.objective.labels)
  predicted, gold = (np.array([labels.index(x) for x in side], int) for side in tasks.both(one.answers))
  return dict(
    kinds=kind_rows(labels, classes.counts(predicted, gold, len(labels))),
    confusion=confusion(labels, classes.confusion(predicted, gold, len(labels))),
    pictures=calibrated(one), errors=wrong_classes(one),
  )  # fmt: skip


def of_choices(one: Judged) -> dict:
  labels = list(one.objective.labels)
  predicted, gold = map(np.array, tasks.both(one.answers))
  matrix = confusion(labels, classes.confusion(predicted, gold, len(labels)))
  return dict(confusion=matrix, pictures=calibrated(one), errors=wrong_classes(one))


def of_tags(one: Judged) -> dict:
  predicted, gold = tasks.both(one.answers)
  if one.objective.scheme:
    types, matrix = span_confusion(predicted, gold)
    found = spans.metrics(predicted, gold)
    kinds = kind_rows(types[:-1], found["f1"].statistics_BK) if types[:-1] else []
  else:
    types = sorted({tag for side in (predicted, gold) for tags in side for tag in tags})
    place = {tag: number for number, tag in enumerate(types)}
    flat = [np.array([place[tag] for tags in side for tag in tags], int) for side in (predicted, gold)]
    matrix = classes.confusion(*flat, len(types))
    cuts = np.cumsum([len(tags) for tags in gold])[:-1]
    sentences = np.split(classes.counts(*flat, len(types)), cuts)
    kinds = kind_rows(types, np.stack([words.sum(0) for words in sentences]))
  return dict(kinds=kinds, confusion=confusion(types, matrix), errors=wrong_tags(one))


def of_numbers(one: Judged) -> dict:
  told = sorted(one.answers, key=lambda answer: -abs(answer["predicted"] - answer["expected"]))
  rows = [[*who(answer), cell(f"{answer['expected']:.4g}"), cell(f"{answer['predicted']:.4g}"),
           cell(f"{answer['predicted'] - answer['expected']:+.4g}")] for answer in told[:ERRORS]]  # fmt: skip
  points = [(answer["expected"], answer["predicted"]) for answer in one.answers[:: -(-len(one.answers) // POINTS)]]
  picture = scatter("Answers", "predicted", "expected", [Cloud("", 0, points)], diagonal=True,
                    note="on the line an answer is right")  # fmt: skip
  head = ("example", "input", "expected", "predicted", "off by")
  return dict(pictures=[picture], errors=dict(title="Furthest off", note="", head=head, rows=rows))


def of_texts(one: Judged) -> dict:
  unanswerable, scored = getattr(one.objective, "no_answer", False), []
  for answer in one.answers:
    golds = [answer["expected"]] if isinstance(answer["expected"], str) else answer["expected"]
    scored.append((texts.score(answer["predicted"], golds, unanswerable)[1], answer, golds))
  worst = sorted((row for row in scored if row[0] < 1), key=lambda row: row[0])
  rows = [[*who(answer), cell(" / ".join(golds) or "no answer", "words"),
           cell(answer["predicted"] or "no answer", "words"), cell(f"{100 * f1:.1f}")]
          for f1, answer, golds in worst[:ERRORS]]  # fmt: skip
  head = ("example", "input", "expected", "predicted", "F1 of words")
  note = f"{len(worst):,} of {len(scored):,} answers differ in their words from what is expected"
  return dict(errors=dict(title="Worst by F1", note=note, head=head, rows=rows))


VIEWS = {"class": of_classes, "choice": of_choices, "token": of_tags, "number": of_numbers, "text": of_texts}


# --- parts of a view


def cell(text, kind: str = "n") -> dict:
  return dict(text=text, kind=kind, words=None)


def who(answer: dict) -> list[dict]:
  return [cell(answer.get("example", "")), cell(answer.get("text", ""), "words")]


def calibrated(one: Judged) -> list:
  if "calibration_error" not in one.metrics:
    return []
  sums = classes.threes(one.metrics["calibration_error"].statistics_BK.sum(0))
  (score,) = tasks.scored({"": one.metrics["calibration_error"]})
  name = f"Reliability: calibration error {score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
  return [reliability(*sums.T, name)]


def kind_rows(names: list[str], counts_BK: np.ndarray) -> list[dict]:
  """Precision, recall and F1 of each class, of counts of what is (correct, predicted, gold); of many the worst."""
  parts = np.split(counts_BK, len(names), 1)
  bounds = metric.intervals([metric.Metric("f1", part, classes.f1) for part in parts])
  rows = [(name, part.sum(0), *ends) for name, part, ends in zip(names, parts, bounds) if part.any()]
  if len(rows) > LABELS:
    rows = sorted(rows, key=lambda row: classes.f1(row[1]))[:LABELS]
  return [kind_row(*row) for row in rows]


def kind_row(name: str, sums: np.ndarray, low: float, high: float) -> dict:
  value = float(classes.f1(sums))
  return dict(
    name=name or "no tag", gold=f"{int(sums[2]):,}", predicted=f"{int(sums[1]):,}", f1=f"{value:.3f}",
    precision=f"{spans.precision(sums):.3f}", recall=f"{spans.recall(sums):.3f}", low=f"{low:.3f}",
    high=f"{high:.3f}", strip=strip(tasks.Score("", value, low, high, 0, ""), 0, 1),
  )  # fmt: skip


def confusion(labels: list[str], matrix: np.ndarray) -> dict:
  """Rows of gold, columns of predicted labels; of more labels than there is room for, what is confused most."""
  totals, labels = matrix.sum(1), [label or "no tag" for label in labels]
  if len(labels) > LABELS:
    apart = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-apart, axis=None, kind="stable")[:ERRORS]
    pairs = []
    for place in order[apart.flat[order] > 0]:
      row, column = divmod(int(place), len(labels))
      share = f"{apart[row, column] / totals[row]:.1%}"
      pairs.append(dict(gold=labels[row], predicted=labels[column], count=f"{apart[row, column]:,}", share=share))
    return dict(pairs=pairs, wide=True)
  rows = []
  for row, label in enumerate(labels):
    shares = matrix[row] / max(totals[row], 1)
    cells = [dict(count=f"{count:,}" if count else "", percent=round(100 * float(share)), right=row == column)
             for column, (count, share) in enumerate(zip(matrix[row].tolist(), shares))]  # fmt: skip
    rows.append(dict(label=label, total=f"{totals[row]:,}", cells=cells))
  upright = len(labels) > 8 or (len(labels) > 4 and max(map(len, labels)) > 9)
  return dict(pairs=None, labels=labels, rows=rows, upright=upright, wide=len(labels) > 6,
              small=len(labels) > 12)  # fmt: skip


def wrong_classes(one: Judged) -> dict:
  def sure(answer) -> float:
    told = answer.get("probabilities")
    return float(told[answer["predicted"]]) if told else 0.0

  wrong = sorted(
    (answer for answer in one.answers if answer["predicted"] != answer["expected"]), key=sure, reverse=True
  )
  rows = [[*who(answer), cell(one.label(answer["expected"]), "label"), cell(one.label(answer["predicted"]), "label"),
           cell(f"{sure(answer):.1%}")] for answer in wrong[:ERRORS]]  # fmt: skip
  note = f"{len(wrong):,} of {len(one.answers):,} answers are wrong"
  head = ("example", "input", "right", "predicted", "confidence")
  return dict(title="Wrong, and most certain", note=note, head=head, rows=rows)


def wrong_tags(one: Judged) -> dict:
  def count(answer) -> int:
    predicted, gold = answer["predicted"], answer["expected"]
    if one.objective.scheme:
      return len({*spans.spans(predicted)} ^ {*spans.spans(gold)})
    return sum(a != b for a, b in zip(predicted, gold))

  counted = sorted(((count(answer), answer) for answer in one.answers), key=lambda row: -row[0])
  rows = []
  for wrong, answer in counted[:ERRORS]:
    if wrong:
      words = answer.get("words") or [""] * len(answer["expected"])
      told = [dict(word=word, gold=gold or "–", predicted=tag or "–")
              for word, gold, tag in zip(words, answer["expected"], answer["predicted"])]  # fmt: skip
      rows.append([cell(answer.get("example", "")), dict(text="", kind="words", words=told[:WORDS]), cell(wrong)])
  head = ("example", "sentence: right tag → predicted, where they differ", "wrong")
  found = sum(wrong > 0 for wrong, _ in counted)
  note = f"{found:,} of {len(counted):,} sentences have a wrong " + ("span" if one.objective.scheme else "tag")
  return dict(title="Most wrong sentences", note=note, head=head, rows=rows)
