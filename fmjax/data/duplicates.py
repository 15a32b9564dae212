"""Documents that a source has more than once: equal ones, and near-duplicates by MinHash (Broder 1997).

As in Lee et al. 2022 (arXiv:2107.06499, section 4.2) two documents are near-duplicates when the Jaccard similarity
of their sets of 5-grams of words is high. Of a document's set each of 256 permutations keeps the least member; two
documents agree on one with probability J. Documents that agree on a whole band of them are candidates, and are
compared by all 256. (They have 9,000 hashes in 450 bands of 20, which find J = 0.8 with probability 0.994; 32 bands
of 8 find it with 0.997, and estimate J with a standard deviation of 0.025.)

There are two phases. `signatures` sees one part's texts alone; `survivors` sees all signatures and no text. The first
of several duplicates, in the order of parts and documents, stays.
"""

import dataclasses
import os
import unicodedata

import numpy as np
import xxhash

from fmjax.cleaning import Cleaning
from fmjax.data.words import MULTIPLIER, mixed, runs, words

WORDS = 5
HASHES = 256
RECALL = 0.95  # with which two documents at the threshold are candidates
SHINGLES = 1024  # that are permuted at once: [HASHES, SHINGLES] fits a core's cache
HUBS = 100  # of one band's equal documents, with which the others are compared
ROWS = 1 << 14  # pairs that are compared at once
NONE = np.uint16(0xFFFF)  # in all places: a text without words

_generator = np.random.default_rng(0x5EED)
# x -> a x + b modulo 2**32 with an odd a: a permutation.
SLOPES_H1 = _generator.integers(0, 1 << 32, (HASHES, 1), np.uint32) | np.uint32(1)
OFFSETS_H1 = _generator.integers(0, 1 << 32, (HASHES, 1), np.uint32)


def signatures(texts, cleaning: Cleaning) -> np.ndarray:
  """A record a text [texts] with the fields that `cleaning` asks for: "exact" uint64 [2], "near" uint16 [HASHES]."""
  texts = list(texts)
  fields = [("exact", "<u8", 2)] if cleaning.exact_duplicates else []
  fields += [("near", "<u2", HASHES)] if cleaning.near_duplicates is not None else []
  found = np.zeros(len(texts), fields)
  for row, text in enumerate(texts):
    if cleaning.exact_duplicates:
      found["exact"][row] = exact(text)
    if cleaning.near_duplicates is not None:
      found["near"][row] = near(text)
  return found


def exact(text: str) -> np.ndarray:
  """uint64 [2]: xxh3-128 of the text, whatever its spaces and line ends, and however its accents are composed."""
  content = " ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8", "surrogatepass")
  return np.frombuffer(xxhash.xxh3_128_digest(content), "<u8")


def near(text: str) -> np.ndarray:
  """uint16 [HASHES]: 16 bits of the least member of each permuted set (Li and König 2010); NONE without words.

  A text of fewer than WORDS words is one run of them.
  """
  found = words(text)
  shingles = (runs(found, min(WORDS, len(found))) if len(found) else found).astype(np.uint32)
  least_H = np.full(HASHES, 0xFFFFFFFF, np.uint32)
  for start in range(0, len(shingles), SHINGLES):
    np.minimum(least_H, (SLOPES_H1 * shingles[start : start + SHINGLES] + OFFSETS_H1).min(1), out=least_H)
  return (least_H ^ (least_H >> np.uint32(16))).astype(np.uint16) if len(shingles) else np.full(HASHES, NONE)


def similarity(one_RH: np.ndarray, other_RH: np.ndarray) -> np.ndarray:
  """Estimates [R] of the Jaccard similarity of two documents a row, by their signatures."""
  return (one_RH == other_RH).mean(1)


def survivors(parts: list[np.ndarray], cleaning: Cleaning) -> list[np.ndarray]:
  """Of each part's signatures a bool [documents]: False where an earlier document is a duplicate."""
  ends = np.cumsum([len(part) for part in parts])
  every = np.concatenate(parts)
  group_D = np.arange(len(every))  # the number of the first document of its kind
  if cleaning.exact_duplicates:
    join(group_D, [equal(every["exact"])])
  if cleaning.near_duplicates is not None:
    near_DH = every["near"]
    rows = rows_of_band(cleaning.near_duplicates)
    bands = (band(near_DH[:, first : first + rows]) for first in range(0, HASHES, rows))
    some = (near_DH != NONE).any(1)
    join(group_D, (links(keys_D, some, near_DH, cleaning.near_duplicates) for keys_D in bands))
  return np.split(group_D == np.arange(len(every)), ends[:-1])


