"""Families by their papers' names, as data: the fields of TransformerConfig that differ from its defaults."""

GPT2 = dict(V=50257, max_positions=1024, dropout=0.1, init_std=0.02)  # Radford et al. 2019, Table 2
LLAMA = dict(norm="rms", activation="silu", gated=True, bias=False, positions="rotary", init_std=0.02)

PRESETS = {
  "gpt2": {**GPT2, "D": 768, "L": 12, "N": 12},
  "gpt2-medium": {**GPT2, "D": 1024, "L": 24, "N": 16},
  "gpt2-large": {**GPT2, "D": 1280, "L": 36, "N": 20},
  "gpt2-xl": {**GPT2, "D": 1600, "L": 48, "N": 25},
  # Touvron et al. 2023 (arXiv:2302.13971), Table 2; the feed-forward is 2/3 of 4 D, to a multiple of 256.
  "llama-7b": {**LLAMA, "V": 32000, "D": 4096, "L": 32, "N": 32, "F": 11008, "norm_eps": 1e-6, "tied": False},
}
