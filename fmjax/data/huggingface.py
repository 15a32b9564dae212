"""Tokenizers from a folder in Hugging Face's layout, and back into one.

`tokenizer.json` is read by the `tokenizers` library as it stands; `vocab.txt`, `vocab.json` with `merges.txt`, and
SentencePiece models become the same kind of backend. Nothing is fetched and nothing in the folder is executed.
"""

import json
import pathlib
import re

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from fmjax.data import vocabularies
from fmjax.data.special import NAMES, found, texts_of
from fmjax.data.tokenizer import Tokenizer, room, write
from fmjax.data.tokenizers import HERE, TRAINED, cores
from fmjax.errors import FmjaxError

SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE, "source.spm")
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "target.spm",
          "chat_template.jinja")  # fmt: skip
# The family of a vocabulary whose folder names neither a tokenizer class nor a model type.
FAMILY_OF_FILE = {
  "vocab.txt": "bert",
  "vocab.json": "gpt2",
  "spiece.model": "t5",
  "sentencepiece.bpe.model": "xlmroberta",
  "tokenizer.model": "llama",
}
MODEL_KEYS = ("model_type", *(f"{name}_token_id" for name in NAMES))  # what is kept of a model's config


def read(folder, model_config: dict | None) -> Tokenizer | None:
  """The tokenizer in `folder`, or None where it holds none of VOCABULARIES; TOKENIZER_BAD if it cannot be read."""
  folder = pathlib.Path(folder)
  files = {name: (folder / name).read_bytes() for name in (*VOCABULARIES, *BESIDE) if (folder / name).is_file()}
  if not any(name in files for name in VOCABULARIES):
    return None
  kind = Marian if "source.spm" in files and "tokenizer.json" not in files else HuggingFace
  try:
    if model_config is None:
      model_config = json.loads((folder / "config.json").read_bytes()) if (folder / "config.json").is_file() else {}
    return kind(files, {key: model_config[key] for key in MODEL_KEYS if model_config.get(key) is not None})
  except Exception as error:  # the `tokenizers` library raises Exception itself
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the tokenizer cannot be read",
      where=folder,
      got=f"{type(error).__name__}: {error}",
      fix="get the tokenizer's files again: " + ", ".join(files),
    ) from error


def settings(files: dict[str, bytes]) -> dict:
  """`tokenizer_config.json`, with what the two older files beside it add."""
  config = {}
  if "special_tokens_map.json" in files:
    config |= json.loads(files["special_tokens_map.json"])
  if "tokenizer_config.json" in files:
    config |= json.loads(files["tokenizer_config.json"])
  return config


def family_name(files: dict[str, bytes], config: dict, model: dict) -> str | None:
  """The key of FAMILIES: the tokenizer class's, else the model type's, else the file's; None for a bare backend."""
  stem = re.sub("Tokenizer(Fast)?$", "", config.get("tokenizer_class") or "").lower()
  if stem in vocabularies.FAMILIES:
    return stem
  if stem and "tokenizer.json" in files:
    return None
  if stem not in ("", "pretrained", "tokenizersbackend"):
    known = ", ".join(vocabularies.FAMILIES)
    raise ValueError(f"its class is {config['tokenizer_class']}; known without tokenizer.json are those of {known}")
  kind = re.sub("[-_]", "", model.get("model_type", ""))
  if kind in vocabularies.FAMILIES:
    return kind
  return next((family for name, family in FAMILY_OF_FILE.items() if name in files), None)


def content(token) -> str | None:
  """The text of a token that a config writes as a string or as a dictionary."""
  return token["content"] if isinstance(token, dict) else token


def as_added(token, special: bool = True) -> AddedToken:
  if not isinstance(token, dict):
    return AddedToken(token, special=special, normalized=not special)
  flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in token}
  return AddedToken(token["content"], special=token.get("special", special), **flags)


