"""Text to token ids and back: bytes, characters, SentencePiece, or what a Hugging Face folder holds.

A tokenizer is a folder: its `tokenizer.json` says its kind and its fingerprint; beside it `tokenizer.model` is
SentencePiece's own file, and the folder `huggingface` or `marian` has the files as they were published. Every
tokenizer has `end`, the id of the token that ends a document.
"""

import errno
import io
import json
import os
import pathlib

import numpy as np
import xxhash

from fmjax.errors import FmjaxError
from fmjax.workdir import write_bytes

SAMPLE_BYTES = 32 << 20  # of lines that SentencePiece trains on: about 4 s
# SentencePiece writes a space as this character, and reads this character back as a space.
SPACE_MARK = "\u2581"


class Tokenizer:
  """What every kind has: `vocab_size`, `end`, `fingerprint` (xxh3-128 of everything that decides an encoding),

  `encode(text) -> list[int]`, and `decode(ids) -> str`, where `end` gives no text and bytes that are not UTF-8 give
  U+FFFD. `special` is {name: id} of the tokens it has among bos, eos, unk, sep, pad, cls, mask. Called, it gives a
  batch by Hugging Face's names.
  """

  kind: str
  vocab_size: int
  end: int
  padding_side = "right"
  token_types = False

  def __init__(self, content: bytes):
    self.fingerprint = xxhash.xxh3_128_hexdigest(self.kind.encode() + b"\0" + content)

  @property
  def special(self) -> dict[str, int]:
    return {"eos": self.end}

  def encode_all(self, texts: list[str]) -> list[np.ndarray]:
    return [np.array(self.encode(text), np.int32) for text in texts]

  def __call__(self, texts, text_pair=None, max_length=None, padding_side=None) -> dict[str, np.ndarray]:
    """`input_ids`, `attention_mask` and, where the model has them, `token_type_ids`: int32, [texts, longest].

    One text is a batch of one. The family's special tokens stand around each text or pair, and `max_length` counts
    them.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    pairs = [text_pair] if isinstance(text_pair, str) else text_pair
    rows = self.rows(texts, pairs, max_length)
    width = max((len(ids) for ids, _ in rows), default=0)
    shape, left = (len(rows), width), (padding_side or self.padding_side) == "left"
    batch = {
      "input_ids": np.full(shape, self.special.get("pad", self.end or 0), np.int32),
      "attention_mask": np.zeros(shape, np.int32),
      "token_type_ids": np.zeros(shape, np.int32),
    }
    for b, (ids, types) in enumerate(rows):
      place = slice(width - len(ids), None) if left else slice(len(ids))
      batch["input_ids"][b, place], batch["attention_mask"][b, place], batch["token_type_ids"][b, place] = (
        ids,
        1,
        types,
      )
    if not self.token_types:
      del batch["token_type_ids"]
    return batch

  def rows(self, texts, pairs, max_length):
    """(ids, token types) of each text, special tokens included."""
    if pairs is not None:
      raise FmjaxError("USAGE", f"a {self.kind} tokenizer has no template for a pair of texts", fix="give one text")
    return [(ids[:max_length], 0) for ids in map(self.encode, texts)]

  def save(self, folder):
    """Writes the tokenizer's files; `load_tokenizer(folder)` reads them back."""
    description = {"kind": self.kind, "fingerprint": self.fingerprint, **self.fields()}
    write(pathlib.Path(folder) / "tokenizer.json", json.dumps(description, indent=1).encode())

  def fields(self) -> dict:
    return {}

  def save_pretrained(self, folder):
    """Writes Hugging Face's files: a `tokenizer.json` of the `tokenizers` library that encodes as this one does."""
    backend = self.to_backend()
    end = backend.id_to_token(self.end)
    # A special token's own text is text here, so that no document can hold an end.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "split_special_tokens": True,
              "clean_up_tokenization_spaces": False}  # fmt: skip
    files = {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=1),
             "special_tokens_map.json": json.dumps({"eos_token": end}, indent=1)}  # fmt: skip
    for name, file in files.items():
      write(pathlib.Path(folder) / name, file.encode())


