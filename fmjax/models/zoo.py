"""Families by their papers' names, as data: the fields of TransformerConfig that differ from its defaults."""


def sizes(fields: dict, *letters) -> dict:
  """`fields` with D, L, N, F and what else is given in the order of a paper's table."""
  return {**fields, **dict(zip("DLNFKHR", letters, strict=False))}


# Radford et al. 2019, Table 2.
GPT2 = dict(V=50257, max_positions=1024, dropout=0.1, init_std=0.02)

# Touvron et al. 2023, arXiv:2302.13971, Table 2; the feed-forward is 2/3 of 4 D, to a multiple of 256.
LLAMA = dict(V=32000, norm="rms", norm_eps=1e-5, activation="silu", gated=True, bias=False, positions="rotary",
             tied=False, init_std=0.02)  # fmt: skip
LLAMA_3 = LLAMA | dict(V=128256, rotary_base=500000.0)  # Grattafiori et al. 2024, arXiv:2407.21783, Table 3
QWEN = LLAMA | dict(V=151936, norm_eps=1e-6, rotary_base=1e6, tied=True)  # arXiv:2407.10671 and 2505.09388
SMOLLM2 = LLAMA | dict(V=49152, rotary_base=100000.0, max_positions=8192, tied=True)  # Allal et al. 2025, 2502.02737
# Riviere et al. 2024, arXiv:2408.00118; Kamath et al. 2025, arXiv:2503.19786.
GEMMA = LLAMA | dict(norm="rms_plus_one", norm_place="both", norm_eps=1e-6, activation="gelu_tanh", tied=True,
                     embedding_scale=True)  # fmt: skip

# Devlin et al. 2019, arXiv:1810.04805, section 3.
ENCODER = dict(kind="encoder", norm_place="post", norm_eps=1e-12, activation="gelu", embedding_norm=True,
               max_positions=512, init_std=0.02)  # fmt: skip
MASKED = ENCODER | dict(output_transform=True, output_bias=True, dropout=0.1)
BERT = MASKED | dict(token_types=2)
UNCASED, CASED = dict(V=30522), dict(V=28996)
# Liu et al. 2019, arXiv:1907.11692: two rows of positions before the first.
ROBERTA = MASKED | dict(V=50265, token_types=1, first_position=2, norm_eps=1e-5)
# Lan et al. 2020, arXiv:1909.11942, Table 1; version 2 trains longer, without dropout.
ALBERT = BERT | dict(V=30000, R=128, shared_layers=True, activation="gelu_tanh", dropout=0.0)
# Clark et al. 2020, arXiv:2003.10555, Table 6, as released: the small model's generator is of its own size.
ELECTRA = ENCODER | dict(V=30522, token_types=2, dropout=0.1)
GENERATOR = ELECTRA | dict(output_transform=True, output_bias=True)
DISCRIMINATOR = ELECTRA | dict(pooler="gelu", head="token", classes=1)

# Raffel et al. 2020, arXiv:1910.10683, section 3.7; version 1.1 with a gate: Shazeer 2020, arXiv:2002.05202.
T5 = dict(kind="encoder_decoder", V=32128, norm="rms", norm_eps=1e-6, activation="relu", bias=False,
          positions="relative", attention_scale=1.0, dropout=0.1)  # fmt: skip
T5_GATED = T5 | dict(activation="gelu_tanh", gated=True, tied=False)
GATED_SIZES = {"small": (512, 8, 6, 1024), "base": (768, 12, 12, 2048), "large": (1024, 24, 16, 2816),
               "xl": (2048, 24, 32, 5120), "xxl": (4096, 24, 64, 10240)}  # fmt: skip

# Vaswani et al. 2017, arXiv:1706.03762, Table 3, with the shared vocabulary of section 5.1.
VASWANI = dict(kind="encoder_decoder", V=37000, norm_place="post", activation="relu", positions="sinusoidal",
               max_positions=1024, embedding_scale=True)  # fmt: skip
# Lewis et al. 2020, arXiv:1910.13461.
BART = dict(kind="encoder_decoder", V=50265, norm_place="post", activation="gelu", max_positions=1024,
            first_position=2, embedding_norm=True, output_bias=True, dropout=0.1, init_std=0.02)  # fmt: skip


def t5(*letters) -> dict:
  return sizes(T5, *letters) | dict(output_scale=letters[0] ** -0.5)


def gated(fields: dict, letters) -> dict:
  return sizes(fields, *letters) | dict(H=64)


