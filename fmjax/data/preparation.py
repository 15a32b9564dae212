"""Preparation: documents -> token streams -> windows in ArrayRecord files, once per content.

A split's stream is `end doc end doc ... end`: every token but the first is predicted exactly once, and a document's
first token is predicted from `end`. Record i is stream[i*T : i*T + T + 1], so windows share one token and no target.
Train drops its last partial window; eval keeps it.
"""

import dataclasses
import lzma
import pathlib
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from fmjax.config import DataConfig
from fmjax.data import cache, sources
from fmjax.data import tokenizers as tk
from fmjax.data.progress import Progress
from fmjax.errors import FmjaxError

FORMAT = 1  # raised when the same sources must give different files
SPLITS = ("train", "eval")
SHARD_BYTES = 1 << 28
CHUNK = 16  # documents tokenised between two movements of the progress bar


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared data set: its folder, the fingerprint of its files, its tokenizer, and facts for people and JSON."""

  folder: pathlib.Path
  fingerprint: str
  tokenizer: tk.Tokenizer
  facts: dict

  def shards(self, split: str) -> list[str]:
    return sorted(map(str, self.folder.glob(f"{split}-*.arrayrecord")))


def token_dtype(vocab_size: int) -> np.dtype:
  """Of tokens on disk."""
  return np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")


def prepare(config: DataConfig) -> Prepared:
  """The prepared data set of `config`, made if the cache has none; the folder's name is a hash of its content."""
  documents = sources.read(config)
  hashes = {split: hash_of(getattr(documents, split)) for split in SPLITS}
  kind = address_of_tokenizer(config, hashes["train"])
  address = xxhash.xxh3_128_hexdigest(f"{FORMAT} {config.sequence_length} {kind} {hashes}".encode())
  folder = cache.root(config) / f"{config.source}-{address}"
  with Progress() as progress:
    cache.publish(folder, lambda new: build(new, config, documents, f"tokenizer-{kind}", progress), progress)
  return open_prepared(folder)


def open_prepared(folder: pathlib.Path) -> Prepared:
  """The data set in `folder`, every byte of it compared with meta.json. DATA_BAD names the file that differs."""
  fingerprint, facts = cache.verify(folder)
  return Prepared(folder, fingerprint, tk.load_tokenizer(folder), facts)


def check_fingerprint(expected: str, prepared: Prepared):
  """DATA_CHANGED unless `prepared` is the data set that has the fingerprint `expected`."""
  if prepared.fingerprint != expected:
    raise FmjaxError(
      "DATA_CHANGED",
      "the data set is not the one that this run was trained on",
      where=prepared.folder,
      expected=f"fingerprint {expected}",
      got=prepared.fingerprint,
      fix="restore the old data, or start a new run in another --workdir",
    )


def hash_of(texts) -> str:
  hasher = xxhash.xxh3_128()
  for text in texts:
    content = text.encode()
    hasher.update(len(content).to_bytes(8, "little") + content)
  return hasher.hexdigest()


def address_of_tokenizer(config: DataConfig, train_hash: str) -> str:
  """Everything that decides the tokenizer, beside the texts of both splits."""
  match config.tokenizer:
    case "bytes" | "characters":
      return config.tokenizer
    case "sentencepiece":
      return f"{config.vocab_size}-{train_hash}"
    case path:
      return tk.load_model(path).fingerprint


def make_tokenizer(config: DataConfig, documents: sources.Documents, name: str, progress: Progress) -> tk.Tokenizer:
  match config.tokenizer:
    case "bytes":
      return tk.Bytes()
    case "characters":
      return tk.Characters("".join(sorted(set().union(*documents.train, *documents.eval))))
    case "sentencepiece":
      return trained_sentencepiece(config, documents, name, progress)
    case path:
      return tk.load_model(path)


def trained_sentencepiece(config, documents, name, progress) -> tk.Tokenizer:
  """From the cache, for other sequence lengths have the same one."""

  def build_tokenizer(new):
    progress.stage(f"training a tokenizer of {config.vocab_size} pieces")
    tk.train_sentencepiece(documents.train, config.vocab_size).save(new)
    return {}

  folder = cache.root(config) / name
  cache.publish(folder, build_tokenizer, progress)
  cache.verify(folder)
  return tk.load_tokenizer(folder)


