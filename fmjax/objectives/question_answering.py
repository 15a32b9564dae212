"""Answers that are spans of a text: SQuAD's questions (Rajpurkar et al. 2016, arXiv:1606.05250; 2018, 1806.03822).

BERT's way (Devlin et al. 2019, arXiv:1810.04805, sections 4.2 and 4.3): each token of question and context has a
score as the answer's start and one as its end, and [CLS] stands for no answer. A long context is read in windows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import at_least
from fmjax.objectives import labelled
from fmjax.objectives.objective import Encoder, Examples, Objective, Refused, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import flowing

MASKED = -1e30  # the score of padding; finite, so that a batch of empty rows stays finite
BETWEEN = "\0"  # texts that are kept as one


@dataclasses.dataclass(frozen=True)
class SpanEncoder(Encoder):
  """The windows over a context that fill `length` tokens beside its question; neighbours share `stride` tokens.

  context: the window's tokens; spans: the characters [start, stop) of each, without white space at their ends, in
  `text`, which is that part of the context; question: its tokens, and further separators where the family has them.
  answer: the first and the last token of the answer that is told, nothing where the window does not have it whole.
  id and answers, the texts of all of them, are there for a window to be judged by.
  """

  length: int = 384
  stride: int = 128
  question_tokens: int = 64

  columns = "id", "question", "context", "answers/text", "answers/answer_start"
  fields = "context", "question", "spans", "answer", "text", "id", "answers"
  counted = "context", "question"

  def texts(self, record: tuple) -> list[str]:
    return [value for value in record[1:3] if isinstance(value, str)]

  def encode(self, records, tokenizer):
    for number, (name, *texts, answers, starts) in enumerate(records):
      if name is None or not str(name):
        raise Refused(number, "a question has no id", expected="a text or a number of its own", got=repr(name))
      for text, column in zip(texts, self.columns[1:]):
        labelled.text_of(text, column, number)
      labelled.texts_of(answers, "answers/text", number)
      if not isinstance(starts, list) or len(starts) != len(answers):
        raise Refused(number, "unequal columns", expected="an answer_start for each text", got=repr(starts)[:80])
    _, front = labelled.fronts(tokenizer)
    questions = tokenizer.encode_all([record[1] for record in records])
    contexts = tokenizer.offsets([record[2] for record in records])
    return [
      list(self.windows(record, number, np.concatenate([question[: self.question_tokens], front]), *context))
      for number, (record, question, context) in enumerate(zip(records, questions, contexts))
    ]

  def windows(self, record, number: int, question, tokens, spans_T2):
    """Yields the arrays of each window."""
    name, _, text, answers, starts = record
    spans_T2 = trimmed(text, spans_T2)
    told = answer_tokens(text, answers[0], starts[0], spans_T2, number) if answers else None
    shared = labelled.text_bits(str(name)), labelled.text_bits(BETWEEN.join(answers))
    room = self.length - len(question) - 3
    for first in range(0, max(1, len(tokens) - self.stride), max(1, room - self.stride)):
      own = slice(first, min(first + room, len(tokens)))
      spans = spans_T2[own]
      low, high = (int(spans[0, 0]), int(spans[:, 1].max())) if len(spans) else (0, 0)
      answer = labelled.NOTHING[0]
      if told and own.start <= told[0] and told[1] < own.stop:
        answer = np.array(told, np.int32) - first
      yield (
        tokens[own], question, (spans - low).astype(np.int32).reshape(-1), answer, labelled.text_bits(text[low:high]),
        *shared,
      )  # fmt: skip


def trimmed(text: str, spans_T2: np.ndarray) -> np.ndarray:
  """The spans without the white space at their ends."""
  space = np.array([one.isspace() for one in text] + [False, False])
  starts, stops = spans_T2.T.astype(np.int64)
  while (lead := space[starts] & (starts < stops)).any():
    starts = starts + lead
  while (trail := space[stops - 1] & (starts < stops)).any():
    stops = stops - trail
  return np.stack([starts, stops], 1)


def answer_tokens(text: str, answer: str, start, spans_T2, number: int) -> tuple[int, int] | None:
  """(first, last) token of the answer that begins at the character `start`, or next to it; None: no token has it.

  Data sets differ in the spaces that they strip from a context, so that an answer may stand a little elsewhere.
  """
  start = int(labelled.number_of(start, "answers/answer_start", number))
  if not text.startswith(answer, max(start, 0)) or start < 0:
    places = [place for place in range(len(text)) if text.startswith(answer, place)]
    if not places:
      raise Refused(
        number, "an answer is not in its context", got=repr(answer)[:80], expected="a part of the context"
      )
    start = min(places, key=lambda place: abs(place - start))
  stop = start + len(answer)
  if not answer or not len(spans_T2) or spans_T2[-1, 1] < stop or spans_T2[0, 0] > start:
    return None
  first = int(np.searchsorted(spans_T2[:, 0], start, "right")) - 1
  last = int(np.searchsorted(spans_T2[:, 1], stop, "left"))
  return (first, last) if first <= last else None


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Objective):
  """Where in a context the answer to a question begins and ends. Records: id, question, context, answers.

  The first of a record's answers is told in training. Rows are [CLS] question [SEP] window [SEP]; where a window does
  not have the answer whole, or there is none, [CLS] is both its ends, as in BERT's code.
  """

  name: str = "question_answering"
  stride: int = 128  # tokens that two windows share, as Hugging Face's doc_stride; BERT's own code advances by it
  question_tokens: int = 64  # of a question, at most
  max_answer_tokens: int = 30
  no_answer: bool = False  # SQuAD 2.0: some questions have none, which is the answer ""
  threshold: float = 0.0  # of the score by which no answer must be better than the best

  task = "qa"
  shows = "question", "context"
  judged_by = "answer_f1", "exact_match"

  @property
  def shortest(self) -> int:
    return self.question_tokens + self.stride + 5  # RoBERTa has four special tokens, and a window must advance

  def laws(self):
    yield from at_least(self, 0, "stride")
    yield from at_least(self, 1, "question_tokens", "max_answer_tokens")

  def needs(self, length: int) -> tuple[str, ...]:
    return labelled.row_needs()

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(SpanEncoder(length, self.stride, self.question_tokens))

  def extent(self, sizes: dict[str, int]) -> int:
    return labelled.row_extent([sizes["question"], sizes["context"]])

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, token_types [T]; starts, ends [], where the answer's ends stand; weights []."""
    row, ends, real = labelled.NOTHING, (0, 0), len(record["id"]) > 0
    if real:
      cls, sep, question = [vocabulary["cls"]], [vocabulary["sep"]], record["question"]
      tokens = np.concatenate([cls, question, sep, record["context"], sep]).astype(np.int32)
      row = tokens, (np.arange(len(tokens)) >= begin(record)).astype(np.int32)
      if len(record["answer"]):
        ends = record["answer"] + begin(record)
    starts, ends = (np.array(end, np.int32) for end in ends)
    return labelled.row_example(*row, vocabulary, length) | dict(starts=starts, ends=ends, weights=np.float32(real))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    told = shapes(dict(starts=jnp.int32, ends=jnp.int32, weights=jnp.float32), batch_size)
    return labelled.row_shapes(batch_size, length) | told

  def model_fields(self) -> dict:
    return dict(head="token", classes=2)

  def model_laws(self, model):
    yield from labelled.encoder_laws(model)
    yield from labelled.head_laws(model, "token", 2)

  def scores(self, model, params, batch: dict, key=None, train: bool = False):
    """(starts z_BT, ends z_BT), in float32; those of padding are next to nothing."""
    hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
    z_BTC = model.classify(params, hidden_BTD, batch).astype(jnp.float32)
    real_BT = batch["segments"] != 0
    return tuple(jnp.where(real_BT, z_BTC[:, :, end], MASKED) for end in (0, 1))

  def loss(self, model, params, batch: dict, key, train: bool):
    """Sums over windows, in nats: the mean of both ends'. `accuracy` is that of windows with both right."""
    nll_B, correct_B = [], []
    for z_BT, name in zip(self.scores(model, params, batch, key, train), ("starts", "ends")):
      place_BT = jax.lax.broadcasted_iota(jnp.int32, z_BT.shape, 1, out_sharding=flowing("BT", z_BT.shape))
      z_B = jnp.sum(jnp.where(place_BT == batch[name][:, None], z_BT, 0.0), 1)
      nll_B.append(jax.nn.logsumexp(z_BT, 1) - z_B)
      correct_B.append(z_B >= jnp.max(z_BT, 1))
    weights_B = batch["weights"]
    loss = jnp.sum(weights_B * (nll_B[0] + nll_B[1])) / 2
    correct = jnp.sum(weights_B * (correct_B[0] & correct_B[1]))
    return loss, jnp.sum(weights_B), dict(loss=loss, accuracy=correct)

  def predict(self, model, params, batch: dict) -> dict:
    starts_BT, ends_BT = self.scores(model, params, batch)
    return dict(starts=starts_BT, ends=ends_BT)

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """An answer for each question, the best of its windows, all of which must be among `records`, in any order.

    With `no_answer` also the `margin` by which no answer, at its worst of all windows, is better than the best.
    """
    found = {}
    for record, starts_T, ends_T in zip(records, predicted["starts"], predicted["ends"]):
      one = found.setdefault(labelled.text_of_bits(record["id"]), dict(best=-np.inf, none=np.inf, text=""))
      one["expected"] = expected(record)
      one["none"] = min(one["none"], float(starts_T[0]) + float(ends_T[0]))
      score, text = self.best(record, starts_T, ends_T)
      if score > one["best"]:
        one |= dict(best=score, text=text)
    return [self.answer(name, one) for name, one in found.items()]

  def answer(self, name: str, one: dict) -> dict:
    made = dict(id=name, predicted=one["text"], expected=one["expected"])
    if self.no_answer:
      margin = min(one["none"] - one["best"], -MASKED)  # of a context without tokens nothing is an answer
      made |= dict(predicted="" if margin > self.threshold else one["text"], margin=margin)
    return made

  def best(self, record: dict, starts_T, ends_T) -> tuple[float, str]:
    """The best answer of a window: (its score, its text); (-inf, "") of a window without a token."""
    first, count = begin(record), len(record["context"])
    own = slice(first, first + count)
    starts_T, ends_T = starts_T[own].astype(np.float64), ends_T[own].astype(np.float64)
    score, place, last = -np.inf, 0, 0
    for size in range(min(self.max_answer_tokens, count)):
      pairs = starts_T[: count - size] + ends_T[size:]
      if (top := float(np.max(pairs))) > score:
        score, place = top, int(np.argmax(pairs))
        last = place + size
    if not np.isfinite(score):
      return -np.inf, ""
    spans = record["spans"].reshape(-1, 2)
    return score, labelled.text_of_bits(record["text"])[spans[place, 0] : spans[last, 1]]


def begin(record: dict) -> int:
  """The place of the context's first token in a row."""
  return len(record["question"]) + 2


def expected(record: dict) -> list[str]:
  """The texts of all answers, each once."""
  texts = labelled.text_of_bits(record["answers"])
  return list(dict.fromkeys(texts.split(BETWEEN))) if texts else []