PRESETS = {
  "gpt2": sizes(GPT2, 768, 12, 12),
  "gpt2-medium": sizes(GPT2, 1024, 24, 16),
  "gpt2-large": sizes(GPT2, 1280, 36, 20),
  "gpt2-xl": sizes(GPT2, 1600, 48, 25),
  "llama-7b": sizes(LLAMA, 4096, 32, 32, 11008) | dict(norm_eps=1e-6),
  "llama-2-7b": sizes(LLAMA, 4096, 32, 32, 11008) | dict(max_positions=4096),
  "llama-3-8b": sizes(LLAMA_3, 4096, 32, 32, 14336, 8) | dict(max_positions=8192),
  "llama-3.1-8b": sizes(LLAMA_3, 4096, 32, 32, 14336, 8)
  | dict(max_positions=131072, rotary_scaling=(8.0, 1.0, 4.0, 8192.0)),
  "llama-3.2-1b": sizes(LLAMA_3, 2048, 16, 32, 8192, 8)
  | dict(max_positions=131072, rotary_scaling=(32.0, 1.0, 4.0, 8192.0), tied=True),
  # Jiang et al. 2023, arXiv:2310.06825, Table 1.
  "mistral-7b-v0.1": sizes(LLAMA, 4096, 32, 32, 14336, 8) | dict(window=4096, max_positions=32768),
  "qwen2-0.5b": sizes(QWEN, 896, 24, 14, 4864, 2) | dict(qkv_bias=True, max_positions=131072),
  "qwen3-0.6b": sizes(QWEN, 1024, 28, 16, 3072, 8, 128) | dict(qk_norm=True, max_positions=40960),
  "smollm2-135m": sizes(SMOLLM2, 576, 30, 9, 1536, 3),
  "smollm2-360m": sizes(SMOLLM2, 960, 32, 15, 2560, 5),
  "smollm2-1.7b": sizes(SMOLLM2, 2048, 24, 32, 8192) | dict(rotary_base=130000.0),
  "gemma-2-2b": sizes(GEMMA, 2304, 26, 8, 9216, 4, 256)
  | dict(V=256000, max_positions=8192, window=4096, window_layers=tuple(range(0, 26, 2)), attention_softcap=50.0,
         output_softcap=30.0),
  "gemma-3-1b": sizes(GEMMA, 1152, 26, 4, 6912, 1, 256)
  | dict(V=262144, max_positions=32768, window=512, window_layers=tuple(n for n in range(26) if (n + 1) % 6),
         rotary_base=1e6, rotary_local_base=10000.0, qk_norm=True),
  "bert-base-uncased": sizes(BERT, 768, 12, 12) | UNCASED,
  "bert-base-cased": sizes(BERT, 768, 12, 12) | CASED,
  "bert-large-uncased": sizes(BERT, 1024, 24, 16) | UNCASED,
  "bert-large-cased": sizes(BERT, 1024, 24, 16) | CASED,
  # Wang et al. 2020, arXiv:2002.10957, cut to every second layer, as sentence embeddings use it.
  "minilm-l6": sizes(ENCODER, 384, 6, 12) | UNCASED | dict(token_types=2, pooler="tanh", dropout=0.1),
  "roberta-base": sizes(ROBERTA, 768, 12, 12),
  "roberta-large": sizes(ROBERTA, 1024, 24, 16),
  "xlm-roberta-base": sizes(ROBERTA, 768, 12, 12) | dict(V=250002),  # Conneau et al. 2020, arXiv:1911.02116
  "albert-base-v1": sizes(ALBERT, 768, 12, 12) | dict(activation="gelu", dropout=0.1),
  "albert-base-v2": sizes(ALBERT, 768, 12, 12),
  "albert-large-v2": sizes(ALBERT, 1024, 24, 16),
  "albert-xlarge-v2": sizes(ALBERT, 2048, 24, 16),
  "albert-xxlarge-v2": sizes(ALBERT, 4096, 12, 64),
  "distilbert-base-uncased": sizes(MASKED, 768, 6, 12) | UNCASED,  # Sanh et al. 2019, arXiv:1910.01108
  "electra-small-generator": sizes(GENERATOR, 256, 12, 4) | dict(R=128),
  "electra-small-discriminator": sizes(DISCRIMINATOR, 256, 12, 4) | dict(R=128),
  "electra-base-generator": sizes(GENERATOR, 256, 12, 4) | dict(R=768),
  "electra-base-discriminator": sizes(DISCRIMINATOR, 768, 12, 12),
  "electra-large-generator": sizes(GENERATOR, 256, 24, 4) | dict(R=1024),
  "electra-large-discriminator": sizes(DISCRIMINATOR, 1024, 24, 16),
  "t5-small": t5(512, 6, 8, 2048),
  "t5-base": t5(768, 12, 12, 3072),
  "t5-large": t5(1024, 24, 16, 4096),
  "t5-3b": t5(1024, 24, 32, 16384) | dict(H=128),
  "t5-11b": t5(1024, 24, 128, 65536) | dict(H=128),
  **{f"t5-v1.1-{name}": gated(T5_GATED, GATED_SIZES[name]) for name in ("small", "base", "large")},
  **{f"flan-t5-{name}": gated(T5_GATED, GATED_SIZES[name]) for name in GATED_SIZES},  # Chung et al. 2022, 2210.11416
  # Xue et al. 2021, arXiv:2010.11934.
  **{f"mt5-{name}": gated(T5_GATED, GATED_SIZES[name]) | dict(V=250112) for name in ("small", "base")},
  "transformer-base": sizes(VASWANI, 512, 6, 8) | dict(dropout=0.1),
  "transformer-big": sizes(VASWANI, 1024, 6, 16) | dict(dropout=0.3),
  # Tiedemann and Thottingal 2020 (OPUS-MT), as Marian trains it.
  "opus-mt-en-de": sizes(VASWANI, 512, 6, 8)
  | dict(V=58101, max_positions=512, activation="silu", output_bias=True, dropout=0.1),
  "bart-base": sizes(BART, 768, 6, 12),
  "bart-large": sizes(BART, 1024, 12, 16),
}  # fmt: skip
