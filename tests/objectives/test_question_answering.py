"""Answers in contexts: windows that cover a context, where the answer stands in each, the loss, and the best span."""

import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.objectives import QuestionAnswering, labelled
from fmjax.objectives.question_answering import answer_tokens, trimmed
from fmjax.step import place
from tests.objectives import tasks

T = 24
QA = QuestionAnswering(stride=4, question_tokens=6)
NONE = QuestionAnswering(stride=4, question_tokens=6, no_answer=True)
CONTEXT = "O Romeo, Romeo! wherefore art thou Romeo? Deny thy father and refuse thy name; or, if thou wilt not."
QUESTION = "who art thou"


def record(answer: str = "thy father", name="q1", context: str = CONTEXT):
  return name, QUESTION, context, [answer] if answer else [], [context.index(answer)] if answer else []


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta", "albert"])
def test_windows_are_those_of_transformers(name):
  """Hugging Face's `truncation="only_second"` with `stride` and overflowing tokens, by the `tokenizers` library."""
  made = tasks.tokenizer(name)
  backend = type(made)(made.files, made.model).backend
  backend.enable_truncation(T, stride=QA.stride, strategy="only_second")
  objective = QuestionAnswering(stride=4, question_tokens=20)
  first = backend.encode(QUESTION, CONTEXT)
  theirs = [first, *first.overflowing]
  rows = tasks.read(objective, [record()], T, name)
  batch = tasks.batch_of(objective, rows, T, name)
  assert len(rows) == len(theirs) > 2
  for number, (row, window) in enumerate(zip(rows, theirs)):
    size = batch["segments"][number].sum()
    assert batch["tokens"][number, :size].tolist() == window.ids
    if made.token_types:
      assert batch["token_types"][number, :size].tolist() == window.type_ids
    assert objective.extent({key: len(x) for key, x in row.items()}) == size


def hugging_face(window, start: int, stop: int, is_context) -> tuple[int, int]:
  """The places that `run_qa.py` finds, by the offsets of one window; (0, 0) where it has not the whole answer."""
  places = [place for place, one in enumerate(is_context) if one]
  first, last = places[0], places[-1]
  if not (window[first][0] <= start and window[last][1] >= stop):
    return 0, 0
  while first < len(window) and window[first][0] <= start and is_context[first]:
    first += 1
  while window[last][1] >= stop and last >= places[0]:
    last -= 1
  return first - 1, last + 1


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize(
  "answer", ["thy father", "Romeo", "O", "not.", "Romeo! wherefore art thou Romeo? Deny", "eo?"]
)
def test_the_answer_is_told_where_transformers_tells_it(name, answer):
  made = tasks.tokenizer(name)
  rows = tasks.read(QA, [record(answer)], T, name)
  batch, start, seen = tasks.batch_of(QA, rows, T, name), CONTEXT.index(answer), 0
  offsets = trimmed(CONTEXT, made.offsets([CONTEXT])[0][1])
  begin, done = len(rows[0]["question"]) + 2, 0
  for number, row in enumerate(rows):
    own = offsets[done : done + len(row["context"])]
    done += len(row["context"]) - QA.stride
    window = [(0, 0)] * begin + own.tolist() + [(0, 0)]
    is_context = [False] * begin + [True] * len(own) + [False]
    expected = hugging_face(window, start, start + len(answer), is_context)
    assert (batch["starts"][number], batch["ends"][number]) == expected
    if expected[0]:
      spans, text = row["spans"].reshape(-1, 2), labelled.text_of_bits(row["text"])
      first, last = (place - begin for place in expected)
      assert answer in text[spans[first, 0] : spans[last, 1]]
      seen += 1
  assert seen or len(answer) > 30


def test_an_answer_that_stands_a_little_elsewhere_is_found():
  spans = trimmed(CONTEXT, tasks.tokenizer("bert").offsets([CONTEXT])[0][1])
  start = CONTEXT.rindex("Romeo")
  expected = answer_tokens(CONTEXT, "Romeo", start, spans, 0)
  assert answer_tokens(CONTEXT, "Romeo", start + 2, spans, 0) == expected
  assert answer_tokens(CONTEXT, "Romeo", CONTEXT.index("Romeo"), spans, 0) < expected


def test_what_is_refused():
  assert "no id" in str(tasks.refused(QA, record(name="")))
  assert "not in its context" in str(tasks.refused(QA, ("q", "a", "b", ["c"], [0])))
  assert str(tasks.refused(QA, ("q", "a", "b", ["b"], []))) == "unequal columns"
  assert "'context' holds no text" in str(tasks.refused(QA, ("q", "a", None, ["b"], [0])))
  assert "'answers/text' holds no list" in str(tasks.refused(QA, ("q", "a", "b", "b", [0])))


def test_laws():
  assert tasks.laws_of(QuestionAnswering, stride=-1, max_answer_tokens=0) == ["stride", "max_answer_tokens"]
  assert QA.shortest == 15 and QuestionAnswering().shortest == 197
  fits = dict(kind="encoder", V=100, head="token", classes=2)
  for change, wrong in ((dict(), []), (dict(kind="decoder"), ["kind"]), (dict(classes=4), ["head"])):
    assert [field for field, *_ in QA.model_laws(TransformerConfig(**{**fits, **change}))] == wrong
  assert QA.layout(T, False).encoder.texts(record()) == [QUESTION, CONTEXT]


