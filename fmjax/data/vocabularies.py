"""A backend of the `tokenizers` library from what a family publishes: word pieces, byte pairs, a SentencePiece model.

Where a folder has `tokenizer.json` none of this is needed: the file is the backend. A family is a row of FAMILIES.
"""

import dataclasses
import functools
import json
import re
import struct

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from fmjax.data.special import texts_of
from fmjax.errors import FmjaxError

# SentencePiece writes a space as this character, and reads this character back as a space.
SPACE_MARK = "\u2581"
# sentencepiece_model.proto: ModelProto.SentencePiece.Type and TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
UNIGRAM, BPE = 1, 2
UNLIKELY = -1e4  # the logarithm of the probability of a piece that no text is made of


@dataclasses.dataclass(frozen=True)
class Family:
  """The special tokens a family has where its files are silent, and its templates of one text and of a pair.

  A family without templates begins and ends a text as `add_bos_token` and `add_eos_token` of its config say;
  `begins` is the first where neither config nor `tokenizer.json` says it.
  """

  tokens: dict
  single: str | None = None
  pair: str | None = None
  begins: bool = False
  token_types: bool = False
  padding_side: str = "right"


BERT_TEMPLATES = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")
ROBERTA_TEMPLATES = ("{cls} $A {sep}", "{cls} $A {sep} {sep} $B {sep}")
BERT_TOKENS = dict(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
ROBERTA_TOKENS = dict(bos="<s>", eos="</s>", sep="</s>", cls="<s>", unk="<unk>", pad="<pad>", mask="<mask>")
ALBERT_TOKENS = dict(bos="[CLS]", eos="[SEP]", unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask="[MASK]")
END_OF_TEXT = "<|endoftext|>"

FAMILIES = {
  "bert": Family(BERT_TOKENS, *BERT_TEMPLATES, token_types=True),
  "distilbert": Family(BERT_TOKENS, *BERT_TEMPLATES),
  "albert": Family(ALBERT_TOKENS, *BERT_TEMPLATES, token_types=True),
  "roberta": Family(ROBERTA_TOKENS, *ROBERTA_TEMPLATES),
  "xlmroberta": Family(ROBERTA_TOKENS, *ROBERTA_TEMPLATES),
  "t5": Family(dict(eos="</s>", unk="<unk>", pad="<pad>"), "$A {eos}", "$A {eos} $B {eos}"),
  "gpt2": Family(dict(bos=END_OF_TEXT, eos=END_OF_TEXT, unk=END_OF_TEXT)),
  "qwen2": Family(dict(eos=END_OF_TEXT, pad=END_OF_TEXT, unk=END_OF_TEXT)),
  "llama": Family(dict(unk="<unk>", bos="<s>", eos="</s>"), begins=True, padding_side="left"),
  "gemma": Family(
    dict(unk="<unk>", bos="<bos>", eos="<eos>", pad="<pad>", mask="<mask>"), begins=True, padding_side="left"
  ),
  "marian": Family(dict(eos="</s>", unk="<unk>", pad="<pad>")),
}  # fmt: skip
# Other model types, and the stems of other tokenizer classes, whose tokenizer is another family's.
FAMILIES |= {
  "electra": FAMILIES["bert"],
  "bart": FAMILIES["roberta"],
  "mt5": FAMILIES["t5"],
  "mistral": FAMILIES["llama"],
  "qwen3": FAMILIES["qwen2"],
  "gemma2": FAMILIES["gemma"],
  "gemma3": FAMILIES["gemma"],
  "gemma3text": FAMILIES["gemma"],
}


def template(family: Family, special: dict, config: dict, vocabulary: dict):
  """What stands around a text and between the two of a pair; `special` is {name: token}."""
  if family.single:
    single, pair = family.single.format(**special), family.pair.format(**special)
  else:
    bos = f"{special['bos']}:{{0}} " if config.get("add_bos_token") and special.get("bos") else ""
    eos = f" {special['eos']}:{{0}}" if config.get("add_eos_token") and special.get("eos") else ""
    text = bos + "${1}:{0}" + eos
    single = text.format(0, "A")
    pair = f"{single} {text.format(1, 'B')}"
  tokens = [(token, vocabulary[token]) for token in set(special.values()) if token in vocabulary]
  return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def word_pieces(vocab_txt: bytes, config: dict, special: dict) -> Tokenizer:
  """BERT's: `config` may say do_lower_case, strip_accents and tokenize_chinese_chars."""
  lines = vocab_txt.decode().split("\n")
  if lines[-1] == "":
    lines.pop()
  vocabulary = {token.rstrip("\r"): i for i, token in enumerate(lines)}
  backend = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
  backend.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    strip_accents=config.get("strip_accents"),
    lowercase=config.get("do_lower_case", True),
  )
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.decoder = decoders.WordPiece(prefix="##")
  return backend


