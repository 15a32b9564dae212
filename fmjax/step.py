"""The step: pure functions of (state, batch, knobs), the whole of training but for time, IO and jit.

State is {"step": updates done, "params", "opt"}. `knobs` are the scalars that the host computes from the schedule:
{"learning_rate"}. A batch is a dict of arrays [B, ...] that lie as FLOWING says.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.sharding import flowing


def init_state(key, *, model, tx) -> dict:
  """State before the first update, at rest on the mesh that is set; `jax.eval_shape` of it is the abstract state."""
  params = model.init(key)
  return dict(step=jnp.zeros((), jnp.int32), params=params, opt=tx.init(params))


def abstract_state(**what) -> dict:
  """The state's shapes, dtypes and shardings, without making it: a table's rows, a restore's target."""
  mesh = jax.sharding.get_abstract_mesh()
  whole = jax.NamedSharding(mesh, jax.P())  # where JAX leaves a scalar's sharding open
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or whole),
    jax.eval_shape(functools.partial(init_state, **what), jax.random.key(0)),
  )


def loss_sums(params, batch, key, *, model, objective, train: bool):
  """(sum of the loss, {"weight", and the objective's sums}) over the batch."""
  total, weight, sums = objective.loss(model, params, batch, key, train)
  return total, dict(sums, weight=weight)


def ratios(sums: dict) -> dict:
  """Metric -> its mean, of sums of which those that are no (sum, weight) have the weight "weight"."""
  pairs = {name: x if isinstance(x, tuple) else (x, sums["weight"]) for name, x in sums.items() if name != "weight"}
  return {name: total / jnp.where(weight > 0, weight, 1.0) for name, (total, weight) in pairs.items()}


def gradient_sums(params, batch, key, *, accumulate: int, **what):
  """((loss sum, sums), gradient of the loss sum), in `accumulate` parts one after the other."""
  differentiate = jax.value_and_grad(lambda p, b, k: loss_sums(p, b, k, train=True, **what), has_aux=True)
  if accumulate == 1:
    return differentiate(params, batch, key)

  def part(total, numbered):
    number, rows = numbered
    return jax.tree.map(jnp.add, total, differentiate(params, rows, jax.random.fold_in(key, number))), None

  parts = jax.tree.map(lambda x: _interleave(x, accumulate), batch)
  start = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding.spec),
    jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], parts), key),
  )
  return jax.lax.scan(part, start, (jnp.arange(accumulate), parts))[0]


def _interleave(x, parts: int):
  # Part i takes rows i, i + parts, ...: every device keeps the rows that it has, whatever the number of parts.
  shape = (x.shape[0] // parts, parts, *x.shape[1:])
  axes = jax.typeof(x).sharding.spec
  x = jnp.reshape(x, shape, out_sharding=jax.P(axes[0], None, *axes[1:]))
  return jnp.moveaxis(x, 1, 0)


def train_step(state: dict, batch: dict, knobs: dict, *, model, objective, tx, accumulate: int = 1, seed: int = 0):
  """One update: (state, metrics). Metrics are scalars: loss in nats a token, accuracy, grad_norm, weight, finite.

  Where the loss or the gradient is not finite, `params` and `opt` stay as they were and `finite` is False.
  """
  key = jax.random.fold_in(jax.random.key(seed), state["step"])
  (total, sums), grads = gradient_sums(
    state["params"], batch, key, accumulate=accumulate, model=model, objective=objective
  )
  weight = sums["weight"]
  mean = 1 / jnp.where(weight > 0, weight, 1.0)
  grads = jax.tree.map(lambda g: g * mean, grads)
  grad_norm = optax.tree.norm(grads)
  updates, opt = tx.update(grads, state["opt"], state["params"])
  params = jax.tree.map(lambda p, u: p - knobs["learning_rate"] * u, state["params"], updates)
  finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
  keep = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old),
    dict(params=params, opt=opt),
    {k: state[k] for k in ("params", "opt")},
  )
  return dict(keep, step=state["step"] + 1), dict(ratios(sums), grad_norm=grad_norm, weight=weight, finite=finite)


def eval_step(params, batch: dict, *, model, objective) -> dict:
  """Sums over a batch, `weight` among them; their ratio over all batches is the metric."""
  return loss_sums(params, batch, None, model=model, objective=objective, train=False)[1]


def place(rows: dict) -> dict:
  """This host's rows of a batch, numpy, onto the mesh that is set, as FLOWING says; scalars onto every device."""
  mesh = jax.sharding.get_mesh()
  hosts = jax.process_count()

  def put(x):
    shape = (x.shape[0] * hosts, *x.shape[1:]) if x.ndim else ()
    where = jax.NamedSharding(mesh, flowing("BT"[: x.ndim], shape))
    return jax.make_array_from_process_local_data(where, np.asarray(x), shape)

  return {name: put(x) for name, x in rows.items()}
