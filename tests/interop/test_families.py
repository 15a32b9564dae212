"""A family is data: what a config.json says, in whichever version's words, and back."""

import dataclasses
import json

import jax
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.interop.families import FAMILIES, family_of
from fmjax.interop.family import check_laws, differing, read_config, write_config
from fmjax.interop.tensors import slots
from fmjax.leaves import by_path
from fmjax.models import Model
from fmjax.models.zoo import PRESETS
from tests.interop.folders import FOLDERS, GOLDEN


def golden(folder):
  """(family, class, config.json)."""
  hf = json.loads((GOLDEN / folder / "config.json").read_text())
  return FAMILIES[hf["model_type"]], hf["architectures"][0], hf


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_config_is_read_and_written_back(folder):
  family, name, hf = golden(folder)
  assert not check_laws(family, hf)
  config = read_config(family, name, hf)
  assert not differing(family, name, config)
  again = read_config(family, name, write_config(family, name, config))
  assert again == dataclasses.replace(config, preset=None) or family.tied_anyway


# Whose structure a preset has; the first prefix that fits says it. mT5's is T5's, XLM-R's is RoBERTa's.
STRUCTURES = {family: family for family in FAMILIES} | {
  "smollm2": "llama", "minilm": "bert", "xlm-roberta": "roberta", "gemma-2": "gemma2", "gemma-3": "gemma3_text",
  "flan-t5": "t5", "mt5": "t5", "opus-mt": "marian",
}  # fmt: skip
PAPER = ("transformer-base", "transformer-big")  # without the bias of the logits that Marian's class has


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in PAPER])
def test_a_preset_has_the_structure_of_its_family(preset):
  family, _ = family_of(TransformerConfig(**PRESETS[preset]))
  assert family.model_type == next(known for start, known in STRUCTURES.items() if preset.startswith(start))


def llama(**changes) -> TransformerConfig:
  hf = dict(model_type="llama", vocab_size=99, hidden_size=24, num_attention_heads=3, num_hidden_layers=1,
            intermediate_size=40)  # fmt: skip
  return read_config(FAMILIES["llama"], "LlamaForCausalLM", hf | changes)


def test_rotary_positions_in_the_words_of_either_version():
  scaled = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
  four = llama(rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **scaled))
  five = llama(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, **scaled))
  assert four == five and four.rotary_base == 5e5 and four.rotary_scaling == (8.0, 1.0, 4.0, 64.0)
  assert llama(rope_scaling=dict(type="linear", factor=2.0)).rotary_scaling == (2.0, 1.0, 1.0, 0.0)
  assert llama().rotary_scaling is None and llama().rotary_base == 10000.0


def test_gemma_3_in_the_words_of_either_version():
  hf = dict(model_type="gemma3_text", vocab_size=99, hidden_size=24, num_attention_heads=3, num_key_value_heads=1,
            num_hidden_layers=7, head_dim=8, sliding_window=4)  # fmt: skip
  family, name = FAMILIES["gemma3_text"], "Gemma3ForCausalLM"
  four = hf | dict(rope_theta=2e6, rope_local_base_freq=3e4, sliding_window_pattern=3)
  kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
  ropes = {"full_attention": dict(rope_type="default", rope_theta=2e6),
           "sliding_attention": dict(rope_type="default", rope_theta=3e4)}  # fmt: skip
  five = hf | dict(layer_types=kinds, rope_parameters=ropes)
  read = read_config(family, name, four)
  assert read == read_config(family, name, five)
  assert (read.rotary_base, read.rotary_local_base, read.window_layers) == (2e6, 3e4, (0, 1, 3, 4, 6))


def test_t5_s_one_key_for_two_things():
  family, name = FAMILIES["t5"], "T5ForConditionalGeneration"
  old = read_config(family, name, dict(model_type="t5", d_model=16))
  new = read_config(family, name, dict(model_type="t5", d_model=16, tie_word_embeddings=False))
  assert old.output_scale == 0.25 and new.output_scale is None
  assert read_config(FAMILIES["mt5"], "MT5ForConditionalGeneration", dict(model_type="mt5")).output_scale is None


def test_the_number_of_classes():
  family = FAMILIES["bert"]
  one = dict(model_type="bert")
  assert read_config(family, "BertForTokenClassification", one).classes == 2
  assert (
    read_config(family, "BertForTokenClassification", one | dict(id2label={"0": "a", "1": "b", "2": "c"})).classes
    == 3
  )
  assert read_config(family, "BertForMultipleChoice", one).classes == 1


