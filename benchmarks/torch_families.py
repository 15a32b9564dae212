"""The peer: families of transformers in PyTorch on CPU, served to `families.py` turn by turn.

Runs in an environment of its own (torch and transformers, nothing of fmjax). With `--make` it writes a model of
random weights into a folder, from which both sides load.
"""

import argparse
import time

import contest
import torch
import transformers
from family_batches import SHAPES, make_batch


def make(name: str, folder: str):
  """A model of the published size with random weights, as transformers saves it."""
  torch.manual_seed(0)
  cls, config = {
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig()),
    "t5": (
      transformers.T5ForConditionalGeneration,
      transformers.T5Config(num_layers=6, d_model=512, d_kv=64, d_ff=2048, num_heads=8, decoder_start_token_id=0),
    ),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config()),
  }[name]
  cls(config).save_pretrained(folder)


def forward(model, batch, mode):
  model.eval()
  run = torch.compile(model) if mode == "compile" else model

  @torch.inference_mode()
  def work():
    return run(input_ids=batch["tokens"]).last_hidden_state[0, :8, 0].tolist()

  return work


def training(model, batch, mode):
  """The update of `torch_gpt.py`: fused AdamW, decay of matrices alone, clipping."""
  model.train()
  run = torch.compile(model) if mode == "compile" else model
  labels = torch.where(batch["weights"] > 0, batch["targets"], -100)
  inputs = dict(input_ids=batch["tokens"], labels=labels)
  if "source_tokens" in batch:
    inputs = dict(input_ids=batch["source_tokens"], decoder_input_ids=batch["tokens"], labels=labels)
  groups = [
    {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
    {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)

  def work():
    loss = run(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return work


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--make")
  parser.add_argument("--folder", required=True)
  parser.add_argument("--shape", choices=SHAPES)
  parser.add_argument("--mode", choices=("eager", "compile"))
  parser.add_argument("--threads", type=int)
  args = parser.parse_args()
  if args.make:
    return make(args.make, args.folder)
  torch.set_num_threads(args.threads)
  shape = SHAPES[args.shape]
  dropout = dict.fromkeys(shape["dropouts"], shape["dropout"])
  model = getattr(transformers, shape["cls"]).from_pretrained(args.folder, **dropout)
  batch = {name: torch.from_numpy(x) for name, x in make_batch(shape, model.config.vocab_size).items()}
  start = time.perf_counter()
  work = (training if shape["train"] else forward)(model, batch, args.mode)
  check = [work() for _ in range(3)] if shape["train"] else work()
  ready = dict(start_seconds=time.perf_counter() - start, check=check, version=torch.__version__)
  contest.serve(work, ready)


if __name__ == "__main__":
  main()
