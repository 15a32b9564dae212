"""A state's leaves by slash-joined path: flat, nested, described, compared, copied, and hashed (STATEHASH)."""

import numpy as np
import xxhash

from fmjax.errors import FmjaxError


def flatten(tree):
  """(slash-joined paths, leaves, treedef), in the tree's own order."""
  import jax

  pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
  paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
  return paths, [leaf for _, leaf in pairs], treedef


def by_path(tree) -> dict:
  paths, leaves, _ = flatten(tree)
  return dict(sorted(zip(paths, leaves, strict=True)))


def describe(flat: dict) -> dict:
  return {path: [str(leaf.dtype), list(leaf.shape)] for path, leaf in flat.items()}


def nested(flat: dict) -> dict:
  tree = {}
  for path, leaf in flat.items():
    *branches, name = path.split("/")
    at = tree
    for branch in branches:
      at = at.setdefault(branch, {})
    at[name] = leaf
  return tree


def statehash(state) -> str:
  """xxh3-128 of names, dtypes, shapes and values: independent of mesh, disk layout and library versions.

  Every machine that JAX runs on is little-endian, so memory order is the order that is hashed.
  """
  hash_ = xxhash.xxh3_128()
  for path, leaf in by_path(state).items():
    array = np.asarray(leaf)
    hash_.update(f"{path} {array.dtype} {','.join(map(str, array.shape))}\n".encode())
    hash_.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return hash_.hexdigest()


def snapshot(state) -> dict[str, np.ndarray]:
  """The leaves in the host's own memory: on CPU `np.asarray` shows the device's buffer, which a step may donate."""
  flat = by_path(state)
  for leaf in flat.values():
    leaf.copy_to_host_async()
  arrays = {path: np.asarray(leaf) for path, leaf in flat.items()}
  return {path: array if array.flags.owndata else array.copy() for path, array in arrays.items()}


def compare(path, saved: dict, wanted: dict, names):
  """Raises CHECKPOINT_MISMATCH if one of `names` is not in both with the same dtype and shape."""
  differing = sorted(
    (name for name in names if saved.get(name) != wanted.get(name)), key=lambda n: (n[:3] == "opt", n)
  )
  if not differing:
    return

  def words(tree, name):
    return "{}{}".format(*tree[name]) if name in tree else "nothing"

  raise FmjaxError(
    "CHECKPOINT_MISMATCH",
    f"{len(differing)} of the checkpoint's and this config's arrays differ",
    rows=[f"{name}: saved {words(saved, name)}, wanted {words(wanted, name)}" for name in differing[:3]],
    where=path,
    fix="use the config that the run was started with, or another --workdir",
  )