# Qwen2's split of a text into words; GPT-2's own is the library's default.
QWEN2_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_pairs(vocab_json: bytes, merges_txt: bytes, config: dict, qwen2: bool = False) -> Tokenizer:
  """GPT-2's byte-level pairs; Qwen2 normalises to NFC and has words of its own."""
  lines = merges_txt.decode().split("\n")
  merges = [tuple(line.split()) for line in lines[lines[0].startswith("#version") :] if line.strip()]
  if unfit := next((merge for merge in merges if len(merge) != 2), None):
    raise ValueError(f"merges.txt has a line that is no pair: {' '.join(unfit)!r}")
  backend = Tokenizer(models.BPE(json.loads(vocab_json), merges, continuing_subword_prefix="", end_of_word_suffix=""))
  add_prefix_space = bool(config.get("add_prefix_space"))
  if qwen2:
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
  else:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
  backend.decoder = decoders.ByteLevel()
  return backend


@dataclasses.dataclass(frozen=True)
class Pieces:
  """What a SentencePiece model says: (piece, score) and type by id, its algorithm and its normaliser."""

  scored: list[tuple[str, float]]
  types: list[int]
  algorithm: int
  byte_fallback: bool
  charsmap: bytes
  add_dummy_prefix: bool
  remove_extra_whitespaces: bool

  def of_type(self, *types) -> list[str]:
    return [piece for (piece, _), kind in zip(self.scored, self.types) if kind in types]

  @property
  def unknown(self) -> int:
    return self.types.index(UNKNOWN)


