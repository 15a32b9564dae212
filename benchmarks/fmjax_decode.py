"""Our side: greedy decoding of a folder's model, served to `decode.py` turn by turn, as `torch_decode.py` is."""

import argparse
import json
import sys
import time

import jax
import numpy as np

from fmjax import backend
from fmjax.interop.pretrained import from_pretrained


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--folder", required=True)
  parser.add_argument("--ids", type=json.loads, required=True, help="the prompts, [B, T]")
  parser.add_argument("--new", type=int, required=True)
  args = parser.parse_args()
  backend.keep_memory()
  ids = np.array(args.ids)
  start = time.perf_counter()
  model = from_pretrained(args.folder)

  def generate():
    return model.generate(
      ids, np.ones_like(ids), max_new_tokens=args.new, do_sample=False, eos_token_id=None, pad_token_id=0
    )

  tokens = generate()[:, ids.shape[1] :].tolist()
  print(
    json.dumps(dict(start_seconds=time.perf_counter() - start, tokens=tokens, version=jax.__version__)), flush=True
  )
  for line in sys.stdin:
    times = []
    for _ in range(int(line)):
      start = time.perf_counter()
      generate()
      times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)


if __name__ == "__main__":
  main()
