"""Preparation: sources -> documents -> tokens, or what an Encoder makes, in ArrayRecord files, once per content.

A source is cut into parts. Each part is tokenised on its own, by any process of any machine, and a preparation that
was killed goes on with the parts that are left. What rows an objective cuts from the tokens comes later: the same
tokens serve every sequence length.
"""

import dataclasses
import functools
import json
import lzma
import pathlib
import platform
from collections import Counter

import numpy as np
import xxhash

from fmjax.corpus import Component, DataConfig
from fmjax.data import cache, duplicates, runners, sources, tokenising
from fmjax.data import tokenizers as tk
from fmjax.data.progress import Progress
from fmjax.data.tokenising import SPLITS, TEXT, Reads, Task
from fmjax.errors import FmjaxError
from fmjax.objectives.objective import Encoder
from fmjax.workdir import write_bytes

FORMAT = 2  # raised when the same sources must give different files
SMALL = 64 << 20  # bytes of a source that are worth no other process, and whose eval text xz may compress


@dataclasses.dataclass(frozen=True)
class Tokens:
  """One source's tokens: its folder, the fingerprint of its files, its tokenizer, and facts for people and JSON."""

  name: str
  folder: pathlib.Path
  fingerprint: str
  tokenizer: tk.Tokenizer
  facts: dict


@dataclasses.dataclass(frozen=True)
class Sourced:
  """A component of the config with the parts of its source, and the digest of what is in them."""

  component: Component
  parts: list[sources.Part]
  digest: str

  @property
  def bytes(self) -> int:
    return sum(part.bytes for part in self.parts)


def prepare(config: DataConfig, reads: Reads = TEXT, runner=None) -> list[Tokens]:
  """The tokens of each component of `config`, made where the cache has none.

  `runner` decides where the work is done: `runners.Local`, or a Beam pipeline's.
  """
  with Progress() as progress:
    found = []
    for one in config.components:
      one = dataclasses.replace(one, columns=one.columns or reads.columns)
      if len(one.columns) != len(reads.columns):
        raise wrong_columns(one, reads.columns)
      parts = sources.parts(one, config.eval_fraction, reads.encoder is not None)
      found.append(Sourced(one, parts, digest_of(parts, config, progress)))
    runner = runner or runners.Local(sum(one.bytes for one in found) > SMALL)
    tokenizer, place = tokenizer_of(config, found, reads, progress)
    tokenizer.with_special(reads.needs)  # one that lacks them is refused before the work
    return [tokens_of(one, config, tokenizer, place, reads, runner, progress) for one in found]


def wrong_columns(component: Component, columns) -> FmjaxError:
  return FmjaxError(
    "CONFIG", f"the objective reads {len(columns)} columns of a document", where="data.columns",
    expected=f"a column each for {', '.join(columns)}", got=component.columns, fix="name as many columns",
  )  # fmt: skip


def digest_of(parts, config: DataConfig, progress: Progress) -> str:
  """Of the parts' content; of a large source's remembered, as long as its files' sizes and times stay."""
  if sum(part.bytes for part in parts) <= SMALL:
    return sources.digest(parts)
  memory = cache.root(config) / f"digest-{sources.stamp(parts)}.json"
  if not memory.is_file():
    progress.stage(f"reading {len(parts)} parts of a source")
    with cache.friendly(memory.parent):
      memory.parent.mkdir(parents=True, exist_ok=True)
      write_bytes(memory, json.dumps(sources.digest(parts)).encode())
  return json.loads(memory.read_bytes())


# --- the tokenizer


def tokenizer_of(
  config: DataConfig, found: list[Sourced], reads: Reads, progress
) -> tuple[tk.Tokenizer, pathlib.Path]:
  """The tokenizer that `config` asks for, and the folder where it lies for other processes."""
  kind = config.tokenizer
  if kind in (*tk.TRAINED, "characters"):
    digests = " ".join(one.digest for one in found)
    what = reads.fields if reads.encoder is None else reads.encoder
    made = f"{kind} {config.vocab_size} {config.eval_fraction} {digests} {what}"
    name = xxhash.xxh3_128_hexdigest(made.encode())

    def build(new):
      if kind == "characters":
        tokenizer = tk.Characters("".join(sorted(set().union(*texts_of(found, config, SPLITS, reads.encoder)))))
      else:
        progress.stage(f"training a tokenizer of {config.vocab_size} pieces")
        tokenizer = tk.train(kind, list(texts_of(found, config, ("train",), reads.encoder)), config.vocab_size)
      tokenizer.save(new)
      return {}
  else:
    tokenizer = tk.Bytes() if kind == "bytes" else tk.load_model(kind)
    name = tokenizer.fingerprint

    def build(new):
      tokenizer.save(new)
      return {}

  folder = cache.root(config) / f"tokenizer-{name}"
  cache.publish(folder, build, progress)
  cache.verify(folder)
  return tk.load_tokenizer(folder), folder


def texts_of(found: list[Sourced], config: DataConfig, splits, encoder: Encoder | None = None):
  """The texts of the splits, of a large source a share of its documents that a hash of their names chooses."""
  total = sum(one.bytes for one in found)
  share = min(1.0, 4 * tk.SAMPLE_BYTES / max(total, 1))
  for one in found:
    for part in one.parts:
      for document in part.documents():
        held = sources.held(document.name, config.eval_fraction) if document.held is None else document.held
        if SPLITS[held] in splits and (share == 1 or sources.held(f"sample {document.name}", share)):
          yield from filter(None, document.values if encoder is None else encoder.texts(document.values))


