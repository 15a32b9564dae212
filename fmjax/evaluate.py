"""One pass over an eval split: sums over batches, their ratios as metrics."""

import math

import jax
import numpy as np

from fmjax.step import place


def evaluate(eval_step, params, batches, bytes_per_token: float) -> dict[str, float]:
  """{"eval/loss" in nats a token, "eval/accuracy", "eval/bits_per_byte", ...} over (step, batch) pairs, or {}."""
  totals = None
  for _, batch in batches:
    sums = jax.device_get(eval_step(params, place(batch)))
    sums = {name: np.float64(value) for name, value in sums.items()}
    totals = sums if totals is None else {name: totals[name] + sums[name] for name in sums}
  if totals is None:
    return {}
  weight = totals.pop("weight")
  row = {f"eval/{name}": float(total / weight) for name, total in totals.items()}
  return row | {"eval/bits_per_byte": row["eval/loss"] / math.log(2) / bytes_per_token}
