"""The peer: greedy decoding of a folder's model by transformers and torch on CPU, served to `decode.py` turn by turn.

Runs in an environment of its own (torch and transformers). The protocol is that of `torch_gpt.py`; a turn's numbers
are seconds of whole calls of `generate`.
"""

import argparse
import json
import sys
import time

import torch
import transformers


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--folder", required=True)
  parser.add_argument("--batch", type=int, required=True)
  parser.add_argument("--prompt", type=int, required=True)
  parser.add_argument("--new", type=int, required=True)
  parser.add_argument("--threads", type=int, required=True)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  start = time.perf_counter()
  model = transformers.AutoModelForCausalLM.from_pretrained(args.folder).eval()
  ids = torch.randint(50000, (args.batch, args.prompt), generator=torch.Generator().manual_seed(1))

  def generate():
    with torch.inference_mode():
      return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.new, do_sample=False, eos_token_id=None,
        pad_token_id=0,
      )  # fmt: skip

  tokens = generate()[:, args.prompt :].tolist()
  version = f"torch {torch.__version__}, transformers {transformers.__version__}"
  ready = {"start_seconds": time.perf_counter() - start, "ids": ids.tolist(), "tokens": tokens, "version": version}
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    times = []
    for _ in range(int(line)):
      start = time.perf_counter()
      generate()
      times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)


if __name__ == "__main__":
  main()
