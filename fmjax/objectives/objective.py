"""What every objective is: its config, what it reads, its host's transform, and its device's loss, side by side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import Branch
from fmjax.models import Model
from fmjax.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Windows:
  """A row is a window over all documents set end to end, each closed by `end`: {"tokens": int32 [stride + before]}.

  Row i has the tokens [i * stride - before, (i + 1) * stride) of that stream; the token before its first is `end`.
  The last row of an eval split may be shorter.
  """

  stride: int
  before: int = 0


@dataclasses.dataclass(frozen=True)
class Packed:
  """A row is a few documents, or pieces of long ones, put together by a plan.

  {"tokens": int32, "pieces": int32 [k]}: each piece of m targets has m + 1 tokens, the first of which is what comes
  before it (`end` at a document's start) and is no target; `pieces` has each m + 1. All m sum to `length` at most.
  """

  length: int


@dataclasses.dataclass(frozen=True)
class Sentences:
  """A row is a run of whole sentences: {"tokens": int32 [<= length], "sentences": int32 [k], their lengths}.

  It stays within one document and has no `end`, unless it may run `across` documents, whose `end` then counts as a
  sentence. A share `short` of the rows is cut at a random length from 2 on (Devlin et al. 2019, as in their code).
  With `partners`, each row comes with a list "partners" of so many random rows of other documents.
  """

  length: int
  across: bool = False
  short: float = 0.0
  partners: int = 0


@dataclasses.dataclass(frozen=True)
class Documents:
  """A row is one document: {field: int32 [<= its length]} for each (field, length), without `end`."""

  fields: tuple[tuple[str, int], ...]


class Refused(ValueError):
  """A record that an Encoder can make nothing of: its number among those it was given, and the labels of an error."""

  def __init__(self, number: int, what: str, **labels):
    super().__init__(what)
    self.number, self.what, self.labels = number, what, labels


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Makes arrays of a labelled record, once, when data is prepared; its fields decide what it makes.

  `columns` name what it reads of a record, in this order (data.columns says what they are called in the source), and
  `fields` what it makes. A value is text, a number, None, or a list or a dict of such.
  """

  @property
  def columns(self) -> tuple[str, ...]:
    raise TypeError(f"{type(self).__name__} does not say what it reads")

  @property
  def fields(self) -> tuple[str, ...]:
    raise TypeError(f"{type(self).__name__} does not say what it makes")

  @property
  def counted(self) -> tuple[str, ...]:
    """Those of `fields` that are the tokens of its texts."""
    return self.fields[:1]

  def texts(self, record: tuple) -> list[str]:
    """What a tokenizer is trained on."""
    return [value for value in record if isinstance(value, str)]

  def encode(self, records: list[tuple], tokenizer) -> list[list[tuple[np.ndarray, ...]]]:
    """The examples of each record (of most one, of a long text several): an int32 array for each of `fields`.

    `tokenizer` is a `data.Tokenizer` with the special tokens that the objective needs. Raises Refused.
    """
    raise TypeError(f"{type(self).__name__} does not say what it makes")


@dataclasses.dataclass(frozen=True)
class Examples:
  """A row is an example as `encoder` made it: {field: int32 array}.

  With `room` a row of the train split is several, put together by a plan: {field: their arrays end to end, "pieces":
  int32 [k]}, how many tokens of each are there. The first of each is no target; the others sum to `room` at most.
  """

  encoder: Encoder
  room: int | None = None


class Objective(Branch):
  """Frozen dataclasses derive from it; `length` is data.sequence_length wherever it is asked for."""

  shortest = 1  # the least `length` that leaves a row room for text
  scores_text = False  # whether the loss is the code length of every token of the text
  task = "lm"  # which of a family's heads it trains, as `interop.family` calls them
  generates = False  # whether `answers` wants predicted["tokens"]: what follows `prompt(record, vocabulary, length)`
  shows: tuple[str, ...] = ()  # the fields of a record whose tokens are the text that an answer is of
  joins = False  # whether several examples may share a row (data.join), as `labelled.side_by_side` puts them
  judged_by: tuple[str, ...] = ()  # the metrics in `measures.tasks` of its answers; the first is the one that counts

  def needs(self, length: int) -> tuple[str, ...]:
    """Names of the special tokens that the transform uses, beside `end`."""
    return ()

  def layout(self, length: int, packed: bool) -> Windows | Packed | Sentences | Documents | Examples:
    """How rows are cut from documents; `packed` (data.packed) asks for Packed where there is a choice."""
    raise TypeError(f"{type(self).__name__} does not say how it reads")

  def extent(self, sizes: dict[str, int]) -> int | None:
    """The least `length` that cuts nothing off a record whose arrays have these sizes; None: rows are always full.

    Where data.buckets has shorter lengths, a batch is made with the least of them that is enough for all its rows.
    """
    return None

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """A row as `layout` says -> an example, numpy arrays that `batch_shapes` promises, B apart.

    A pure function of its arguments; `rng` depends on (seed, epoch, row) alone. A row without tokens gives an
    example whose every weight is 0.
    """
    raise TypeError(f"{type(self).__name__} has no transform")

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    """What a batch is, without data: name -> ShapeDtypeStruct; `packed` as `layout` was told."""
    raise TypeError(f"{type(self).__name__} does not say what a batch is")

  def joined_shapes(self, rows: int, length: int, join: int) -> dict:
    """As `batch_shapes`, of `rows` that hold `join` examples each."""
    raise TypeError(f"{type(self).__name__} has one example a row")

  def model_fields(self) -> dict:
    """The fields of the model's config that follow from the objective, where a recipe does not set them."""
    return {}

  def model_laws(self, model):
    """Yields (field of the TransformerConfig `model`, value, law) for each law that a model to train breaks."""
    return ()

  def model(self, config, dtype=jnp.float32, remat: str = "none") -> Model:
    """What is trained: the Transformer of `config`, and where the objective needs one a second beside it."""
    return Model(config, dtype, remat)

  def predict(self, model: Model, params, batch: dict) -> dict:
    """What `answers` needs of the model, without dropout: name -> array [B, ...]."""
    raise TypeError(f"{type(self).__name__} predicts nothing")

  def answers(self, records: list[dict], predicted: dict[str, np.ndarray], tokenizer) -> list[dict]:
    """What the model says of each record, and what is right, as JSON takes it: {"predicted", "expected", ...}.

    `records` are as `layout` says, `predicted` is what `predict` gave of their batch: arrays of numpy, [B, ...].
    """
    raise TypeError(f"{type(self).__name__} gives no answers")

  def loss(self, model: Model, params, batch: dict, key, train: bool):
    """(sum, weight, metrics). The loss is sum / weight, over all devices and parts of a batch, in nats.

    A metric is a sum of the same weight, or (sum, weight) where it has its own.
    """
    raise TypeError(f"{type(self).__name__} has no loss")

  def loss_from(self, model: Model, params, hidden_BTD, batch: dict, train: bool, key=None):
    """What `loss` gives, of one pass whose last layer gave `hidden_BTD`: so a teacher's can be set beside them.

    `key` is the step's, for what is dropped after that layer.
    """
    raise TypeError(f"{type(self).__name__} is no loss of one pass")

  def answering(self, hidden_BTD, batch: dict):
    """Of the states those that batch["weights"] weighs, where the vocabulary is what they are told from."""
    return hidden_BTD


def shapes(dtypes: dict, *shape) -> dict:
  """Name -> ShapeDtypeStruct of one shape."""
  return {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in dtypes.items()}


def padded(tokens, length: int, fill: int = 0) -> np.ndarray:
  """int32 [length]: `tokens` and `fill` after them."""
  row = np.full(length, fill, np.int32)
  row[: len(tokens)] = tokens
  return row
