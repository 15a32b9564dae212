"""Masked-token prediction: the objective of BERT, RoBERTa and ALBERT, each a setting of the same fields.

  BERT (Devlin et al. 2019, arXiv:1810.04805, section 3.1): pairs="next"
  RoBERTa (Liu et al. 2019, arXiv:1907.11692, section 4): the defaults, with its FULL-SENTENCES rows
  ALBERT (Lan et al. 2020, arXiv:1909.11942, sections 3.1 and 4.1): pairs="order", ngram=3

Masks are drawn anew in each epoch, as RoBERTa's are; BERT's and ALBERT's own data has a few draws of each row.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.kernels.cross_entropy import Sums, Terms, cross_entropy
from fmjax.laws import at_least, fraction
from fmjax.models.heads import output_embedding
from fmjax.objectives.labelled import class_terms
from fmjax.objectives.objective import Objective, Sentences, padded, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import einsum, flow


class Pair(NamedTuple):
  """Two texts, `b` maybe empty, and what is to be told of them: label 0 in order, 1 not; weight 0: nothing."""

  a: np.ndarray
  b: np.ndarray
  label: int = 0
  weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class MaskedToken(Objective):
  """A share `rate` of a row's tokens is predicted: round(rate * tokens) as in BERT's code, but 1 at least.

  Of these most become the mask, some a random token, and the rest stay, each drawn on its own. Special tokens, an
  unknown word's among them, are neither masked nor drawn. Words are masked whole or not at all with `whole_word`,
  and runs of n words with `ngram`, where p(n) is proportional to 1 / n up to it.
  """

  name: str = "masked_token"
  rate: float = 0.15
  replaced_by_mask: float = 0.8
  replaced_by_random: float = 0.1
  whole_word: bool = False
  ngram: int | None = None  # words, at most, that are masked in a run; None: tokens or words one by one
  pairs: Literal["next", "order"] | None = None  # the label: B comes from elsewhere; A and B are swapped
  short: float = 0.1  # share of rows that are cut at a random length, with pairs

  @property
  def shortest(self) -> int:
    return 4 if self.pairs is None else 8

  def laws(self):
    yield from fraction(self, "rate", "short")
    yield from at_least(self, 0, "replaced_by_mask", "replaced_by_random")
    yield from at_least(self, 1, "ngram")
    if not self.rate:
      yield "rate", self.rate, "masks nothing: must lie in (0, 1)"
    if self.replaced_by_mask + self.replaced_by_random > 1 + 1e-9:
      law = f"and replaced_by_mask={self.replaced_by_mask} are more than all"
      yield "replaced_by_random", self.replaced_by_random, law

  def needs(self, length: int) -> tuple[str, ...]:
    return "cls", "sep", "mask"

  def layout(self, length: int, packed: bool) -> Sentences:
    if self.pairs is None:
      return Sentences(length - 2, across=True)
    return Sentences(length - 3, short=self.short, partners=int(self.pairs == "next"))

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens [T], segments [T]; places, targets, weights [P] of what is predicted.

    With pairs also token_types [T], labels [] and label_weights []: labels as in the papers and in Hugging Face's
    classes, 0 where B follows A, 1 where it is random or they are swapped.
    """
    if self.pairs is None:
      return self.masked(full_sentences(record["tokens"], vocabulary), rng, vocabulary, length)
    pair = (next_pair if self.pairs == "next" else order_pair)(record, rng, length - 3)
    row, types = joined(pair, vocabulary)
    return dict(
      self.masked(row, rng, vocabulary, length),
      token_types=padded(types, length),
      labels=np.array(pair.label, np.int32),
      label_weights=np.array(pair.weight, np.float32),
    )

  def predictions(self, tokens: int) -> int:
    """How many of a row's `tokens`, [CLS] and [SEP] included, are predicted."""
    return max(1, round(tokens * self.rate))

  def masked(self, row: np.ndarray, rng, vocabulary: Vocabulary, length: int) -> dict:
    """`row` with its masks, padded to `length`: tokens, segments, places, targets, weights."""
    is_ordinary, ordinary = ordinary_of(vocabulary)
    candidates = np.flatnonzero(is_ordinary[row])
    sizes = np.ones(len(candidates), np.int64)
    if self.whole_word or self.ngram:
      sizes = words(candidates, vocabulary.continues[row[candidates]])
      sizes = runs(sizes, self.ngram or 1, rng)
    places = candidates[np.repeat(drawn(sizes, self.predictions(len(row)), rng), sizes)]
    targets, tokens = row[places], row.copy()
    draw = rng.random(len(places))
    replaced = draw < self.replaced_by_mask + self.replaced_by_random
    tokens[places[replaced]] = ordinary[rng.integers(len(ordinary), size=np.count_nonzero(replaced))]
    tokens[places[draw < self.replaced_by_mask]] = vocabulary["mask"]
    most = self.predictions(length)
    return dict(
      tokens=padded(tokens, length),
      segments=(np.arange(length) < len(row)).astype(np.int32),
      places=padded(places, most),
      targets=padded(targets, most),
      weights=(np.arange(most) < len(places)).astype(np.float32),
    )

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    row = dict(tokens=jnp.int32, segments=jnp.int32)
    predicted = dict(places=jnp.int32, targets=jnp.int32, weights=jnp.float32)
    found = shapes(predicted, batch_size, self.predictions(length))
    if self.pairs is None:
      return found | shapes(row, batch_size, length)
    labels = shapes(dict(labels=jnp.int32, label_weights=jnp.float32), batch_size)
    return found | labels | shapes(row | dict(token_types=jnp.int32), batch_size, length)

  def model_laws(self, model):
    yield from encoder_laws(model)
    if self.pairs is not None:
      yield from pair_laws(model)
      if (model.head, model.classes) != ("sequence", 2):
        yield "head", model.head, "tells pairs apart: set model.head=sequence, model.classes=2, model.pooler=tanh"

  def loss(self, model, params, batch: dict, key, train: bool):
    """The masked tokens' loss; with pairs, a pair's joins it as often as its row has masks.

    In sum / weight that is the papers' mean over tokens plus a mean over pairs in which longer rows count more: so it
    stays a sum of examples, whatever the devices and parts that they are cut over.
    """
    return self.loss_from(model, params, model.apply(params, batch, key=key, train=train).hidden, batch, train)

  def answering(self, hidden_BTD, batch: dict):
    return picked(hidden_BTD, batch["places"])

  def loss_from(self, model, params, hidden_BTD, batch: dict, train: bool, key=None):
    sums = predicted(model, params, self.answering(hidden_BTD, batch), batch)
    weight, metrics = jnp.sum(batch["weights"]), dict(loss=sums.nll, accuracy=sums.correct)
    if self.pairs is None:
      return sums.loss, weight, metrics
    nll_B, _, correct_B = class_terms(model.classify(params, hidden_BTD, batch), batch["labels"])
    weights_B = batch["label_weights"]
    loss, correct, pairs = jnp.sum(weights_B * nll_B), jnp.sum(weights_B * correct_B), jnp.sum(weights_B)
    total = sums.loss + jnp.sum(jnp.sum(batch["weights"], 1) * nll_B)
    metrics |= dict(loss=total, masked_loss=sums.nll, pair_loss=(loss, pairs), pair_accuracy=(correct, pairs))
    return total, weight, metrics


