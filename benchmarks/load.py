"""One load of a Hugging Face folder in a fresh process, by fmjax or by transformers: seconds and memory, as JSON.

After the load every parameter is read once, since a library may map the file and put the reading off.
"""

import argparse
import json
import pathlib
import time

import numpy as np


def kilobytes(field: str) -> int:
  """This process's resident memory, now (VmRSS) or at its peak (VmHWM)."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith(field))


def by_fmjax():
  import jax

  from fmjax.interop import from_pretrained

  jax.devices()
  return lambda folder: [np.asarray(leaf) for leaf in jax.tree.leaves(from_pretrained(folder).params)]


def by_transformers():
  import torch
  import transformers

  torch.set_num_threads(2)
  cls = transformers.AutoModelForCausalLM  # named here, since it is imported only then
  return lambda folder: [tensor.detach().numpy() for tensor in cls.from_pretrained(folder).parameters()]


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("library", choices=("fmjax", "transformers"))
  parser.add_argument("folder")
  args = parser.parse_args()
  start = time.perf_counter()
  load = by_fmjax() if args.library == "fmjax" else by_transformers()
  found = dict(imports=time.perf_counter() - start)
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
  before, start = kilobytes("VmRSS"), time.perf_counter()
  arrays = load(args.folder)
  found |= dict(load=time.perf_counter() - start, peak=kilobytes("VmHWM") - before)
  total = sum(float(np.sum(array, dtype=np.float64)) for array in arrays)
  found |= dict(read=time.perf_counter() - start, peak_read=kilobytes("VmHWM") - before, total=total)
  found |= dict(
    parameters=sum(array.nbytes for array in arrays) // 1024, largest=max(a.nbytes for a in arrays) // 1024
  )
  print(json.dumps(found))


if __name__ == "__main__":
  main()
