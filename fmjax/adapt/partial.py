"""Ways to adapt a model that put no parameter beside it that trains: they say which of its own do."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from fmjax.adapt.method import FIXED, Added, Method, matrices
from fmjax.laws import at_least, fraction
from fmjax.sharding import Declaration


@dataclasses.dataclass(frozen=True)
class Full(Method):
  """Every parameter trains.

  With `mixout` each matrix of the layers has, at every step, that share of its entries as it began: what is learnt
  stays near to what was known (Lee et al. 2020, arXiv:1909.11299).
  """

  name: Literal["full"] = "full"
  mixout: float = 0.0

  def laws(self):
    yield from fraction(self, "mixout")

  def trains(self, path, declared):
    return True

  def added(self, declarations, shapes, config):
    found = {}
    for path in [path for path in matrices(declarations) if "blocks/" in path] if self.mixout else ():
      layers = shapes[path][:1] if declarations[path].letters.startswith("L") else ()

      def start(key, params, where, path=path):
        return params[path]

      def rate(key, params, where, layers=layers):
        return jnp.broadcast_to(jnp.array([self.mixout]), (*layers, 1), out_sharding=where)

      found[f"{path}_mixout/{FIXED}"] = Added(declarations[path], shapes[path], start)
      declared = Declaration("L" * len(layers) + "C", "", "C", "vector")
      found[f"{path}_mixout_rate/{FIXED}"] = Added(declared, (*layers, 1), rate)
    return found

  def merged(self, params, declarations):
    return {path: x for path, x in params.items() if path in declarations}


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