class Published(Tokenizer):
  """One that came as files: they decide it, they are kept as they were, and an export gives them back."""

  special: dict[str, int] = {}

  def __init__(self, files: dict[str, bytes], model: dict):
    super().__init__(repr((sorted(files.items()), sorted(model.items()))).encode())
    self.files, self.model = files, model

  def __reduce__(self):  # a backend forgets what its files do not say when it is pickled
    return type(self), (self.files, self.model)

  def with_special(self, names):
    """Itself: it has them all, or TOKENIZER_BAD names those that it lacks."""
    if not (missing := self.lacking(names)):
      return self
    first = [name if name in NAMES else f"{name} ({' or '.join(map(repr, texts_of(name)))})" for name in missing[:3]]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise FmjaxError(
      "TOKENIZER_BAD",
      "the tokenizer lacks special tokens that the objective needs",
      expected=", ".join(first) + more,
      got=", ".join(f"{name}={i}" for name, i in self.special.items() if name in NAMES),
      fix=f"set data.tokenizer to one that has them, or to one that is given them: {', '.join(TRAINED)}",
    )

  def fields(self):
    return {"model": self.model}

  def save(self, folder):
    for name, file in self.files.items():
      write(pathlib.Path(folder) / self.kind / name, file)
    super().save(folder)

  def save_pretrained(self, folder):
    for name, file in self.files.items():
      write(pathlib.Path(folder) / name, file)


