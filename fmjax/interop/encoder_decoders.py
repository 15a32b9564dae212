"""T5 and mT5, BART, and the Transformer of Vaswani et al. as Marian trains it."""

from fmjax.interop.family import ACTIVATIONS, Family, Head, Part, unsupported
from fmjax.models.embed import sinusoids

# T5: Raffel et al. 2020, arXiv:1910.10683; v1.1: Shazeer 2020, arXiv:2002.05202; mT5: Xue et al. 2021, 2010.11934.


def t5_stack(here: str, stack: str, cross: bool) -> dict:
  """The modules of one stack; the feed-forward is the last of a block's two or three layers."""
  last = stack + f".block.{{l}}.layer.{2 if cross else 1}."
  attention = stack + ".block.{l}.layer.0."
  made = {
    "relative": f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias",
    "final_norm": f"{stack}.final_layer_norm",
    "blocks/attention_norm": attention + "layer_norm",
    "blocks/feedforward_norm": last + "layer_norm",
    "blocks/feedforward/up": last + "DenseReluDense.wi",
    "blocks/feedforward/gated_up": last + "DenseReluDense.wi_1",
    "blocks/feedforward/gate": last + "DenseReluDense.wi_0",
    "blocks/feedforward/down": last + "DenseReluDense.wo",
  }
  made |= {f"blocks/attention/{name}": f"{attention}SelfAttention.{name}" for name in "qkvo"}
  if cross:
    crossing = stack + ".block.{l}.layer.1."
    made |= {f"blocks/cross/{name}": f"{crossing}EncDecAttention.{name}" for name in "qkvo"}
    made["blocks/cross_norm"] = crossing + "layer_norm"
  return {here + path: module for path, module in made.items()}


TABLE = {"embed/tokens": "shared"}
BOTH = TABLE | t5_stack("", "decoder", True) | t5_stack("encoder/", "encoder", False)
SOURCE = TABLE | t5_stack("", "encoder", False)
T5_SIZES = dict(
  V="vocab_size", D="d_model", H="d_kv", F="d_ff", L="num_decoder_layers", N="num_heads", dropout="dropout_rate",
  norm_eps="layer_norm_epsilon", relative_buckets="relative_attention_num_buckets",
  relative_distance="relative_attention_max_distance",
)  # fmt: skip
T5_FIXED = dict(kind="encoder_decoder", norm="rms", bias=False, positions="relative", attention_scale=1.0)
T5_DEFAULTS = dict(
  vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_decoder_layers=None, num_heads=8,
  relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.1, layer_norm_epsilon=1e-6,
  initializer_factor=1.0, feed_forward_proj="relu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
  is_encoder_decoder=True,
)  # fmt: skip


def read_t5(hf, head) -> dict:
  *gate, activation = hf["feed_forward_proj"].split("-")
  activation = "gelu_new" if gate and activation == "gelu" else activation
  if gate not in ([], ["gated"]) or activation not in ACTIVATIONS:
    raise unsupported(f"feed_forward_proj={hf['feed_forward_proj']!r} is not computed")
  fields = dict(gated=bool(gate), activation=ACTIVATIONS[activation])
  if head.fields.get("kind") == "encoder":
    return fields | dict(L=hf["num_layers"])
  fields |= dict(L=hf["num_decoder_layers"] or hf["num_layers"], source_L=hf["num_layers"])
  scaled = hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings", True) is not False)
  if head.task == "lm" and scaled and hf.get("model_type") != "mt5":
    fields["output_scale"] = hf["d_model"] ** -0.5
  return fields


def write_t5(config) -> dict:
  name = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
  name = "gelu" if config.gated and config.activation == "gelu_tanh" else name
  hf = dict(feed_forward_proj=("gated-" if config.gated else "") + name, num_layers=config.source_L or config.L)
  if config.kind == "encoder":
    hf |= dict(is_encoder_decoder=False, num_decoder_layers=config.L)
  return hf


def write_scale(config) -> dict:
  """T5's one key says both whether the tables are tied and whether the output is scaled."""
  scaled = config.output_scale is not None
  return write_t5(config) | dict(tie_word_embeddings=scaled, scale_decoder_outputs=scaled)


def t5(model_type: str, name: str, defaults: dict, write) -> Family:
  encoder = dict(kind="encoder")
  scorer = {"pooler/dense": "classification_head.dense", "head/classes": "classification_head.out_proj"}
  heads = {
    "Model": Head("base", prefix=""),
    "ForConditionalGeneration": Head("lm", {}, {"embed/outputs": "lm_head"}, prefix=""),
    "EncoderModel": Head("base", encoder, prefix="", base=SOURCE),
    "ForSequenceClassification": Head("sequence", dict(pool="end", pooler="tanh"), scorer),
    "ForTokenClassification": Head("token", encoder, {"head/classes": "classifier"}, base=SOURCE),
    "ForQuestionAnswering": Head("qa", {}, {"head/classes": "qa_outputs"}, prefix=""),
  }
  return Family(
    model_type, "transformer.", T5_SIZES, T5_FIXED, T5_DEFAULTS | defaults, BOTH,
    {name + head: one for head, one in heads.items()}, read=read_t5, write=write, tied_anyway=True,
    aliases={"shared.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")},
    buffers=r"(.*\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
  )  # fmt: skip


