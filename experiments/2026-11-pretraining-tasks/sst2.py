"""SST-2 (Socher et al. 2013): sentences of film reviews and whether they praise, as rows of tokens and as batches."""

import pathlib

import numpy as np

from fmjax.objectives.objective import padded

SPLITS = ("train", "dev", "test")
STEP = 32  # lengths of batches are multiples of it: few programs are compiled, and little is padding
POOL = 16  # batches whose sentences are sorted by length together


def read(folder) -> dict:
  """{split: (sentences, labels int32 [n])} of FOLDER/SPLIT.tsv, a sentence, a tab and 0 or 1 a line."""
  found = {}
  for split in SPLITS:
    path = pathlib.Path(folder) / f"{split}.tsv"
    if not path.is_file():
      raise SystemExit(f"{path} is missing: --data is the folder of SST-2's train.tsv, dev.tsv and test.tsv")
    lines = [line.rsplit("\t", 1) for line in path.read_text().splitlines()]
    found[split] = [text for text, _ in lines], np.array([label for _, label in lines], np.int32)
  return found


def rows(sentences: list[str], trained) -> list[np.ndarray]:
  """The tokens of each sentence, with around it what the model of `trained` had around a text when it was trained."""
  objective, length = trained.config.objective, trained.config.data.sequence_length
  vocabulary = trained.tokenizer.vocabulary(objective.needs(length))
  if "cls" in objective.needs(length):
    before, after = [vocabulary["cls"]], [vocabulary["sep"]]
  else:  # a decoder's document follows the end of another, a source is closed
    before, after = ([vocabulary.end], []) if trained.config.model.kind == "decoder" else ([], [vocabulary.end])
  most = length - len(before) - len(after)
  encoded = trained.tokenizer.encode_all(sentences)
  return [np.concatenate([before, tokens[:most], after]).astype(np.int32) for tokens in encoded]


def batch(rows: list[np.ndarray], labels: np.ndarray, size: int) -> dict:
  """tokens, segments [B, T]; labels, weights [B], of `size` rows; those that are lacking are empty and weigh 0."""
  length = -(-max(map(len, rows)) // STEP) * STEP
  rows = rows + [np.empty(0, np.int32)] * (size - len(rows))
  return dict(
    tokens=np.stack([padded(row, length) for row in rows]),
    segments=np.stack([padded(np.ones(len(row)), length) for row in rows]),
    labels=padded(labels, size),
    weights=(np.arange(size) < len(labels)).astype(np.float32),
  )


def in_order(rows: list[np.ndarray], size: int) -> list[np.ndarray]:
  """The numbers of all rows, the shorter first, `size` at a time."""
  order = np.argsort([len(row) for row in rows], kind="stable")
  return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled(rows: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
  """The numbers of rows in random batches of `size` and of similar lengths; the few that are left over are out."""
  order, lengths, found = rng.permutation(len(rows)), np.array([len(row) for row in rows]), []
  for start in range(0, len(order) // size * size, POOL * size):
    pool = order[start : start + POOL * size]
    pool = pool[np.argsort(lengths[pool], kind="stable")]
    found += [pool[first : first + size] for first in range(0, len(pool) // size * size, size)]
  return [found[number] for number in rng.permutation(len(found))]