class HuggingFace(Published):
  """A backend of the `tokenizers` library with its family's template, special tokens and token types.

  `encode` is the text alone; a call adds the template. As in Hugging Face's, the text of a special token is that
  token.
  """

  kind = "huggingface"

  def __init__(self, files: dict[str, bytes], model: dict):
    super().__init__(files, model)
    config = settings(files)
    name = family_name(files, config, model)
    family = vocabularies.FAMILIES.get(name, vocabularies.Family({}))
    if family.begins and "tokenizer.json" not in files:
      config.setdefault("add_bos_token", True)
    tokens = {n: content(config[f"{n}_token"]) for n in NAMES if config.get(f"{n}_token")}
    tokens = {n: t for n, t in family.tokens.items() if f"{n}_token" not in config} | tokens
    self.backend = backend = self.made(name, config, tokens)
    add_tokens(backend, files, config, tokens)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(config.get("split_special_tokens"))
    vocabulary = backend.get_vocab()
    self.vocab_size = max(vocabulary.values()) + 1
    tokens = {n: t for n, t in tokens.items() if t in vocabulary}
    flags = not family.single and ("add_bos_token" in config or "add_eos_token" in config)
    if flags or backend.post_processor is None:
      backend.post_processor = vocabularies.template(family, tokens, config, vocabulary)
    self.special = {n: vocabulary[t] for n, t in tokens.items()}
    self.named = frozenset(self.special)  # by its own files; the model's config adds to the others
    self.finish(config, family)
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    self.special = found(added.get) | self.special
    self.here = config.get("trained_by") == HERE

  def made(self, name: str | None, config: dict, tokens: dict) -> Backend:
    files = self.files
    if "tokenizer.json" in files:
      return Backend.from_str(files["tokenizer.json"].decode())
    if "vocab.txt" in files:
      return vocabularies.word_pieces(files["vocab.txt"], config, tokens)
    if file := next((file for file in SENTENCEPIECE if file in files), None):
      return vocabularies.sentence_pieces(name, files[file], config, tokens)
    if "merges.txt" not in files:
      raise ValueError("vocab.json has no merges.txt beside it")
    return vocabularies.byte_pairs(files["vocab.json"], files["merges.txt"], config, name in ("qwen2", "qwen3"))

  def finish(self, config: dict, family: vocabularies.Family):
    """What the model's config adds where the tokenizer's files are silent, and how a batch of texts is padded."""
    for name in NAMES:
      token = self.model.get(f"{name}_token_id")
      if token is not None and name not in self.special:
        self.special[name] = token[0] if isinstance(token, list) else token
    ends = (self.special[name] for name in ("eos", "sep", "pad") if name in self.special)
    self.end = next(ends, None)
    self.padding_side = config.get("padding_side", family.padding_side)
    self.truncation_side = config.get("truncation_side", "right")
    if kind := self.model.get("model_type"):
      self.token_types = kind in ("bert", "albert", "electra")
    else:
      self.token_types = "token_type_ids" in config.get("model_input_names", ()) or family.token_types
    self.clean_up = bool(config.get("clean_up_tokenization_spaces"))
    self.clean_up &= type(self.backend.model).__name__ != "BPE"  # whose spaces are the text's own

  def with_special(self, names):
    """With the tokens that it lacks in its files, if it was trained here."""
    missing = self.lacking(names)
    if not missing or not self.here:
      return super().with_special(missing)
    backend = Backend.from_str(self.files["tokenizer.json"].decode())
    made = vocabularies.add_special(backend, missing)
    config = settings(self.files) | {f"{name}_token": text for name, text in made.items() if name in NAMES}
    files = {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=1)}
    return HuggingFace(self.files | {name: file.encode() for name, file in files.items()}, self.model)

  def reserved(self):
    known, more = {*self.special.values()}, {}
    if unknown := getattr(self.backend.model, "unk_token", None):
      more["unk"] = self.backend.token_to_id(unknown)
    for i, token in self.backend.get_added_tokens_decoder().items():
      if token.special and i not in known:
        more[token.content] = i
    return {name: i for name, i in more.items() if i is not None} | self.special

  def piece(self, token):
    return vocabularies.bytes_of(self.backend, self.backend.id_to_token(token) or "")

  def goes_on(self, token):
    model = self.backend.model
    match type(model).__name__:
      case "WordPiece":
        return (self.backend.id_to_token(token) or "").startswith(model.continuing_subword_prefix)
      case "WordLevel":
        return False
    return super().goes_on(token)

  def encode(self, text):
    return self.backend.encode(text, add_special_tokens=False).ids

  def encode_all(self, texts):
    encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
    return [np.fromiter(encoding.ids, np.int32) for encoding in encodings]

  def offsets(self, texts):
    encodings = self.backend.encode_batch(texts, add_special_tokens=False)
    return [(np.array(one.ids, np.int32), np.array(one.offsets, np.int32).reshape(-1, 2)) for one in encodings]

  def chat_template(self):
    text = settings(self.files).get("chat_template")
    if isinstance(text, list):  # of several, by name
      text = {one["name"]: one["template"] for one in text}.get("default")
    if "chat_template.jinja" in self.files:
      text = self.files["chat_template.jinja"].decode()
    return text, {f"{name}_token": self.backend.id_to_token(i) for name, i in self.special.items() if name in NAMES}

  def decode(self, ids):
    text = self.backend.decode([int(i) for i in ids], skip_special_tokens=True)
    if self.clean_up:
      for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(" " + mark, mark)
    return text

  def rows(self, texts, pairs, max_length):
    firsts = self.backend.encode_batch(texts, add_special_tokens=False)
    seconds = [None] * len(texts) if pairs is None else self.backend.encode_batch(pairs, add_special_tokens=False)
    whole = []
    for first, second in zip(firsts, seconds, strict=True):
      if max_length is not None:
        self.truncate(first, second, room(max_length, self.backend.num_special_tokens_to_add(second is not None)))
      whole.append(self.backend.post_process(first, second))
    return [(encoding.ids, encoding.type_ids) for encoding in whole]

  def truncate(self, first, second, room: int):
    """Leaves `room` tokens, taken from the longer of a pair until both are equal, then from both."""
    if second is None:
      first.truncate(room, direction=self.truncation_side)
    elif len(first) + len(second) > room:
      short = min(len(first), len(second), room // 2)
      long = room - short
      lengths = (short, long) if len(first) <= len(second) else (long, short)
      for encoding, length in zip((first, second), lengths):
        encoding.truncate(length, direction=self.truncation_side)

  def save_pretrained(self, folder):
    super().save_pretrained(folder)
    tokens = {f"{name}_token": self.backend.id_to_token(i) for name, i in self.special.items() if name in NAMES}
    made = {"tokenizer.json": self.backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(tokens, indent=1)}
    for name in made.keys() - self.files.keys():
      write(pathlib.Path(folder) / name, made[name].encode())


def add_tokens(backend: Backend, files: dict[str, bytes], config: dict, tokens: dict):
  """Adds the tokens that the files beside the vocabulary name; ValueError where one's id is not the one they give."""
  numbered = {int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}
  if "added_tokens.json" in files:
    for token, i in json.loads(files["added_tokens.json"]).items():
      numbered.setdefault(i, {"content": token, "special": False})
  named = [config[f"{name}_token"] for name in NAMES if config.get(f"{name}_token")]
  for key in ("additional_special_tokens", "extra_special_tokens"):
    more = config.get(key) or []
    named += more.values() if isinstance(more, dict) else more
  named += [token for token in tokens.values() if backend.token_to_id(token) is not None]
  present = {token.content for token in backend.get_added_tokens_decoder().values()}
  for i, token in sorted(numbered.items(), key=lambda item: item[0]):
    if content(token) not in present:
      backend.add_tokens([as_added(token)])
    if backend.token_to_id(content(token)) != i:
      raise ValueError(f"token {content(token)!r} has id {backend.token_to_id(content(token))}, not {i} as is said")
    present.add(content(token))
  for token in named:
    if content(token) not in present:
      backend.add_tokens([as_added(token)])
      present.add(content(token))


class Marian(Published):
  """Marian's: SentencePiece models of the source and of the target language, whose pieces share one vocabulary."""

  kind = "marian"

  def __init__(self, files: dict[str, bytes], model: dict):
    import sentencepiece

    super().__init__(files, model)
    if "vocab.json" not in files:
      raise ValueError("source.spm has no vocab.json beside it")
    config = settings(files)
    if config.get("separate_vocabs"):
      raise ValueError("its source and target have separate vocabularies: only a shared one is read")
    vocabularies.parse(files["source.spm"])
    self.processor = sentencepiece.SentencePieceProcessor(model_proto=files["source.spm"])
    self.numbers = json.loads(files["vocab.json"])
    self.pieces = {i: piece for piece, i in self.numbers.items()}
    self.vocab_size = max(self.pieces) + 1
    tokens = vocabularies.FAMILIES["marian"].tokens
    tokens = {n: content(config.get(f"{n}_token")) or token for n, token in tokens.items()}
    self.special = {n: self.numbers[token] for n, token in tokens.items()}
    self.end = self.special["eos"]
    self.split = re.compile("(" + "|".join(map(re.escape, tokens.values())) + ")")
    pieces = map(self.processor.id_to_piece, range(self.processor.vocab_size()))
    self.ids = np.array([self.numbers.get(piece, self.special["unk"]) for piece in pieces], np.int32)

  def encode(self, text):
    ids = []
    for part in filter(None, self.split.split(text)):
      if self.split.fullmatch(part):
        ids.append(self.numbers[part])
        continue
      language = re.match(">>.*?<<", part, re.DOTALL)  # the target's, of a model that has several
      pieces = [language[0]] if language else []
      pieces += self.processor.encode(part[language.end() if language else 0 :], out_type=str)
      ids += [self.numbers.get(piece, self.special["unk"]) for piece in pieces]
    return ids

  def encode_all(self, texts):
    plain = [text for text in texts if not text.startswith(">>") and not self.split.search(text)]
    encoded = {}
    for text, ids in zip(plain, self.processor.encode(plain, num_threads=cores())):
      ids = np.array(ids, np.int32)
      if self.processor.unk_id() not in ids:  # a piece that SentencePiece does not know may be in the vocabulary
        encoded[text] = self.ids[ids]
    return [encoded[text] if text in encoded else np.array(self.encode(text), np.int32) for text in texts]

  def piece(self, token):
    return self.pieces.get(token, "").replace(vocabularies.SPACE_MARK, " ").encode()

  def decode(self, ids):
    special = {*self.special.values()}
    pieces = [self.pieces[int(i)] for i in ids if int(i) not in special and int(i) in self.pieces]
    return self.processor.decode_pieces(pieces).replace(vocabularies.SPACE_MARK, " ").strip()

  def rows(self, texts, pairs, max_length):
    length = None if max_length is None else room(max_length, 1)
    return [([*ids[:length], self.end], types) for ids, types in super().rows(texts, pairs, None)]
