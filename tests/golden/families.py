"""The tiny models of the golden files: what each folder's configuration is, and which classes it is made for.

Sizes are odd on purpose: heads that are no power of two, vocabularies that are no multiple of 8, grouped heads, a
head width that D does not give, windows shorter than the text.
"""

ENCODER = dict(
  vocab_size=99,
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=40,
  max_position_embeddings=30,
  type_vocab_size=2,
  pad_token_id=0,
)
ROBERTA = ENCODER | dict(
  max_position_embeddings=32, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2, layer_norm_eps=1e-5
)
CAUSAL_ENCODER = ENCODER | dict(is_decoder=True, max_position_embeddings=96, bos_token_id=1, eos_token_id=2)
CAUSAL_ROBERTA = ROBERTA | dict(is_decoder=True, max_position_embeddings=98)
ALBERT = ENCODER | dict(num_hidden_layers=3, embedding_size=10)
ELECTRA = ENCODER | dict(embedding_size=14)
LLAMA = dict(
  vocab_size=99,
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=3,
  num_key_value_heads=3,
  intermediate_size=40,
  max_position_embeddings=96,
  tie_word_embeddings=False,
  pad_token_id=0,
  bos_token_id=1,
  eos_token_id=2,
)
GROUPED = LLAMA | dict(num_attention_heads=6, num_key_value_heads=2, head_dim=6)
GEMMA = GROUPED | dict(
  num_key_value_heads=3,
  num_hidden_layers=3,
  query_pre_attn_scalar=9,
  sliding_window=5,
  tie_word_embeddings=True,
  hidden_activation="gelu_pytorch_tanh",
)
T5 = dict(
  vocab_size=99,
  d_model=24,
  d_kv=6,
  d_ff=40,
  num_layers=3,
  num_decoder_layers=2,
  num_heads=5,
  relative_attention_num_buckets=10,
  relative_attention_max_distance=20,
  pad_token_id=0,
  eos_token_id=1,
  decoder_start_token_id=0,
)
T5_GATED = T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
BART = dict(
  vocab_size=99,
  d_model=24,
  encoder_layers=3,
  decoder_layers=2,
  encoder_attention_heads=3,
  decoder_attention_heads=3,
  encoder_ffn_dim=40,
  decoder_ffn_dim=40,
  max_position_embeddings=96,
)
MARIAN = BART | dict(
  vocab_size=131,
  activation_function="swish",
  scale_embedding=True,
  pad_token_id=130,
  eos_token_id=0,
  forced_eos_token_id=0,
  decoder_start_token_id=130,
)


def heads(prefix: str, names: str) -> list[str]:
  """Class names: heads("Bert", "MaskedLM") is BertModel, BertForMaskedLM."""
  return [f"{prefix}Model", *(f"{prefix}For{name}" for name in names.split())]


CLASSIFIERS = "SequenceClassification TokenClassification QuestionAnswering"
MASKED = f"MaskedLM {CLASSIFIERS} MultipleChoice"
CAUSAL = f"CausalLM {CLASSIFIERS}"

