"""BERT and its descendants: BERT, RoBERTa, XLM-R, ALBERT, DistilBERT, ELECTRA."""

from fmjax.interop.family import Family, Head

ENCODER = dict(kind="encoder", norm_place="post", embedding_norm=True)
SIZES = dict(
  V="vocab_size", D="hidden_size", L="num_hidden_layers", N="num_attention_heads", F="intermediate_size",
  norm_eps="layer_norm_eps", activation="hidden_act", token_types="type_vocab_size", dropout="hidden_dropout_prob",
  max_positions="max_position_embeddings", init_std="initializer_range",
)  # fmt: skip
DEFAULTS = dict(
  vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
  hidden_act="gelu", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, max_position_embeddings=512,
  type_vocab_size=2, initializer_range=0.02, layer_norm_eps=1e-12, pad_token_id=0,
)  # fmt: skip
LAYER = "encoder.layer.{l}."
MODULES = {
  "embed/tokens": "embeddings.word_embeddings",
  "embed/positions": "embeddings.position_embeddings",
  "embed/types": "embeddings.token_type_embeddings",
  "embed/norm": "embeddings.LayerNorm",
  "embed/project": "embeddings_project",
  "blocks/attention/q": LAYER + "attention.self.query",
  "blocks/attention/k": LAYER + "attention.self.key",
  "blocks/attention/v": LAYER + "attention.self.value",
  "blocks/attention/o": LAYER + "attention.output.dense",
  "blocks/attention_norm": LAYER + "attention.output.LayerNorm",
  "blocks/feedforward/up": LAYER + "intermediate.dense",
  "blocks/feedforward/down": LAYER + "output.dense",
  "blocks/feedforward_norm": LAYER + "output.LayerNorm",
  "pooler/dense": "pooler.dense",
}
BUFFERS = r"(.*\.)?embeddings\.(position_ids|token_type_ids)"
CLASSIFIER = {"head/classes": "classifier"}
ANSWERS = {"head/classes": "qa_outputs"}
POOLED = dict(pooler="tanh")
MASKED = dict(output_transform=True, output_bias=True)


def decoder(hf, head) -> dict:
  """An encoder that was made a decoder sees only what came before."""
  return dict(kind="decoder") if hf.get("is_decoder") else {}


def write_decoder(config) -> dict:
  return dict(is_decoder=config.kind == "decoder")


# BERT: Devlin et al. 2019, arXiv:1810.04805.

PREDICTIONS = {
  "output/dense": "cls.predictions.transform.dense",
  "output/norm": "cls.predictions.transform.LayerNorm",
  "output/bias": "cls.predictions",
  "embed/outputs": "cls.predictions.decoder",
}
BERT = Family(
  "bert", "bert.", SIZES, ENCODER, DEFAULTS, MODULES, read=decoder, write=write_decoder, buffers=BUFFERS,
  aliases={"cls.predictions.bias": ("cls.predictions.decoder.bias",)},
  heads={
    "BertModel": Head("base", POOLED, prefix=""),
    "BertForMaskedLM": Head("lm", MASKED, PREDICTIONS),
    "BertLMHeadModel": Head("lm", MASKED, PREDICTIONS),
    "BertForPreTraining": Head(
      "pretraining", MASKED | POOLED, PREDICTIONS | {"head/classes": "cls.seq_relationship"}),
    "BertForNextSentencePrediction": Head("next", POOLED, {"head/classes": "cls.seq_relationship"}),
    "BertForSequenceClassification": Head("sequence", POOLED, CLASSIFIER),
    "BertForTokenClassification": Head("token", {}, CLASSIFIER),
    "BertForQuestionAnswering": Head("qa", {}, ANSWERS),
    "BertForMultipleChoice": Head("choice", POOLED, CLASSIFIER),
  },
)  # fmt: skip


# RoBERTa: Liu et al. 2019, arXiv:1907.11692; XLM-R: Conneau et al. 2020, arXiv:1911.02116.


def read_roberta(hf, head) -> dict:
  """Positions are counted from the row after the padding token's."""
  first = hf["pad_token_id"] + 1
  return dict(first_position=first, max_positions=hf["max_position_embeddings"] - first, **decoder(hf, head))


def write_roberta(config) -> dict:
  rows = (config.max_positions or 0) + config.first_position
  return dict(pad_token_id=config.first_position - 1, max_position_embeddings=rows, **write_decoder(config))