def rows_of_band(threshold: float) -> int:
  """The most rows a band, for the fewest candidates, with which RECALL is kept: 1 - (1 - J^rows)^bands."""
  sizes = [size for size in (32, 16, 8, 4, 2) if 1 - (1 - threshold**size) ** (HASHES // size) >= RECALL]
  return sizes[0] if sizes else 1


def band(rows_DR: np.ndarray) -> np.ndarray:
  """uint64 [D]: equal where the rows are."""
  total_D = np.zeros(len(rows_DR), np.uint64)
  for column_D in rows_DR.T:
    total_D *= MULTIPLIER
    total_D += column_D
  return mixed(total_D)


def equal(exact_D2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(first, later) of equal pairs, a pair for each later document."""
  order = np.lexsort(exact_D2.T)
  begins = np.r_[True, (exact_D2[order][1:] != exact_D2[order][:-1]).any(1)][: len(order)]
  return first_of_run(order, begins)[~begins], order[~begins]


def first_of_run(order: np.ndarray, begins: np.ndarray) -> np.ndarray:
  return order[np.flatnonzero(begins)][np.cumsum(begins) - 1]


def links(keys_D: np.ndarray, some_D: np.ndarray, near_DH: np.ndarray, threshold: float):
  """(first, later) of the pairs with one key whose similarity reaches the threshold.

  All are compared with the first of their key; those that are not like it, with the first of them; and so on.
  """
  order = np.flatnonzero(some_D)
  order = order[np.argsort(keys_D[order], kind="stable")]
  found = []
  for _ in range(HUBS):
    keys = keys_D[order]
    begins = np.r_[True, keys[1:] != keys[:-1]][: len(order)]
    hubs, others = first_of_run(order, begins)[~begins], order[~begins]
    if not len(others):
      break
    chunks = [slice(start, start + ROWS) for start in range(0, len(others), ROWS)]
    like = np.concatenate([similarity(near_DH[hubs[own]], near_DH[others[own]]) for own in chunks]) >= threshold
    found.append((hubs[like], others[like]))
    order = others[~like]
  return tuple(np.concatenate([pairs[side] for pairs in found] or [[]]).astype(np.int64) for side in (0, 1))


def join(group_D: np.ndarray, pairs):
  """Makes each document's group, in place, the least that any chain of pairs leads to."""
  for first, later in pairs:
    while (group_D[first] != group_D[later]).any():
      roots = np.concatenate([group_D[first], group_D[later]])
      np.minimum.at(group_D, roots, np.tile(np.minimum(group_D[first], group_D[later]), 2))
      while (group_D != group_D[group_D]).any():
        group_D[:] = group_D[group_D]


def marked(tasks: list, runner, progress) -> list:
  """The tasks (of `tokenising`, of one source) with `keep`, a file that says which of a part's documents survive."""
  kept = [dataclasses.replace(task, keep=task.folder / f"part-{task.number:05d}.keep.npy") for task in tasks]
  if not all(task.keep.exists() for task in kept):
    progress.stage("looking for duplicates", sum(task.part.bytes for task in tasks))
    runner(sign, tasks, lambda task: progress.advance(task.part.bytes))
    found = survivors([np.load(signed(task)) for task in tasks], tasks[0].cleaning)
    for task, survives in zip(kept, found):
      write(task.keep, survives)
  for task in tasks:
    signed(task).unlink(missing_ok=True)
  return kept


def signed(task):
  return task.folder / f"part-{task.number:05d}.signatures.npy"


def sign(task):
  """Writes the signatures of the part's documents, unless they are there."""
  if not signed(task).exists():
    write(signed(task), signatures((document.text for document in task.part.documents()), task.cleaning))


def write(path, array: np.ndarray):
  with open(path.with_suffix(".partial"), "wb") as file:
    np.save(file, array)
  os.replace(path.with_suffix(".partial"), path)
