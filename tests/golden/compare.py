"""A folder in Hugging Face's layout, read by fmjax and by transformers: how far apart is what they compute?

  python tests/golden/compare.py FOLDER --peer=/path/to/python/with/torch/and/transformers

The peer draws a padded batch and answers first, in a process of its own. Printed is, for each of its outputs, the
largest absolute difference at real tokens and the output's own spread; the exit code is 1 where a difference is
above the tolerance times the spread (or the tolerance, where the spread is under one).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent


def peer(folder: pathlib.Path, out: pathlib.Path, length: int, seed: int):
  """Inputs as in/NAME, outputs as out/NAME."""
  import make
  import torch
  import transformers

  transformers.logging.disable_progress_bar()
  name = json.loads((folder / "config.json").read_text())["architectures"][0]
  options = dict(dtype=torch.float32, attn_implementation="eager", local_files_only=True)
  model = getattr(transformers, name).from_pretrained(folder, **options).eval()
  lengths = tuple(max(3, length * part // 13) for part in make.LENGTHS)
  inputs = make.batch(np.random.default_rng(seed), model, lengths)
  outputs = make.call(model, inputs, output_hidden_states=True)
  sides = {f"in/{key}": array for key, array in inputs.items()} | {f"out/{key}": a for key, a in outputs.items()}
  np.savez(out, **sides)


def ours(folder: pathlib.Path, inputs: dict) -> dict[str, np.ndarray]:
  import fmjax

  result = fmjax.from_pretrained(folder)(**inputs, output_hidden_states=True)
  outputs = {}
  for name, value in vars(result).items():
    if name.endswith("hidden_states") and value is not None:
      outputs |= {f"{name}/{number}": np.asarray(state) for number, state in enumerate(value)}
    elif value is not None and hasattr(value, "shape"):
      outputs[name] = np.asarray(value)
  return outputs


def real(name: str, array: np.ndarray, inputs: dict) -> np.ndarray:
  """The entries at tokens that are no padding; all of an output that is not per token."""
  mask = inputs["attention_mask"] if name.startswith("encoder_") else inputs.get("decoder_attention_mask")
  mask = inputs["attention_mask"] if mask is None else mask
  return array[mask == 1] if array.shape[: mask.ndim] == mask.shape else array


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--peer", required=True, help="a Python with torch and transformers")
  parser.add_argument("--length", type=int, default=13, help="tokens of the longest row")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--tolerance", type=float, default=2e-5)
  parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)  # given to the peer's process
  args = parser.parse_args()
  if args.out:
    peer(args.folder, args.out, args.length, args.seed)
    return 0
  with tempfile.TemporaryDirectory() as scratch:
    out = pathlib.Path(scratch) / "peer.npz"
    subprocess.run([args.peer, __file__, *sys.argv[1:], f"--out={out}"], check=True)
    theirs = dict(np.load(out))
  inputs = {key.removeprefix("in/"): array for key, array in theirs.items() if key.startswith("in/")}
  mine, failed = ours(args.folder, inputs), False
  for key in sorted(key.removeprefix("out/") for key in theirs if key.startswith("out/")):
    if key not in mine:
      print(f"{key:32} not given by fmjax")
      failed = True
      continue
    expected, got = real(key, theirs[f"out/{key}"], inputs), real(key, mine[key], inputs)
    difference, spread = float(np.abs(expected - got).max()), float(expected.std())
    bad = not difference <= args.tolerance * max(1.0, spread)
    failed |= bad
    print(f"{key:32} {difference:.1e} of {spread:.2f}{'  too far' if bad else ''}")
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
