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


class Objective(Branch):
  """Frozen dataclasses derive from it; `length` is data.sequence_length wherever it is asked for."""

  shortest = 1  # the least `length` that leaves a row room for text
  scores_text = False  # whether the loss is the code length of every token of the text

  def needs(self, length: int) -> tuple[str, ...]:
    """Names of the special tokens that the transform uses, beside `end`."""
    return ()

  def layout(self, length: int, packed: bool) -> Windows | Packed | Sentences | Documents:
    """How rows are cut from documents; `packed` (data.packed) asks for Packed where there is a choice."""
    raise TypeError(f"{type(self).__name__} does not say how it reads")

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """A row as `layout` says -> an example, numpy arrays that `batch_shapes` promises, B apart.

    A pure function of its arguments; `rng` depends on (seed, epoch, row) alone. A row without tokens gives an
    example whose every weight is 0.
    """
    raise TypeError(f"{type(self).__name__} has no transform")

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    """What a batch is, without data: name -> ShapeDtypeStruct; `packed` as `layout` was told."""
    raise TypeError(f"{type(self).__name__} does not say what a batch is")

  def model_laws(self, model):
    """Yields (field of the TransformerConfig `model`, value, law) for each law that a model to train breaks."""
    return ()

  def model(self, config, dtype=jnp.float32, remat: str = "none") -> Model:
    """What is trained: the Transformer of `config`, and where the objective needs one a second beside it."""
    return Model(config, dtype, remat)

  def loss(self, model: Model, params, batch: dict, key, train: bool):
    """(sum, weight, metrics). The loss is sum / weight, over all devices and parts of a batch, in nats.

    A metric is a sum of the same weight, or (sum, weight) where it has its own.
    """
    raise TypeError(f"{type(self).__name__} has no loss")


def shapes(dtypes: dict, *shape) -> dict:
  """Name -> ShapeDtypeStruct of one shape."""
  return {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in dtypes.items()}


def padded(tokens, length: int, fill: int = 0) -> np.ndarray:
  """int32 [length]: `tokens` and `fill` after them."""
  row = np.full(length, fill, np.int32)
  row[: len(tokens)] = tokens
  return row
