"""The prefix language model: a text's beginning, which is seen whole, and the rest of it token by token."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fmjax.objectives.next_token import causal_example, causal_rows, causal_shapes, decoder_laws, places
from fmjax.objectives.objective import Packed, Windows, padded, shapes
from fmjax.objectives.token_loss import TokenLoss
from fmjax.objectives.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class PrefixLM(TokenLoss):
  """Raffel et al. 2020, arXiv:1910.10683, sections 3.2.1 and 3.2.3, after Liu et al. 2018, arXiv:1801.10198.

  The prefix of each piece of a row, or of the whole window, has one token at least and leaves one at least, each
  length as likely as another. Its own tokens are not told: the loss is on those after it.
  """

  name: str = "prefix_lm"

  def layout(self, length: int, packed: bool) -> Windows | Packed:
    return causal_rows(length, packed)

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """What `NextToken` gives, and prefix [T]: 1 at the tokens that all of their segment see."""
    example, (piece, place) = causal_example(record, vocabulary.end, length), places(record)
    tokens = rng.integers(1, np.maximum(np.bincount(piece), 1), endpoint=True)[piece]  # of the prefix
    example["weights"][: len(place)] = place >= tokens - 1  # its last token tells the first one after it
    return example | dict(prefix=padded(place < tokens, length))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    return causal_shapes(batch_size, length, packed) | shapes(dict(prefix=jnp.int32), batch_size, length)

  def model_laws(self, model):
    return decoder_laws(model)
