"""Cross-entropy from hidden states, without ever holding all the logits; its plain truth beside it.

With logits z_V = softcap(h_D . e_VD + b_V), lse = log sum exp z, target y, label smoothing s and z-loss c, a
token's loss is
  (1 - s) (lse - z_y) + s (lse - mean z) + c lse^2
(Szegedy et al. 2016, arXiv:1512.00567, section 7; Chowdhery et al. 2022, arXiv:2204.02311, section 5). Its gradient
in z has a closed form, so one pass over chunks of tokens gives the loss and both gradients: three matmuls, as the
plain way, and nothing of the logits is kept for the backward pass.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmjax.kernels.linear import ways
from fmjax.sharding import flowing

CHUNK_BYTES = 128 << 20  # of float32 logits at a time on one device; each chunk reads and packs the whole table


class Sums(NamedTuple):
  """Over tokens, each times its weight: `loss` with its regularisers, `nll` without, `correct` predictions."""

  loss: jax.Array
  nll: jax.Array
  correct: jax.Array


class Terms(NamedTuple):
  vocabulary: int  # ids from here on only pad V
  label_smoothing: float
  z_loss: float
  softcap: float | None = None  # logits become softcap * tanh(logits / softcap)


def token_sums(z_CV, targets_C, weights_C, terms: Terms, first_id=0, total=lambda x: x, largest=lambda x: x):
  """Sums over C tokens, and what the gradient needs. `total` and `largest` join the shards of V, where it is cut."""
  ids_V = first_id + jnp.arange(z_CV.shape[1])
  real_1V = (ids_V < terms.vocabulary)[None]
  z_CV = jnp.where(real_1V, z_CV, -jnp.inf)
  max_C = largest(jnp.max(z_CV, 1))
  lse_C = max_C + jnp.log(total(jnp.sum(jnp.exp(z_CV - max_C[:, None]), 1)))
  is_target_CV = ids_V[None] == targets_C[:, None]
  target_C = total(jnp.sum(jnp.where(is_target_CV, z_CV, 0.0), 1))
  nll_C = loss_C = lse_C - target_C
  if terms.label_smoothing:
    mean_C = total(jnp.sum(jnp.where(real_1V, z_CV, 0.0), 1)) / terms.vocabulary
    loss_C = (1 - terms.label_smoothing) * nll_C + terms.label_smoothing * (lse_C - mean_C)
  if terms.z_loss:
    loss_C = loss_C + terms.z_loss * lse_C * lse_C
  correct_C = (target_C >= max_C).astype(jnp.float32)
  sums = Sums(*(jnp.sum(weights_C * x_C) for x_C in (loss_C, nll_C, correct_C)))
  return sums, (z_CV, lse_C, is_target_CV, real_1V)


def logit_gradient(z_CV, lse_C, is_target_CV, real_1V, weights_C, terms: Terms):
  """d(loss) / dz for each token, times its weight."""
  p_CV = jnp.exp(z_CV - lse_C[:, None])
  if terms.z_loss:
    p_CV = p_CV * (1 + 2 * terms.z_loss * lse_C)[:, None]
  wanted_CV = is_target_CV * (1 - terms.label_smoothing)
  if terms.label_smoothing:
    wanted_CV = wanted_CV + real_1V * (terms.label_smoothing / terms.vocabulary)
  return (p_CV - wanted_CV) * weights_C[:, None]


def capped(z_CV, terms: Terms):
  return z_CV if terms.softcap is None else terms.softcap * jnp.tanh(z_CV / terms.softcap)


def reference(h_BTD, e_VD, targets_BT, weights_BT, terms: Terms, bias_V=None) -> Sums:
  """The slow truth: all logits at once, differentiated by JAX. For one device."""
  z_BTV = jnp.einsum("BTD,VD->BTV", h_BTD, e_VD.astype(h_BTD.dtype), preferred_element_type=jnp.float32)
  z_BTV = capped(z_BTV if bias_V is None else z_BTV + bias_V[None, None], terms)
  tokens = targets_BT.size
  return token_sums(z_BTV.reshape(tokens, -1), targets_BT.reshape(tokens), weights_BT.reshape(tokens), terms)[0]


def cross_entropy(h_BTD, e_VD, targets_BT, weights_BT, terms: Terms, bias_V=None, chunk_bytes=CHUNK_BYTES) -> Sums:
  """The sums of a batch; only `loss` carries a gradient. `e_VD` is at rest, in float32, and is cast to h's dtype."""
  h_BTD = jax.reshard(h_BTD, flowing("BTD", h_BTD.shape))
  loss, nll, correct = _chunked(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes)
  return Sums(loss, jax.lax.stop_gradient(nll), jax.lax.stop_gradient(correct))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _chunked(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes):
  return _on_each_device(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes, gradients=False)[0]


def _forward(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes):
  return _on_each_device(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes, gradients=True)


def _backward(terms, chunk_bytes, gradients, cotangents):
  scale = cotangents.loss
  return *jax.tree.map(lambda x: x * scale.astype(x.dtype), gradients), None, None


_chunked.defvjp(_forward, _backward)