def test_the_loss_is_that_of_plain_numpy_on_eight_devices_too(on):
  rows = tasks.read(QA, [record(), record("Romeo", 2), record("", "q3")], T)[:8]
  batch, model = tasks.batch_of(QA, rows, T), tasks.model_of(QA)
  assert (batch["starts"] > 0).any() and (batch["starts"] == 0).any() and (batch["segments"] == 0).any()
  params, sums, predicted = tasks.same_on_eight_devices(QA, model, batch, on)
  with on():
    placed = place(batch)
    z_BTC = np.asarray(model.classify(params, model.apply(params, placed).hidden, placed), np.float64)
  z_BTC = np.where(batch["segments"][:, :, None] == 1, z_BTC, -np.inf)
  nll, right, every = 0, True, np.arange(8)
  for side, name in enumerate(("starts", "ends")):
    nll -= tasks.log_softmax(z_BTC[:, :, side])[every, batch[name]].sum() / 2
    right &= np.argmax(z_BTC[:, :, side], 1) == batch[name]
  assert sums["weight"] == 8 and sums["accuracy"] == right.sum()
  assert sums["loss"] == pytest.approx(nll, rel=1e-5)
  wide = tasks.batch_of(QA, [*rows, *[tasks.nothing(QA, T)] * 2], 32)
  tasks.padding_changes_nothing(QA, model, params, batch, wide, on)


def logits(rows, wanted: dict, none: float = 0.0):
  """Scores of every window: `wanted[n]` = (first, last, z) has those of its tokens."""
  starts, ends = (np.full((len(rows), T), -5.0, np.float32) for _ in range(2))
  starts[:, 0] = ends[:, 0] = none
  for number, (first, last, score) in wanted.items():
    begin = len(rows[number]["question"]) + 2
    starts[number, begin + first] = ends[number, begin + last] = score
  return dict(starts=starts, ends=ends)


def test_the_best_of_all_windows_is_the_answer():
  rows = tasks.read(QA, [record(), record("Romeo", "q2")], T)
  per = len(rows) // 2
  predicted = logits(rows, {0: (0, 1, 1.0), 1: (0, 1, 3.0), per: (2, 0, 9.0), per + 1: (1, 1, 3.0)})
  one, two = QA.answers(rows, predicted, None)
  assert one["id"] == "q1" and one["expected"] == ["thy father"]
  spans = rows[1]["spans"].reshape(-1, 2)
  assert one["predicted"] == labelled.text_of_bits(rows[1]["text"])[spans[0, 0] : spans[1, 1]]
  assert one["predicted"] in CONTEXT and two["id"] == "q2"
  # A start behind its end is no answer, however good each is.
  spans = rows[per + 1]["spans"].reshape(-1, 2)
  assert two["predicted"] == labelled.text_of_bits(rows[per + 1]["text"])[slice(*spans[1])]
  order = np.random.default_rng(0).permutation(len(rows))
  shuffled = QA.answers([rows[n] for n in order], {name: x[order] for name, x in predicted.items()}, None)
  assert sorted(shuffled, key=lambda answer: answer["id"]) == [one, two]


def test_an_answer_is_the_best_of_all_that_are_short_enough():
  rng = np.random.default_rng(0)
  objective = QuestionAnswering(stride=4, question_tokens=6, max_answer_tokens=3)
  (row, *_) = tasks.read(objective, [record()], T)
  count, begin = len(row["context"]), len(row["question"]) + 2
  for _ in range(20):
    starts, ends = rng.normal(size=(2, T))
    score, text = objective.best(row, starts, ends)
    pairs = [(starts[begin + a] + ends[begin + b], a, b) for a in range(count) for b in range(a, min(a + 3, count))]
    best, a, b = max(pairs)
    spans = row["spans"].reshape(-1, 2)
    assert score == pytest.approx(best)
    assert text == labelled.text_of_bits(row["text"])[spans[a, 0] : spans[b, 1]]


def test_no_answer_is_one_where_it_is_better_in_every_window():
  rows = tasks.read(NONE, [record()], T)
  for none, predicted in ((0.5, False), (3.0, True)):
    scores = logits(rows, {1: (0, 0, 1.0)}, none)
    (answer,) = NONE.answers(rows, scores, None)
    assert (answer["predicted"] == "") == predicted and answer["margin"] == pytest.approx(2 * none - 2.0)
    assert QA.answers(rows, scores, None)[0]["predicted"]
  scores = logits(rows, {1: (0, 0, 1.0)}, 3.0)
  scores["starts"][0, 0] = -9.0  # in one window [CLS] is no answer
  assert NONE.answers(rows, scores, None)[0]["predicted"]
  assert NONE.answers(tasks.read(NONE, [record("")], T), scores, None)[0]["expected"] == []


def test_a_context_without_tokens():
  rows = tasks.read(NONE, [("q", QUESTION, "", [], [])], T)
  assert len(rows) == 1
  (answer,) = NONE.answers(rows, logits(rows, {}), None)
  assert answer["predicted"] == "" and np.isfinite(answer["margin"])
