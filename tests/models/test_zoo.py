"""The presets have the sizes that were published."""

import jax
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.models import Model
from fmjax.models.zoo import PRESETS

# As counted from the released files, in the class that was pretrained; the biases of BART's and Marian's logits are
# not parameters there.
PUBLISHED = {
  "bert-base-cased": 108340804, "bert-base-uncased": 109514298, "roberta-base": 124697433,
  "bert-large-cased": 333610308, "bert-large-uncased": 335174458, "roberta-large": 355412057,
  "xlm-roberta-base": 278295186, "minilm-l6": 22713216, "albert-base-v1": 11221680, "albert-base-v2": 11221680,
  "albert-large-v2": 16795824, "albert-xlarge-v2": 54821040, "albert-xxlarge-v2": 206368944,
  "distilbert-base-uncased": 66985530, "electra-small-generator": 13546682,
  "electra-small-discriminator": 13549057, "electra-base-generator": 33740602,
  "electra-base-discriminator": 109483009, "electra-large-generator": 51295290,
  "electra-large-discriminator": 335142913, "gpt2": 124439808, "gpt2-medium": 354823168,
  "gpt2-large": 774030080, "gpt2-xl": 1557611200, "llama-7b": 6738415616, "llama-2-7b": 6738415616,
  "llama-3-8b": 8030261248, "llama-3.1-8b": 8030261248, "llama-3.2-1b": 1235814400,
  "mistral-7b-v0.1": 7241732096, "qwen2-0.5b": 494032768, "qwen3-0.6b": 596049920, "smollm2-135m": 134515008,
  "smollm2-360m": 361821120, "smollm2-1.7b": 1711376384, "gemma-2-2b": 2614341888, "gemma-3-1b": 999885952,
  "t5-small": 60506624, "t5-base": 222903552, "t5-large": 737668096, "t5-3b": 2851598336,
  "t5-11b": 11307321344, "t5-v1.1-small": 76961152, "flan-t5-small": 76961152, "t5-v1.1-base": 247577856,
  "flan-t5-base": 247577856, "t5-v1.1-large": 783150080, "flan-t5-large": 783150080, "flan-t5-xl": 2849757184,
  "flan-t5-xxl": 11135332352, "mt5-small": 300176768, "mt5-base": 582401280, "bart-base": 139420416,
  "bart-large": 406291456, "opus-mt-en-de": 73886208,
}  # fmt: skip
# Vaswani et al. 2017, Table 3, in millions, rounded, of a vocabulary that is only "about 37000".
PAPER = {"transformer-base": 65e6, "transformer-big": 213e6}


def count(name: str) -> int:
  config = TransformerConfig(**{"max_positions": None, **PRESETS[name]})
  shapes = jax.eval_shape(Model(config).init, jax.random.key(0))
  padding = (config.padded_V - config.V) * ((config.R or config.D) * (1 if config.tied else 2) + config.output_bias)
  buffers = config.V if config.kind == "encoder_decoder" and config.output_bias else 0
  return sum(x.size for x in jax.tree.leaves(shapes)) - padding - buffers


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name, on):
  with on():
    if name in PAPER:
      assert count(name) == pytest.approx(PAPER[name], rel=0.035)
    else:
      assert count(name) == PUBLISHED[name]
