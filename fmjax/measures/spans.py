"""Spans that tags mark, as names in a sentence, and their F1 as conlleval and seqeval count it.

A tag is O, or B, I, E or S with or without a type: B-PER. A span begins at a B or an S, after an O, an E or an S, and
where the type changes; it goes on to the next beginning or O. That reads IOB1, BIO (IOB2) and IOBES, and gives a
meaning to sequences that no scheme allows, as a model may predict them.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from fmjax.errors import FmjaxError
from fmjax.measures.classes import f1, threes
from fmjax.measures.metric import Metric, check_examples, fraction, ratio

TAG = re.compile(r"O|([BIES])(?:-(.*))?", re.DOTALL)
NO_TYPE = "_"  # of a bare B or I; seqeval's name


def metrics(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, Metric]:
  """f1, precision and recall of the spans of sentences of tags, the tags' accuracy, then the three of each type.

  A span is correct where its type, beginning and end are. Statistics are of sentences: for each type the spans that
  are (correct, predicted, gold).
  """
  check_examples("spans", len(predicted), len(gold))
  for number, (one, other) in enumerate(zip(predicted, gold)):
    if len(one) != len(other):
      raise FmjaxError("DATA_BAD", f"sentence {number} has {len(other)} tags and {len(one)} predictions",
                       fix="give one prediction for each tag")  # fmt: skip
  predicted_spans, gold_spans = [set(spans(tags)) for tags in predicted], [set(spans(tags)) for tags in gold]
  types = sorted({kind for sentence in predicted_spans + gold_spans for kind, _, _ in sentence})
  statistics = np.zeros((len(gold), len(types), 3))
  rows = {kind: row for row, kind in enumerate(types)}
  for sentence, (one, other) in enumerate(zip(predicted_spans, gold_spans)):
    for column, marked in enumerate((one & other, one, other)):
      for kind, _, _ in marked:
        statistics[sentence, rows[kind], column] += 1
  counts_BK = statistics.reshape(len(gold), len(types) * 3)
  measures = dict(f1=f1, precision=precision, recall=recall)
  found = {name: Metric(name, counts_BK, partial(of_all, measure=of)) for name, of in measures.items()}
  found["accuracy"] = tag_accuracy(predicted, gold)
  for row, kind in enumerate(types):
    for name, of in measures.items():
      found[f"{name}/{kind}"] = Metric(f"{name}/{kind}", counts_BK, partial(of_type, row=row, measure=of))
  return found


def tag_accuracy(predicted, gold) -> Metric:
  correct_B = [sum(a == b for a, b in zip(one, other)) for one, other in zip(predicted, gold)]
  return fraction("accuracy", correct_B, [len(tags) for tags in gold])


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
  """(type, begin, end) of each span in order, its last tag at end - 1."""
  found, (before, last_kind) = [], ("O", None)
  for place, tag in enumerate(tags):
    mark, kind = parts(tag)
    if begins(before, last_kind, mark, kind):
      found.append((kind, place, place + 1))
    elif mark != "O":
      found[-1] = (*found[-1][:2], place + 1)
    before, last_kind = mark, kind
  return found


def begins(before: str, last_kind: str | None, mark: str, kind: str | None) -> bool:
  return mark != "O" and (mark in "BS" or before in "OES" or kind != last_kind)


def to_bio(tags: Sequence[str]) -> list[str]:
  """The tags of the same spans in BIO, where each begins with a B."""
  beginnings = {begin for _, begin, _ in spans(tags)}
  return [tag if tag == "O" else ("B" if place in beginnings else "I") + tag[1:] for place, tag in enumerate(tags)]


def first_invalid(tags: Sequence[str]) -> int | None:
  """The first place whose tag BIO does not allow there, None where all are valid."""
  return next((place for place, (tag, valid) in enumerate(zip(tags, to_bio(tags))) if tag != valid), None)


def parts(tag: str) -> tuple[str, str | None]:
  """(mark, type) of a tag."""
  match = TAG.fullmatch(tag)
  if not match:
    raise FmjaxError("DATA_BAD", f"{tag!r} is no tag of spans", expected="O, or B-, I-, E- or S- and a type")
  return ("O", None) if tag == "O" else (match[1], match[2] or NO_TYPE)


def of_all(sums, measure):
  return measure(threes(sums).sum(-2))


def of_type(sums, row: int, measure):
  return measure(threes(sums)[..., row, :])


def precision(counts):
  return ratio(counts[..., 0], counts[..., 1])


def recall(counts):
  return ratio(counts[..., 0], counts[..., 2])