def parse(model: bytes) -> Pieces:
  """ValueError if `model` is no SentencePiece model, or one of neither unigram nor byte pairs."""
  try:
    tree = {1: [], 2: [b""], 3: [b""]} | message(model)
    pieces = [message(piece) for piece in tree[1]]
    trainer, normaliser = message(tree[2][0]), message(tree[3][0])
    scored = [(p[1][0].decode(), struct.unpack("<f", p[2][0])[0] if 2 in p else 0.0) for p in pieces]
    types = [p[3][0] if 3 in p else NORMAL for p in pieces]
    if UNKNOWN not in types:
      raise ValueError
  except (ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
    raise ValueError("it is not a SentencePiece model") from error
  algorithm = trainer.get(3, [UNIGRAM])[0]
  if algorithm not in (UNIGRAM, BPE):
    name = {3: "word", 4: "char"}.get(algorithm, algorithm)
    raise ValueError(f"its SentencePiece type is {name!r}: only unigram and bpe are read")
  return Pieces(
    scored,
    types,
    algorithm,
    byte_fallback=bool(trainer.get(35, [0])[0]),
    charsmap=normaliser.get(2, [b""])[0],
    add_dummy_prefix=bool(normaliser.get(3, [1])[0]),
    remove_extra_whitespaces=bool(normaliser.get(4, [1])[0]),
  )


def message(data: bytes) -> dict[int, list]:
  """A protobuf message: {field: its values}, an int for a varint and bytes for the rest; ValueError if it is cut.

  Read here because the module that the sentencepiece package generated asks for the newest protobuf, which other
  packages of an environment forbid.
  """
  fields, i = {}, 0

  def varint():
    nonlocal i
    value = shift = 0
    while True:
      if i >= len(data):
        raise ValueError("cut")
      byte, i = data[i], i + 1
      value |= (byte & 0x7F) << shift
      shift += 7
      if byte < 0x80:
        return value

  while i < len(data):
    field, wire = divmod(varint(), 8)
    if wire == 0:
      value = varint()
    else:
      length = {1: 8, 5: 4}[wire] if wire != 2 else varint()
      value, i = data[i : i + length], i + length
      if i > len(data):
        raise ValueError("cut")
    fields.setdefault(field, []).append(value)
  return fields


def piece_spans(text: str, encoded: bytes) -> list[tuple[int, int]]:
  """The characters [start, stop) of each piece; `encoded` is the SentencePieceText, which counts bytes."""
  first_bytes = np.frombuffer(text.encode(), np.uint8) & 0xC0 != 0x80
  character = np.concatenate([[0], np.cumsum(first_bytes)]).tolist()
  pieces = [message(piece) for piece in message(encoded).get(2, [])]
  return [(character[piece.get(4, [0])[0]], character[piece.get(5, [0])[0]]) for piece in pieces]


def merges_of(pieces: list[str]) -> list[tuple[str, str]]:
  """Every way to make a piece of two others, the earlier piece first: SentencePiece stores no merges."""
  ranks = {piece: rank for rank, piece in enumerate(pieces)}
  merges = []
  for rank, piece in enumerate(pieces):
    halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    pairs = [(ranks[left], ranks[right], left, right) for left, right in halves if left in ranks and right in ranks]
    merges += [(rank, len(left), left, right) for _, _, left, right in sorted(pairs)]
  return [(left, right) for _, _, left, right in sorted(merges, key=lambda merge: merge[:2])]


def sentence_pieces(name: str, model: bytes, config: dict, special: dict) -> Tokenizer:
  """The SentencePiece model of family `name`, as the family's authors put it to use."""
  pieces = parse(model)
  scored, unknown = pieces.scored, pieces.unknown
  extra = [f"<extra_id_{i}>" for i in range(config.get("extra_ids", 100))] if name in ("t5", "mt5") else []
  if name == "xlmroberta":  # fairseq's: four tokens of its own, then the pieces after SentencePiece's first three
    own = [(special[token], 0.0) for token in ("bos", "pad", "eos", "unk")]
    scored, unknown = [*own, *scored[3:], (special["mask"], 0.0)], 3
  scored = scored + [(token, 0.0) for token in reversed(extra)]
  unk_token = None if name in ("llama", "mistral") else scored[unknown][0]
  backend = Tokenizer(model_of(pieces, scored, unknown, unk_token))
  dress(backend, pieces.charsmap, name, config)
  named = {*special.values(), *pieces.of_type(CONTROL)}
  added = pieces.of_type(CONTROL, USER_DEFINED)
  backend.add_tokens([AddedToken(piece, normalized=False, special=piece in named) for piece in added])
  backend.add_special_tokens(extra)
  return backend


def model_of(pieces: Pieces, scored: list[tuple[str, float]], unknown: int, unk_token: str | None):
  if pieces.algorithm == UNIGRAM:
    return models.Unigram(scored, unknown, pieces.byte_fallback)
  names = [piece for piece, _ in scored]
  return models.BPE(
    {piece: i for i, piece in enumerate(names)},
    merges_of(names),
    unk_token=unk_token,
    fuse_unk=True,
    byte_fallback=pieces.byte_fallback,
  )


def dress(backend: Tokenizer, charsmap: bytes, name: str, config: dict):
  """The family's normaliser, words and decoder."""
  precompiled = [normalizers.Precompiled(charsmap)] if charsmap else []
  as_text = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
  prefix = config.get("add_prefix_space")
  match name:
    case "llama" | "mistral":
      prefix = True if prefix is None else prefix
      scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
      backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE_MARK, prepend_scheme=scheme, split=False)
      backend.decoder = decoders.Sequence(as_text + [decoders.Strip(" ", left=1)] * bool(prefix))
    case "gemma" | "gemma2" | "gemma3" | "gemma3text":
      backend.normalizer = normalizers.Replace(" ", SPACE_MARK)
      backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
      backend.decoder = decoders.Sequence(as_text)
    case _:
      first = []
      if name == "albert":
        first = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not config.get("keep_accents"):
          first += [normalizers.NFKD(), normalizers.StripAccents()]
        if config.get("do_lower_case", True):
          first.append(normalizers.Lowercase())
      if first or precompiled:
        backend.normalizer = normalizers.Sequence(first + precompiled)
      scheme = "never" if prefix is False else "always"
      words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE_MARK, prepend_scheme=scheme)]
      backend.pre_tokenizer = pre_tokenizers.Sequence(words)
      backend.decoder = decoders.Metaspace(SPACE_MARK, prepend_scheme=scheme)