def roberta(model_type: str, name: str) -> Family:
  predictions = {
    "output/dense": "lm_head.dense", "output/norm": "lm_head.layer_norm", "output/bias": "lm_head",
    "embed/outputs": "lm_head.decoder",
  }  # fmt: skip
  scorer = {"pooler/dense": "classifier.dense", "head/classes": "classifier.out_proj"}
  heads = {
    "Model": Head("base", POOLED, prefix=""),
    "ForMaskedLM": Head("lm", MASKED, predictions),
    "ForCausalLM": Head("lm", MASKED, predictions),
    "ForSequenceClassification": Head("sequence", POOLED, scorer),
    "ForTokenClassification": Head("token", {}, CLASSIFIER),
    "ForQuestionAnswering": Head("qa", {}, ANSWERS),
    "ForMultipleChoice": Head("choice", POOLED, CLASSIFIER),
  }
  sizes = {field: key for field, key in SIZES.items() if field != "max_positions"}
  defaults = DEFAULTS | dict(vocab_size=50265, pad_token_id=1, bos_token_id=0, eos_token_id=2)
  return Family(
    model_type, "roberta.", sizes, ENCODER, defaults, MODULES, {name + head: one for head, one in heads.items()},
    read=read_roberta, write=write_roberta, buffers=BUFFERS, aliases={"lm_head.bias": ("lm_head.decoder.bias",)},
    counts_tokens=True,
  )  # fmt: skip


# ALBERT: Lan et al. 2020, arXiv:1909.11942.

ONE = "encoder.albert_layer_groups.0.albert_layers.0."
SHARED = {
  **{path: module for path, module in MODULES.items() if path.startswith("embed/")},
  "embed/project": "encoder.embedding_hidden_mapping_in",
  "blocks/attention/q": ONE + "attention.query",
  "blocks/attention/k": ONE + "attention.key",
  "blocks/attention/v": ONE + "attention.value",
  "blocks/attention/o": ONE + "attention.dense",
  "blocks/attention_norm": ONE + "attention.LayerNorm",
  "blocks/feedforward/up": ONE + "ffn",
  "blocks/feedforward/down": ONE + "ffn_output",
  "blocks/feedforward_norm": ONE + "full_layer_layer_norm",
  "pooler/dense": "pooler",
}
ALBERT_PREDICTIONS = {
  "output/dense": "predictions.dense", "output/norm": "predictions.LayerNorm", "output/bias": "predictions",
  "embed/outputs": "predictions.decoder",
}  # fmt: skip
ALBERT = Family(
  "albert", "albert.", {**SIZES, "R": "embedding_size"}, ENCODER | dict(shared_layers=True),
  DEFAULTS | dict(vocab_size=30000, embedding_size=128, hidden_size=4096, num_attention_heads=64, pad_token_id=0,
                  intermediate_size=16384, hidden_act="gelu_new", hidden_dropout_prob=0.0,
                  attention_probs_dropout_prob=0.0, bos_token_id=2, eos_token_id=3),
  SHARED, laws=dict(num_hidden_groups=1, inner_group_num=1), buffers=BUFFERS,
  aliases={"predictions.bias": ("predictions.decoder.bias",)},
  heads={
    "AlbertModel": Head("base", POOLED, prefix=""),
    "AlbertForMaskedLM": Head("lm", MASKED, ALBERT_PREDICTIONS),
    "AlbertForPreTraining": Head("pretraining", MASKED | POOLED,
                                 {**ALBERT_PREDICTIONS, "head/classes": "sop_classifier.classifier"}),
    "AlbertForSequenceClassification": Head("sequence", POOLED, CLASSIFIER),
    "AlbertForTokenClassification": Head("token", {}, CLASSIFIER),
    "AlbertForQuestionAnswering": Head("qa", {}, ANSWERS),
    "AlbertForMultipleChoice": Head("choice", POOLED, CLASSIFIER),
  },
)  # fmt: skip


# DistilBERT: Sanh et al. 2019, arXiv:1910.01108.

