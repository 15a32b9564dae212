"""Which tensor of a folder holds which parameter, and how it lies there: one table for import and export."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from fmjax.interop.family import Family, Head, name_of


@dataclasses.dataclass(frozen=True)
class Slot:
  """Where a parameter, or one layer of it, lies: in the tensor `name`, of which it is part `index` of `of`."""

  name: str
  shape: tuple[int, ...]  # of the parameter, V unpadded, L apart
  ins: int  # of a map: the number of letters that it sums over
  kind: str  # linear ([outs, ins], as torch has it) | conv1d ([ins, outs]) | table | vector | row ([1, V])
  index: int = 0
  of: int = 1

  @property
  def file_shape(self) -> tuple[int, ...]:
    if self.kind in ("linear", "conv1d"):
      ins, outs = math.prod(self.shape[: self.ins]), math.prod(self.shape[self.ins :])
      return (outs, ins) if self.kind == "linear" else (ins, outs * self.of)
    if self.kind == "table":
      return self.shape
    return (1,) * (self.kind == "row") + (math.prod(self.shape) * self.of,)

  def view(self, array: np.ndarray) -> np.ndarray:
    """The parameter in `array`, a tensor of file_shape; a view: what is written into it is written there."""
    if self.kind == "linear":
      array = array.T
    else:
      width = array.shape[-1] // self.of
      array = array[..., self.index * width : (self.index + 1) * width]
    return array.reshape(self.shape)  # only axes are split, so nothing is copied


def slots(family: Family, head: Head, config, declarations: Mapping, shapes: Mapping, prefix: str) -> dict:
  """path -> the Slots of its layers, in order (one for a parameter that has no L). `shapes` are the parameters'."""
  table = {}
  for path, one in declarations.items():
    part = name_of(family, head, path, prefix, config.gated)
    if part is None:
      raise LookupError(f"{family.model_type} has no name for {path}")
    letters, sizes = one.letters, list(shapes[path].shape)
    if stacked := letters.startswith("L"):
      letters, sizes = letters[1:], sizes[1:]
    sizes = tuple(config.V if letter == "V" else size for letter, size in zip(letters, sizes, strict=True))
    kind = dict(matrix="linear", embedding="table", vector="vector")[one.kind]
    if part.whole:
      kind = "row"
    elif kind == "linear" and stacked and family.conv1d:
      kind = "conv1d"
    fields = dict(shape=sizes, ins=len(one.ins), kind=kind, index=part.index, of=part.of)
    layers = range(shapes[path].shape[0]) if stacked else [0]
    table[path] = [Slot(part.name.replace("{l}", str(n)), **fields) for n in layers]
  return table
