"""What a model is shown: the rows of one batch as text, with masks and targets in colour, and how full they are.

Nothing here touches a device: a batch is numpy until it is placed.
"""

import itertools
from typing import NamedTuple

import numpy as np

from fmjax.data.dataset import Prepared
from fmjax.data.loader import Batches
from fmjax.errors import FmjaxError

# One style each for what stands in the input, what is to be predicted, and what only fills.
STYLES = dict(plain="", target="bold green", masked="bold red", context="dim", padding="bright_black")


class Piece(NamedTuple):
  text: str
  style: str  # a key of STYLES


class Facts(NamedTuple):
  """Of one batch: shares of its places, and rows by source."""

  tokens: int
  filled: float
  predicted: float
  documents: float  # a row
  sources: dict[str, int]


def rows_of(batch: dict, prepared: Prepared) -> list[list[tuple[str, list[Piece]]]]:
  """Each row as lines (what it is, its pieces)."""
  show, names = prepared.tokenizer.show, getattr(prepared.objective, "labels", None)
  rows = [{name: array[row] for name, array in batch.items()} for row in range(len(batch["tokens"]))]
  return [lines(row, show, names) for row in rows]


def lines(row: dict, show, names: tuple[str, ...] | None = None) -> list[tuple[str, list[Piece]]]:
  """`names` are those of the labels, where they have any."""
  found = []
  for prefix in ("source_", "other_"):
    if f"{prefix}tokens" in row:
      tokens, real = row[f"{prefix}tokens"], row.get(f"{prefix}segments")
      found.append((prefix.strip("_"), pieces(tokens, real, show)))
  if "places" in row:
    found.append(("tokens", masked(row, show)))
  elif "targets" in row:
    found.append(("targets", predicted(row, show)))
  else:
    found.append(("tokens", pieces(row["tokens"], row.get("segments"), show)))
  if "labels" in row:
    found.append(("label", labelled(row["labels"], names, row.get("weights"))))
  return found


def labelled(labels, names, weights) -> list[Piece]:
  """A label by its name; of a row that has several those that count."""
  counts = weights if np.shape(weights) == np.shape(labels) else np.ones(np.shape(labels))
  every = np.ravel(labels)[np.ravel(counts) != 0]
  texts = [names[one] if names and one.dtype.kind == "i" else f"{one:g}" for one in every]
  return [Piece(" ".join(texts), "target")]


def pieces(tokens, real, show) -> list[Piece]:
  filled = np.ones(len(tokens), bool) if real is None else real != 0
  return [Piece(text, "plain" if here else "padding") for text, here in zip(show(tokens), filled)]


def masked(row: dict, show) -> list[Piece]:
  """The tokens; behind each that is to be predicted stands what it was."""
  made = pieces(row["tokens"], row["segments"], show)
  wanted = {
    int(place): text for place, text, weight in zip(row["places"], show(row["targets"]), row["weights"]) if weight
  }
  found = []
  for place, piece in enumerate(made):
    found += [Piece(piece.text, "masked"), Piece(f"({wanted[place]})", "target")] if place in wanted else [piece]
  return found


def predicted(row: dict, show) -> list[Piece]:
  """The targets, behind the first token of each document; those without weight are context."""
  real = row["segments"] if "segments" in row else np.ones(len(row["tokens"]), np.int32)
  begins = np.diff(real, prepend=0) != 0
  tokens, targets, found = show(row["tokens"]), show(row["targets"]), []
  used = np.flatnonzero(row["weights"])
  last = used[-1] if len(used) else -1
  for place, (token, target) in enumerate(zip(tokens, targets)):
    if begins[place] and real[place]:
      found.append(Piece(token, "context"))
    style = "padding" if place > last or not real[place] else "target" if row["weights"][place] else "context"
    found.append(Piece(target, style))
  return found


def filled(batch: dict, name: str) -> np.ndarray:
  """Which places of the tokens `name` hold a token of the text."""
  mask = batch.get(name.replace("tokens", "segments"))
  if mask is None and name == "tokens" and np.shape(batch.get("weights")) == batch[name].shape:
    mask = batch["weights"]
  return np.ones(batch[name].shape, bool) if mask is None else mask != 0


def facts(batch: dict, batches: Batches, step: int) -> Facts:
  names = [name for name in batch if name.endswith("tokens")]
  places = sum(batch[name].size for name in names)
  real = sum(int(filled(batch, name).sum()) for name in names)
  targets = int((batch["weights"] != 0).sum()) if "weights" in batch else 0
  segments = batch.get("segments")
  documents = 1.0 if segments is None else float(segments.max(1).mean())
  names = batches.prepared.names
  rows = [one[0] if isinstance(one, tuple) else names[0] for one in batches.records(step)]
  return Facts(places, real / places, targets / max(real, 1), documents, {name: rows.count(name) for name in names})


def text_of(prepared: Prepared, batch_size: int, seed: int, step: int, limit: int):
  """rich's Text of batch `step` of train: `limit` rows of it, and what the whole holds."""
  from rich.text import Text

  batches = Batches(prepared, "train", batch_size, seed)
  if not 0 <= step < batches.end or limit < 0:
    raise FmjaxError("USAGE", "there is no such batch, or no such number of rows",
                     got=f"--step={step} --rows={limit}",
                     expected=f"a step from 0 to {batches.end - 1}, 0 rows or more")  # fmt: skip
  batch = batches[step]
  text = Text()
  for number, row in enumerate(rows_of(batch, prepared)[:limit]):
    for name, own in row:
      text.append(f"{step}.{number} {name:<8}", "bold blue")
      for style, run in itertools.groupby(own, key=lambda piece: piece.style):
        texts = [piece.text for piece in run]
        text.append(f" {len(texts)} of padding" if style == "padding" else "".join(texts), STYLES[style])
      text.append("\n")
  found = facts(batch, batches, step)
  text.append(
    f"\nbatch {step:,}: {found.tokens:,} places, {found.filled:.1%} filled, {1 - found.filled:.1%} padding,"
  )
  text.append(f" {found.predicted:.1%} predicted, {found.documents:.1f} documents a row\n")
  for name, count in found.sources.items():
    text.append(f"  {name}: {count} of {batch_size} rows\n")
  return text
