"""Replaced-token detection: ELECTRA's objective (Clark et al. 2020, arXiv:2003.10555), section 2.

A small generator predicts masked tokens; the discriminator, the model that is kept, tells for each token of a row
whether it is the text's own or one that the generator has put in a mask's place.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import at_least, fraction
from fmjax.leaves import by_path, nested
from fmjax.models import Model
from fmjax.objectives.masked_token import MaskedToken, Pair, encoder_laws, joined, pair_laws, picked, predicted
from fmjax.objectives.objective import Objective, Sentences, padded, shapes
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.sharding import flow, flowing

SHARED = tuple(f"embed/{name}" for name in ("tokens", "positions", "types", "norm"))
GENERATOR = 1 << 20  # apart from the numbers of the keys that a Model makes
GENERATES, SAMPLES = 2, 3


@dataclasses.dataclass(frozen=True)
class Joint(Model):
  """The discriminator, whose parameters and methods are a Model's of `config`, and under "generator" its generator.

  As in their code the generator has all layers and `size` of the widths, and the embedding (tokens, positions,
  types, norm) is the discriminator's own: no copy of it is a parameter. What is left without "generator" is the
  discriminator, as an export takes it.
  """

  size: float = 0.25

  @functools.cached_property
  def generator(self) -> Model:
    """A masked language model of `generator_params`; its heads are about as wide as the discriminator's."""
    config, width = self.config, self.config.R or self.config.D
    D, F = round(config.D * self.size), round(config.F * self.size)
    N = max((n for n in range(1, D // config.H + 1) if D % n == 0), default=1)
    fields = dict(preset=None, D=D, N=N, K=N, H=None, F=F, R=None if width == D else width)
    output = dict(output_transform=True, output_bias=True, head=None, classes=None, pooler=None)
    config = dataclasses.replace(config, **fields, **output)
    return Model(config, self.dtype, self.remat)

  def init(self, key):
    own = by_path(self.generator.init(jax.random.fold_in(key, GENERATOR)))
    return super().init(key) | nested({f"generator/{path}": x for path, x in own.items() if not is_shared(path)})

  def declarations(self) -> dict:
    own = self.generator.declarations()
    return super().declarations() | {f"generator/{path}": x for path, x in own.items() if not is_shared(path)}

  def alone(self, params):
    """(the discriminator, its parameters)."""
    model = Model(self.config, self.dtype, self.remat)
    return model, {name: value for name, value in params.items() if name != "generator"}

  def generator_params(self, params):
    """The parameters of `generator`, the shared ones among them."""
    own = {path.removeprefix("generator/"): x for path, x in by_path(params).items() if path.startswith("generator/")}
    return nested(own | {path: x for path, x in by_path(params).items() if is_shared(path)})


def is_shared(path: str) -> bool:
  return path.startswith(SHARED)


@dataclasses.dataclass(frozen=True)
class ReplacedToken(Objective):
  """Generator and discriminator trained at once, each on its own loss: no gradient goes through the samples.

  Masks are drawn as MaskedToken draws them; their code masks 85 % of them and leaves the rest as they are. It draws
  places with replacement, so that some count twice; here each is another.
  """

  name: str = "replaced_token"
  rate: float = 0.15
  replaced_by_mask: float = 0.85
  generator_size: float = 0.25  # of the discriminator's D, N and F (Table 6; 1/3 in the base model)
  discriminator_weight: float = 50.0
  short: float = 0.05  # share of rows that are cut at a random length
  single: float = 0.1  # share of rows that are one text, not two

  shortest = 8

  def laws(self):
    yield from fraction(self, "rate", "short")
    yield from at_least(self, 0, "discriminator_weight")
    if not self.rate:
      yield "rate", self.rate, "masks nothing: must lie in (0, 1)"
    for name in ("replaced_by_mask", "single"):
      if not 0 <= getattr(self, name) <= 1:
        yield name, getattr(self, name), "must lie in [0, 1]"
    if not 0 < self.generator_size <= 1:
      yield "generator_size", self.generator_size, "must lie in (0, 1]"

  @functools.cached_property
  def masking(self) -> MaskedToken:
    return MaskedToken(rate=self.rate, replaced_by_mask=self.replaced_by_mask, replaced_by_random=0.0)

  def needs(self, length: int) -> tuple[str, ...]:
    return self.masking.needs(length)

  def layout(self, length: int, packed: bool) -> Sentences:
    return Sentences(length - 3, short=self.short)

  def transform(self, record: dict, rng: np.random.Generator, *, vocabulary: Vocabulary, length: int) -> dict:
    """tokens, segments, token_types [T]; places, targets, weights [P] of the masks."""
    row, types = joined(halves(record, self.single, rng), vocabulary)
    return dict(self.masking.masked(row, rng, vocabulary, length), token_types=padded(types, length))

  def batch_shapes(self, batch_size: int, length: int, packed: bool = False) -> dict:
    types = shapes(dict(token_types=jnp.int32), batch_size, length)
    return self.masking.batch_shapes(batch_size, length) | types

  def model_laws(self, model):
    yield from encoder_laws(model)
    yield from pair_laws(model)
    if (model.head, model.classes) != ("token", 1):
      yield "head", model.head, "tells tokens apart: set model.head=token, model.classes=1, model.pooler=gelu"
    if not model.tied:
      yield "tied", False, "has one table for both networks: set model.tied=True"

  def model(self, config, dtype=jnp.float32, remat: str = "none") -> Joint:
    return Joint(config, dtype, remat, self.generator_size)

  def loss(self, model: Joint, params, batch: dict, key, train: bool):
    """The generator's loss over the masks, and `discriminator_weight` times the discriminator's over all tokens.

    In sum / weight that is the paper's sum of two means, where a row has `rate` masks a token: the constant in the
    place of masks / tokens keeps it a sum of examples, whatever the devices and parts that they are cut over.
    Without a key the samples are always the same of a batch.
    """
    own = model.generator_params(params)
    keys = [None if key is None else jax.random.fold_in(key, n) for n in (GENERATES, SAMPLES)]
    hidden_BTD = model.generator.apply(own, batch, key=keys[0], train=train).hidden
    hidden_BPD = picked(hidden_BTD, batch["places"])
    sums = predicted(model.generator, own, hidden_BPD, batch)
    logits_BPV = model.generator.logits(*jax.lax.stop_gradient((own, hidden_BPD)))
    tokens_BT, replaced_BT = replaced(batch, sampled(logits_BPV, jax.random.key(0) if key is None else keys[1]))
    batch = dict(batch, tokens=tokens_BT)
    z_BTC = model.classify(params, model.apply(params, batch, key=key, train=train).hidden, batch)
    loss, correct = detected(z_BTC[..., 0].astype(jnp.float32), replaced_BT, batch["segments"])
    weight = jnp.sum(batch["weights"])
    tokens = jnp.sum(batch["segments"] != 0).astype(jnp.float32)
    total = sums.loss + self.discriminator_weight * self.rate * loss
    metrics = dict(
      loss=total, masked_loss=sums.nll, masked_accuracy=sums.correct, discriminator_loss=(loss, tokens),
      discriminator_accuracy=(correct, tokens), replaced=jnp.sum(replaced_BT.astype(jnp.float32)),
    )  # fmt: skip
    return total, weight, metrics


def halves(record: dict, single: float, rng: np.random.Generator) -> Pair:
  """The row in two runs of whole sentences about as long, as their code makes them; a share `single` is in one.

  The sentence in the middle goes to either half of the time, the first always to the first.
  """
  tokens, ends = record["tokens"], np.cumsum(record["sentences"])
  if not len(tokens) or rng.random() < single:
    return Pair(tokens, tokens[:0])
  first = np.searchsorted(ends, len(tokens) // 2) + (rng.random() < 0.5)
  cut = ends[np.clip(first - 1, 0, len(ends) - 1)]
  return Pair(tokens[:cut], tokens[cut:])


def sampled(logits_BPV, key):
  """Ids [B, P] drawn from the softmax of the logits, by Gumbel noise."""
  logits_BPC = flow(logits_BPV, "BPC")  # V whole: the largest of a row is sought
  noise_BPC = jax.random.gumbel(key, logits_BPC.shape, out_sharding=flowing("BPC", logits_BPC.shape))
  return jnp.argmax(logits_BPC + noise_BPC, -1).astype(jnp.int32)


def replaced(batch: dict, sampled_BP):
  """(tokens [B, T] with `sampled_BP` in the masks' places, bool [B, T]: where they are not the text's own)."""
  places_BP, targets_BP, weights_BP = (flow(batch[name], "BP") for name in ("places", "targets", "weights"))
  at_BPT = places_BP[..., None] == jnp.arange(batch["tokens"].shape[1])[None, None]
  at_BPT &= (weights_BP > 0)[..., None]

  def spread(x_BP):
    return flow(jnp.sum(jnp.where(at_BPT, x_BP[..., None], 0), 1), "BT")

  tokens_BT = jnp.where(flow(jnp.any(at_BPT, 1), "BT"), spread(sampled_BP), batch["tokens"])
  return tokens_BT, spread((sampled_BP != targets_BP).astype(jnp.int32)) > 0


def detected(z_BT, replaced_BT, segments_BT):
  """(loss, right answers) of the logits that tokens were replaced, summed over what is not padding."""
  nll_BT = jax.nn.softplus(jnp.where(replaced_BT, -z_BT, z_BT))
  correct_BT = (z_BT > 0) == replaced_BT
  return tuple(jnp.sum(jnp.where(segments_BT != 0, x, 0.0)) for x in (nll_BT, correct_BT.astype(jnp.float32)))
