"""How well a model predicts the text of a file: loss, perplexity and bits per byte, by a window that slides.

Each window takes up where the last one ended and looks back as far as its length allows: with a stride of half the
length, every token but the first few has half a window or more before it. So does transformers' guide on the
perplexity of fixed-length models.
"""

import json
import math
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from fmjax.data.sources import read_text
from fmjax.decode.prompts import bucket
from fmjax.errors import FmjaxError
from fmjax.evaluate import evaluate, step_of
from fmjax.objectives.next_token import NextToken
from fmjax.scoring.likelihood import LanguageModel, batch_rows, load

LENGTH = 2048  # of a window, where the model has more positions and nothing else is asked


def contents(path) -> str:
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    what = "is a folder, not a file" if path.is_dir() else "there is no such file"
    raise FmjaxError("DATA_MISSING", what, where=path, fix="give --data=FILE, a text or a .jsonl file")
  text = read_text(path)
  if not text.strip():
    raise FmjaxError("DATA_BAD", "the text is empty", where=path, fix="give a file with text in it")
  return text


def read(path, names: tuple[str, ...]) -> list[tuple[str, ...]]:
  """The documents of a file: of each line of JSONL the texts called `names`; any other file is one document."""
  text = contents(path)
  if str(path).endswith(".jsonl"):
    lines = enumerate(text.split("\n"), 1)
    return [record(line, names, f"{path} line {number}") for number, line in lines if line.strip()]
  if len(names) > 1:
    raise FmjaxError("DATA_BAD", "an encoder_decoder is scored on pairs of texts", where=path,
                     expected='a .jsonl file of {"source": ..., "target": ...}')  # fmt: skip
  return [(text,)]


def record(line: str, names, where: str) -> tuple[str, ...]:
  try:
    found = json.loads(line)
    texts = tuple(found[name] for name in names)
    if all(isinstance(text, str) for text in texts):
      return texts
    error = f"{names} must be texts"
  except (ValueError, KeyError, TypeError) as caught:
    error = f"{type(caught).__name__}: {caught}"
  wanted = ", ".join(f'"{name}": TEXT' for name in names)
  raise FmjaxError("DATA_BAD", "a line of the file is not such an object", where=where, expected=f"{{{wanted}}}",
                   got=error)  # fmt: skip


def windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
  """(begin, end, first token that is scored) of each window over a document of so many tokens."""
  scored = 0
  for begin in range(0, tokens, stride):
    end = min(begin + length, tokens)
    yield begin, end, max(scored, begin + 1)  # a window's first token has nothing before it
    scored = end
    if end == tokens:
      return


def causal_rows(documents: list[list[int]], length: int, stride: int) -> list[dict]:
  """A row for each window: tokens, targets, weights, as wide as its document's longest window needs."""
  rows = []
  for ids in documents:
    T = min(bucket(len(ids), parts=1), length)
    for begin, end, first in windows(len(ids), length, stride):
      row = dict(tokens=np.zeros(T, np.int32), targets=np.zeros(T, np.int32), weights=np.zeros(T, np.float32))
      row["tokens"][: end - begin] = ids[begin:end]
      row["targets"][: end - begin - 1] = ids[begin + 1 : end]
      row["weights"][first - begin - 1 : end - begin - 1] = 1
      rows.append(row)
  return rows


def pair_rows(pairs, start: int, length: int | None) -> list[dict]:
  """A row for each pair of source and target, whose tokens follow `start`."""
  longest = max(len(ids) for pair in pairs for ids in pair)
  if length and longest > length:
    raise FmjaxError("DATA_BAD", f"a text has {longest} tokens, the model {length} positions",
                     fix="shorten it: pairs are scored whole")  # fmt: skip
  rows = []
  for source, target in pairs:
    S, T = (min(bucket(len(ids), parts=1), length or len(ids) * 2 + 16) for ids in (source, target))
    row = dict(source_tokens=filled(source, S), source_segments=filled([1] * len(source), S))
    row |= dict(tokens=filled([start, *target[:-1]], T), targets=filled(target, T))
    rows.append(dict(row, weights=filled([1] * len(target), T).astype(np.float32)))
  return rows


