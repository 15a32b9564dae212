"""Makes the golden files: tiny random models of every family and head, and what transformers computes with them.

  python tests/golden/make.py [FAMILY ...]        in an environment with torch and transformers

FAMILY/CLASS/ holds the model as save_pretrained writes it, expected.safetensors (inputs under in/, outputs under
out/, for causal models also a left-padded batch under left/), and for models that generate generate.json.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import sys
import warnings
import zlib

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import generation
import numpy as np
import safetensors.numpy
import torch
import transformers
from families import FAMILIES

HERE = pathlib.Path(__file__).parent
SEED = 20261
LENGTHS = (13, 9, 6)  # real tokens of the three rows
TARGET_LENGTHS = (8, 5, 7)
CLASSES = {"SequenceClassification": 3, "TokenClassification": 5}
TOKEN_TYPES = {"bert", "albert", "electra"}
GENERATES = ("CausalLM", "LMHeadModel", "ConditionalGeneration", "MTModel")


def seed_of(name: str) -> int:
  return zlib.crc32(f"{SEED} {name}".encode())


def build(name: str, model_type: str, options: dict, trial: int = 0):
  """The class on its configuration, every parameter drawn anew, large enough that none hides."""
  task = name.rpartition("For")[2]
  labels = dict(num_labels=CLASSES[task]) if task in CLASSES else {}
  config = transformers.AutoConfig.for_model(model_type, **options, **labels)
  model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
  generator = torch.Generator().manual_seed(seed_of(f"{model_type} {name} {trial}"))
  fixed = {"embed_positions"} if model_type == "marian" else set()
  untied = options.get("tie_word_embeddings") is False and hasattr(model, "lm_head")
  if untied:  # T5's class ties them whatever is asked, and leaves them alone where a file has both
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
  with torch.no_grad():
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
      drawn = isinstance(tensor, torch.nn.Parameter) and not fixed & {*path.split(".")}
      if drawn or path.endswith("final_logits_bias"):
        redraw(path, tensor, generator, config)
  return model


def redraw(path: str, tensor, generator, config):
  noise = torch.randn(tensor.shape, generator=generator)
  if tensor.ndim == 1 and path.endswith("weight"):
    # A norm's scale, of random sign: else a model with one table answers with the token that it has just read.
    scale = (1 + 0.2 * noise) * torch.randn(tensor.shape, generator=generator).sign()
    tensor.copy_(scale - 1 if config.model_type.startswith("gemma") else scale)
  elif tensor.ndim == 1 or path.endswith("final_logits_bias"):
    tensor.copy_(0.2 * noise)
  elif "relative_attention_bias" in path:
    tensor.copy_(noise)
  elif "embed" in path or "shared" in path or ".wte" in path or ".wpe" in path:
    scaled = getattr(config, "scale_decoder_outputs", False)  # T5's logits, by D**-0.5
    tensor.copy_(noise * (1.0 if scaled else 0.3))
  else:
    fan_in = tensor.shape[0] if any(c in path for c in ("c_attn", "c_proj", "c_fc")) else tensor.shape[1]
    tensor.copy_(noise * fan_in**-0.5)


def varied(name: str, model_type: str, options: dict):
  """Of a few draws the model that says the most different tokens."""
  models = (build(name, model_type, options, trial) for trial in range(16))
  return max(models, key=lambda model: generation.variety(model, tokens))


def tokens(rng, config, lengths):
  """Right-padded random ids and their mask, without special tokens."""
  width = max(lengths)
  pad = config.pad_token_id or 0
  ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
  plain = [token for token in range(3, config.vocab_size) if token not in (pad, *ends)]
  ids = np.array([rng.choice(plain, width) for _ in lengths])
  mask = np.arange(width)[None] < np.array(lengths)[:, None]
  return np.where(mask, ids, pad), mask.astype(np.int64)


def batch(rng, model, lengths=LENGTHS) -> dict:
  config, name = model.config, type(model).__name__
  if name.endswith("MultipleChoice"):
    ids, mask = tokens(rng, config, (*lengths, *lengths[::-1]))
    ids, mask = ids.reshape(2, 3, -1), mask.reshape(2, 3, -1)
  else:
    ids, mask = tokens(rng, config, lengths)
  inputs = dict(input_ids=ids, attention_mask=mask)
  if config.model_type in TOKEN_TYPES:
    second = np.cumsum(rng.random(ids.shape) < 0.2, axis=-1) > 0
    inputs["token_type_ids"] = second.astype(np.int64) * mask
  if config.is_encoder_decoder and name.endswith("SequenceClassification"):
    # The last end token's state is classified; the decoder reads the source shifted by one.
    ids[np.arange(len(ids)), mask.sum(-1) - 1] = config.eos_token_id
  elif config.is_encoder_decoder and name.endswith(("Model", "Generation")) and "Encoder" not in name:
    inputs["decoder_input_ids"], inputs["decoder_attention_mask"] = tokens(rng, config, TARGET_LENGTHS)
    inputs["decoder_input_ids"][:, 0] = config.decoder_start_token_id
  return inputs


def left_padded(inputs: dict, pad: int) -> dict:
  mask = inputs["attention_mask"][:, ::-1]
  ids = np.full_like(inputs["input_ids"], pad)
  ids[mask == 1] = inputs["input_ids"][inputs["attention_mask"] == 1]
  positions = np.maximum(np.cumsum(mask, axis=-1) - 1, 0)
  return dict(input_ids=ids, attention_mask=mask.copy(), position_ids=positions)


def call(model, inputs: dict, **options) -> dict[str, np.ndarray]:
  """The named tensors of the outputs; a tuple of hidden states as NAME/0, NAME/1, ..."""
  with torch.no_grad():
    outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, **options)
  tensors = {}
  for name, value in outputs.items():
    if isinstance(value, torch.Tensor):
      tensors[name] = value.numpy()
    elif name.endswith("hidden_states"):
      tensors |= {f"{name}/{number}": state.numpy() for number, state in enumerate(value)}
  return tensors


def expected(model) -> dict[str, np.ndarray]:
  name = type(model).__name__
  inputs = batch(np.random.default_rng(seed_of(name)), model)
  whole = name.endswith(("Model", *GENERATES))
  sides = {"in": inputs}
  sides["out"] = call(model, inputs, output_hidden_states=whole, **({"use_cache": False} if whole else {}))
  if name.endswith(("CausalLM", "LMHeadModel")):
    left = left_padded(inputs, model.config.pad_token_id)
    sides["left"] = left | dict(logits=call(model, left)["logits"])
  named = {f"{side}/{key}": array for side, arrays in sides.items() for key, array in arrays.items()}
  return {name: np.ascontiguousarray(array) for name, array in named.items()}


def check(folder: pathlib.Path, model, tensors: dict):
  """transformers reads its own folder without a complaint, and computes the same."""
  again, report = type(model).from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
  complaints = {kind: list(names) for kind, names in report.items() if names}
  assert not complaints, (folder, complaints)
  inputs = {key.removeprefix("in/"): value for key, value in tensors.items() if key.startswith("in/")}
  for key, value in call(again.eval(), inputs).items():
    assert np.array_equal(value, tensors[f"out/{key}"]), (folder, key)
  large = [path.name for path in folder.iterdir() if path.stat().st_size > 300_000]
  assert not large, (folder, large)


def as_published(path: pathlib.Path):
  """T5 v1.1 and mT5 say on the hub that their tables are untied; transformers 5 writes something else."""
  config = json.loads(path.read_text()) | dict(tie_word_embeddings=False)
  config.pop("scale_decoder_outputs", None)
  path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(family: str, name: str, model_type: str, options: dict):
  folder = HERE / family / name
  shutil.rmtree(folder, ignore_errors=True)
  model = varied(name, model_type, options) if name.endswith(GENERATES) else build(name, model_type, options)
  model.save_pretrained(folder)
  if model_type.endswith("t5") and options.get("tie_word_embeddings") is False:
    as_published(folder / "config.json")
  tensors = expected(model)
  safetensors.numpy.save_file(tensors, folder / "expected.safetensors")
  check(folder, model, tensors)
  spread = {k[4:]: f"{v.std():.2f}" for k, v in tensors.items() if k.startswith("out/") and "hidden" not in k}
  print(f"{family}/{name}", f"{sum(p.stat().st_size for p in folder.iterdir()) / 1000:.0f} KB", spread, flush=True)
  # RoBERTa's classes generate from row 0 of their table of positions, which their forward pass never reads.
  if name.endswith(GENERATES) and "Roberta" not in name:
    made = generation.cases(model, tokens, seed_of(folder.name))
    (folder / "generate.json").write_text(generation.dump(made))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], default=[], metavar="FAMILY")
  chosen = parser.parse_args().families or list(FAMILIES)
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  warnings.filterwarnings("ignore")
  torch.set_num_threads(1)  # the models are tiny
  for family in chosen:
    model_type, options, names = FAMILIES[family]
    for name in names:
      make(family, name, model_type, options)
  versions = dict(
    python=platform.python_version(),
    torch=torch.__version__,
    transformers=transformers.__version__,
    safetensors=safetensors.__version__,
    numpy=np.__version__,
    seed=SEED,
  )
  (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
  main()