class Bytes(Tokenizer):
  """The 256 bytes of UTF-8, and `end`."""

  kind = "bytes"
  vocab_size = 257
  end = 256

  def __init__(self):
    super().__init__(b"")

  def encode(self, text):
    return list(text.encode())

  def encode_all(self, texts):
    return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

  def decode(self, ids):
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

  def to_backend(self):
    from fmjax.data import vocabularies

    return vocabularies.of_bytes()


class Characters(Tokenizer):
  """The characters of one text in code-point order, then `end`, then one id for any other character."""

  kind = "characters"

  def __init__(self, characters: str):
    super().__init__(characters.encode())
    self.characters = characters
    self.ids = {character: i for i, character in enumerate(characters)}
    self.end, self.unknown = len(characters), len(characters) + 1
    self.vocab_size = len(characters) + 2

  def encode(self, text):
    return [self.ids.get(character, self.unknown) for character in text]

  def decode(self, ids):
    letters = self.characters + "\0\ufffd"
    return "".join(letters[i] for i in ids if i != self.end)

  def fields(self):
    return {"characters": self.characters}

  def to_backend(self):
    from fmjax.data import vocabularies

    return vocabularies.of_characters(self.characters)


class SentencePiece(Tokenizer):
  """A SentencePiece model (Kudo and Richardson 2018, arXiv:1808.06226); one without an end gets it."""

  kind = "sentencepiece"

  def __init__(self, model: bytes):
    import sentencepiece

    super().__init__(model)
    self.model = model
    self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size, end = self.processor.vocab_size(), self.processor.eos_id()
    self.end, self.vocab_size = (end, size) if end >= 0 else (size, size + 1)
    marks = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
    self.space_mark = marks if all(map(self.processor.is_byte, marks)) else None

  def encode(self, text):
    return self.encode_all([text])[0].tolist()

  def encode_all(self, texts):
    whole = [i for i, text in enumerate(texts) if self.space_mark is None or SPACE_MARK not in text]
    threads = os.cpu_count() if len(whole) > 1 else 1
    encoded = dict(zip(whole, self.processor.encode([texts[i] for i in whole], num_threads=threads)))
    for i in range(len(texts)):
      if i not in encoded:
        parts = self.processor.encode(texts[i].split(SPACE_MARK))
        encoded[i] = parts[0] + [token for part in parts[1:] for token in self.space_mark + part]
    return [np.array(encoded[i], np.int32) for i in range(len(texts))]

  def decode(self, ids):
    return self.processor.decode([int(i) for i in ids if i != self.end])

  def save(self, folder):
    write(pathlib.Path(folder) / "tokenizer.model", self.model)
    super().save(folder)

  def to_backend(self):
    from fmjax.data import vocabularies

    return vocabularies.exact(self.model, self.end)


def write(path: pathlib.Path, content: bytes):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_bytes(path, content)


def from_folder(folder, model_config: dict | None = None) -> Tokenizer | None:
  """The tokenizer of a folder in Hugging Face's layout; None where it has none, TOKENIZER_BAD if it cannot be read.

  `model_config` is the model's `config.json`, by default the one in the folder: it tells the family, and special ids
  that the tokenizer does not name.
  """
  from fmjax.data import huggingface

  return huggingface.read(folder, model_config)


def check_vocabulary(tokenizer: Tokenizer, V: int, where):
  """TOKENIZER_BAD if `tokenizer` has ids that a model of `V` tokens lacks."""
  if tokenizer.vocab_size > V:
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the tokenizer has more tokens than the model",
      where=where,
      expected=f"at most {V}",
      got=tokenizer.vocab_size,
      fix="put the tokenizer that the model was trained with there",
    )


