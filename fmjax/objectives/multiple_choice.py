"""Which of a few texts goes on with another, or answers it: SWAG's, RACE's and ARC's questions.

BERT's way (Devlin et al. 2019, arXiv:1810.04805, section 4.4): each choice makes a row of its own with the context,
which a linear map gives one score, and a softmax is over the choices.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fmjax.objectives import labelled
from fmjax.objectives.objective import Encoder, Examples, Objective, Refused, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import flow, flowing


@dataclasses.dataclass(frozen=True)
class ChoiceEncoder(Encoder):
  """The tokens of each choice: choice_0, choice_1, ...; of the context; and the place of the right one."""

  labels: tuple[str, ...] = ()
  question: bool = False

  @property
  def columns(self) -> tuple[str, ...]:
    return "context", *["question"] * self.question, "choices", "label"

  @property
  def fields(self) -> tuple[str, ...]:
    return *choice_names(self.labels), "context", "label"

  @property
  def counted(self) -> tuple[str, ...]:
    return self.fields[:-1]

  def texts(self, record: tuple) -> list[str]:
    *texts, choices, _ = record
    return [one for one in (*texts, *(choices if isinstance(choices, list) else ())) if isinstance(one, str)]

  def encode(self, records, tokenizer):
    _, front = labelled.fronts(tokenizer)
    texts = []
    for number, (*before, choices, _) in enumerate(records):
      context, *question = (labelled.text_of(one, name, number) for one, name in zip(before, self.columns))
      choices = choices_of(choices, self.labels, number)
      texts += [" ".join([*question, choice]) for choice in choices] + [context]
    labels = [labelled.label_of(record[-1], self.labels, number) for number, record in enumerate(records)]
    pieces = iter(tokenizer.encode_all(texts))
    found = []
    for label in labels:
      choices = [np.concatenate([front, next(pieces)]) for _ in self.labels]
      found.append([(*choices, next(pieces), labelled.whole_number(label))])
    return found


def choices_of(value, labels: tuple[str, ...], number: int) -> list[str]:
  """The texts of a list, or the lines of a text, one for each label; raises Refused."""
  choices = value.split("\n") if isinstance(value, str) else labelled.texts_of(value, "choices", number)
  if len(choices) != len(labels):
    raise Refused(number, "a question has another number of choices", got=len(choices),
                  expected=f"{len(labels)}, as objective.labels has")  # fmt: skip
  return choices


def choice_names(labels) -> list[str]:
  return [f"choice_{number}" for number in range(len(labels))]


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Objective):
  """Records: context, choices (a list of as many texts as there are `labels`, or a text with one a line), label: the
  name of the right one.

  With `question` each choice stands behind that column's text, as SWAG's endings and RACE's answers do.
  """

  name: str = "multiple_choice"
  labels: tuple[str, ...] = ("0", "1", "2", "3")  # what the choices are called, in their order
  question: bool = False

  shortest = 5
  task = "choice"
  judged_by = ("accuracy",)

  @property
  def shows(self) -> tuple[str, ...]:
    return "context", *choice_names(self.labels)

  def laws(self):
    yield from labelled.labels_laws(self.labels)

  def needs(self, length: int) -> tuple[str, ...]:
    return labelled.row_needs()

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(ChoiceEncoder(self.labels, self.question))

  def extent(self, sizes: dict[str, int]) -> int:
    return labelled.row_extent([sizes["context"], max(sizes[name] for name in choice_names(self.labels))])

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, token_types [C T], the rows of the choices end to end; labels [], weights []."""
    real = len(record["label"]) > 0
    rows = []
    for name in choice_names(self.labels):
      texts = [record["context"], record[name]]
      row = labelled.joined(texts, vocabulary, length) if real else labelled.NOTHING
      rows.append(labelled.row_example(*row, vocabulary, length))
    example = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    label = record["label"][0] if real else 0
    return example | dict(labels=np.array(label, np.int32), weights=np.float32(real))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    told = shapes(dict(labels=jnp.int32, weights=jnp.float32), batch_size)
    return labelled.row_shapes(batch_size, len(self.labels) * length) | told

  def model_fields(self) -> dict:
    return dict(head="sequence", classes=1, pool="first")

  def model_laws(self, model):
    yield from labelled.encoder_laws(model)
    yield from labelled.pooling_laws(model, "first") if model.kind == "encoder" else ()
    yield from labelled.head_laws(model, "sequence", 1)

  def scores(self, model, params, batch: dict, key=None, train: bool = False):
    """z_BC, in float32."""
    B, C = len(batch["labels"]), len(self.labels)
    rows = {name: self.one_each(batch[name]) for name in labelled.ROW}
    hidden_BTD = model.apply(params, rows, key=key, train=train).hidden
    key = key if train else None
    z_BC = model.classify(params, hidden_BTD, rows, key).astype(jnp.float32)  # B are the rows, and C is one score
    return jnp.reshape(z_BC, (B, C), out_sharding=flowing("BC", (B, C)))

  def one_each(self, x_BT):
    """[B, C T] -> [B C, T]: the rows of the choices, on the devices that have their questions."""
    B, C = len(x_BT), len(self.labels)
    shape = B * C, x_BT.shape[1] // C
    rows_BT = jnp.reshape(flow(x_BT, "BC"), shape, out_sharding=flowing("BC", shape))
    return flow(rows_BT, "BT")

  def loss(self, model, params, batch: dict, key, train: bool):
    """Sums over questions, in nats."""
    nll_B, _, correct_B = labelled.class_terms(self.scores(model, params, batch, key, train), batch["labels"])
    weights_B = batch["weights"]
    loss = jnp.sum(weights_B * nll_B)
    return loss, jnp.sum(weights_B), dict(loss=loss, accuracy=jnp.sum(weights_B * correct_B))

  def predict(self, model, params, batch: dict) -> dict:
    return dict(probabilities=labelled.probabilities(self.scores(model, params, batch)))

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    """Places of choices, from 0."""
    return [
      dict(predicted=int(np.argmax(p_C)), expected=int(record["label"][0]), probabilities=list(map(float, p_C)))
      for record, p_C in zip(records, predicted["probabilities"])
    ]