def encoder_laws(model):
  if model.kind != "encoder":
    yield "kind", model.kind, "reads what follows a mask too: set model.kind=encoder"


def pair_laws(model):
  if (model.token_types or 0) < 2:
    yield "token_types", model.token_types, "has rows of two texts, A and B: set model.token_types=2"


# Rows.


def full_sentences(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
  """[CLS] tokens [SEP], with [SEP] between documents too; empty where there is no text."""
  ends = tokens == vocabulary.end
  text = np.flatnonzero(~ends)
  if not len(text):
    return np.empty(0, np.int32)
  inside = slice(text[0], text[-1] + 1)
  tokens = np.where(ends, vocabulary["sep"], tokens)[inside]
  return np.concatenate([[vocabulary["cls"]], tokens, [vocabulary["sep"]]]).astype(np.int32)


def joined(pair: Pair, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """([CLS] a [SEP] b [SEP], its token types); without the second half where b is empty, nothing without a."""
  cls, sep = [vocabulary["cls"]], [vocabulary["sep"]]
  if not len(pair.a):
    return np.empty(0, np.int32), np.empty(0, np.int32)
  row = np.concatenate([cls, pair.a, sep] + [pair.b, sep] * bool(len(pair.b))).astype(np.int32)
  return row, (np.arange(len(row)) >= len(pair.a) + 2).astype(np.int32)


def next_pair(record: dict, rng: np.random.Generator, room: int) -> Pair:
  """Next-sentence pairs as BERT's code makes them: B is the rest of the row or a run of a random row's sentences.

  A is a random number of the row's sentences; half of the time, and always where there is one sentence, B is random.
  Pairs are cut to size at random ends of the longer text. Other than there, a row's sentences that a random B
  displaces are not used again in the epoch; B comes from one row, not from a whole document; and since a row is whole
  sentences here and overshoots its size there, the size that both kinds are cut to is here the row's without such an
  overshoot, the rest of a sentence from a random token on: neither a pair's length nor a broken end tells its label.
  """
  tokens, sentences = record["tokens"], record["sentences"]
  if not len(tokens):
    return Pair(tokens, tokens)
  ends = np.cumsum(sentences)
  alone = len(ends) == 1
  cut = int(ends[0 if alone else rng.integers(len(ends) - 1)])
  token = rng.integers(len(tokens))
  size = room if alone else len(tokens) - int(ends[np.searchsorted(ends, token, "right")] - token - 1)
  a, b, label = tokens[:cut], tokens[cut:], int(alone or rng.random() < 0.5)
  if label:
    b = run_of(record["partners"][0], max(size - cut, 1), rng)
  a, b = truncated(a, b, size, rng)
  return Pair(a, b, label, float(len(b) > 0))


def order_pair(record: dict, rng: np.random.Generator, room: int) -> Pair:
  """Sentence-order pairs as ALBERT's code makes them: the row in two runs of sentences, swapped half of the time.

  A row of one sentence is cut within it; their code takes a random document's text as its B and calls it swapped.
  """
  tokens, ends = record["tokens"], np.cumsum(record["sentences"])
  if len(tokens) < 2:
    return Pair(tokens, tokens[:0])
  cut = int(ends[rng.integers(len(ends) - 1)] if len(ends) > 1 else rng.integers(1, len(tokens)))
  parts = tokens[:cut], tokens[cut:]
  swapped = int(rng.random() < 0.5)
  return Pair(parts[swapped], parts[1 - swapped], swapped, 1.0)


def run_of(record: dict, least: int, rng: np.random.Generator) -> np.ndarray:
  """Whole sentences of `record` from a random one on, `least` tokens or more where it has them."""
  if not len(record["tokens"]):
    return record["tokens"]
  ends = np.cumsum(record["sentences"])
  starts = ends - record["sentences"]
  start = starts[rng.integers(max(1, np.count_nonzero(ends[-1] - starts >= least)))]
  last = min(np.searchsorted(ends, start + least), len(ends) - 1)
  return record["tokens"][start : ends[last]]


def truncated(a: np.ndarray, b: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Both cut to `size` together: token by token the longer one, or b, loses its first or its last."""
  a_size = min(len(a), max(size - len(b), -(-size // 2)))
  sizes = a_size, min(len(b), size - a_size)
  fronts = [rng.binomial(len(x) - n, 0.5) for x, n in zip((a, b), sizes)]
  a, b = (x[front : front + n] for x, front, n in zip((a, b), fronts, sizes))
  return a, b


# What is masked.


@functools.lru_cache(maxsize=8)
def ordinary_of(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """(bool [size]: the tokens that text is made of, their ids)."""
  return vocabulary.ordinary, np.flatnonzero(vocabulary.ordinary)


def words(places: np.ndarray, continues: np.ndarray) -> np.ndarray:
  """Sizes of the words at `places`, ascending; a token goes on with a word only from the place right before it."""
  starts = ~(continues & (np.diff(places, prepend=-2) == 1))
  return np.diff(np.flatnonzero(starts), append=len(places))


def runs(sizes: np.ndarray, longest: int, rng: np.random.Generator) -> np.ndarray:
  """Sizes, in tokens, of runs of 1 to `longest` words that tile the words of `sizes`; p(n) ~ 1 / n.

  One of these tiles is as likely as another to be masked, so each word is, and the length of a masked run has p(n).
  ALBERT's code draws where runs start and drops those that overlap, which favours short ones.
  """
  if longest == 1 or not len(sizes):
    return sizes
  p_N = np.cumsum(1 / np.arange(1, longest + 1))
  lengths = 1 + np.searchsorted(p_N, p_N[-1] * rng.random(len(sizes)), "right")
  ends = np.cumsum(lengths)
  starts = (ends - lengths)[: np.searchsorted(ends, len(sizes)) + 1]  # the last is cut off at the row's end
  return np.add.reduceat(sizes, starts)


def drawn(sizes: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
  """Bool: the things of `sizes` tokens that are masked: in random order, each one that the budget has tokens for."""
  order, found = rng.permutation(len(sizes)), np.zeros(len(sizes), bool)
  while len(order):
    total = np.cumsum(sizes[order])
    whole = int(np.searchsorted(total, budget, "right"))  # the next one is too large: those after it may still fit
    found[order[:whole]] = True
    budget -= int(total[whole - 1]) if whole else 0
    order = order[whole + 1 :]
    order = order[sizes[order] <= budget]
  return found


# The device's side.


def picked(hidden_BTD, places_BP):
  """h_BPD: the states at `places_BP`, exactly, however B and T are cut."""
  where_BPT = jax.nn.one_hot(flow(places_BP, "BP"), hidden_BTD.shape[1], dtype=hidden_BTD.dtype)
  return einsum("BTD,BPT->BPD", hidden_BTD, where_BPT, precision=jax.lax.Precision.HIGHEST)


def predicted(model, params, hidden_BPD, batch: dict) -> Sums:
  """The sums over the masked tokens, whose states are `hidden_BPD`."""
  states, bias_V = model.states(params, hidden_BPD)
  terms = Terms(model.config.V, 0.0, 0.0, model.config.output_softcap)
  return cross_entropy(states, output_embedding(params), batch["targets"], batch["weights"], terms, bias_V)