LAYER = "transformer.layer.{l}."
DISTILLED = {
  **{path: MODULES[path] for path in ("embed/tokens", "embed/positions", "embed/norm")},
  "blocks/attention/q": LAYER + "attention.q_lin",
  "blocks/attention/k": LAYER + "attention.k_lin",
  "blocks/attention/v": LAYER + "attention.v_lin",
  "blocks/attention/o": LAYER + "attention.out_lin",
  "blocks/attention_norm": LAYER + "sa_layer_norm",
  "blocks/feedforward/up": LAYER + "ffn.lin1",
  "blocks/feedforward/down": LAYER + "ffn.lin2",
  "blocks/feedforward_norm": LAYER + "output_layer_norm",
}
VOCABULARY = {
  "output/dense": "vocab_transform", "output/norm": "vocab_layer_norm", "output/bias": "vocab_projector",
  "embed/outputs": "vocab_projector",
}  # fmt: skip
RELU = {"pooler/dense": "pre_classifier", "head/classes": "classifier"}
DISTILBERT = Family(
  "distilbert", "distilbert.",
  dict(V="vocab_size", D="dim", L="n_layers", N="n_heads", F="hidden_dim", max_positions="max_position_embeddings",
       activation="activation", dropout="dropout", init_std="initializer_range"),
  ENCODER | dict(norm_eps=1e-12),
  dict(vocab_size=30522, max_position_embeddings=512, sinusoidal_pos_embds=False, n_layers=6, n_heads=12, dim=768,
       hidden_dim=3072, dropout=0.1, attention_dropout=0.1, activation="gelu", initializer_range=0.02,
       pad_token_id=0),
  DISTILLED, buffers=BUFFERS,
  heads={
    "DistilBertModel": Head("base", prefix=""),
    "DistilBertForMaskedLM": Head("lm", MASKED, VOCABULARY),
    "DistilBertForSequenceClassification": Head("sequence", dict(pooler="relu"), RELU),
    "DistilBertForTokenClassification": Head("token", {}, CLASSIFIER),
    "DistilBertForQuestionAnswering": Head("qa", {}, ANSWERS),
    "DistilBertForMultipleChoice": Head("choice", dict(pooler="relu"), RELU),
  },
)  # fmt: skip


# ELECTRA: Clark et al. 2020, arXiv:2003.10555.


def read_electra(hf, head) -> dict:
  fields = decoder(hf, head)
  if hf["embedding_size"] != hf["hidden_size"]:
    fields["R"] = hf["embedding_size"]
  if head.task == "discriminator":
    fields["pooler"] = hf["hidden_act"]
  if head.task == "choice":
    fields["pooler"] = hf["summary_activation"]
  return fields


def write_electra(config) -> dict:
  return dict(embedding_size=config.R or config.D, **write_decoder(config))


GENERATOR = {
  "output/dense": "generator_predictions.dense", "output/norm": "generator_predictions.LayerNorm",
  "output/bias": "generator_lm_head", "embed/outputs": "generator_lm_head",
}  # fmt: skip
DISCRIMINATOR = {
  "pooler/dense": "discriminator_predictions.dense", "head/classes": "discriminator_predictions.dense_prediction",
}  # fmt: skip
ELECTRA = Family(
  "electra", "electra.", SIZES, ENCODER,
  DEFAULTS | dict(embedding_size=128, hidden_size=256, num_attention_heads=4, intermediate_size=1024,
                  summary_type="first", summary_use_proj=True, summary_activation="gelu"),
  MODULES, read=read_electra, write=write_electra, buffers=BUFFERS,
  laws=dict(summary_type="first", summary_use_proj=True, hidden_act="gelu", summary_activation="gelu"),
  heads={
    "ElectraModel": Head("base", prefix=""),
    "ElectraForMaskedLM": Head("lm", MASKED, GENERATOR),
    "ElectraForCausalLM": Head("lm", MASKED, GENERATOR),
    "ElectraForPreTraining": Head("discriminator", {}, DISCRIMINATOR),
    "ElectraForSequenceClassification": Head(
      "sequence", dict(pooler="gelu"), {"pooler/dense": "classifier.dense", "head/classes": "classifier.out_proj"}),
    "ElectraForTokenClassification": Head("token", {}, CLASSIFIER),
    "ElectraForQuestionAnswering": Head("qa", {}, ANSWERS),
    "ElectraForMultipleChoice": Head(
      "choice", {}, {"pooler/dense": "sequence_summary.summary", "head/classes": "classifier"}),
  },
)  # fmt: skip

FAMILIES = (BERT, roberta("roberta", "Roberta"), roberta("xlm-roberta", "XLMRoberta"), ALBERT, DISTILBERT, ELECTRA)
