"""Tokenizers trained here: SentencePiece's byte pairs and unigram model, word pieces, and pairs of bytes.

The same text gives the same tokenizer on any machine, whatever its cores.
"""

import collections
import io
import json
import re

import xxhash

from fmjax.data import tokenizers
from fmjax.data.files import find, read_text
from fmjax.data.huggingface import HuggingFace
from fmjax.data.tokenizer import Tokenizer
from fmjax.data.tokenizers import SentencePiece
from fmjax.errors import FmjaxError

COVERAGE = 0.9999  # share of a text that is made of the characters that are learned; the others are rare
# The unigram model's sums depend on the number of threads. What its pieces <unk>, </s> and <0xFF> are written with is
# of its alphabet, so that text that says so is never best written with them, whichever library encodes it.
OPTIONS = dict(bpe=dict(num_threads=1), unigram=dict(num_threads=16, required_chars="</>unksx0123456789ABCDEF"))
LEAST = 100  # word pieces: fewer have no room for an alphabet, twice
SEEN = 2  # times that a pair must occur to become a piece
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END_OF_TEXT = "<|endoftext|>"


def train_sentencepiece(texts, vocab_size: int, model_type: str = "bpe") -> SentencePiece:
  """A model of `texts`, "bpe" or "unigram", that gives every text back exactly.

  Byte-pair merges train on 9 MB in 1 s, the unigram model (Kudo 2018, arXiv:1804.10959) in 20. A newline is its own
  piece, so that no piece spans two lines.
  """
  import sentencepiece

  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=sample_lines(texts),
      model_writer=model,
      model_type=model_type,
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      byte_fallback=True,
      character_coverage=COVERAGE,
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
      minloglevel=2,
      **OPTIONS[model_type],
    )
  except RuntimeError as error:
    raise too_small("SentencePiece", vocab_size, str(error).splitlines()[-1]) from error
  return SentencePiece(model.getvalue())


def train_unigram(texts, vocab_size: int) -> SentencePiece:
  return train_sentencepiece(texts, vocab_size, "unigram")


