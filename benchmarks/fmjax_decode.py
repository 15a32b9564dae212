"""Our side: greedy decoding of the same folder, served to `decode.py` turn by turn, as `torch_decode.py` is."""

import argparse
import time

import contest
import jax
import numpy as np

from fmjax import backend
from fmjax.interop.pretrained import from_pretrained


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--folder", required=True)
  parser.add_argument("--batch", type=int)
  parser.add_argument("--prompt", type=int)
  parser.add_argument("--new", type=int)
  args = parser.parse_args()
  backend.keep_memory()
  ids = np.random.default_rng(1).integers(50000, size=(args.batch, args.prompt))
  how = dict(max_new_tokens=args.new, do_sample=False, eos_token_id=None, pad_token_id=0)
  start = time.perf_counter()
  model = from_pretrained(args.folder)

  def generate():
    return model.generate(ids, np.ones_like(ids), **how)

  tokens = generate()[:, args.prompt :].tolist()
  contest.serve(generate, dict(start_seconds=time.perf_counter() - start, tokens=tokens, version=jax.__version__))


if __name__ == "__main__":
  main()
