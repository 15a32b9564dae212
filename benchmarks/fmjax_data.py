"""Our side of `data.py`: batches of the standard library's tokens, its preparation, and a large index."""

import argparse
import json
import os
import pathlib
import sysconfig
import tempfile
import time

import numpy as np

from fmjax import data
from fmjax.corpus import DataConfig
from fmjax.data import cache as caches
from fmjax.data import preparation, sources, tokenizers
from fmjax.objectives import MaskedToken, NextToken, SpanCorruption

T, B, SECONDS = 512, 64, 2.0
OBJECTIVES = {
  "packed": (NextToken(), True),
  "windows": (NextToken(), False),
  "masked": (MaskedToken(), False),
  "whole_word": (MaskedToken(whole_word=True), False),
  "pairs": (MaskedToken(pairs="next"), False),
  "span": (SpanCorruption(), False),
}


def prepared(name: str, cache: str):
  objective, packed = OBJECTIVES[name]
  return data.prepare(DataConfig(sequence_length=T, packed=packed, vocab_size=8192, cache=cache), objective)


def read(args):
  """Tokens a second, a value a round: places of the batch that hold a token of the text."""
  batches = data.Batches(prepared(args.objective, args.cache), "train", B, seed=0)
  batches[0]
  found, step = [], 1
  for _ in range(args.rounds):
    start, tokens = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
      tokens += real(batches[step])
      step += 1
    found.append(tokens / (time.perf_counter() - start))
  return dict(tokens_per_second=found)


def real(batch: dict) -> int:
  """Tokens that were read for the batch."""
  if "source_tokens" in batch:
    return int((batch["source_segments"] != 0).sum()) + int(batch["weights"].sum())
  return int((batch["segments"] != 0).sum()) if "segments" in batch else batch["tokens"].size


def dump(args):
  """The train split's tokens, for the peers."""
  made = prepared("windows", args.cache)
  split = made.splits["train"][0]
  (tokens,) = split.streams["text"].read([(0, len(split.streams["text"]))])
  np.save(pathlib.Path(args.folder) / "tokens.npy", tokens)
  return dict(tokens=len(tokens))


def prepare(args):
  """MB of text a second by the tokenizer's library alone, and to tokens on disk."""
  texts = [file.read_text(errors="ignore") for file in pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")]
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    size = 0
    with open(folder / "texts.jsonl", "w") as file:
      while size < 124 << 20:
        for text in texts:
          file.write(json.dumps(dict(text=text)) + "\n")
          size += len(text.encode())
    tokenizer = tokenizers.train(args.kind, texts, 8192)
    tokenizer.save(folder / "own")
    config = DataConfig(
      source="jsonl", path=str(folder / "texts.jsonl"), tokenizer="bytes", cache=str(folder / "cache")
    )
    documents = [
      text for part in sources.parts(config, 0.1) for document in part.documents() for text in document.texts
    ]
    start = time.perf_counter()
    for first in range(0, len(documents), 256):
      tokenizer.encode_all(documents[first : first + 256])
    raw = time.perf_counter() - start
    tokenizer.save_pretrained(folder / "published")
    path = folder / ("own/tokenizer.model" if args.kind == "sentencepiece" else "published")
    config = DataConfig(
      source="jsonl", path=str(folder / "texts.jsonl"), tokenizer=str(path), cache=str(folder / "cache")
    )
    start = time.perf_counter()
    preparation.prepare(config)
    return dict(raw=size / 1e6 / raw, prepared=size / 1e6 / (time.perf_counter() - start))


def large(cache: str) -> DataConfig:
  return DataConfig(source="text", path=str(pathlib.Path(cache) / "text.txt"), tokenizer="bytes", sequence_length=T,
                    packed=True, cache=cache)  # fmt: skip


SHARDS, SHARD_TOKENS, DOCUMENT = 100, 50_000_000, 500


def synthesise(args):
  """A prepared folder of 5 billion tokens: one real shard under many names, and the lengths of its documents."""
  from fmjax.data import streams

  (pathlib.Path(args.cache) / "text.txt").write_text("some text\n" * 1000)
  small = data.prepare(large(args.cache))
  tokens = small.splits["train"][0].tokens
  folder, rng = tokens.folder, np.random.default_rng(0)
  (folder / "train-text-00000.arrayrecord").unlink()
  writer = streams.Writer(folder / "train-text-00000.arrayrecord", np.dtype("<u2"))
  for _ in range(SHARD_TOKENS // 1_000_000):
    writer.write([rng.integers(0, 256, 1_000_000).astype(np.int32)])
  writer.close()
  for number in range(1, SHARDS):
    os.link(folder / "train-text-00000.arrayrecord", folder / f"train-text-{number:05d}.arrayrecord")
  total = SHARDS * SHARD_TOKENS
  lengths = rng.geometric(1 / DOCUMENT, total // DOCUMENT + 10_000_000).astype(np.uint32) + 1
  lengths = lengths[: np.searchsorted(np.cumsum(lengths, dtype=np.int64), total)]
  lengths[-1] += total - int(lengths.sum(dtype=np.int64))
  np.save(folder / "train-text.lengths.npy", lengths)
  facts = tokens.facts
  facts["columns"]["train-text"] |= dict(documents=len(lengths), tokens=total, part_tokens=[SHARD_TOKENS] * SHARDS)
  (folder / caches.META).write_text(json.dumps(caches.seal(caches.measure(folder, sizes_only=True), facts)))
  start = time.perf_counter()
  data.prepare(large(args.cache))
  return dict(tokens=total, bytes=2 * total, documents=len(lengths), plan_seconds=time.perf_counter() - start)


def start(args):
  """A first batch, and the seconds of seeks in an open loader."""
  batches = data.Batches(data.prepare(large(args.cache)), "train", B, seed=0)
  batches[0]
  seeks = []
  for step in range(1_000_000, 1_000_010):
    begin = time.perf_counter()
    batches[step]
    seeks.append(time.perf_counter() - begin)
  return dict(seeks=seeks[:1])


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("what", choices=["read", "dump", "prepare", "synthesise", "start"])
  parser.add_argument("--objective", choices=OBJECTIVES)
  parser.add_argument("--kind")
  parser.add_argument("--cache")
  parser.add_argument("--folder")
  parser.add_argument("--rounds", type=int, default=1)
  args = parser.parse_args()
  print(json.dumps(globals()[args.what](args)))


if __name__ == "__main__":
  main()
