"""Spans and their F1 are seqeval's (1.2.2, lenient), of any sequence of tags, valid or not."""

import numpy as np
import pytest
import seqeval.metrics
from seqeval.metrics.sequence_labeling import get_entities

from fmjax.errors import FmjaxError
from fmjax.measures import spans
from tests.measures import resampling

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"]
IOBES = [*BIO, "E-PER", "S-PER", "E-LOC", "B", "I", "S", "B-", "I-Ort \u00e9"]


def sentences(rng, tags, count=12, longest=9):
  """Random tags, most of them invalid sequences; some sentences have none."""
  lengths = rng.integers(0, longest, count)
  return [[tags[number] for number in rng.integers(len(tags), size=length)] for length in lengths]


def pair(seed, tags):
  """Predictions of which about two thirds are right."""
  rng = np.random.default_rng(seed)
  gold = sentences(rng, tags)
  predicted = [[tag if rng.random() < 0.7 else tags[rng.integers(len(tags))] for tag in one] for one in gold]
  return predicted, gold


@pytest.mark.parametrize("tags", [BIO, IOBES, ["O", "B", "I"]])
def test_spans_are_seqevals(tags):
  for sentence in sentences(np.random.default_rng(0), tags, 300):
    assert spans.spans(sentence) == [(kind, first, last + 1) for kind, first, last in get_entities(sentence)]


@pytest.mark.parametrize("tags", [BIO, IOBES])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_seqevals(seed, tags):
  predicted, gold = pair(seed, tags)
  found = {name: metric.value for name, metric in spans.metrics(predicted, gold).items()}
  types = sorted({kind for sentence in predicted + gold for kind, _, _ in get_entities(sentence)})
  expected = dict(accuracy=seqeval.metrics.accuracy_score(gold, predicted))
  for name in ("f1", "precision", "recall"):
    score = getattr(seqeval.metrics, f"{name}_score")
    expected[name] = score(gold, predicted, zero_division=0)
    each = score(gold, predicted, average=None, zero_division=0)
    expected |= {f"{name}/{kind}": one for kind, one in zip(types, each, strict=True)}
  assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tags", [BIO, IOBES])
def test_resamples(tags):
  resampling.check(spans.metrics, *pair(9, tags))


def test_a_type_that_one_side_alone_has_counts_against_it():
  found = spans.metrics([["B-X", "O", "O"]], [["B-Y", "I-Y", "O"]])
  assert {name: metric.value for name, metric in found.items()} == dict.fromkeys(
    [f"{name}{kind}" for name in ("f1", "precision", "recall") for kind in ("", "/X", "/Y")], 0.0
  ) | {"accuracy": 1 / 3}


def test_text_without_names():
  found = spans.metrics([["O", "O"], []], [["O", "O"], []])
  assert [found[name].value for name in ("f1", "precision", "recall", "accuracy")] == [0, 0, 0, 1]


def iob1(sentence):
  """BIO written as IOB1 (Ramshaw and Marcus 1995): a B only where a span of the same type goes before."""
  made = list(sentence)
  for place, tag in enumerate(sentence):
    before = sentence[place - 1] if place else "O"
    if tag[0] == "B" and before[1:] != tag[1:]:
      made[place] = "I" + tag[1:]
  return made


def test_iob1_becomes_bio_and_means_the_same():
  rng = np.random.default_rng(1)
  for sentence in sentences(rng, ["O", "B-X", "I-X", "B-Y", "I-Y"], 300):
    valid = spans.to_bio(sentence)
    assert spans.first_invalid(valid) is None
    assert spans.spans(iob1(valid)) == spans.spans(valid) == spans.spans(sentence)
    assert spans.to_bio(iob1(valid)) == valid
    assert all(a == b or (a[0], b[0]) == ("I", "B") for a, b in zip(sentence, valid))
  assert spans.to_bio(["I-X", "I-X", "B-X", "I-Y", "O", "I"]) == ["B-X", "I-X", "B-X", "B-Y", "O", "B"]


@pytest.mark.parametrize(
  "tags, place",
  [
    ([], None),
    (["O", "B-X", "I-X", "I-X", "B-X", "B-Y", "I-Y"], None),
    (["I-X"], 0),
    (["B-X", "I-X", "O", "I-X", "I-Y"], 3),
    (["B-X", "I-Y", "I-X"], 1),
    (["O", "B-X", "E-X", "O"], 2),
    (["S-X", "O"], 0),
    (["B", "I", "I-X"], 2),
  ],
)
def test_the_first_place_that_is_no_bio(tags, place):
  assert spans.first_invalid(tags) == place


@pytest.mark.parametrize("tag", ["", "PER", "X-PER", "BPER", "o", "O-PER", "b-PER"])
def test_what_is_no_tag_is_refused(tag):
  with pytest.raises(FmjaxError, match="DATA_BAD.*is no tag"):
    spans.spans(["O", tag])


def test_sentences_have_a_prediction_for_each_tag():
  with pytest.raises(FmjaxError, match="DATA_BAD.*sentence 1 has 2 tags and 1 predictions"):
    spans.metrics([["O"], ["O"]], [["O"], ["O", "O"]])
