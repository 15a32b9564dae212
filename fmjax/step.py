"""The step: pure functions of (state, batch, knobs), the whole of training but for time, IO and jit.

State is {"step": updates done, "params": what trains, "opt"}, and where the config asks for one "ema", the average of
"params" over steps; parameters that rest are a tree of their own, which no step changes. `knobs` are the scalars that
the host computes from the schedule: {"learning_rate"}, and those that the optimizer takes instead of its own. A batch
is a dict of arrays [B, ...] that lie as FLOWING says.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.adapt import METHODS, Adaptation, joined
from fmjax.sharding import flowing


def init_state(key, *, model, tx) -> dict:
  """State before the first update, at rest on the mesh that is set; `jax.eval_shape` of it is the abstract state."""
  return started(key, {}, adaptation=Adaptation(METHODS["full"](), model), tx=tx)[0]


def started(key, given: dict, *, adaptation: Adaptation, tx, ema: float | None = None) -> tuple[dict, dict]:
  """(state, resting) before the first update of a model whose parameters at the paths of `given` are those."""
  params, resting = adaptation.init(key, given)
  state = dict(step=jnp.zeros((), jnp.int32), params=params, opt=tx.init(params))
  return state if ema is None else state | dict(ema=jax.tree.map(jnp.copy, params)), resting


def judged(state: dict) -> dict:
  """The parameters that are evaluated: their average, where there is one."""
  return state["ema" if "ema" in state else "params"]


def abstract_state(**what) -> dict:
  return abstract(functools.partial(init_state, **what), jax.random.key(0))


def abstract(function, *arguments):
  """Shapes, dtypes and shardings of what `function` gives, without making it: a table's rows, a restore's target."""
  mesh = jax.sharding.get_abstract_mesh()
  whole = jax.NamedSharding(mesh, jax.P())  # where JAX leaves a scalar's sharding open
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or whole),
    jax.eval_shape(function, *arguments),
  )


def loss_sums(params, batch, key, *, model, objective, train: bool, resting: dict | None = None):
  """(sum of the loss, {"weight", and the objective's sums}) over the batch."""
  total, weight, sums = objective.loss(model, joined(resting or {}, params), batch, key, train)
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


def train_step(
  state: dict, batch: dict, knobs: dict, resting: dict | None = None, *, model, objective, tx, accumulate: int = 1,
  seed: int = 0, ema: float | None = None,
):  # fmt: skip
  """One update: (state, metrics). Metrics are scalars: loss in nats a token, accuracy, grad_norm, weight, finite.

  Where the loss or the gradient is not finite, all but `step` stays as it was and `finite` is False. `ema` is what an
  average keeps of itself (Polyak and Juditsky 1992); less in the first steps, as TensorFlow's does with num_updates.
  """
  key = jax.random.fold_in(jax.random.key(seed), state["step"])
  (total, sums), grads = gradient_sums(
    state["params"], batch, key, accumulate=accumulate, model=model, objective=objective, resting=resting
  )
  weight = sums["weight"]
  mean = 1 / jnp.where(weight > 0, weight, 1.0)
  grads = jax.tree.map(lambda g: g * mean, grads)
  grad_norm = optax.tree.norm(grads)
  own = {name: value for name, value in knobs.items() if name != "learning_rate"}
  updates, opt = tx.update(grads, state["opt"], state["params"], **own)
  params = jax.tree.map(lambda p, u: p - knobs["learning_rate"] * u, state["params"], updates)
  finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
  new = dict(params=params, opt=opt)
  if ema is not None:
    decay = jnp.minimum(ema, (1.0 + state["step"]) / (10.0 + state["step"]))
    new["ema"] = jax.tree.map(lambda old, p: old + (1 - decay) * (p - old), state["ema"], params)
  keep = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, {name: state[name] for name in new})
  return dict(keep, step=state["step"] + 1), dict(ratios(sums), grad_norm=grad_norm, weight=weight, finite=finite)


def eval_step(params, batch: dict, resting: dict | None = None, *, model, objective) -> dict:
  """Sums over a batch, `weight` among them; their ratio over all batches is the metric."""
  return loss_sums(params, batch, None, model=model, objective=objective, train=False, resting=resting)[1]


def place(rows: dict) -> dict:
  """This host's rows of a batch, numpy, onto the mesh that is set, as FLOWING says; scalars onto every device."""
  mesh = jax.sharding.get_mesh()
  hosts = jax.process_count()

  def put(x):
    shape = (x.shape[0] * hosts, *x.shape[1:]) if x.ndim else ()
    where = jax.NamedSharding(mesh, flowing("BT"[: x.ndim], shape))
    return jax.make_array_from_process_local_data(where, np.asarray(x), shape)

  return {name: put(x) for name, x in rows.items()}
