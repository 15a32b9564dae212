"""GPT-2, and Llama with its descendants: Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3. (SmolLM2 is a Llama.)"""

from fmjax.interop.family import Family, Head, Part, unsupported

# GPT-2: Radford et al. 2019.

GPT2 = Family(
  "gpt2", "transformer.",
  dict(V="vocab_size", D="n_embd", L="n_layer", N="n_head", F="n_inner", max_positions="n_positions",
       norm_eps="layer_norm_epsilon", activation="activation_function", dropout="resid_pdrop",
       init_std="initializer_range"),
  dict(kind="decoder"),
  dict(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=None, resid_pdrop=0.1,
       embd_pdrop=0.1, attn_pdrop=0.1, activation_function="gelu_new", layer_norm_epsilon=1e-5,
       initializer_range=0.02, bos_token_id=50256,
       eos_token_id=50256),
  {
    "embed/tokens": "wte", "embed/positions": "wpe", "final_norm": "ln_f",
    "blocks/attention/q": Part("h.{l}.attn.c_attn", 0, 3),
    "blocks/attention/k": Part("h.{l}.attn.c_attn", 1, 3),
    "blocks/attention/v": Part("h.{l}.attn.c_attn", 2, 3),
    "blocks/attention/o": "h.{l}.attn.c_proj",
    "blocks/attention_norm": "h.{l}.ln_1",
    "blocks/feedforward/up": "h.{l}.mlp.c_fc",
    "blocks/feedforward/down": "h.{l}.mlp.c_proj",
    "blocks/feedforward_norm": "h.{l}.ln_2",
  },
  conv1d=True, buffers=r"(.*\.)?attn\.(masked_)?bias",
  laws=dict(scale_attn_by_inverse_layer_idx=False, scale_attn_weights=True),
  heads={
    "GPT2Model": Head("base", prefix=""),
    "GPT2LMHeadModel": Head("lm", {}, {"embed/outputs": "lm_head"}),
    "GPT2ForSequenceClassification": Head("sequence", dict(pool="last", head_bias=False), {"head/classes": "score"}),
    "GPT2ForTokenClassification": Head("token", {}, {"head/classes": "classifier"}),
    "GPT2ForQuestionAnswering": Head("qa", {}, {"head/classes": "qa_outputs"}),
  },
)  # fmt: skip


# Rotary positions, in the layout of transformers 5 (rope_parameters) or 4 (rope_theta and rope_scaling).


def read_rope(rope: dict, base: float) -> dict:
  """Our fields of one kind of layer's rope_parameters."""
  rope = dict(rope or {})
  kind = rope.get("rope_type") or rope.get("type") or "default"
  if rope.get("partial_rotary_factor", 1.0) != 1.0:
    raise unsupported("rotary positions on a part of the head (partial_rotary_factor) are not computed")
  fields = dict(rotary_base=float(rope.get("rope_theta") or base))
  if kind == "linear":
    fields["rotary_scaling"] = (float(rope["factor"]), 1.0, 1.0, 0.0)
  elif kind == "llama3":
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    fields["rotary_scaling"] = tuple(float(rope[name]) for name in names)
  elif kind != "default":
    raise unsupported(f"rotary positions of type {kind!r} are not computed (only default, linear and llama3)")
  return fields


def write_rope(base: float, scaling) -> dict:
  rope = dict(rope_theta=base, rope_type="default")
  if scaling is None:
    return rope
  factor, low, high, original = scaling
  if original == 0:
    return rope | dict(rope_type="linear", factor=factor)
  return rope | dict(rope_type="llama3", factor=factor, low_freq_factor=low, high_freq_factor=high,
                     original_max_position_embeddings=int(original))  # fmt: skip


def rope_of(hf: dict) -> dict:
  return hf.get("rope_parameters") or hf.get("rope_scaling") or {}


def write_ropes(config) -> dict:
  rope = write_rope(config.rotary_base, config.rotary_scaling)
  scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
  plain = rope["rope_type"] == "default"
  return dict(rope_parameters=rope, rope_theta=config.rotary_base, rope_scaling=None if plain else scaling)


# Sliding windows.

FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(kinds: list[str], window: int | None) -> dict:
  """Our fields of layer_types."""
  if strange := set(kinds) - {FULL, SLIDING}:
    raise unsupported(f"layers of type {sorted(strange)[0]!r} are not computed (only {FULL} and {SLIDING})")
  layers = tuple(n for n, kind in enumerate(kinds) if kind == SLIDING)
  if not layers or window is None:
    return {}
  return dict(window=window, window_layers=None if len(layers) == len(kinds) else layers)


def write_windows(config) -> dict:
  return dict(layer_types=[FULL if window is None else SLIDING for window in config.windows])


# Llama: Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; Grattafiori et al. 2024, arXiv:2407.21783.

