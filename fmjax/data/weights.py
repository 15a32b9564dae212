"""Weights of a source's rows, from a file: what a subsample draws them by."""

import numpy as np
import xxhash

from fmjax.errors import FmjaxError


def digest(path: str) -> str:
  return xxhash.xxh3_128_hexdigest(read(path).tobytes())


def shares(path: str, rows: int) -> np.ndarray:
  """float64 [rows]: the share of all weights that a row and those before it have; DATA_BAD where they are none."""
  weights_B = read(path)
  if weights_B.shape != (rows,) or not np.all(np.isfinite(weights_B) & (weights_B >= 0)) or not weights_B.sum() > 0:
    raise FmjaxError("DATA_BAD", "these are no weights of the rows", where=path, got=f"an array {weights_B.shape}",
                     expected=f"{rows} numbers of 0 or more, not all 0, one for each row of the train split",
                     fix="weigh the rows of this data.path, all of which is trained on where data.eval_path is set"
                     )  # fmt: skip
  total = np.cumsum(weights_B / weights_B.sum())
  total[np.flatnonzero(weights_B)[-1] :] = 1.0  # whatever was rounded: a draw below 1 finds a row
  return total


def read(path: str) -> np.ndarray:
  try:
    return np.load(path, allow_pickle=False).astype(np.float64)
  except FileNotFoundError as error:
    raise FmjaxError("DATA_MISSING", "there is no such file of weights", where=path,
                     fix="check data.subsample.weights") from error  # fmt: skip
  except (ValueError, OSError, EOFError, AttributeError) as error:
    raise FmjaxError("DATA_BAD", "this is no array of numbers", where=path, got=error,
                     expected="a .npy of numbers", fix="check data.subsample.weights") from error  # fmt: skip
