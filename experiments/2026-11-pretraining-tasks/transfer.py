"""What a pretrained stack is good for: a probe of its frozen states, and all of it fine-tuned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize  # which JAX needs too
import sst2

from fmjax import optim
from fmjax.models import Model
from fmjax.models.heads import Head
from fmjax.objectives.labelled import class_terms
from fmjax.objectives.objective import Objective
from fmjax.sharding import einsum
from fmjax.step import eval_step, place, train_step

BATCH, EPOCHS = 32, 2
L2 = (1e-4, 1e-3, 1e-2, 1e-1)  # times half of the squared weights, beside the mean loss
STACK = ("embed", "blocks", "relative", "final_norm")


def parameters(params) -> int:
  """How many a model has, without what only its task needs: heads, and a generator."""
  return sum(x.size for name in (*STACK, "encoder") for x in jax.tree.leaves(params.get(name, {})))


def stack(config, params) -> tuple[Model, dict]:
  """Embedding, Blocks and norm as a model of their own: no heads, no generator; an encoder_decoder's encoder."""
  if config.kind == "encoder_decoder":
    params = {"embed": params["embed"], **params["encoder"]}
    config = dataclasses.replace(config, kind="encoder", L=config.source_L, source_L=None)
  bare = dict(preset=None, head=None, classes=None, pooler=None, output_transform=False, output_bias=False)
  return Model(dataclasses.replace(config, **bare)), {name: params[name] for name in STACK if name in params}


def mean_states(model: Model, params, batch: dict, key=None, train: bool = False):
  """x_BD: the mean of the last states of each row's tokens."""
  hidden_BTD = model.apply(params, batch, key=key, train=train).hidden
  real_BT = (batch["segments"] != 0).astype(hidden_BTD.dtype)
  return einsum("BTD,BT->BD", hidden_BTD, real_BT) / jnp.maximum(jnp.sum(real_BT, 1, keepdims=True), 1)


# The probe.


def features(model: Model, params, rows: list[np.ndarray]) -> np.ndarray:
  """`mean_states` of all rows, float64 [n, D]."""
  of_batch, found = jax.jit(functools.partial(mean_states, model)), np.empty((len(rows), model.config.D))
  for chosen in sst2.in_order(rows, BATCH):
    one = sst2.batch([rows[row] for row in chosen], np.zeros(len(chosen)), BATCH)
    found[chosen] = jax.device_get(of_batch(params, place(one)))[: len(chosen)]
  return found


def probe(x: dict, labels: dict) -> dict:
  """Logistic regression on x[split] [n, D], to convergence; the strength of L2 that is best on dev.

  {"l2", "dev", "test"}: accuracies.
  """
  mean, scale = x["train"].mean(0), x["train"].std(0) + 1e-12
  x = {split: np.column_stack([(x[split] - mean) / scale, np.ones(len(x[split]))]) for split in x}
  fits = {l2: regression(x["train"], labels["train"], l2) for l2 in L2}
  right = {l2: {split: float(np.mean((x[split] @ w > 0) == labels[split])) for split in x} for l2, w in fits.items()}
  best = max(L2, key=lambda l2: (right[l2]["dev"], l2))
  return dict(l2=best, dev=right[best]["dev"], test=right[best]["test"])


def regression(x: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
  """The weights that minimise the mean loss of labels 0 and 1 and the penalty, by L-BFGS; the last is the bias."""
  signs, penalty = 2.0 * labels - 1, l2 * (np.arange(x.shape[1]) < x.shape[1] - 1)

  def loss(w):
    margins = signs * (x @ w)
    slopes = -signs / (1 + np.exp(np.clip(margins, -500, 500)))
    return np.logaddexp(0, -margins).mean() + penalty @ w**2 / 2, slopes @ x / len(x) + penalty * w

  how = dict(maxiter=10_000, maxfun=20_000, ftol=1e-13, gtol=1e-6)
  found = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options=how)
  if not found.success:
    raise RuntimeError(f"the probe has not converged: {found.message}")
  return found.x


# Fine-tuning.


@dataclasses.dataclass(frozen=True)
class Sentiment(Objective):
  """Of rows with `labels` and `weights` [B]: a linear map of `mean_states` tells the label."""

  name: str = "sentiment"

  def loss(self, model: Model, params, batch: dict, key, train: bool):
    x_BD = mean_states(model, params, batch, key, train)
    z_BC = Head(model.config, model.dtype).apply({"params": params["head"]}, x_BD)
    nll_B, _, correct_B = class_terms(z_BC, batch["labels"])
    nll, correct = (jnp.sum(batch["weights"] * x_B) for x_B in (nll_B, correct_B))
    return nll, jnp.sum(batch["weights"]), dict(loss=nll, accuracy=correct)


class Finetuning:
  """Fine-tunes copies of one stack; `rows` and `labels` are {split: ...}."""

  def __init__(self, model: Model, params, rows: dict, labels: dict):
    self.model = dataclasses.replace(model, config=dataclasses.replace(model.config, head="sequence", classes=2))
    self.params, self.rows, self.labels = params, rows, labels
    self.batches = EPOCHS * (len(rows["train"]) // BATCH)
    # Devlin et al. 2019, App. A.3: AdamW, a tenth of warm-up, then linearly to zero.
    self.optimizer = functools.partial(
      optim.AdamW, schedule="linear", warmup_steps=self.batches // 10, end_fraction=0.0, b2=0.999, weight_decay=0.01
    )
    self.tx = optim.make(self.optimizer(), self.model.declarations())
    self.init = jax.jit(self.model.init)
    what = dict(model=self.model, objective=Sentiment())
    self.update = jax.jit(functools.partial(train_step, tx=self.tx, **what), donate_argnums=0)
    self.sums = jax.jit(functools.partial(eval_step, **what))

  def __call__(self, rate: float, seed: int) -> dict:
    """{"dev", "test"}: accuracies after EPOCHS. `seed` decides the head's first weights and the batches."""
    params = jax.tree.map(jnp.copy, self.params) | {"head": self.init(jax.random.key(seed))["head"]}
    state = dict(step=jnp.zeros((), jnp.int32), params=params, opt=self.tx.init(params))
    learning_rate, step = optim.schedule(self.optimizer(learning_rate=rate), self.batches), 0
    for epoch in range(EPOCHS):
      for chosen in sst2.shuffled(self.rows["train"], BATCH, np.random.default_rng([seed, epoch])):
        knobs = dict(learning_rate=np.float32(learning_rate(step)))
        state, _ = self.update(state, place(self.batch("train", chosen)), place(knobs))
        step += 1
    return {split: self.accuracy(state["params"], split) for split in ("dev", "test")}

  def batch(self, split: str, chosen: np.ndarray) -> dict:
    return sst2.batch([self.rows[split][row] for row in chosen], self.labels[split][chosen], BATCH)

  def accuracy(self, params, split: str) -> float:
    every = [self.sums(params, place(self.batch(split, chosen))) for chosen in sst2.in_order(self.rows[split], BATCH)]
    total = jax.tree.map(lambda *x: np.sum(x, dtype=np.float64), *jax.device_get(every))
    return float(total["accuracy"] / total["weight"])