LAYER = "layers.{l}."
MODULES = {
  "embed/tokens": "embed_tokens", "final_norm": "norm",
  "blocks/attention/q": LAYER + "self_attn.q_proj",
  "blocks/attention/k": LAYER + "self_attn.k_proj",
  "blocks/attention/v": LAYER + "self_attn.v_proj",
  "blocks/attention/o": LAYER + "self_attn.o_proj",
  "blocks/attention/q_norm": LAYER + "self_attn.q_norm",
  "blocks/attention/k_norm": LAYER + "self_attn.k_norm",
  "blocks/attention_norm": LAYER + "input_layernorm",
  "blocks/feedforward/gate": LAYER + "mlp.gate_proj",
  "blocks/feedforward/up": LAYER + "mlp.up_proj",
  "blocks/feedforward/down": LAYER + "mlp.down_proj",
  "blocks/feedforward_norm": LAYER + "post_attention_layernorm",
}  # fmt: skip
FIXED = dict(kind="decoder", norm="rms", gated=True, positions="rotary", bias=False)
SIZES = dict(
  V="vocab_size", D="hidden_size", L="num_hidden_layers", N="num_attention_heads", K="num_key_value_heads",
  H="head_dim", F="intermediate_size", max_positions="max_position_embeddings", norm_eps="rms_norm_eps",
  activation="hidden_act", dropout="attention_dropout", init_std="initializer_range",
)  # fmt: skip
DEFAULTS = dict(
  vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
  num_key_value_heads=None, head_dim=None, hidden_act="silu", max_position_embeddings=2048, initializer_range=0.02,
  rms_norm_eps=1e-6, attention_dropout=0.0, tie_word_embeddings=False, rope_parameters=None, rope_theta=None,
  rope_scaling=None,
)  # fmt: skip


def heads(name: str, answers: str | None, text: str = "") -> dict:
  """The classes of a Llama; `answers` is the prefix that question answering has."""
  made = {
    f"{name}{text}Model": Head("base", prefix=""),
    f"{name}ForCausalLM": Head("lm", {}, {"embed/outputs": "lm_head"}),
    f"{name}{text}ForSequenceClassification": Head(
      "sequence", dict(pool="last", head_bias=False), {"head/classes": "score"}
    ),
  }
  if not text:
    made[f"{name}ForTokenClassification"] = Head("token", {}, {"head/classes": "score"})
  if answers:
    made[f"{name}ForQuestionAnswering"] = Head("qa", {}, {"head/classes": "qa_outputs"}, prefix=answers)
  return made


def read_llama(hf, head) -> dict:
  fields = read_rope(rope_of(hf), hf.get("rope_theta") or 10000.0)
  if hf.get("attention_bias") or hf.get("mlp_bias"):
    if not (hf.get("attention_bias") and hf.get("mlp_bias")):
      raise unsupported("attention_bias without mlp_bias, or the reverse, is not computed")
    fields["bias"] = True
  return fields


def write_llama(config) -> dict:
  return dict(attention_bias=config.bias, mlp_bias=config.bias, **write_ropes(config))


def read_mistral(hf, head) -> dict:
  return read_rope(rope_of(hf), hf.get("rope_theta") or 10000.0) | dict(window=hf.get("sliding_window"))


def write_mistral(config) -> dict:
  return dict(sliding_window=config.window, **write_ropes(config))


def read_qwen(hf, head) -> dict:
  window, layers = hf.get("sliding_window"), hf["num_hidden_layers"]
  kinds = hf.get("layer_types")
  if not hf.get("use_sliding_window"):
    window = None
  if kinds is None:
    kinds = [SLIDING if n >= hf["max_window_layers"] else FULL for n in range(layers)]
  return read_rope(rope_of(hf), hf.get("rope_theta") or 10000.0) | read_windows(kinds, window)


def write_qwen(config) -> dict:
  first = next((n for n, window in enumerate(config.windows) if window), config.L)
  window = dict(sliding_window=config.window, use_sliding_window=config.window is not None, max_window_layers=first)
  return window | write_windows(config) | write_ropes(config)


LLAMA = Family("llama", "model.", SIZES, FIXED, DEFAULTS | dict(attention_bias=False, mlp_bias=False), MODULES,
               heads("Llama", "transformer."), read=read_llama, write=write_llama,
               buffers=r"(.*\.)?rotary_emb\.inv_freq")  # fmt: skip
# Jiang et al. 2023, arXiv:2310.06825.
MISTRAL = Family("mistral", "model.", SIZES, FIXED,
                 DEFAULTS | dict(intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131072,
                                 sliding_window=4096),
                 MODULES, heads("Mistral", "model."), read=read_mistral, write=write_mistral,
                 buffers=LLAMA.buffers)  # fmt: skip
