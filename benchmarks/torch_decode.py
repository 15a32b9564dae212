"""The peer: greedy decoding by transformers in PyTorch on CPU, served to `decode.py` turn by turn.

Runs in an environment of its own (torch and transformers, nothing of fmjax). With `--make` it writes GPT-2 124M of
random weights into the folder, from which both sides load.
"""

import argparse
import time

import contest
import numpy as np
import torch
import transformers


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--folder", required=True)
  parser.add_argument("--make", action="store_true")
  parser.add_argument("--batch", type=int)
  parser.add_argument("--prompt", type=int)
  parser.add_argument("--new", type=int)
  parser.add_argument("--threads", type=int, default=2)
  args = parser.parse_args()
  if args.make:
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(args.folder)
    return
  torch.set_num_threads(args.threads)
  start = time.perf_counter()
  model = transformers.AutoModelForCausalLM.from_pretrained(args.folder).eval()
  ids = torch.from_numpy(np.random.default_rng(1).integers(50000, size=(args.batch, args.prompt)))
  how = dict(max_new_tokens=args.new, do_sample=False, eos_token_id=None, pad_token_id=0)

  @torch.inference_mode()
  def generate():
    return model.generate(ids, attention_mask=torch.ones_like(ids), **how)

  tokens = generate()[:, args.prompt :].tolist()
  version = f"{transformers.__version__}, torch {torch.__version__}"
  contest.serve(generate, dict(start_seconds=time.perf_counter() - start, tokens=tokens, version=version))


if __name__ == "__main__":
  main()
