"""A frozen body and a head that is fitted to its states: `adapt.name=features`, a run without steps.

The states of all texts are computed once; the head is then a logistic regression, which L-BFGS brings to convergence
(Liu and Nocedal 1989).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.adapt import joined
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path, nested
from fmjax.step import place

HEAD, BIAS = "head/classes", "head/classes_bias"
ROUNDS = 10_000


def fit(config, model, prepared, resting, params) -> dict:
  """`params` with the head's fitted to the train split."""
  x_BD, labels_B = features(config, model, prepared, joined(resting, params))
  l2 = 1 / len(x_BD) if config.adapt.l2 is None else config.adapt.l2
  w_DC, b_C = regression(x_BD, labels_B, model.config.classes, l2)
  found = {HEAD: w_DC, BIAS: b_C}

  def put(path, old):
    return jax.device_put(found[path].astype(np.float32), old.sharding) if path in found else old

  return nested({path: put(path, x) for path, x in by_path(params).items()})


def features(config, model, prepared, params) -> tuple[np.ndarray, np.ndarray]:
  """(float64 [n, D], labels [n]) of every row of the train split of every source; the shorter rows first."""
  objective = config.objective
  vocabulary = prepared.tokenizer.vocabulary(objective.needs(config.data.sequence_length))
  size, states, labels = config.train.batch_size, [], []
  pooled = jax.jit(functools.partial(of_batch, model))
  for split in prepared.splits["train"]:
    records = split.read(list(range(split.examples)))
    needed = [objective.extent({name: len(x) for name, x in record.items()}) for record in records]
    order = np.argsort(needed, kind="stable")
    for start in range(0, len(order), size):
      chosen = order[start : start + size]
      length = length_of(max(needed[row] for row in chosen), config)
      rows = [records[row] for row in chosen] + [split.empty] * (size - len(chosen))
      examples = [objective.transform(row, None, vocabulary=vocabulary, length=length) for row in rows]
      batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
      states.append(jax.device_get(pooled(params, place(batch)))[: len(chosen)])
      labels.append(batch["labels"][: len(chosen)])
  return np.concatenate(states).astype(np.float64), np.concatenate(labels)


def of_batch(model, params, batch: dict):
  return model.pooled(params, model.apply(params, batch).hidden, batch).astype(jnp.float32)


def length_of(needed: int, config) -> int:
  lengths = (*(config.data.buckets or ()), config.data.sequence_length)
  return next((length for length in lengths if length >= needed), lengths[-1])


def regression(x_BD, labels_B, classes: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
  """(w_DC, b_C): those that minimise the mean loss in nats and l2 / 2 times the squared weights.

  The penalty is of features with mean 0 and deviation 1; the result is for features as they are.
  """
  import scipy.optimize  # which JAX needs too

  mean_D, scale_D = x_BD.mean(0), x_BD.std(0) + 1e-12
  x_BD, (n, D) = (x_BD - mean_D) / scale_D, x_BD.shape
  one_BC = np.eye(classes)[labels_B]

  def loss(flat):
    w_DC, b_C = flat[: D * classes].reshape(D, classes), flat[D * classes :]
    z_BC = x_BD @ w_DC + b_C
    z_BC -= z_BC.max(1, keepdims=True)
    p_BC = np.exp(z_BC)
    sums_B = p_BC.sum(1, keepdims=True)
    nll = float(np.mean(np.log(sums_B[:, 0]) - (z_BC * one_BC).sum(1)))
    slope_BC = (p_BC / sums_B - one_BC) / n
    gradient = np.concatenate([(x_BD.T @ slope_BC + l2 * w_DC).ravel(), slope_BC.sum(0)])
    return nll + l2 * float((w_DC**2).sum()) / 2, gradient

  how = dict(maxiter=ROUNDS, maxfun=2 * ROUNDS, ftol=1e-12, gtol=1e-6)
  found = scipy.optimize.minimize(loss, np.zeros((D + 1) * classes), jac=True, method="L-BFGS-B", options=how)
  if not found.success:
    raise FmjaxError("DIVERGED", "the regression of the features has not converged", where="adapt.l2",
                     got=found.message, fix="set adapt.l2 higher")  # fmt: skip
  w_DC, b_C = found.x[: D * classes].reshape(D, classes), found.x[D * classes :]
  w_DC = w_DC / scale_D[:, None]
  return w_DC, b_C - mean_D @ w_DC