def _on_each_device(h_BTD, e_VD, bias_V, targets_BT, weights_BT, terms, chunk_bytes, gradients: bool):
  # Left to the partitioner, each chunk would reduce its gradient of e_VD over the mesh; by hand it is once, at the
  # end, and a scatter to where e_VD rests.
  tokens_at = flowing("BT", targets_BT.shape)
  hidden_at, table_at = flowing("BTD", h_BTD.shape), jax.typeof(e_VD).sharding.spec
  bias_at = None if bias_V is None else jax.P(table_at[0])
  # XLA keeps a gather over one device, and copies the whole table for it, twice transposed.
  cut_at = [axis if ways(axis) > 1 else None for axis in table_at]
  # An axis of the mesh that does not divide the tokens has them all on each device: they count once.
  cut_over = tuple(name for axes in tokens_at for name in ((axes,) if isinstance(axes, str) else axes or ()))
  local = functools.partial(
    _local, terms=terms, table_at=cut_at, token_axes=cut_over, chunk_bytes=chunk_bytes, gradients=gradients
  )
  results = Sums(jax.P(), jax.P(), jax.P()), ((hidden_at, table_at, bias_at) if gradients else None)
  at = (hidden_at, table_at, bias_at, tokens_at, tokens_at)
  operands = (h_BTD, e_VD, bias_V, targets_BT, weights_BT)
  operands = (x if x is None else jax.reshard(x, place) for x, place in zip(operands, at))
  sums, found = jax.shard_map(local, in_specs=at, out_specs=results, check_vma=False)(*operands)
  if gradients and bias_V is not None:  # a gradient lies where its value does
    found = (*found[:2], jax.reshard(found[2], jax.typeof(bias_V).sharding.spec))
  return sums, found


def _local(h_BTD, e_VD, bias_V, targets_BT, weights_BT, *, terms, table_at, token_axes, chunk_bytes, gradients):
  B, T, D = h_BTD.shape
  V_axis, D_axis = table_at
  w_VD = e_VD.astype(h_BTD.dtype)
  if D_axis:
    w_VD = jax.lax.all_gather(w_VD, D_axis, axis=1, tiled=True)
  V = w_VD.shape[0]
  first_id, join = 0, {}
  if V_axis:
    first_id = jax.lax.axis_index(V_axis) * V
    join = dict(total=lambda x: jax.lax.psum(x, V_axis), largest=lambda x: jax.lax.pmax(x, V_axis))

  chunks = max(1, math.ceil(B * T * V * 4 / chunk_bytes))
  C = math.ceil(B * T / chunks)
  cut = functools.partial(_cut, chunks=chunks, size=C)

  def body(totals, chunk):
    h_CD, targets_C, weights_C = chunk
    z_CV = jnp.einsum("CD,VD->CV", h_CD, w_VD, preferred_element_type=jnp.float32)
    z_CV = capped(z_CV if bias_V is None else z_CV + bias_V[None], terms)
    sums, kept = token_sums(z_CV, targets_C, weights_C, terms, first_id, **join)
    if not gradients:
      return None, (sums, None)
    dz_CV = logit_gradient(*kept, weights_C, terms)
    if terms.softcap is not None:
      dz_CV *= 1 - jnp.square(z_CV / terms.softcap)
    de_VD, db_V = totals
    db_V = None if db_V is None else db_V + jnp.sum(dz_CV, 0)
    dz_CV = dz_CV.astype(h_CD.dtype)
    de_VD += jnp.einsum("CV,CD->VD", dz_CV, h_CD, preferred_element_type=jnp.float32)
    return (de_VD, db_V), (sums, jnp.einsum("CV,VD->CD", dz_CV, w_VD))

  totals = (jnp.zeros((V, D), jnp.float32), None if bias_V is None else jnp.zeros_like(bias_V)) if gradients else None
  operands = (cut(h_BTD.reshape(B * T, D)), cut(targets_BT.reshape(-1)), cut(weights_BT.reshape(-1)))
  if chunks == 1:
    totals, (sums, dh) = body(totals, jax.tree.map(lambda x: x[0], operands))
  else:
    totals, (sums, dh) = jax.lax.scan(body, totals, operands)
    sums = jax.tree.map(jnp.sum, sums)
  sums = jax.tree.map(lambda x: jax.lax.psum(x, token_axes), sums)
  if not gradients:
    return sums, None
  de_VD, db_V = totals
  dh_BTD = dh.reshape(-1, D)[: B * T].reshape(B, T, D)
  dh_BTD = jax.lax.psum(dh_BTD, V_axis) if V_axis else dh_BTD
  if D_axis:
    de_VD = jax.lax.psum_scatter(de_VD, D_axis, scatter_dimension=1, tiled=True)
    de_VD /= 1 if D_axis in token_axes else ways(D_axis)
  de_VD = jax.lax.psum(de_VD, tuple(axis for axis in token_axes if axis != D_axis))
  return sums, (dh_BTD, de_VD, None if db_V is None else jax.lax.psum(db_V, token_axes))


def _cut(x, chunks: int, size: int):
  """Rows of `x` as [chunks, size, ...]; the rows that fill the last chunk are zero, weight included."""
  padding = [(0, chunks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
  return jnp.pad(x, padding).reshape(chunks, size, *x.shape[1:])
