"""The law of the bootstrap: a metric of counts is the metric of the examples themselves, each repeated as often."""

import numpy as np

from fmjax.measures.metric import drawn


def check(metrics, *columns, resamples: int = 8, seed: int = 0):
  """`metrics` of columns of equal length gives {name: metric}; names of what did not occur in a resample may lack."""
  found = metrics(*columns)
  size = len(columns[0])
  counts_RB = drawn(np.random.default_rng(seed), resamples, size).astype(int)
  values = {name: metric.of_counts(counts_RB.astype(float)) for name, metric in found.items()}
  for row, times in enumerate(counts_RB):
    picks = np.repeat(np.arange(size), times)
    again = metrics(*(columns_of(column, picks) for column in columns))
    assert set(again) <= set(found)
    for name, metric in again.items():
      np.testing.assert_allclose(values[name][row], metric.value, rtol=1e-9, atol=1e-12, err_msg=name)
  for name, metric in found.items():
    assert metric.name == name and len(metric) == size
    once = metric.of_counts(np.ones((1, size)))
    assert once.shape == (1,)
    np.testing.assert_allclose(once[0], metric.value, rtol=1e-12)


def columns_of(column, picks):
  return column[picks] if isinstance(column, np.ndarray) else [column[pick] for pick in picks]