QWEN = DEFAULTS | dict(
  vocab_size=151936, intermediate_size=22016, num_key_value_heads=32, max_position_embeddings=32768,
  use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None,
)  # fmt: skip
# Yang et al. 2024, arXiv:2407.10671; 2025, arXiv:2505.09388.
QWEN2 = Family("qwen2", "model.", SIZES, FIXED | dict(qkv_bias=True), QWEN, MODULES, heads("Qwen2", "transformer."),
               read=read_qwen, write=write_qwen, laws=dict(use_mrope=False), buffers=LLAMA.buffers)  # fmt: skip
QWEN3 = Family("qwen3", "model.", SIZES, FIXED | dict(qk_norm=True), QWEN | dict(head_dim=128), MODULES,
               heads("Qwen3", "transformer."), read=read_qwen, write=write_qwen, laws=dict(attention_bias=False),
               buffers=LLAMA.buffers)  # fmt: skip


# Gemma 2 and 3: Riviere et al. 2024, arXiv:2408.00118; Kamath et al. 2025, arXiv:2503.19786.

GEMMA_MODULES = MODULES | {
  "blocks/attention_post_norm": LAYER + "post_attention_layernorm",
  "blocks/feedforward_norm": LAYER + "pre_feedforward_layernorm",
  "blocks/feedforward_post_norm": LAYER + "post_feedforward_layernorm",
}
GEMMA_FIXED = FIXED | dict(norm="rms_plus_one", norm_place="both", embedding_scale=True)
GEMMA_SIZES = SIZES | dict(activation="hidden_activation", attention_softcap="attn_logit_softcapping",
                           output_softcap="final_logit_softcapping")  # fmt: skip
GEMMA = DEFAULTS | dict(
  vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
  num_key_value_heads=4, head_dim=256, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192,
  query_pre_attn_scalar=256, sliding_window=4096, layer_types=None, attn_logit_softcapping=50.0,
  final_logit_softcapping=30.0, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2,
)  # fmt: skip
GEMMA.pop("hidden_act")


def read_gemma(hf, head, period: int = 2) -> dict:
  """Every `period`-th layer is full."""
  scalar, layers = hf["query_pre_attn_scalar"], hf["num_hidden_layers"]
  kinds = hf.get("layer_types") or [FULL if (n + 1) % period == 0 else SLIDING for n in range(layers)]
  fields = read_windows(kinds, hf["sliding_window"])
  if head.task not in ("lm",):
    fields["output_softcap"] = None
  return fields | dict(attention_scale=None if scalar == hf["head_dim"] else scalar**-0.5)


def write_gemma(config) -> dict:
  scalar = config.H if config.attention_scale is None else round(config.attention_scale**-2, 6)
  scalar = int(scalar) if scalar == int(scalar) else scalar
  return dict(sliding_window=config.window or 4096, query_pre_attn_scalar=scalar, **write_windows(config))


def read_gemma2(hf, head) -> dict:
  return read_gemma(hf, head) | read_rope(rope_of(hf), hf.get("rope_theta") or 10000.0)


def write_gemma2(config) -> dict:
  return write_gemma(config) | write_ropes(config)


def read_gemma3(hf, head) -> dict:
  """Layers with a window turn at a base of their own, and are never scaled."""
  fields = read_gemma(hf, head, hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or 6)
  ropes = hf.get("rope_parameters") or {}
  whole = ropes.get(FULL) or hf.get("rope_scaling") or {}
  local = read_rope(ropes.get(SLIDING), hf.get("rope_local_base_freq") or 10000.0)
  fields |= read_rope(whole, hf.get("rope_theta") or 1000000.0)
  if "rotary_scaling" in local:
    raise unsupported("scaled rotary positions of layers with a window are not computed")
  return fields | (dict(rotary_local_base=local["rotary_base"]) if "window" in fields else {})


def write_gemma3(config) -> dict:
  whole = write_rope(config.rotary_base, config.rotary_scaling)
  local = config.rotary_local_base or config.rotary_base
  scaling = None if whole["rope_type"] == "default" else {k: v for k, v in whole.items() if k != "rope_theta"}
  return write_gemma(config) | dict(
    rope_parameters={FULL: whole, SLIDING: write_rope(local, None)},
    rope_theta=config.rotary_base, rope_local_base_freq=local, rope_scaling=scaling,
  )  # fmt: skip


GEMMA2 = Family("gemma2", "model.", GEMMA_SIZES, GEMMA_FIXED, GEMMA, GEMMA_MODULES, heads("Gemma2", None),
                read=read_gemma2, write=write_gemma2, laws=dict(attention_bias=False))  # fmt: skip
GEMMA3 = Family("gemma3_text", "model.", GEMMA_SIZES, GEMMA_FIXED | dict(qk_norm=True),
                GEMMA | dict(vocab_size=262208, max_position_embeddings=131072, attn_logit_softcapping=None,
                             final_logit_softcapping=None, rope_local_base_freq=None),
                GEMMA_MODULES, heads("Gemma3", None, "Text"), read=read_gemma3, write=write_gemma3,
                laws=dict(attention_bias=False))  # fmt: skip

FAMILIES = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3)
