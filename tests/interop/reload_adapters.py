"""peft reads what fmjax writes: random LoRAs on golden models, exported, and loaded by an installed peft.

  python tests/interop/reload_adapters.py --peer=/path/to/python/with/torch/and/peft

Printed is for each adapter by how much peft's logits differ from ours, and the keys that only one side has; the exit
code is 1 where they differ by more than the tolerance, where a key is missing, or where peft warns.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

HERE = pathlib.Path(__file__).resolve()
GOLDEN = HERE.parents[1] / "golden"
TOLERANCE = 2e-5
ADAPTERS = {
  "gpt2/GPT2LMHeadModel": [dict(targets=("q", "v")), dict(targets=("q", "v", "o"), rank_stabilised=True),
                           dict(targets=("k", "up"), dora=True)],
  "gpt2/GPT2ForSequenceClassification": [dict()],
  "bert/BertForSequenceClassification": [dict(), dict(targets=("down",))],
  "bert/BertForMaskedLM": [dict(targets=("q", "dense"), rank_stabilised=True)],
  "bert/BertForMultipleChoice": [dict()],
  "roberta/RobertaForSequenceClassification": [dict(targets=("q", "o"))],
  "xlm-roberta/XLMRobertaForTokenClassification": [dict()],
  "distilbert/DistilBertForSequenceClassification": [dict(targets=("q", "up"), dora=True)],
  "albert/AlbertForQuestionAnswering": [dict(targets=("q", "up"))],
  "electra/ElectraForSequenceClassification": [dict()],
  "llama/LlamaForCausalLM": [dict(targets=("q", "v", "gate", "down"), dora=True, rank_stabilised=True)],
  "qwen2/Qwen2ForSequenceClassification": [dict()],
  "mistral/MistralForCausalLM": [dict()],
  "qwen3/Qwen3ForCausalLM": [dict()],
  "gemma2/Gemma2ForCausalLM": [dict()],
  "gemma3/Gemma3ForCausalLM": [dict()],
  "t5/T5ForConditionalGeneration": [dict(targets=("encoder/blocks/.*/[qv]", "up"))],
  "mt5/MT5ForSequenceClassification": [dict(targets=("q", "gate"))],
  "bart/BartForConditionalGeneration": [dict(targets=("blocks/.*/q", "down"), dora=True)],
  "marian/MarianMTModel": [dict()],
}  # fmt: skip


def reload(out: pathlib.Path) -> int:
  """In the peer's process: how many of the adapters in `out` are not what they were."""
  import peft
  import torch
  import transformers
  from safetensors.torch import load_file

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  bad = 0
  for folder in sorted(out.iterdir()):
    base = GOLDEN / (folder / "base").read_text()
    inner = getattr(transformers, base.name).from_pretrained(base, attn_implementation="eager", local_files_only=True)
    with warnings.catch_warnings(record=True) as told:
      warnings.simplefilter("always")
      model = peft.PeftModel.from_pretrained(inner, folder).eval()
    said = [str(one.message)[:200] for one in told if "is_gradient_checkpointing" not in str(one.message)]
    keys = peft.get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    keys ^= load_file(folder / "adapter_model.safetensors").keys()
    held = load_file(folder / "logits.safetensors")
    inputs = {key[3:]: array for key, array in held.items() if key.startswith("in/")}
    mask = inputs.get("decoder_attention_mask", inputs["attention_mask"])
    with torch.no_grad():
      got = model.get_base_model()(**inputs)
      with model.disable_adapter():
        before = model.get_base_model()(**inputs)
    worst = moved = 0.0
    for key, ours in held.items():
      if key.startswith("out/"):
        seen = mask == 1 if ours.shape[:2] == mask.shape else slice(None)
        worst = max(worst, float((got[key[4:]] - ours)[seen].abs().max()))
        moved = max(moved, float((before[key[4:]] - ours)[seen].abs().max()))
    wrong = worst > TOLERANCE or bool(keys) or bool(said) or moved < 0.1
    bad += wrong
    print(f"{'BAD ' if wrong else ''}{folder.name}: {worst:.1e} (the adapter moves them by {moved:.2f})",
          sorted(keys)[:3] or "", said or "", flush=True)  # fmt: skip
  return bad


def write(out: pathlib.Path):
  import jax
  from safetensors.numpy import load_file, save_file

  from fmjax.adapt import METHODS, Adaptation
  from fmjax.interop import from_pretrained
  from fmjax.interop.peft_export import export_adapter
  from fmjax.leaves import by_path, nested

  for folder, every in ADAPTERS.items():
    for number, fields in enumerate(every):
      found = from_pretrained(GOLDEN / folder)
      adaptation = Adaptation(METHODS["lora"](rank=3, **fields), found.model)
      with jax.set_mesh(found.mesh):
        training, resting = jax.jit(adaptation.init)(jax.random.key(0), by_path(found.params))
        rngs = {path: np.random.default_rng(sum(path.encode())) for path in by_path(training)}
        drawn = {path: x * (1 + 0.3 * rngs[path].normal(size=x.shape)) + 0.3 * rngs[path].normal(size=x.shape)
                 for path, x in jax.device_get(by_path(training)).items()}  # fmt: skip
        training = nested({path: jax.device_put(x.astype(np.float32)) for path, x in drawn.items()})
        found.params = adaptation.whole(resting, training)
      to = export_adapter(out / f"{folder.replace('/', '-')}-{number}", adaptation.method, found.model,
                          (resting, training), hf_config=found.hf_config)  # fmt: skip
      (to / "base").write_text(folder)
      held = load_file(GOLDEN / folder / "expected.safetensors")
      inputs = {key: array for key, array in held.items() if key.startswith("in/")}
      got = found(**{key[3:]: array for key, array in inputs.items()})
      outs = {key: getattr(got, key[4:]) for key in held if key.startswith("out/") and "logits" in key}
      save_file(inputs | {key: np.ascontiguousarray(x) for key, x in outs.items()}, to / "logits.safetensors")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--peer", help="a Python with torch, transformers and peft")
  parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)  # given to the peer's process
  args = parser.parse_args()
  if args.out:
    return int(reload(args.out) > 0)
  with tempfile.TemporaryDirectory() as scratch:
    write(pathlib.Path(scratch))
    return subprocess.run([args.peer, HERE, f"--out={scratch}"]).returncode


if __name__ == "__main__":
  sys.exit(main())