def load_tokenizer(folder) -> Tokenizer:
  """The tokenizer that `save` wrote into `folder`; TOKENIZER_BAD if a file is missing or changed since."""
  path = pathlib.Path(folder) / "tokenizer.json"
  try:
    description = json.loads(path.read_bytes())
    tokenizer = {
      "bytes": lambda: Bytes(),
      "characters": lambda: Characters(description["characters"]),
      "sentencepiece": lambda: load_model(path.with_name("tokenizer.model")),
      "huggingface": lambda: load_published(path.with_name("huggingface"), description["model"]),
      "marian": lambda: load_published(path.with_name("marian"), description["model"]),
    }[description["kind"]]()
    expected = description["fingerprint"]
  except FileNotFoundError as error:
    raise FmjaxError(
      "TOKENIZER_BAD",
      "there is no tokenizer here",
      where=error.filename,
      fix="give a folder that holds tokenizer.json",
    ) from error
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the tokenizer cannot be read",
      where=path,
      got=f"{type(error).__name__}: {error}",
      fix="restore the file from a copy",
    ) from error
  if tokenizer.fingerprint != expected:
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the tokenizer is not the one that was saved",
      where=folder,
      expected=expected,
      got=tokenizer.fingerprint,
      fix="restore the folder from a copy",
    )
  return tokenizer


def load_published(folder: pathlib.Path, model_config: dict | None) -> Tokenizer:
  from fmjax.data.huggingface import VOCABULARIES

  tokenizer = from_folder(folder, model_config)
  if tokenizer is None:
    raise FileNotFoundError(errno.ENOENT, "there is none of " + ", ".join(VOCABULARIES), str(folder))
  return tokenizer


def load_model(path) -> Tokenizer:
  """The SentencePiece model in the file `path`, or the tokenizer of a folder in Hugging Face's layout."""
  choices = "data.tokenizer is bytes, characters, sentencepiece, a .model file, or a Hugging Face folder"
  try:
    if pathlib.Path(path).is_dir():
      tokenizer = load_published(pathlib.Path(path), None)
      if tokenizer.end is None:
        raise FmjaxError(
          "TOKENIZER_BAD", "the tokenizer names no token that ends a document", where=path, fix=choices
        )
      return tokenizer
    return SentencePiece(pathlib.Path(path).read_bytes())
  except OSError as error:
    raise FmjaxError(
      "TOKENIZER_BAD",
      f"the tokenizer's file cannot be read: {error.strerror}",
      where=path,
      fix=choices,
    ) from error
  except RuntimeError as error:  # what SentencePiece raises for bytes that are not its protobuf
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the file is not a SentencePiece model",
      where=path,
      fix="give a .model file that SentencePiece's trainer wrote",
    ) from error


def train_sentencepiece(texts, vocab_size: int) -> SentencePiece:
  """A byte-pair model of `texts` that gives every text back exactly.

  Byte-pair merges, not the unigram model: the same text gives the same model on any machine and number of threads,
  and 9 MB train in 1 s against 60. A newline is its own piece, so that no piece spans two lines.
  """
  import sentencepiece

  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(sample_lines(texts)),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      byte_fallback=True,
      character_coverage=0.9999,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      user_defined_symbols=["\n"],
      max_sentence_length=1 << 20,
      unk_id=0,
      eos_id=1,
      bos_id=-1,
      pad_id=-1,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise FmjaxError(
      "TOKENIZER_BAD",
      f"SentencePiece cannot make {vocab_size} pieces of this text",
      got=str(error).splitlines()[-1],
      fix="give more text, a data.vocab_size of 300 or more, or data.tokenizer=bytes",
    ) from error
  return SentencePiece(model.getvalue())


def sample_lines(texts) -> list[str]:
  """The texts' lines; of more than SAMPLE_BYTES a share chosen by each line's hash, the same on every machine."""
  lines = [line for text in texts for line in text.split("\n") if line]
  share = SAMPLE_BYTES / max(1, sum(map(len, lines)))
  if share >= 1:
    return lines
  return [line for line in lines if xxhash.xxh3_64_intdigest(line.encode()) < share * 2**64]