# --- the tokens


def tokens_of(
  sourced: Sourced, config: DataConfig, tokenizer, place: pathlib.Path, reads: Reads, runner, progress
) -> Tokens:
  component = sourced.component
  decides = [FORMAT, sourced.digest, tokenizer.fingerprint, reads.fields, component.columns, reads.sentences,
             config.eval_fraction, dataclasses.astuple(config.cleaning)]  # fmt: skip
  if reads.encoder is not None:
    decides += [reads.encoder, tokenizer.with_special(reads.needs).fingerprint]
  address = xxhash.xxh3_128_hexdigest(repr(decides).encode())
  folder = cache.root(config) / f"{component.source}-{address}"

  def build(new):
    tasks = [
      Task(part, number, new, place, reads, config.eval_fraction, config.cleaning)
      for number, part in enumerate(sourced.parts)
    ]
    if config.cleaning.exact_duplicates or config.cleaning.near_duplicates:
      tasks = duplicates.marked(tasks, runner, progress)
    progress.stage(f"tokenising {component.name}, {len(tasks)} parts", sourced.bytes)
    runner(tokenising.tokenise, tasks, lambda task: progress.advance(task.part.bytes))
    return finish(new, tasks, sourced, config, tokenizer)

  cache.publish(folder, build, progress, keep=True)
  return open_tokens(folder, component.name)


def finish(folder: pathlib.Path, tasks: list[Task], sourced: Sourced, config: DataConfig, tokenizer) -> dict:
  """Joins what the parts left beside their tokens; the facts of the whole."""
  made = [tokenising.tokenise(task) for task in tasks]  # done: their facts are read
  dropped, spent = Counter(), [task.facts for task in tasks]  # the facts go first: without them a part is done again
  for one in made:
    dropped.update(one["dropped"])
  facts, counts, reads = dict(columns={}, dropped=dict(dropped)), {}, tasks[0].reads
  for name in tasks[0].columns:
    own = [one["columns"][name] for one in made]
    totals = {key: sum(one[key] for one in own) for key in ("documents", "bytes", "tokens")}
    facts["columns"][name] = totals | dict(part_tokens=[one["tokens"] for one in own])
    paths = [folder / task.name(name) for task in tasks]
    spent += [file for path in paths for file in path.parent.glob(path.name + ".*.npy")]
    if reads.encoder is None:
      counts[name] = functools.reduce(np.add, (np.load(path.with_suffix(".counts.npy")) for path in paths))
    for kind in ("lengths", "sentences") if reads.sentences else ("lengths",):
      arrays = [np.load(path.with_suffix(f".{kind}.npy")) for path in paths]
      np.save(folder / f"{name}.{kind}.npy", np.concatenate(arrays))
  for file in spent + [task.keep for task in tasks if task.keep is not None]:
    file.unlink()
  for draft in folder.glob("*" + tokenising.DRAFT):  # of processes that were killed
    draft.unlink()
  tokenizer.save(folder / "tokenizer")
  check_splits(facts, reads, sourced.component)
  return facts | dict(
    source=sourced.component.source,
    python=platform.python_version() if sourced.component.source == "stdlib" else None,
    fields=list(reads.fields),
    tokenizer=tokenizer.kind,
    vocab_size=tokenizer.vocab_size,
    baseline_bits=baseline_bits(counts, sourced, config) if counts.keys() == {"train-text", "eval-text"} else None,
  )


def check_splits(facts: dict, reads: Reads, component: Component):
  """DATA_BAD where nothing is left to train on, or to evaluate on where the config says what that is."""
  wanted = dict(train=component.path)
  if component.eval_path or component.eval_split:
    wanted["eval"] = component.eval_path or f"{component.path}, split {component.eval_split}"
  dropped = facts["dropped"]
  for split, where in wanted.items():
    if not facts["columns"][f"{split}-{reads.fields[0]}"]["tokens"]:
      purpose = "train on" if split == "train" else "evaluate on"
      raise FmjaxError("DATA_BAD", f"the source has no text to {purpose}", where=where,
                       got=f"{sum(dropped.values())} documents left out: {dropped}" if dropped else "no document",
                       fix="check data.path, data.columns and data.cleaning")  # fmt: skip


def baseline_bits(counts: dict, sourced: Sourced, config: DataConfig) -> dict[str, float]:
  """Bits that the eval text costs under the train tokens' frequencies with add-one smoothing, and by xz."""
  smooth = counts["train-text"] + 1
  found = dict(unigram=float(-(counts["eval-text"] * np.log2(smooth / smooth.sum())).sum()))
  if sourced.bytes <= SMALL:
    text = "".join(texts_of([sourced], config, ("eval",))).encode()
    found["xz"] = 8.0 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
  return found


def open_tokens(folder: pathlib.Path, name: str) -> Tokens:
  """The tokens in `folder`, compared with meta.json. DATA_BAD names the file that differs."""
  fingerprint, facts = cache.verify(folder)
  return Tokens(name, folder, fingerprint, tk.load_tokenizer(folder / "tokenizer"), facts)
