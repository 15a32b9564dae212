"""Makes the golden adapters: LoRAs that peft saves on the golden models, and what the adapted models compute.

  python tests/golden/make_peft.py [NAME ...]        in an environment with torch, transformers and peft

peft/NAME/ holds the adapter as save_pretrained writes it, and logits.safetensors: inputs under in/, outputs under
out/.
Bases are the folders that make.py made, by their names as seen from here.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import make
import numpy as np
import peft
import safetensors.numpy
import torch
import transformers

HERE = pathlib.Path(__file__).parent
LARGEST = 300_000  # bytes of a file
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]

# name: (base, class, how many labels or None, what LoraConfig is given)
ADAPTERS = {
  "bert": ("bert/BertModel", "BertForSequenceClassification", 4,
           dict(task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=["query", "value"])),
  "bert-rslora": ("bert/BertForMaskedLM", "BertForMaskedLM", None,
                  dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["query", "dense"])),
  "bert-patterns": ("bert/BertForMaskedLM", "BertForMaskedLM", None,
                    dict(r=3, lora_alpha=5, target_modules=["query", "intermediate.dense"], layers_to_transform=[1],
                         rank_pattern={"intermediate.dense": 5}, alpha_pattern={"layer.1.*query": 7})),
  "bert-dora": ("bert/BertForTokenClassification", "BertForTokenClassification", 5,
                dict(task_type="TOKEN_CLS", r=4, use_dora=True, target_modules=["key", "value", "output.dense"])),
  "bert-choice": ("bert/BertModel", "BertForMultipleChoice", None,
                  dict(r=2, target_modules=["query"], modules_to_save=["classifier"])),
  "roberta": ("roberta/RobertaModel", "RobertaForSequenceClassification", 3,
              dict(task_type="SEQ_CLS", r=2, target_modules=["query", "attention.output.dense"])),
  "distilbert": ("distilbert/DistilBertModel", "DistilBertForSequenceClassification", 3,
                 dict(task_type="SEQ_CLS", r=2, target_modules=["q_lin", "lin1"])),
  "albert": ("albert/AlbertModel", "AlbertForQuestionAnswering", None,
             dict(task_type="QUESTION_ANS", r=2, target_modules=["query", "ffn"])),
  "electra": ("electra/ElectraModel", "ElectraForSequenceClassification", 2,
              dict(task_type="SEQ_CLS", r=2, target_modules=["query"])),
  "llama": ("llama/LlamaForCausalLM", "LlamaForCausalLM", None,
            dict(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=LLAMA)),
  "llama-dora": ("llama/LlamaForCausalLM", "LlamaForCausalLM", None,
                 dict(task_type="CAUSAL_LM", r=3, use_dora=True, use_rslora=True, target_modules=LLAMA)),
  "llama-score": ("llama/LlamaModel", "LlamaForSequenceClassification", 3,
                  dict(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"])),
  "llama-tables": ("llama/LlamaForCausalLM", "LlamaForCausalLM", None,
                   dict(task_type="CAUSAL_LM", r=2, target_modules=["v_proj"],
                        modules_to_save=["embed_tokens", "lm_head"])),
  "smollm2-tables": ("smollm2/LlamaForCausalLM", "LlamaForCausalLM", None,
                     dict(task_type="CAUSAL_LM", r=2, target_modules=["v_proj"],
                          modules_to_save=["embed_tokens", "lm_head"])),
  "qwen2": ("qwen2/Qwen2ForCausalLM", "Qwen2ForCausalLM", None,
            dict(task_type="CAUSAL_LM", r=2, use_dora=True, target_modules=["q_proj", "v_proj"])),
  "gpt2": ("gpt2/GPT2LMHeadModel", "GPT2LMHeadModel", None,
           dict(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=GPT2, fan_in_fan_out=True)),
  "gpt2-dora": ("gpt2/GPT2Model", "GPT2ForSequenceClassification", 3,
                dict(task_type="SEQ_CLS", r=2, use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True)),
  "t5": ("t5/T5ForConditionalGeneration", "T5ForConditionalGeneration", None,
         dict(task_type="SEQ_2_SEQ_LM", r=3, use_rslora=True, target_modules=["q", "v", "wo"])),
  "t5-encoder": ("t5/T5Model", "T5ForSequenceClassification", 3,
                 dict(task_type="SEQ_CLS", r=2, target_modules=r".*encoder\..*\.(q|v)",
                      modules_to_save=["classification_head.dense", "classification_head.out_proj"])),
  "bart": ("bart/BartForConditionalGeneration", "BartForConditionalGeneration", None,
           dict(task_type="SEQ_2_SEQ_LM", r=2, use_dora=True, target_modules=["q_proj", "fc1"])),
}  # fmt: skip


def adapted(name: str):
  """The adapted model; all that the adapter has is drawn anew, large enough to change what is computed."""
  base, cls, labels, options = ADAPTERS[name]
  how = {} if labels is None else dict(num_labels=labels)
  model = getattr(transformers, cls).from_pretrained(base, attn_implementation="eager", **how)
  model = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
  generator = torch.Generator().manual_seed(make.seed_of(f"peft {name}"))
  with torch.no_grad():
    for path, tensor in model.named_parameters():
      noise = torch.randn(tensor.shape, generator=generator)
      if "lora_magnitude_vector" in path:
        tensor.mul_(1 + 0.3 * noise)
      elif "lora_" in path or "modules_to_save" in path:
        tensor.copy_(0.3 * noise)
  return model


def expected(model) -> dict[str, np.ndarray]:
  inner = model.get_base_model()
  inputs = make.batch(np.random.default_rng(make.seed_of(type(inner).__name__)), inner)
  whole = dict(use_cache=False) if type(inner).__name__.endswith(make.GENERATES) else {}
  sides = {"in": inputs, "out": make.call(inner, inputs, **whole)}
  kept = {f"{side}/{key}": array for side, arrays in sides.items() for key, array in arrays.items()
          if side == "in" or "logits" in key}  # fmt: skip
  return {key: np.ascontiguousarray(array) for key, array in kept.items()}


def write(name: str):
  folder = HERE / "peft" / name
  shutil.rmtree(folder, ignore_errors=True)
  model = adapted(name)
  model.save_pretrained(folder, save_embedding_layers=False)
  (folder / "README.md").unlink()
  tensors = expected(model)
  safetensors.numpy.save_file(tensors, folder / "logits.safetensors")
  with model.disable_adapter():
    before = expected(model)
  apart = {key: float(np.abs(before[key] - array).max()) for key, array in tensors.items() if key.startswith("out/")}
  assert min(apart.values()) > 0.1, (name, apart)
  assert not [path for path in folder.iterdir() if path.stat().st_size > LARGEST]
  print(name, f"{sum(p.stat().st_size for p in folder.iterdir()) / 1000:.0f} KB", apart, flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("names", nargs="*", choices=[[], *ADAPTERS], default=[], metavar="NAME")
  names = parser.parse_args().names or list(ADAPTERS)
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  warnings.filterwarnings("ignore")
  torch.set_num_threads(1)  # the models are tiny
  os.chdir(HERE)
  for name in names:
    write(name)
  versions = dict(
    torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__, seed=make.SEED
  )
  (HERE / "peft" / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
  main()