def train_wordpiece(texts, vocab_size: int, lowercase: bool = False) -> HuggingFace:
  """BERT's word pieces and special tokens (Devlin et al. 2019, arXiv:1810.04805); [SEP] ends a document."""
  from tokenizers import Tokenizer as Backend
  from tokenizers import decoders, models, normalizers, pre_tokenizers
  from tokenizers.trainers import WordPieceTrainer

  from fmjax.data import vocabularies

  def learner():
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend

  def learned(size: int, first: list[str], **how) -> dict[str, int]:
    backend = learner()
    trainer = WordPieceTrainer(
      vocab_size=size, special_tokens=first, min_frequency=SEEN, show_progress=False, **how
    )  # fmt: skip
    backend.train_from_iterator(sample_lines(texts), trainer)
    return backend.get_vocab()

  # The trainer numbers characters as a hash table has them, and breaks ties by number: it is given their order.
  normalize = learner().normalizer.normalize_str
  characters = frequent(map(normalize, sample_lines(texts)), vocab_size // 4)
  inside = sorted(token for token in learned(0, []) if token[:2] == "##" and token[2:] in characters)
  first = [*BERT, *sorted(characters), *inside]
  if not characters or vocab_size < max(LEAST, len(first)):
    raise too_small("the trainer", vocab_size, f"{len(first)} characters and special tokens")
  vocabulary = learned(vocab_size, first, limit_alphabet=0)
  backend = learner()
  backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
  backend.decoder = decoders.WordPiece(prefix="##")
  backend.add_special_tokens(list(BERT))
  names = {text[1:-1].lower(): text for text in BERT}
  backend.post_processor = vocabularies.template(vocabularies.FAMILIES["bert"], names, {}, vocabulary)
  inputs = ["input_ids", "token_type_ids", "attention_mask"]
  return published(backend, names, do_lower_case=lowercase, model_input_names=inputs)


def train_bpe(texts, vocab_size: int) -> HuggingFace:
  """GPT-2's pairs of bytes within words (Radford et al. 2019), which give every text back exactly."""
  from tokenizers import Tokenizer as Backend
  from tokenizers import decoders, models, pre_tokenizers
  from tokenizers.trainers import BpeTrainer

  backend = Backend(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = BpeTrainer(
    vocab_size=vocab_size, special_tokens=[END_OF_TEXT], min_frequency=SEEN, initial_alphabet=alphabet,
    show_progress=False,
  )  # fmt: skip
  backend.train_from_iterator(sample_lines(texts), trainer)
  if backend.get_vocab_size() > vocab_size:
    raise too_small("the trainer", vocab_size, f"{len(alphabet)} bytes and an end")
  return published(backend, {"eos": END_OF_TEXT})


TRAINERS = {
  "sentencepiece": train_sentencepiece,
  "unigram": train_unigram,
  "wordpiece": train_wordpiece,
  "byte_bpe": train_bpe,
}
# As `fmjax tokenizer train` calls them.
KINDS = {"unigram": "unigram", "bpe": "sentencepiece", "wordpiece": "wordpiece", "byte-bpe": "byte_bpe"}


def train_on_files(kind: str, paths, vocab_size: int, lowercase: bool = False) -> Tokenizer:
  """Of the texts of the files that `paths`, paths and globs, name; no more than one of them is in memory at once."""
  if lowercase and kind != "wordpiece":
    raise FmjaxError(
      "USAGE", f"--lowercase is for word pieces, not for {kind}", fix="leave it out, or --kind=wordpiece"
    )
  files = sorted({file for path in paths for file in find(path)})
  share = tokenizers.SAMPLE_BYTES / max(1, sum(file.stat().st_size for file in files))
  texts = [text if share >= 1 else "\n".join(lines(text, share)) for text in map(read_text, files)]
  return TRAINERS[KINDS[kind]](texts, vocab_size, **dict(lowercase=True) if lowercase else {})


def published(backend, names: dict[str, str], **config) -> HuggingFace:
  """`backend` as files in Hugging Face's layout; `names` has the texts of its special tokens."""
  config |= {f"{name}_token": text for name, text in names.items()}
  # A special token's own text is text here, so that no document can hold an end.
  config |= dict(tokenizer_class="PreTrainedTokenizerFast", split_special_tokens=True,
                 clean_up_tokenization_spaces=False, trained_by=tokenizers.HERE)  # fmt: skip
  files = {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=1)}
  return HuggingFace({name: file.encode() for name, file in files.items()}, {})


def too_small(trainer: str, vocab_size: int, got: str) -> FmjaxError:
  return FmjaxError(
    "TOKENIZER_BAD",
    f"{trainer} cannot make {vocab_size} pieces of this text",
    got=got,
    fix="give more text, a vocab_size of 300 or more, or data.tokenizer=bytes",
  )


def sample_lines(texts):
  """The texts' lines; of more than SAMPLE_BYTES a share chosen by each line's hash, the same on every machine."""
  share = tokenizers.SAMPLE_BYTES / max(1, sum(len(text) - text.count("\n") for text in texts))
  return (line for text in texts for line in lines(text, share))


def lines(text: str, share: float):
  """The lines of `text` that are not empty and, below a share of 1, whose hashes fall into it."""
  for line in re.finditer("[^\n]+", text):
    if share >= 1 or xxhash.xxh3_64_intdigest(line[0].encode()) < share * 2**64:
      yield line[0]


def frequent(texts, most: int) -> set[str]:
  """The most frequent characters, COVERAGE of the texts' and `most` of them; as many come in order of code points."""
  counts = collections.Counter()
  for text in texts:
    counts.update(text)
  ranked = sorted((character for character in counts if not character.isspace()), key=lambda c: (-counts[c], c))
  left, chosen = COVERAGE * sum(counts[character] for character in ranked), set()
  for character in ranked[:most]:
    if left <= 0:
      break
    chosen.add(character)
    left -= counts[character]
  return chosen