def build(folder, config: DataConfig, documents: sources.Documents, tokenizer_name: str, progress: Progress) -> dict:
  """Writes the tokenizer and both splits into `folder`; returns the facts."""
  texts = {split: getattr(documents, split) for split in SPLITS}
  with ThreadPoolExecutor(1) as background:  # xz leaves the interpreter's lock alone
    xz = background.submit(xz_bytes, "".join(documents.eval).encode())
    tokenizer = make_tokenizer(config, documents, tokenizer_name, progress)
    tokenizer.save(folder)
    streams = {split: stream_of(tokenizer, texts[split], split, progress) for split in SPLITS}
    T, facts = config.sequence_length, {}
    for split in SPLITS:
      size = sum(len(text.encode()) for text in texts[split])
      tokens = len(streams[split]) - 1  # targets: the first `end` is none
      examples = tokens // T if split == "train" else -(-tokens // T)
      facts[split] = dict(documents=len(texts[split]), bytes=size, tokens=tokens, examples=examples)
    if not facts["train"]["examples"]:
      raise too_short(config, facts["train"]["tokens"])
    progress.stage("writing examples", sum(facts[split]["examples"] for split in SPLITS))
    for split in SPLITS:
      write_windows(folder, split, streams[split], facts[split]["examples"], T, tokenizer.vocab_size, progress)
    size, tokens = facts["eval"]["bytes"], facts["eval"]["tokens"]
    unigram, xz = unigram_bits(streams, tokenizer.vocab_size), 8 * xz.result()
  return facts | dict(
    source=config.source,
    python=platform.python_version() if config.source == "stdlib" else None,
    sequence_length=T,
    tokenizer=tokenizer.kind,
    vocab_size=tokenizer.vocab_size,
    eval_bytes_per_token=size / tokens if tokens else None,
    baselines=dict(unigram=unigram / size, xz=xz / size) if size else None,
  )


def too_short(config: DataConfig, tokens: int) -> FmjaxError:
  return FmjaxError(
    "DATA_BAD",
    "the text is shorter than one example",
    where=config.path or config.source,
    expected=f"at least data.sequence_length={config.sequence_length} tokens to train on",
    got=f"{tokens} ({1 - config.eval_fraction:.0%} of the text, and an end)",
    fix="give more text, or set data.sequence_length lower",
  )


def stream_of(tokenizer: tk.Tokenizer, texts, split: str, progress: Progress) -> np.ndarray:
  end = np.array([tokenizer.end], np.int32)
  parts = [end]
  progress.stage(f"tokenising {len(texts)} documents of the {split} split", len(texts))
  for i in range(0, len(texts), CHUNK):
    for ids in tokenizer.encode_all(texts[i : i + CHUNK]):
      parts += [ids, end]
    progress.advance(CHUNK)
  return np.concatenate(parts)


def write_windows(folder, split: str, stream, examples: int, T: int, vocab_size: int, progress: Progress):
  from array_record.python.array_record_module import ArrayRecordWriter

  stream = stream.astype(token_dtype(vocab_size))
  per_shard = max(1, SHARD_BYTES // (stream.itemsize * (T + 1)))
  for shard, first in enumerate(range(0, examples, per_shard)):
    # One record a group: a random read touches one record. Uncompressed: 12 bits of 16 are noise to a compressor,
    # and the same tokens give the same bytes whatever version of one is installed.
    writer = ArrayRecordWriter(str(folder / f"{split}-{shard:05d}.arrayrecord"), "group_size:1,uncompressed")
    for i in range(first, min(first + per_shard, examples)):
      writer.write(stream[i * T : i * T + T + 1].tobytes())
    writer.close()
    progress.advance(min(per_shard, examples - first))


def unigram_bits(streams: dict, vocab_size: int) -> float:
  """Bits that the eval targets cost under the train targets' frequencies with add-one smoothing."""
  counts = {split: np.bincount(stream[1:], minlength=vocab_size) for split, stream in streams.items()}
  smooth = counts["train"] + 1
  return float(-(counts["eval"] * np.log2(smooth / smooth.sum())).sum())


def xz_bytes(content: bytes) -> int:
  return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