# folder: (model_type, configuration, classes)
FAMILIES = {
  "bert": ("bert", ENCODER, heads("Bert", f"PreTraining NextSentencePrediction {MASKED}")),
  "roberta": ("roberta", ROBERTA, heads("Roberta", MASKED)),
  "xlm-roberta": ("xlm-roberta", ROBERTA | dict(vocab_size=131), heads("XLMRoberta", MASKED)),
  "albert": ("albert", ALBERT | dict(hidden_act="gelu_new"), heads("Albert", f"PreTraining {MASKED}")),
  "albert-v1": ("albert", ALBERT | dict(hidden_act="gelu"), heads("Albert", "MaskedLM")),
  "distilbert": (
    "distilbert",
    dict(vocab_size=99, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=30, pad_token_id=0),
    heads("DistilBert", MASKED),
  ),
  "electra": ("electra", ELECTRA, heads("Electra", f"PreTraining {MASKED}")),
  "electra-square": ("electra", ELECTRA | dict(embedding_size=24), heads("Electra", "PreTraining MaskedLM")),
  # Encoders that see only what came before, as the decoders of pairs made of two published encoders.
  "bert-decoder": ("bert", CAUSAL_ENCODER, ["BertLMHeadModel"]),
  "roberta-decoder": ("roberta", CAUSAL_ROBERTA, ["RobertaForCausalLM"]),
  "xlm-roberta-decoder": ("xlm-roberta", CAUSAL_ROBERTA, ["XLMRobertaForCausalLM"]),
  "electra-decoder": ("electra", CAUSAL_ENCODER | dict(embedding_size=14), ["ElectraForCausalLM"]),
  "gpt2": (
    "gpt2",
    dict(vocab_size=99, n_embd=20, n_layer=2, n_head=5, n_positions=96)
    | dict(pad_token_id=0, bos_token_id=98, eos_token_id=98),
    ["GPT2Model", "GPT2LMHeadModel", *heads("GPT2", CLASSIFIERS)[1:]],
  ),
  "llama": ("llama", LLAMA, heads("Llama", CAUSAL)),
  "llama3": (
    "llama",
    GROUPED
    | dict(head_dim=8, intermediate_size=32)
    # Wave lengths of 6, 30, 140 and 664 positions: one kept, one between the two, two stretched.
    | dict(rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0))
    | dict(rms_norm_eps=1e-5),
    heads("Llama", "CausalLM"),
  ),
  "llama-linear": (
    "llama",
    LLAMA | dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    heads("Llama", "CausalLM"),
  ),
  "smollm2": ("llama", GROUPED | dict(head_dim=4, tie_word_embeddings=True), heads("Llama", "CausalLM")),
  "mistral": ("mistral", GROUPED | dict(sliding_window=5), heads("Mistral", CAUSAL)),
  "qwen2": ("qwen2", GROUPED | dict(head_dim=4, vocab_size=131), heads("Qwen2", CAUSAL)),
  "qwen2-window": (
    "qwen2",
    GROUPED
    | dict(head_dim=4, num_hidden_layers=3, max_window_layers=1, use_sliding_window=True, sliding_window=5)
    | dict(tie_word_embeddings=True),
    heads("Qwen2", "CausalLM"),
  ),
  "qwen3": ("qwen3", GROUPED | dict(tie_word_embeddings=True), heads("Qwen3", CAUSAL)),
  "gemma2": (
    "gemma2",
    GEMMA | dict(attn_logit_softcapping=1.5, final_logit_softcapping=2.5),
    heads("Gemma2", "CausalLM SequenceClassification TokenClassification"),
  ),
  "gemma3": (
    "gemma3_text",
    GEMMA
    | dict(layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"])
    | dict(num_hidden_layers=4, intermediate_size=30)
    | dict(
      rope_parameters=dict(
        full_attention=dict(rope_type="linear", rope_theta=1000.0, factor=4.0),
        sliding_attention=dict(rope_type="default", rope_theta=50.0),
      )
    ),
    ["Gemma3TextModel", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"],
  ),
  "t5": ("t5", T5, ["T5EncoderModel", *heads("T5", f"ConditionalGeneration {CLASSIFIERS}")]),
  "t5-v1.1": ("t5", T5_GATED, heads("T5", "ConditionalGeneration")),
  "t5-v1.1-tied": (
    "t5",
    T5_GATED | dict(tie_word_embeddings=True, scale_decoder_outputs=False),
    ["T5ForConditionalGeneration"],
  ),
  "mt5": (
    "mt5",
    T5_GATED | dict(vocab_size=131, num_heads=3),
    ["MT5EncoderModel", *heads("MT5", f"ConditionalGeneration {CLASSIFIERS}")],
  ),
  "marian": ("marian", MARIAN, ["MarianModel", "MarianMTModel"]),
  "marian-relu": ("marian", MARIAN | dict(activation_function="relu"), ["MarianMTModel"]),
  "bart": ("bart", BART, heads("Bart", "ConditionalGeneration SequenceClassification QuestionAnswering")),
}
FAMILIES["llama3"][1]["rope_parameters"] |= dict(high_freq_factor=4.0, original_max_position_embeddings=64)
