"""Greedy decoding with a cache against transformers and torch, on this machine's CPU, with the same weights.

  python benchmarks/decode.py --peer=/path/to/python/with/torch/and/transformers

GPT-2 124M with random weights, a prompt of 32 tokens and 128 new ones. As in `train_step.py`, each contender is a
process that waits for its turn; a time is a whole call of `generate`, its prefill included.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from train_step import HERE, Contender, machine, machine_cpu

PROMPT, NEW = 32, 128
MAKE = """
import sys, torch, transformers
torch.manual_seed(0)
transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(sys.argv[1])
"""


def contend(folder: str, batch: int, rounds: int, peer) -> tuple[Contender, Contender, float]:
  """(fmjax, its peer) after all rounds, and the share of the machine that anything else took meanwhile."""
  env = dict(os.environ, JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
  words = [f"--folder={folder}", f"--new={NEW}"]
  sizes = [f"--batch={batch}", f"--prompt={PROMPT}", f"--threads={os.cpu_count()}"]
  with contextlib.ExitStack() as closing:
    theirs = Contender("transformers", [peer, HERE / "torch_decode.py", *words, *sizes], env)
    closing.callback(theirs.close)
    ids = f"--ids={json.dumps(theirs.ready['ids'])}"
    ours = Contender("fmjax", [sys.executable, HERE / "fmjax_decode.py", *words, ids], env)
    closing.callback(ours.close)
    pair, (used, ticks) = [ours, theirs], machine_cpu()
    used -= sum(one.cpu() for one in pair)
    for number in range(rounds):
      for one in pair if number % 2 else reversed(pair):
        one.turn(1)
    used_after, ticks_after = machine_cpu()
    others = (used_after - sum(one.cpu() for one in pair) - used) / (ticks_after - ticks)
  return ours, theirs, others


def table(folder: str, rounds: int, peer) -> list[str]:
  lines = ["| batch | contender | seconds, median | least, quartiles, most | tokens a second | first call, s |"]
  ratios = [
    "",
    "| batch | transformers / fmjax | quartiles of the rounds' ratios | same tokens | CPU that others took |",
  ]
  lines, ratios = [*lines, "|-|-|-|-|-|-|"], [*ratios, "|-|-|-|-|-|"]
  for batch in (1, 8):
    ours, theirs, others = contend(folder, batch, rounds, peer)
    for one in (ours, theirs):
      low, middle, high = statistics.quantiles(one.times, n=4, method="inclusive")
      rest = " ".join(f"{x:.2f}" for x in (min(one.times), low, high, max(one.times)))
      speed, first = batch * NEW / middle, one.ready["start_seconds"]
      lines.append(
        f"| {batch} | {one.name} ({one.ready['version']}) | {middle:.2f} | {rest} | {speed:.0f} | {first:.1f} |"
      )
    ratio = statistics.median(theirs.times) / statistics.median(ours.times)
    low, _, high = statistics.quantiles([b / a for a, b in zip(ours.times, theirs.times)], n=4, method="inclusive")
    pairs = [a == b for x, y in zip(ours.ready["tokens"], theirs.ready["tokens"]) for a, b in zip(x, y)]
    ratios.append(
      f"| {batch} | **{ratio:.2f}** | {low:.2f} .. {high:.2f} | {statistics.mean(pairs):.1%} | {others:.0%} |"
    )
  return lines + ratios


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", required=True, help="a python that has torch and transformers")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  today = datetime.date.today().isoformat()
  out = args.out or HERE / "results" / f"{today}-decode-cpu-py{sys.version_info.major}{sys.version_info.minor}.md"
  title = f"# Greedy decoding on CPU, GPT-2 124M, prompt {PROMPT}, {NEW} new tokens, {today}"
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run([args.peer, "-c", MAKE, folder], check=True, capture_output=True)
    lines = [title, "", machine(), "", *table(folder, args.rounds, args.peer)]
  print("\n".join(lines))
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