def exact(model: bytes, end: int) -> Tokenizer:
  """A backend that encodes as the SentencePiece library does, down to a text that holds SPACE_MARK itself.

  The pieces are stored with spaces in them, so that SPACE_MARK is a character like another. Of a unigram model's ways
  that are as probable up to rounding, either library may take another.
  """
  parsed = parse(model)
  scored = [(piece.replace(SPACE_MARK, " "), score) for piece, score in parsed.scored]
  if parsed.algorithm == UNIGRAM:  # whose library takes any piece that it sees for the best way to write itself
    spoken = [kind in (NORMAL, USER_DEFINED) for kind in parsed.types]
    scored = [(piece, score if said else UNLIKELY) for (piece, score), said in zip(scored, spoken)]
  if end == len(scored):
    scored.append(("<|end|>", UNLIKELY))
  backend = Tokenizer(model_of(parsed, scored, parsed.unknown, scored[parsed.unknown][0]))
  steps = [normalizers.Precompiled(parsed.charsmap)] if parsed.charsmap else []
  if not parsed.byte_fallback:
    steps.append(normalizers.Replace(SPACE_MARK, " "))
  if parsed.remove_extra_whitespaces:
    steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex("^ | $"), "")]
  if parsed.add_dummy_prefix:
    steps.append(normalizers.Prepend(" "))
  if steps:
    backend.normalizer = normalizers.Sequence(steps)
  strip = [decoders.Strip(" ", left=1)] * parsed.add_dummy_prefix
  backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), *strip])
  own = [piece.replace(SPACE_MARK, " ") for piece in parsed.of_type(USER_DEFINED)]
  backend.add_tokens([AddedToken(piece, normalized=False) for piece in own])
  backend.add_special_tokens([scored[end][0]])
  backend.encode_special_tokens = True
  return backend


@functools.cache
def bytes_by_character() -> dict[str, int]:
  """ByteLevel writes a byte that is printable Latin-1 as itself, and the others in order from U+0100."""
  shown = pre_tokenizers.ByteLevel.alphabet()
  plain = [chr(byte) if chr(byte) in shown else None for byte in range(256)]
  others = iter(range(256, 512))
  return {character or chr(next(others)): byte for byte, character in enumerate(plain)}


def bytes_of(backend: Tokenizer, token: str) -> bytes:
  """What `token` of the vocabulary is in a text, a word piece as it is written."""
  if isinstance(backend.decoder, decoders.ByteLevel) and bytes_by_character().keys() >= {*token}:
    return bytes(map(bytes_by_character().get, token))
  if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):
    return bytes([int(byte[1], 16)])
  return token.replace(SPACE_MARK, " ").encode()


def add_special(backend: Tokenizer, names) -> dict[str, str]:
  """Gives `backend` a token of each name, in this order; {name: text}. With cls and sep it has BERT's templates."""
  vocabulary, made = backend.get_vocab(), {}
  for name in names:
    if (text := next((text for text in texts_of(name) if text not in vocabulary), None)) is None:
      raise FmjaxError("TOKENIZER_BAD", f"all texts of the special token {name} are taken", expected=texts_of(name),
                       fix="set data.tokenizer to one of another text")  # fmt: skip
    made[name] = text
  backend.add_special_tokens(list(made.values()))
  if made.keys() >= {"cls", "sep"}:
    around = {name: made[name] for name in ("cls", "sep")}
    backend.post_processor = template(Family({}, *BERT_TEMPLATES), around, {}, backend.get_vocab())
  return made


def of_bytes() -> Tokenizer:
  """The 256 bytes in order, and the end."""
  backend = Tokenizer(models.BPE(bytes_by_character() | {"<|end|>": 256}, []))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(["<|end|>"])
  backend.encode_special_tokens = True
  return backend


def of_characters(characters: str) -> Tokenizer:
  """The characters in order, the end, and the unknown one, which reads as U+FFFD where that is not a character."""
  unknown = "\ufffd" if "\ufffd" not in characters else "<|unknown|>"
  names = [*characters, "<|end|>", unknown]
  backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token=unknown))
  backend.decoder = decoders.Fuse()
  backend.add_special_tokens(["<|end|>"])
  backend.encode_special_tokens = True
  return backend
