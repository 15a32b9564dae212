"""What every kind of tokenizer is and can."""

import copy
import json
import pathlib

import numpy as np
import xxhash

from fmjax.data.pieces import goes_on, printable
from fmjax.data.special import NAMES, texts_of
from fmjax.errors import FmjaxError
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.workdir import write_bytes


class Tokenizer:
  """What every kind has: `vocab_size`, `end`, `fingerprint` (xxh3-128 of everything that decides an encoding),

  `encode(text) -> list[int]`, and `decode(ids) -> str`, where `end` gives no text and bytes that are not UTF-8 give
  U+FFFD. `special` is {name: id} of the tokens it has among bos, eos, unk, sep, pad, cls, mask, and of those that an
  objective asked for. Called, it gives a batch by Hugging Face's names.
  """

  kind: str
  vocab_size: int
  end: int
  own: dict[str, int] = {}  # the special tokens beside `end` that it was born with
  added: tuple[str, ...] = ()  # names of those that it was given, its last tokens
  padding_side = "right"
  token_types = False

  def __init__(self, content: bytes):
    self.fingerprint = self.bare = xxhash.xxh3_128_hexdigest(self.kind.encode() + b"\0" + content)

  @property
  def special(self) -> dict[str, int]:
    first = self.vocab_size - len(self.added)
    return {"eos": self.end} | self.own | {name: first + number for number, name in enumerate(self.added)}

  def lacking(self, names) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name not in self.special)

  def with_special(self, names) -> "Tokenizer":
    """The same with those of the special tokens `names` that it lacks, in this order, after all others."""
    if not (missing := self.lacking(names)):
      return self
    for name in missing:
      texts_of(name)  # KeyError of a name that no export could write
    other = copy.copy(self)
    other.added, other.vocab_size = self.added + missing, self.vocab_size + len(missing)
    other.fingerprint = xxhash.xxh3_128_hexdigest(" ".join([self.bare, *other.added]).encode())
    return other

  def vocabulary(self, needs: tuple[str, ...] = ()) -> Vocabulary:
    """What objectives know of it, once it has the special tokens `needs`."""
    made = self.with_special(needs)
    special = {name: i for name, i in made.reserved().items() if i < made.vocab_size}
    continues = np.fromiter(map(made.goes_on, range(made.vocab_size)), bool, made.vocab_size)
    continues[list(special.values())] = False
    return Vocabulary(made.vocab_size, made.end, special, continues)

  def reserved(self) -> dict[str, int]:
    """`special`, and under other names what else no text is made of."""
    return self.special

  def goes_on(self, token: int) -> bool:
    return goes_on(self.piece(token))

  def show(self, ids) -> list[str]:
    """Each token for people to read; a special one is <its name>."""
    names = {i: f"<{name.strip('<>')}>" for name, i in reversed(self.reserved().items())}
    return [names[i] if i in names else printable(self.piece(i)) for i in map(int, ids)]

  def encode_all(self, texts: list[str]) -> list[np.ndarray]:
    return [np.array(self.encode(text), np.int32) for text in texts]

  def offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(what `encode_all` gives, int32 [tokens, 2]: the characters [start, stop) that each stands for) of each text.

    A space may be a word's or nobody's; of the tokens of one character each stands for it, or only the last.
    """
    raise FmjaxError("TOKENIZER_BAD", f"a {self.kind} tokenizer does not say where in a text its tokens stand",
                     fix="set data.tokenizer to one of another kind")  # fmt: skip

  def chat_template(self) -> tuple[str | None, dict[str, str]]:
    """(the Jinja text that its files give for conversations, {"bos_token": ...}: what such a template may name)."""
    return None, {}

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
    if self.lacking(("cls", "sep")):
      return [(ids[:max_length], 0) for ids in map(self.encode, texts)]
    length = None if max_length is None else room(max_length, 2)
    return [([self.special["cls"], *self.encode(text)[:length], self.special["sep"]], 0) for text in texts]

  def save(self, folder):
    """Writes the tokenizer's files; `load_tokenizer(folder)` reads them back."""
    description = {"kind": self.kind, "fingerprint": self.fingerprint, **self.fields()}
    if self.added:
      description["added"] = self.added
    write(pathlib.Path(folder) / "tokenizer.json", json.dumps(description, indent=1).encode())

  def fields(self) -> dict:
    return {}

  def save_pretrained(self, folder):
    """Writes Hugging Face's files: a `tokenizer.json` of the `tokenizers` library that encodes as this one does."""
    from fmjax.data import vocabularies

    backend = self.to_backend()
    vocabularies.add_special(backend, self.added)
    named = {f"{name}_token": backend.id_to_token(i) for name, i in self.special.items() if name in NAMES}
    # A special token's own text is text here, so that no document can hold an end.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "split_special_tokens": True,
              "clean_up_tokenization_spaces": False}  # fmt: skip
    files = {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=1),
             "special_tokens_map.json": json.dumps(named, indent=1)}  # fmt: skip
    for name, file in files.items():
      write(pathlib.Path(folder) / name, file.encode())


def room(max_length: int, special: int) -> int:
  """What `special` tokens leave of `max_length`."""
  if max_length < special:
    raise FmjaxError(
      "USAGE",
      f"max_length={max_length} has no room for the special tokens",
      fix=f"give {special} or more, or leave it out",
    )
  return max_length - special


def write(path: pathlib.Path, content: bytes):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_bytes(path, content)
