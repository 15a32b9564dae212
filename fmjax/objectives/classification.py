"""One text, or two, and what is told of it: a class, or a number.

BERT's way (Devlin et al. 2019, arXiv:1810.04805, section 4.1): the state of [CLS], through model.pooler, and a linear
map. A decoder's last token stands for its text, as in GPT (Radford et al. 2018, section 3.2).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import at_least, fraction
from fmjax.objectives import labelled
from fmjax.objectives.labelled import Pooling
from fmjax.objectives.objective import Encoder, Examples, Objective, Refused, shapes
from fmjax.objectives.vocabulary import Vocabulary

OTHER = 1 << 20  # the key of the second pass, apart from the numbers of the keys that a Model makes


@dataclasses.dataclass(frozen=True)
class TextEncoder(Encoder):
  """The tokens of one text or two, and one int32 for what is told of it."""

  pair: bool = False
  pooling: Pooling = "first"

  @property
  def texts_read(self) -> tuple[str, ...]:
    return ("text", "other") if self.pair else ("text",)

  @property
  def columns(self) -> tuple[str, ...]:
    return *self.texts_read, "label"

  @property
  def fields(self) -> tuple[str, ...]:
    return *self.texts_read, "label"

  @property
  def counted(self) -> tuple[str, ...]:
    return self.texts_read

  def texts(self, record: tuple) -> list[str]:
    return [value for value in record[:-1] if isinstance(value, str)]

  def encode(self, records, tokenizer):
    before = labelled.fronts(tokenizer, self.pooling)
    told = [self.told(record[-1], number) for number, record in enumerate(records)]
    every = labelled.encoded(records, self.texts_read, tokenizer)
    return [[(*map(with_front, before, texts), label)] for texts, label in zip(every, told)]

  def told(self, value, number: int) -> np.ndarray:
    """int32 [1]; raises Refused."""
    raise TypeError(f"{type(self).__name__} does not say what is told")


def with_front(front: np.ndarray, text: np.ndarray) -> np.ndarray:
  return np.concatenate([front, text]) if len(front) else text


@dataclasses.dataclass(frozen=True)
class LabelEncoder(TextEncoder):
  labels: tuple[str, ...] = ()

  def told(self, value, number):
    return labelled.whole_number(labelled.label_of(value, self.labels, number))


@dataclasses.dataclass(frozen=True)
class NumberEncoder(TextEncoder):
  low: float | None = None
  high: float | None = None

  def told(self, value, number):
    found = labelled.number_of(value, self.columns[-1], number)
    if (self.low is not None and found < self.low) or (self.high is not None and found > self.high):
      raise Refused(number, "a number is out of range", got=found, expected=f"{self.low} to {self.high}",
                    fix="set objective.low and objective.high, or mend the record")  # fmt: skip
    return labelled.float_bits(found)


@dataclasses.dataclass(frozen=True)
class OfTexts(Objective):
  """Objectives that tell one thing of a text or of a pair of texts.

  With `r_drop` each row of a training batch goes through the model twice, and what the two dropout masks say apart
  is added to their mean loss: R-Drop (Liang et al. 2021, arXiv:2106.14448), with the factors of its code.
  """

  pair: bool = False  # records have a second text, the column `other`
  pooling: Pooling = "first"
  r_drop: float = 0.0  # weight of what tells the two passes apart

  task = "sequence"
  joins = True
  shows = "text", "other"

  @property
  def shortest(self) -> int:
    return 5 if self.pair else 3

  @property
  def classes(self) -> int:
    """What the model's head gives of a text."""
    return 1

  def laws(self):
    yield from at_least(self, 0, "r_drop")

  def needs(self, length: int) -> tuple[str, ...]:
    return labelled.row_needs(self.pooling)

  def extent(self, sizes: dict[str, int]) -> int:
    return labelled.row_extent([sizes[name] for name in ("text", "other")[: 1 + self.pair]], self.pooling)

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, token_types [T]; labels [], weights []: 1, or 0 where there is no record."""
    row, label = labelled.NOTHING, self.label_in(record["label"]) if len(record["label"]) else 0
    if len(record["label"]):
      texts = [record[name] for name in ("text", "other")[: 1 + self.pair]]
      row = labelled.joined(texts, vocabulary, length, self.pooling)
    example = labelled.row_example(*row, vocabulary, length)
    return example | dict(labels=np.array(label, self.label_dtype), weights=np.float32(len(record["label"]) > 0))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    told = shapes(dict(labels=self.label_dtype, weights=jnp.float32), batch_size)
    return labelled.row_shapes(batch_size, length) | told

  def joined_shapes(self, rows: int, length: int, join: int) -> dict:
    told = shapes(dict(labels=self.label_dtype, weights=jnp.float32), rows, join)
    return labelled.joined_row_shapes(rows, length, join) | told

  def model_fields(self) -> dict:
    return dict(head="sequence", classes=self.classes, **labelled.pooling_fields(self.pooling))

  def model_laws(self, model):
    yield from labelled.pooling_laws(model, self.pooling)
    yield from labelled.head_laws(model, "sequence", self.classes)
    if self.r_drop and not model.dropout:
      yield "dropout", model.dropout, "tells two dropout masks apart: set model.dropout, or objective.r_drop=0"

  def scores(self, model, params, batch: dict, key=None, train: bool = False):
    """z_BC, in float32."""
    hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
    return model.classify(params, hidden_BTD, batch, key if train else None).astype(jnp.float32)

  def loss(self, model, params, batch: dict, key, train: bool):
    """Sums over rows, each times its weight; `loss` among the metrics is that of the labels alone."""
    keys = [key]
    if self.r_drop and train and key is not None:
      keys.append(jax.random.fold_in(key, OTHER))
    return self.sums([self.scores(model, params, batch, one, train) for one in keys], batch, train)

  def loss_from(self, model, params, hidden_BTD, batch: dict, train: bool, key=None):
    z_BC = model.classify(params, hidden_BTD, batch, key if train else None).astype(jnp.float32)
    return self.sums([z_BC], batch, train)

  def sums(self, every_z_BC: list, batch: dict, train: bool):
    """The loss of one pass or of two, whose scores are these."""
    found = [self.terms(z_BC, labelled.each(batch["labels"]), train) for z_BC in every_z_BC]
    loss_B, metrics_B = jax.tree.map(lambda *x_B: sum(x_B) / len(x_B), *found)
    if len(every_z_BC) > 1:
      metrics_B["r_drop"] = self.apart(*every_z_BC)
      loss_B += self.r_drop * metrics_B["r_drop"]
    weights_B = labelled.each(batch["weights"])
    sums = {name: jnp.sum(weights_B * x_B) for name, x_B in metrics_B.items()}
    return jnp.sum(weights_B * loss_B), jnp.sum(weights_B), sums

  # What the two kinds differ in.

  label_dtype = jnp.int32  # of a label in a batch

  def label_in(self, label: np.ndarray):
    """The label in a record as one in a batch."""
    return label[0]

  def terms(self, z_BC, labels_B, train: bool):
    """(loss_B, {metric: its terms [B]})."""
    raise TypeError(f"{type(self).__name__} has no loss")

  def apart(self, z_BC, other_BC):
    """How far two passes are apart, [B]."""
    raise TypeError(f"{type(self).__name__} has no R-Drop")


@dataclasses.dataclass(frozen=True)
class Classification(OfTexts):
  """Which of `labels` a text or a pair has. Records: text, label, or text, other, label."""

  name: str = "classification"
  labels: tuple[str, ...] = ()
  label_smoothing: float = 0.0  # Szegedy et al. 2016, arXiv:1512.00567, section 7

  @property
  def judged_by(self) -> tuple[str, ...]:
    return "accuracy", "f1" if len(self.labels) == 2 else "f1_macro", "matthews"

  @property
  def classes(self) -> int:
    return len(self.labels)

  def laws(self):
    yield from super().laws()
    yield from labelled.labels_laws(self.labels)
    yield from fraction(self, "label_smoothing")

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(LabelEncoder(self.pair, self.pooling, self.labels))

  def terms(self, z_BC, labels_B, train: bool):
    smoothing = self.label_smoothing if train else 0.0
    nll_B, loss_B, correct_B = labelled.class_terms(z_BC, labels_B, smoothing)
    return loss_B, dict(loss=nll_B, accuracy=correct_B)

  def apart(self, z_BC, other_BC):
    """The mean of both KL divergences, in nats."""
    log_BC, other_log_BC = jax.nn.log_softmax(z_BC), jax.nn.log_softmax(other_BC)
    return jnp.sum((jnp.exp(log_BC) - jnp.exp(other_log_BC)) * (log_BC - other_log_BC), 1) / 2

  def predict(self, model, params, batch: dict) -> dict:
    return dict(probabilities=labelled.probabilities(self.scores(model, params, batch)))

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    return [
      dict(
        predicted=self.labels[int(np.argmax(p_C))],
        expected=self.labels[int(record["label"][0])],
        probabilities=dict(zip(self.labels, map(float, p_C))),
      )
      for record, p_C in zip(records, predicted["probabilities"])
    ]


@dataclasses.dataclass(frozen=True)
class Regression(OfTexts):
  """A number of a text or a pair, by its squared error. Records: text, label, or text, other, label."""

  name: str = "regression"
  low: float | None = None  # what a number is at least: a record of less is refused, an answer of less is this
  high: float | None = None

  judged_by = "pearson", "spearman", "mse"
  label_dtype = jnp.float32

  def laws(self):
    yield from super().laws()
    yield from range_laws(self)

  def layout(self, length: int, packed: bool) -> Examples:
    return Examples(NumberEncoder(self.pair, self.pooling, self.low, self.high))

  def label_in(self, label: np.ndarray):
    return labelled.float_of(label)

  def terms(self, z_BC, labels_B, train: bool):
    square_B = jnp.square(z_BC[:, 0] - labels_B)
    return square_B, dict(loss=square_B)

  def apart(self, z_BC, other_BC):
    """The squared difference, which the paper takes for numbers."""
    return jnp.square(z_BC[:, 0] - other_BC[:, 0])

  def predict(self, model, params, batch: dict) -> dict:
    return dict(number=self.scores(model, params, batch)[:, 0])

  def answers(self, records, predicted, tokenizer) -> list[dict]:
    low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
    return [
      dict(predicted=float(np.clip(number, low, high)), expected=float(labelled.float_of(record["label"])))
      for record, number in zip(records, predicted["number"])
    ]


def range_laws(branch):
  """Of a branch with the fields `low` and `high`."""
  if branch.low is not None and branch.high is not None and not branch.low < branch.high:
    yield "high", branch.high, f"must be above objective.low={branch.low}"
