"""To answer as an assistant does: next-token prediction of its turns in a conversation, given all before them.

Ouyang et al. 2022, arXiv:2203.02155, section 3.5, step 1.
"""

import dataclasses
from typing import Literal

import jinja2
import numpy as np

from fmjax.objectives import conversations, labelled
from fmjax.objectives.next_token import causal_example, causal_shapes, decoder_laws
from fmjax.objectives.objective import Encoder, Examples, Refused
from fmjax.objectives.seq2seq import before_end
from fmjax.objectives.token_loss import TokenLoss
from fmjax.objectives.vocabulary import Vocabulary

Turns = Literal["messages", "pair"]


@dataclasses.dataclass(frozen=True)
class ConversationEncoder(Encoder):
  """The tokens of a conversation, closed by `end`, and whether each is told.

  Also the last of the assistant's answers, and what the template sets after an answer, as text.
  """

  turns: Turns = "messages"
  template: str | None = None

  fields = "tokens", "told", "answer", "closing"

  @property
  def columns(self) -> tuple[str, ...]:
    return ("prompt", "response") if self.turns == "pair" else ("messages",)

  def texts(self, record: tuple) -> list[str]:
    if self.turns == "messages":
      messages = record[0] if isinstance(record[0], list) else []
      record = tuple(message.get("content") for message in messages if isinstance(message, dict))
    return [value for value in record if isinstance(value, str)]

  def encode(self, records, tokenizer):
    own, marks = tokenizer.chat_template()
    template = self.template or own or conversations.CHATML
    every = [self.messages(record, number) for number, record in enumerate(records)]
    try:
      made = []
      for messages in every:
        made.append(conversations.rendered(template, messages, marks))
    except (jinja2.TemplateError, TypeError) as error:
      raise Refused(len(made), "the chat template makes no text of a conversation", got=str(error),
                    fix="mend the record, or set objective.template") from error  # fmt: skip
    encoded = tokenizer.offsets([text for text, _ in made])
    return [
      [self.example(messages, *one, *tokens, tokenizer.end)] for messages, one, tokens in zip(every, made, encoded)
    ]

  def messages(self, record: tuple, number: int) -> list[dict]:
    """Turns that have a role and a text each, with one of the assistant's at least; raises Refused."""
    if self.turns == "pair":
      prompt, response = (labelled.text_of(value, name, number) for value, name in zip(record, self.columns))
      return [dict(role="user", content=prompt), dict(role="assistant", content=response)]
    messages = record[0]
    fit = isinstance(messages, list) and all(
      isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
      for one in messages
    )
    if not fit:
      raise Refused(number, "a record has no list of turns", got=repr(messages)[:80],
                    expected='[{"role": "user", "content": "..."}, ...]')  # fmt: skip
    if not any(one["role"] == "assistant" for one in messages):
      raise Refused(number, "a conversation has no turn of the assistant", got=str([one["role"] for one in messages]))
    return messages

  def example(self, messages, text: str, turns, tokens, spans_T2, end: int):
    told = np.zeros(len(tokens), np.int32)
    for start, stop in turns:
      told |= (spans_T2[:, 1] > start) & (spans_T2[:, 0] < stop)
    if not len(tokens) or tokens[-1] != end:
      tokens, told = np.append(tokens, end), np.append(told, messages[-1]["role"] == "assistant")
    answer = next(one["content"] for one in reversed(messages) if one["role"] == "assistant")
    turn = text[slice(*turns[-1])]
    said = answer.strip()
    closing = turn.partition(said)[2] if said and said in turn else turn
    return tokens.astype(np.int32), told.astype(np.int32), labelled.text_bits(answer), labelled.text_bits(closing)


@dataclasses.dataclass(frozen=True)
class Instruction(TokenLoss):
  """Each token of the assistant's turns from those before it; what others say has no weight.

  Records are messages, a list of {"role", "content"}, or with turns="pair" prompt and response. A row is one
  conversation, cut at its end, or with data.packed several, each of which sees itself alone.
  """

  name: str = "instruction"
  turns: Turns = "messages"
  template: str | None = None  # a chat template in Jinja; None: the tokenizer's own, or ChatML where it has none

  shortest = 2
  generates = True
  judged_by = "rouge1", "rougel", "exact_match"

  def laws(self):
    yield from super().laws()
    try:
      conversations.compiled(self.template or "")
    except jinja2.TemplateError as error:
      yield "template", self.template, f"is no template in Jinja: {error}"

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(ConversationEncoder(self.turns, self.template), room=length if packed else None)

  def extent(self, sizes: dict[str, int]) -> int:
    return max(sizes["tokens"] - 1, 0)

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, targets, weights, of a packed row also segments and positions, each [T]; padding is `end`."""
    if "pieces" not in record:
      record = dict(tokens=record["tokens"][: length + 1], told=record["told"][: length + 1])
    return causal_example(record, vocabulary.end, length, record["told"])

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    return causal_shapes(batch_size, length, packed)

  def model_laws(self, model):
    return decoder_laws(model)

  def prompt(self, record: dict, vocabulary: Vocabulary, length: int) -> np.ndarray:
    """The tokens before the assistant's last turn: the last `length` of them."""
    told = np.flatnonzero(record["told"])
    breaks = np.flatnonzero(np.diff(told) > 1)
    start = int(told[breaks[-1] + 1 if len(breaks) else 0]) if len(told) else 0
    return record["tokens"][max(0, start - length) : start]

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """What follows the prompts, predicted["tokens"] [B, N], up to the end of a turn; and what the records say."""
    found = []
    for record, tokens in zip(records, predicted["tokens"]):
      closing = labelled.text_of_bits(record["closing"]).strip()
      mark = tokenizer.encode(closing) if closing else []
      ends = (tokenizer.end, *mark) if len(mark) == 1 else (tokenizer.end,)
      text = tokenizer.decode(before_end(tokens, *ends))
      text = text.partition(closing)[0] if closing else text
      found.append(dict(predicted=text.strip(), expected=labelled.text_of_bits(record["answer"]).strip()))
    return found
