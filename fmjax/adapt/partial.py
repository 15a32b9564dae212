"""Ways to adapt a model that put nothing beside it: they say which of its own parameters train."""

import dataclasses
from typing import Literal

from fmjax.adapt.method import Method
from fmjax.laws import at_least


@dataclasses.dataclass(frozen=True)
class Full(Method):
  """Every parameter trains."""

  name: Literal["full"] = "full"

  def trains(self, path, declared):
    return True


@dataclasses.dataclass(frozen=True)
class HeadOnly(Method):
  """The body is as it was; the head, and a pooler that is new, train."""

  name: Literal["head"] = "head"


@dataclasses.dataclass(frozen=True)
class BitFit(Method):
  """Biases, those of norms among them (Ben Zaken et al. 2022, arXiv:2106.10199)."""

  name: Literal["bitfit"] = "bitfit"

  def trains(self, path, declared):
    return path.endswith("bias")


@dataclasses.dataclass(frozen=True)
class Features(Method):
  """The body is as it was; what it gives of each text is computed once, and the head fitted to it until it converges.

  The head is a logistic regression; train.steps, batch order and the optimizer play no part.
  """

  name: Literal["features"] = "features"
  l2: float | None = None  # times half of the squared weights, beside the mean loss; None: 1 / examples

  def laws(self):
    yield from at_least(self, 0, "l2")