# BART: Lewis et al. 2020, arXiv:1910.13461; Marian: Junczys-Dowmunt et al. 2018, after Vaswani et al. 2017.


def bart_stack(here: str, stack: str, cross: bool) -> dict:
  layer = stack + ".layers.{l}."
  maps = dict(q="q_proj", k="k_proj", v="v_proj", o="out_proj")
  made = {
    "embed/positions": f"{stack}.embed_positions",
    "embed/norm": f"{stack}.layernorm_embedding",
    "blocks/attention_norm": layer + "self_attn_layer_norm",
    "blocks/feedforward_norm": layer + "final_layer_norm",
    "blocks/feedforward/up": layer + "fc1",
    "blocks/feedforward/down": layer + "fc2",
  }
  made |= {f"blocks/attention/{ours}": f"{layer}self_attn.{name}" for ours, name in maps.items()}
  if cross:
    made |= {f"blocks/cross/{ours}": f"{layer}encoder_attn.{name}" for ours, name in maps.items()}
    made["blocks/cross_norm"] = layer + "encoder_attn_layer_norm"
  return {here + path: module for path, module in made.items()}


BART_SIZES = dict(
  V="vocab_size", D="d_model", L="decoder_layers", source_L="encoder_layers", N="decoder_attention_heads",
  F="decoder_ffn_dim", max_positions="max_position_embeddings", activation="activation_function", dropout="dropout",
  init_std="init_std", embedding_scale="scale_embedding",
)  # fmt: skip
BART_FIXED = dict(kind="encoder_decoder", norm_place="post")
BART_DEFAULTS = dict(
  vocab_size=50265, max_position_embeddings=1024, encoder_layers=12, encoder_ffn_dim=4096, encoder_attention_heads=16,
  decoder_layers=12, decoder_ffn_dim=4096, decoder_attention_heads=16, activation_function="gelu", d_model=1024,
  dropout=0.1, attention_dropout=0.0, activation_dropout=0.0, init_std=0.02, scale_embedding=False,
  is_encoder_decoder=True,
)  # fmt: skip
BART_LAWS = dict(normalize_before=False, add_final_layer_norm=False, add_bias_logits=False,
                 share_encoder_decoder_embeddings=True)  # fmt: skip
BART_MODULES = TABLE | bart_stack("", "decoder", True) | bart_stack("encoder/", "encoder", False)
GENERATES = {"embed/outputs": "lm_head", "output/bias": Part("final_logits_bias", whole=True)}


def read_bart(hf, head) -> dict:
  for size in ("ffn_dim", "attention_heads"):
    if hf[f"encoder_{size}"] != hf[f"decoder_{size}"]:
      raise unsupported(f"encoder_{size}={hf[f'encoder_{size}']} beside decoder_{size}={hf[f'decoder_{size}']}: "
                        "both stacks must have one size")  # fmt: skip
  if hf.get("decoder_vocab_size") not in (None, hf["vocab_size"]):
    raise unsupported("an encoder and a decoder of different vocabularies are not computed")
  return {}


def write_bart(config) -> dict:
  return dict(encoder_ffn_dim=config.F, encoder_attention_heads=config.N)


BART = Family(
  "bart", "model.", BART_SIZES, BART_FIXED | dict(first_position=2, embedding_norm=True),
  BART_DEFAULTS | dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
                       forced_eos_token_id=2),
  BART_MODULES, read=read_bart, write=write_bart, laws=BART_LAWS | dict(normalize_embedding=True),
  aliases={"shared.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")},
  heads={
    "BartModel": Head("base", prefix=""),
    "BartForConditionalGeneration": Head("lm", dict(output_bias=True), GENERATES),
    "BartForSequenceClassification": Head(
      "sequence", dict(pool="end", pooler="tanh"),
      {"pooler/dense": "classification_head.dense", "head/classes": "classification_head.out_proj"}),
    "BartForQuestionAnswering": Head("qa", {}, {"head/classes": "qa_outputs"}),
  },
)  # fmt: skip


def sines(config, name) -> dict:
  """The tables of positions: transformers looks for them in the class without a head alone."""
  if name != "MarianModel":
    return {}
  table = sinusoids(config.max_positions, config.D)
  return {f"{stack}.embed_positions.weight": table for stack in ("encoder", "decoder")}


MARIAN = Family(
  "marian", "model.", BART_SIZES, BART_FIXED | dict(positions="sinusoidal"),
  BART_DEFAULTS | dict(vocab_size=58101, pad_token_id=58100, eos_token_id=0, decoder_start_token_id=58100,
                       forced_eos_token_id=0, decoder_vocab_size=None),
  BART_MODULES, read=read_bart, write=write_bart, laws=BART_LAWS | dict(normalize_embedding=False),
  aliases=BART.aliases, computed=sines, buffers=r"(.*\.)?(en|de)coder\.embed_positions\.weight",
  heads={
    "MarianModel": Head("base", prefix=""),
    "MarianMTModel": Head("lm", dict(output_bias=True), GENERATES),
  },
)  # fmt: skip

MT5_DEFAULTS = dict(vocab_size=250112, d_ff=1024, num_layers=8, num_heads=6, feed_forward_proj="gated-gelu")

FAMILIES = (t5("t5", "T5", {}, write_scale), t5("mt5", "MT5", MT5_DEFAULTS, write_t5), BART, MARIAN)
