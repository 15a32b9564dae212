"""Text to token ids and back: bytes, characters, SentencePiece, or what a Hugging Face folder holds.

A tokenizer is a folder: its `tokenizer.json` says its kind, its fingerprint, and the special tokens that were added
to it; beside it `tokenizer.model` is SentencePiece's own file, and the folder `huggingface` or `marian` has the files
as they were published.
"""

import errno
import json
import os
import pathlib

import numpy as np

from fmjax.data.special import found
from fmjax.data.tokenizer import Tokenizer, write
from fmjax.errors import FmjaxError

TRAINED = ("sentencepiece", "unigram", "wordpiece", "byte_bpe")  # the kinds that `train` makes
SAMPLE_BYTES = 32 << 20  # of lines that a tokenizer is trained on: about 4 s of SentencePiece's byte pairs
HERE = "fmjax"  # who trained it, in the files of a tokenizer that was trained here
# SentencePiece writes a space as this character, and reads this character back as a space.
SPACE_MARK = "\u2581"


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

  def offsets(self, texts):
    return [(ids, spans(np.cumsum(ids & 0xC0 != 0x80) - 1)) for ids in self.encode_all(texts)]

  def decode(self, ids):
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

  def piece(self, token):
    return bytes([token]) if token < 256 else b""

  def to_backend(self):
    from fmjax.data import vocabularies

    return vocabularies.of_bytes()


class Characters(Tokenizer):
  """The characters of one text in code-point order, then `end`, then one id for any other character."""

  kind = "characters"

  def __init__(self, characters: str):
    super().__init__(characters.encode())
    self.characters = characters
    self.end, self.unknown = len(characters), len(characters) + 1
    self.vocab_size = len(characters) + 2
    codes = code_points(characters)
    self.ids = np.full(codes.max(initial=0) + 2, self.unknown, np.int32)  # by code point; the last: of any above
    self.ids[codes] = np.arange(len(codes))

  def encode(self, text):
    return self.encode_all([text])[0].tolist()

  def encode_all(self, texts):
    return [self.ids[np.minimum(code_points(text), len(self.ids) - 1)] for text in texts]

  def offsets(self, texts):
    return [(ids, spans(np.arange(len(ids)))) for ids in self.encode_all(texts)]

  def decode(self, ids):
    letters = self.characters + "\0\ufffd"
    return "".join(letters[i] for i in ids if i != self.end and i < len(letters))

  def piece(self, token):
    return self.characters[token].encode() if token < self.end else b""

  def reserved(self):
    return self.special | {"unk": self.unknown}

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
    self.own = found(self.number_of)

  def encode(self, text):
    return self.encode_all([text])[0].tolist()

  def encode_all(self, texts):
    whole = [i for i, text in enumerate(texts) if self.space_mark is None or SPACE_MARK not in text]
    threads = cores() if len(whole) > 1 else 1
    encoded = dict(zip(whole, self.processor.encode([texts[i] for i in whole], num_threads=threads)))
    for i in range(len(texts)):
      if i not in encoded:
        parts = self.processor.encode(texts[i].split(SPACE_MARK))
        encoded[i] = parts[0] + [token for part in parts[1:] for token in self.space_mark + part]
    return [np.fromiter(encoded[i], np.int32) for i in range(len(texts))]

  def offsets(self, texts):
    from fmjax.data.vocabularies import piece_spans

    found = []
    for text, ids in zip(texts, self.encode_all(texts)):
      parts = [text] if self.space_mark is None else text.split(SPACE_MARK)
      pairs, at = [], 0
      for part in parts:
        if at:
          pairs += [(at - 1, at)] * len(self.space_mark)
        pairs += [
          (at + a, at + b) for a, b in piece_spans(part, self.processor.encode(part, out_type="serialized_proto"))
        ]
        at += len(part) + 1
      found.append((ids, np.array(pairs, np.int32).reshape(-1, 2)))
    return found

  def decode(self, ids):
    return self.processor.decode([int(i) for i in ids if i != self.end and i < self.processor.vocab_size()])

  def number_of(self, piece: str) -> int | None:
    i = self.processor.piece_to_id(piece)
    return None if i == self.processor.unk_id() else i

  def piece(self, token):
    if token >= self.processor.vocab_size():
      return b""
    piece = self.processor.id_to_piece(token)
    return bytes([int(piece[1:-1], 16)]) if self.processor.is_byte(token) else piece.replace(SPACE_MARK, " ").encode()

  def reserved(self):
    of, known = self.processor, {*self.special.values()}
    other = [i for i in range(of.vocab_size()) if of.is_control(i) or of.is_unused(i)]
    return self.special | {"unk": of.unk_id()} | {of.id_to_piece(i): i for i in other if i not in known}

  def save(self, folder):
    write(pathlib.Path(folder) / "tokenizer.model", self.model)
    super().save(folder)

  def to_backend(self):
    from fmjax.data import vocabularies

    return vocabularies.exact(self.model, self.end)


def code_points(text: str) -> np.ndarray:
  return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def spans(character_T: np.ndarray) -> np.ndarray:
  """int32 [T, 2]: each token's character, and the next."""
  return np.stack([character_T, character_T + 1], 1).astype(np.int32)


def cores() -> int:
  """Threads that an encoding may take: RAYON_NUM_THREADS, which the `tokenizers` library too heeds, or all cores."""
  return int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))


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
    }[description["kind"]]().with_special(description.get("added", ()))
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
  """The SentencePiece model in the file `path`, or a folder's tokenizer: in Hugging Face's layout or our own."""
  kinds = ", ".join(["bytes", "characters", *TRAINED])
  choices = f"data.tokenizer is one of {kinds}, a .model file, or a folder with a tokenizer"
  try:
    if pathlib.Path(path).is_dir():
      if is_saved(path):
        return load_tokenizer(path)
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


def is_saved(folder) -> bool:
  """Whether `save` wrote the folder's tokenizer.json, not Hugging Face."""
  try:
    description = json.loads((pathlib.Path(folder) / "tokenizer.json").read_bytes())
    return {"kind", "fingerprint"} <= description.keys()
  except (OSError, ValueError, AttributeError):
    return False


def train(kind: str, texts, vocab_size: int) -> Tokenizer:
  """A tokenizer of a kind in TRAINED, of `vocab_size` tokens or a few less; `texts` is gone through several times."""
  from fmjax.data import trainers

  return trainers.TRAINERS[kind](texts, vocab_size)
