"""What every way to adapt a model is: which parameters train, what is put beside them, and how that is merged."""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import xxhash

from fmjax.errors import FmjaxError
from fmjax.laws import Branch, nearest
from fmjax.leaves import by_path, nested
from fmjax.sharding import Declaration, stored

HEADS = ("head/",)  # what a task brings along, and always trains
FIXED = "fixed"  # last part of the path of a number that the layers read beside a parameter, and nobody trains


class Added(NamedTuple):
  """A parameter that a method puts beside the model's own: `make(key, params, where)` gives it, lying at `where`.

  `params` has the model's own by path.
  """

  declaration: Declaration
  shape: tuple[int, ...]
  make: Callable

  def __call__(self, key, path: str, params: dict):
    """The parameter; its bits depend on key and path alone."""
    key = jax.random.fold_in(key, xxhash.xxh32_intdigest(path.encode()))
    return self.make(key, params, stored(self.declaration.letters, self.shape))


@dataclasses.dataclass(frozen=True)
class Method(Branch):
  """Frozen dataclasses derive from it, one a way to adapt; their fields are the branch `adapt` of the config.

  A model's parameters are known by slash-joined paths, each with its Declaration. A head always trains, and so does
  what the model that is started from does not have.
  """

  new_head: bool = False  # of the same task as the one that the model starts from, whose head is left out

  def trains(self, path: str, declared: Declaration) -> bool:
    """Whether the model's own parameter trains."""
    return False

  def added(self, declarations: dict[str, Declaration], shapes: dict[str, tuple], config) -> dict[str, Added]:
    """Path -> what is put beside the parameters of a model, of these shapes and of this TransformerConfig."""
    return {}

  def model_laws(self, model):
    """Yields (field, value, law) for each of its fields that does not go with the TransformerConfig `model`."""
    return ()

  def merged(self, params: dict, declarations: dict[str, Declaration]) -> dict | None:
    """{path: array} of the model's own parameters, such that without what was added they compute the same.

    `params` has all, by path; None: no parameters of the model's own can say it.
    """
    return params


@dataclasses.dataclass(frozen=True)
class Adaptation:
  """A method at work on a model: its parameters in two trees, one that trains and one that rests.

  `fresh` are the paths that what the model starts from lacks.
  """

  method: Method
  model: object  # a models.Model
  fresh: frozenset[str] = frozenset()

  def declarations(self) -> dict[str, Declaration]:
    own = self.model.declarations()
    return own | {path: one.declaration for path, one in self.extra(own).items()}

  def extra(self, declarations) -> dict[str, Added]:
    shapes = {path: x.shape for path, x in by_path(jax.eval_shape(self.model.init, jax.random.key(0))).items()}
    own = {path: one for path, one in declarations.items() if not path.startswith(self.model.resting)}
    found = self.method.added(own, shapes, self.model.config)
    # What is new has no start to go back to, and members of a study begin it apart.
    return {path: one for path, one in found.items() if path.partition("_mixout")[0] not in self.fresh}

  def trains(self, path: str, declared: Declaration | None) -> bool:
    if path.startswith(self.model.resting) or path.endswith(f"/{FIXED}"):
      return False
    own = path in self.fresh or path.startswith(HEADS) or declared is None
    return own or self.method.trains(path, declared)

  def init(self, key, given: dict) -> tuple[dict, dict]:
    """(what trains, what rests) of a model whose parameters at the paths of `given` are those, the others new."""
    own = self.model.declarations()
    params = by_path(self.model.init(key)) | given
    params |= {path: one(key, path, params) for path, one in self.extra(own).items()}
    train = {path: x for path, x in params.items() if self.trains(path, own.get(path))}
    return nested(train), nested({path: x for path, x in params.items() if path not in train})

  def whole(self, resting: dict, training: dict) -> dict:
    """All parameters; what was put beside the model's own is merged into them, where they can say it."""
    params = by_path(joined(resting, training))
    merged = self.method.merged(params, self.model.declarations())
    return nested(params if merged is None else merged)


def joined(resting: dict, training: dict) -> dict:
  """The whole tree of what rests and what trains."""
  return nested(by_path(resting) | by_path(training)) if resting else training


def matrices(declarations: dict[str, Declaration]) -> list[str]:
  """The paths of those that are no head's."""
  return [path for path, one in declarations.items() if one.kind == "matrix" and not path.startswith(HEADS)]


def chosen(patterns: tuple[str, ...], declarations: dict[str, Declaration]) -> list[str]:
  """The paths of the matrices that one of `patterns` names: a path's last part, or a regular expression of all of it.

  Of heads none: they train whole.
  """
  every, found = matrices(declarations), {}
  for pattern in patterns:
    named = [path for path in every if path.rpartition("/")[2] == pattern or re.fullmatch(pattern, path)]
    if not named:
      names = sorted({path.rpartition("/")[2] for path in every})
      raise FmjaxError("CONFIG", f"no matrix of the model is called {pattern!r}", where="adapt",
                       fix=nearest(pattern, [*names, *every] if "/" in pattern else names))  # fmt: skip
    found |= dict.fromkeys(named)
  return list(found)
