"""Special tokens by name: what an objective asks for, and the texts that stand for it in a vocabulary."""

import itertools

from fmjax.objectives.vocabulary import SENTINEL

# Hugging Face's own names: tokenizer_config.json says of each which token it is.
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# A tokenizer made here takes the first text that its vocabulary has no other use for; a published one may have any.
TEXTS = {
  **{name: (f"<{name}>", f"<|{name}|>") for name in NAMES},
  # UL2's modes (Tay et al. 2022, arXiv:2205.05131) as its released code writes them.
  "mode_r": ("[NLU]", "<|mode_r|>"),
  "mode_x": ("[NLG]", "<|mode_x|>"),
  "mode_s": ("[S2S]", "<|mode_s|>"),
  # StarCoder's, Qwen's and CodeGemma's, Code Llama's.
  "fim_prefix": ("<fim_prefix>", "<|fim_prefix|>", "<PRE>", "\u2581<PRE>"),
  "fim_suffix": ("<fim_suffix>", "<|fim_suffix|>", "<SUF>", "\u2581<SUF>"),
  "fim_middle": ("<fim_middle>", "<|fim_middle|>", "<MID>", "\u2581<MID>"),
}


def texts_of(name: str) -> tuple[str, ...]:
  """KeyError where no objective has such a name."""
  if name.startswith(SENTINEL):
    number = int(name.removeprefix(SENTINEL))
    return f"<extra_id_{number}>", f"<|extra_id_{number}|>", f"\u2581<extra_id_{number}>"  # T5's, and mT5's
  return TEXTS[name]


def found(number_of) -> dict[str, int]:
  """{name: id} of those that a text alone names; `number_of(text)` is the id of a token, None where there is none.

  Sentinels are counted from 0 on to the first that is missing.
  """

  def first(name: str) -> int | None:
    return next((i for i in map(number_of, texts_of(name)) if i is not None), None)

  ids = {name: first(name) for name in TEXTS if name not in NAMES}
  sentinels = map(first, map(f"{SENTINEL}{{}}".format, itertools.count()))
  ids |= {f"{SENTINEL}{n}": i for n, i in enumerate(itertools.takewhile(lambda i: i is not None, sentinels))}
  return {name: i for name, i in ids.items() if i is not None}