@pytest.mark.parametrize("folder", sorted({folder.split("/")[0]: folder for folder in FOLDERS}.values()))
def test_every_parameter_has_a_name_of_its_own(folder, on):
  family, name, hf = golden(folder)
  config = read_config(family, name, hf)
  model = Model(config)
  with on():
    shapes, declarations = by_path(jax.eval_shape(model.init, jax.random.key(0))), model.declarations()
  table = slots(family, family.heads[name], config, declarations, shapes, "")
  places = [(slot.name, slot.index) for parts in table.values() for slot in parts]
  assert len(set(places)) == len(places) and not [one for one, _ in places if "{" in one]


def test_a_structure_of_no_family_names_its_fields():
  with pytest.raises(FmjaxError) as caught:
    family_of(TransformerConfig(V=99, positions="relative", norm="rms", qk_norm=True, bias=False))
  assert "model." in str(caught.value) and caught.value.status == 78


# What the published folders say that matters here, in the words of the versions that wrote them.
WORDS = {
  "bert-base-uncased": dict(
    model_type="bert", architectures=["BertForMaskedLM"], hidden_act="gelu", hidden_size=768, intermediate_size=3072,
    layer_norm_eps=1e-12, position_embedding_type="absolute", num_attention_heads=12, num_hidden_layers=12,
    gradient_checkpointing=False, type_vocab_size=2, vocab_size=30522),
  "gpt2": dict(
    model_type="gpt2", architectures=["GPT2LMHeadModel"], n_ctx=1024, n_embd=768, n_head=12, n_layer=12,
    summary_use_proj=True, task_specific_params={"text-generation": {"max_length": 50}}, vocab_size=50257),
  "albert-base-v2": dict(
    model_type="albert", architectures=["AlbertForMaskedLM"], embedding_size=128, hidden_act="gelu_new",
    hidden_size=768, intermediate_size=3072, inner_group_num=1, num_hidden_groups=1, num_attention_heads=12,
    num_hidden_layers=12, net_structure_type=0, gap_size=0, vocab_size=30000),
  "llama-3.2-1b": dict(
    model_type="llama", architectures=["LlamaForCausalLM"], attention_bias=False, head_dim=64, hidden_size=2048,
    intermediate_size=8192, max_position_embeddings=131072, num_attention_heads=32, num_hidden_layers=16,
    num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, vocab_size=128256,
    rope_scaling=dict(factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0, rope_type="llama3",
                      original_max_position_embeddings=8192)),
  "mistral-7b-v0.1": dict(
    model_type="mistral", architectures=["MistralForCausalLM"], hidden_size=4096, intermediate_size=14336,
    max_position_embeddings=32768, num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=4096),
  "qwen2-0.5b": dict(
    model_type="qwen2", architectures=["Qwen2ForCausalLM"], hidden_size=896, intermediate_size=4864,
    max_position_embeddings=131072, max_window_layers=24, num_attention_heads=14, num_hidden_layers=24,
    num_key_value_heads=2, rope_theta=1000000.0, sliding_window=131072, use_sliding_window=False,
    tie_word_embeddings=True, vocab_size=151936),
  "gemma-2-2b": dict(
    model_type="gemma2", architectures=["Gemma2ForCausalLM"], hidden_act="gelu_pytorch_tanh", head_dim=256,
    hidden_size=2304, num_hidden_layers=26, query_pre_attn_scalar=256, sliding_window=4096, rope_theta=10000.0),
  "gemma-3-1b": dict(
    model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], head_dim=256, hidden_size=1152,
    intermediate_size=6912, max_position_embeddings=32768, num_attention_heads=4, num_key_value_heads=1,
    rope_local_base_freq=10000, rope_theta=1000000, sliding_window=512, sliding_window_pattern=6, vocab_size=262144),
  "opus-mt-en-de": dict(
    model_type="marian", architectures=["MarianMTModel"], activation_function="swish", add_final_layer_norm=False,
    d_model=512, decoder_attention_heads=8, decoder_ffn_dim=2048, decoder_layers=6, encoder_attention_heads=8,
    encoder_ffn_dim=2048, encoder_layers=6, max_position_embeddings=512, normalize_embedding=False,
    scale_embedding=True, static_position_embeddings=True, vocab_size=58101),
}  # fmt: skip


@pytest.mark.parametrize("preset", WORDS)
def test_a_published_config_is_its_preset(preset):
  hf = WORDS[preset]
  family = FAMILIES[hf["model_type"]]
  assert not check_laws(family, hf)
  read = read_config(family, hf["architectures"][0], hf)
  assert read == TransformerConfig(**PRESETS[preset] | dict(init_std=read.init_std))
