"""A vocabulary with every special token, and what the laws of several objectives have in common."""

import functools

import jax
import numpy as np

from fmjax.objectives import OBJECTIVES
from fmjax.objectives.vocabulary import Vocabulary

END, FIRST = 1, 200  # of ordinary tokens
NAMES = ["pad", "mode_r", "mode_s", "mode_x", "fim_prefix", "fim_suffix", "fim_middle"]
SPECIAL = dict(zip(NAMES, (0, *range(2, 8)))) | {f"sentinel_{n}": 199 - n for n in range(180)}

NEEDED = dict(classification=dict(labels=("no", "yes")), tagging=dict(labels=("O", "B-X")))  # without a default


def made(name: str, **fields):
  """The objective of that name, with the fields that it cannot do without."""
  return OBJECTIVES[name](**NEEDED.get(name, {}), **fields)


@functools.cache
def vocabulary(size: int = 5000) -> Vocabulary:
  return Vocabulary(size, END, SPECIAL, np.zeros(size, bool))


def text(tokens: int, seed: int = 0, size: int = 5000) -> np.ndarray:
  """Random ordinary tokens, none twice."""
  return np.random.default_rng(seed).permutation(np.arange(FIRST, size, dtype=np.int32))[:tokens]


def packed(*documents: np.ndarray) -> dict:
  """The record of a packed row of whole documents."""
  pieces = [np.concatenate([[END], document, [END]]) for document in documents]
  tokens = np.concatenate([np.empty(0), *pieces]).astype(np.int32)
  return dict(tokens=tokens, pieces=np.array([len(piece) for piece in pieces], np.int32))


def keeps_its_promise(objective, record: dict, length: int, packed: bool = False) -> dict:
  """An example of the record, which has the shapes and dtypes that the objective says, and no tokens but its own."""
  example = objective.transform(record, np.random.default_rng(0), vocabulary=vocabulary(), length=length)
  promised = objective.batch_shapes(3, length, packed=packed)
  assert set(promised) == set(example)
  for name, one in promised.items():
    assert ((3, *example[name].shape), example[name].dtype) == (one.shape, one.dtype), name
  named = {END, *(SPECIAL[name] for name in objective.needs(length))}
  used = np.concatenate([example[name] for name in ("tokens", "targets", "source_tokens") if name in example])
  assert set(used[used < FIRST].tolist()) <= named
  return example


def sight(objective, model, params, example: dict) -> np.ndarray:
  """Bool [T, T]: whether the loss at one place has a gradient at another's token; no token may be there twice."""
  batch = {name: x[None] for name, x in example.items()}

  @jax.jit
  def gradient(weights):
    def loss(table):
      tree = {**params, "embed": {**params["embed"], "tokens": table}}
      return objective.loss(model, tree, {**batch, "weights": weights}, None, False)[0]

    return jax.grad(loss)(params["embed"]["tokens"])

  places = np.eye(len(example["tokens"]), dtype=np.float32)[:, None]
  return np.stack([np.any(jax.device_get(gradient(weights))[example["tokens"]], axis=1) for weights in places])