def filled(ids, width: int):
  row = np.zeros(width, np.int32)
  row[: len(ids)] = ids
  return row


def batches(rows: list[dict]) -> Iterator[tuple[int, dict]]:
  """(number, batch) of rows of equal shapes; rows that fill the last of a shape have weight 0."""
  groups = {}
  for row in rows:
    groups.setdefault(tuple(len(x) for x in row.values()), []).append(row)
  for shape, group in sorted(groups.items(), reverse=True):  # what needs most memory first
    size = batch_rows(len(group), max(shape), None)
    for start in range(0, len(group), size):
      part = group[start : start + size]
      fill = [dict(part[0], weights=np.zeros_like(part[0]["weights"]))] * (size - len(part))
      yield start, {name: np.stack([row[name] for row in part + fill]) for name in part[0]}


def chosen(subject: LanguageModel, length: int | None, stride: int | None) -> tuple[int, int]:
  """(length, stride) of the window, by default the model's positions up to LENGTH, and half of it."""
  limit = subject.positions
  if length is None:
    length = min(limit or LENGTH, LENGTH)
  if length < 2 or length > (limit or length):
    raise FmjaxError("USAGE", f"--length={length} is no window of this model", expected=f"2 to {limit or 'any'}")
  if stride is None:
    stride = max(1, length // 2)
  if not 1 <= stride <= length:
    raise FmjaxError("USAGE", f"--stride={stride} leaves tokens out", expected=f"1 to {length}, the window's length")
  return length, stride


def evaluate_text(name: str, path, length: int | None, stride: int | None) -> dict:
  """The table of the model that a SPEC names. A file that cannot be read is found out before the model is loaded."""
  contents(path)
  return {"model": name, **table(load(name), path, length, stride)}


def table(subject: LanguageModel, path, length: int | None = None, stride: int | None = None) -> dict:
  """Names and values for a person: how the file was read, then the numbers."""
  both, tokenizer = subject.model.config.kind == "encoder_decoder", subject.tokenizer
  documents = read(path, ("source", "target") if both else ("text",))
  encoded = [tuple(subject.encode(text) for text in document) for document in documents]
  facts = dict(text=f"{path}: {len(documents):,} document" + "s" * (len(documents) > 1))
  if both:
    if length or stride:
      raise FmjaxError("USAGE", "--length and --stride are a decoder's: pairs of texts are scored whole")
    rows, first = pair_rows(encoded, subject.start, subject.positions), None
    facts["begins_with"] = f"token {subject.start}, the decoder's start"
  else:
    length, stride = chosen(subject, length, stride)
    rows = causal_rows([ids for (ids,) in encoded], length, stride)
    first = encoded[0][0][0] if encoded[0][0] != list(tokenizer.encode(documents[0][0])) else None
    facts["window"] = f"{length} tokens of {subject.positions or 'any number'}, stride {stride}"
    nothing = "nothing: the first token of a document is not scored"
    facts["begins_with"] = nothing if first is None else f"token {first} before each document, itself not scored"
  tokens = sum(len(document[-1]) - (first is not None) for document in encoded)
  size = sum(len(document[-1].encode()) for document in documents)
  scored = int(sum(row["weights"].sum() for row in rows))
  if not scored:
    raise FmjaxError("DATA_BAD", "the text has no token to score", where=path, got=f"{tokens} in all")
  facts |= dict(bytes=f"{size:,}", tokens=f"{tokens:,}", scored=f"{scored:,}")
  with jax.set_mesh(subject.mesh):
    # Where first tokens are not scored, a byte costs what it does in the others.
    row = evaluate(step_of(subject.model, NextToken()), subject.params, dict(text=batches(rows)), size / tokens)
  numbers = {"eval/loss": row["eval/loss"], "eval/perplexity": math.exp(min(row["eval/loss"], 700.0)), **row}
  return facts | numbers
