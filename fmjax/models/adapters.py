"""What `adapt/` puts beside a matrix, as a linear map finds it; no layer knows which method put it there.

Beside the matrix `q` may stand `q_lora` {a, b, fixed, m}, `q_scale` {ins} or {outs}, `q_bottleneck` {down, down_bias,
up, up_bias}, and `q_mixout` {fixed} with `q_mixout_rate` {fixed}; beside keys and values `prefix` {k, v}, beside the
embeddings `prompt` {rows}.
"""

import math

import jax
import jax.numpy as jnp

from fmjax.kernels.linear import linear
from fmjax.models.activations import ACTIVATIONS
from fmjax.sharding import dropout, flow, flowing


def beside(layer, name: str):
  """{part: array in the dtype of the computation} of what stands under `name`, or None."""
  if not layer.has_variable("params", name):
    return None
  return {part: x.astype(layer.dtype) for part, x in layer.get_variable("params", name).items()}


def scaled(x, letters: str, scale, own: str):
  """`x` times the vector `scale` over its last letters `own`; None: as it is."""
  if scale is None:
    return x
  return x * jnp.expand_dims(flow(scale, own), range(len(letters) - len(own)))


def mixed(layer, name: str, w):
  """`w`, in training with a share of its entries as they were at the start, the others moved so that the mean stays.

  Lee et al. 2020, arXiv:1909.11299, section 3.
  """
  if not (layer.train and layer.has_variable("params", f"{name}_mixout")):
    return w
  start, (rate,) = (layer.get_variable("params", f"{name}_{part}")["fixed"] for part in ("mixout", "mixout_rate"))
  back = jax.random.bernoulli(layer.make_rng("dropout"), rate, w.shape, out_sharding=jax.typeof(w).sharding.spec)
  return (jnp.where(back, start, w) - rate * start) / (1 - rate)


def prompted(layer, x, letters: str):
  """`x` of `letters`, those of a batch of texts, with the prompt's rows before each text's."""
  if (own := beside(layer, "prompt")) is None:
    return x
  rows, shape = flow(own["rows"], "P" + letters[2:]), (x.shape[0], *own["rows"].shape)
  if layer.config.embedding_scale:
    rows *= jnp.asarray(math.sqrt(layer.config.D), layer.dtype)
  rows = jnp.broadcast_to(rows[None], shape, out_sharding=flowing(letters, shape))
  return jnp.concatenate([rows, flow(x, letters)], 1)


def low_rank(layer, name: str, equation: str, x, y, w):
  """`y`, which is `x` times `w`, and what LoRA adds to it (Hu et al. 2022, arXiv:2106.09685, section 4.1).

  With a magnitude `m` of each output the sum's direction alone is kept (DoRA: Liu et al. 2024, arXiv:2402.09353).
  """
  if (lora := beside(layer, f"{name}_lora")) is None:
    return y
  operands, output = equation.split("->")
  letters, own = operands.split(",")
  ins = "".join(letter for letter in own if letter not in output)
  outs = own[len(ins) :]
  scale, *rate = lora["fixed"]
  rank = "RM"["R" in equation]
  if layer.train and rate:
    x = dropout(x, letters, rate[0], layer.make_rng("dropout"))
  lead = letters.removesuffix(ins)
  low = linear(f"{letters},{ins}{rank}->{lead}{rank}", x, lora["a"])
  y += scale * linear(f"{lead}{rank},{rank}{outs}->{output}", low, lora["b"])
  if "m" in lora:
    y = scaled(y, output, flow(lora["m"], outs) / flow(norms(w, lora["a"], lora["b"], scale, len(ins)), outs), outs)
  return y


def norms(w, a, b, scale, ins: int):
  """Of each output's column of w + scale a b; a constant to the gradient, as DoRA's section 4.3 has it."""
  w, a, b, scale = jax.lax.stop_gradient((w, a, b, scale))
  whole = w + jax.reshard(scale * product(a, b), jax.typeof(w).sharding.spec)
  return jnp.sqrt(jnp.sum(whole.astype(jnp.float32) ** 2, tuple(range(ins)))).astype(w.dtype)


def product(a, b):
  """The matrix of a LoRA pair, whole on every device."""
  a, b = (jax.reshard(x, jax.P()) for x in (a, b))
  return jnp.tensordot(a, b, 1)


def bottleneck(layer, name: str, y, letters: str):
  """`y` of `letters`, B T D, through a narrow layer and back, added (Houlsby et al. 2019, arXiv:1902.00751)."""
  if (own := beside(layer, f"{name}_bottleneck")) is None:
    return y
  low = linear("BTD,DR->BTR", y, own["down"]) + own["down_bias"][None, None]
  low = flow(ACTIVATIONS[layer.config.activation](low), "BTR")
  return y + linear("BTR,RD->BTD", low, own["up"]) + flow(own["up_bias"], "D")[None, None]
