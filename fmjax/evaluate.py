"""One pass over the eval split of each source: sums over batches, their ratios as metrics."""

import math

import jax
import numpy as np

from fmjax.step import place, ratios


def evaluate(eval_step, params, sources: dict, bytes_per_token: float | None) -> dict[str, float]:
  """{"eval/loss" in nats a token, "eval/accuracy", ...} over all (step, batch) pairs of `sources`, or {}.

  Of several sources each has its own "eval/NAME/loss" and so on. A loss of every token of the text, for which
  `bytes_per_token` is given, is told as "eval/bits_per_byte" too.
  """
  row, every = {}, []
  for name, batches in sources.items():
    totals = None
    for _, batch in batches:
      sums = jax.device_get(eval_step(params, place(batch)))
      sums = jax.tree.map(np.float64, sums)
      totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
    if totals is None:
      continue
    every.append(totals)
    if len(sources) > 1:
      row |= {f"eval/{name}/{key}": float(value) for key, value in ratios(totals).items()}
  if not every:
    return {}
  row = {f"eval/{key}": float(value) for key, value in ratios(jax.tree.map(lambda *x: sum(x), *every)).items()} | row
  if bytes_per_token is None:
    return row
  return row | {"eval/bits_per_byte": row["eval/loss"] / math.log(2) / bytes_per_token}
