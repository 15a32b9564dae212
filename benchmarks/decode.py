"""Greedy decoding with a cache against transformers and torch, on this machine's CPU, with the same weights.

  python benchmarks/decode.py --peer=/path/to/python/with/torch/and/transformers

GPT-2 124M with random weights, a prompt of 32 tokens and 128 new ones; a time is a whole call of `generate`, its
prefill included. `contest.py` says how contenders take turns.
"""

import argparse
import datetime
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import contest

HERE = pathlib.Path(__file__).parent
PROMPT, NEW = 32, 128


def table(folder: str, rounds: int, peer) -> list[str]:
  times, ratios, same = [*contest.TIMES], ["", *contest.RATIOS], [""]
  for batch in (1, 8):
    words = [f"--folder={folder}", f"--batch={batch}", f"--prompt={PROMPT}", f"--new={NEW}"]
    commands = {
      "fmjax": [sys.executable, HERE / "fmjax_decode.py", *words],
      "transformers": [peer, HERE / "torch_decode.py", *words, f"--threads={os.cpu_count()}"],
    }
    contenders, others = contest.contend(commands, 1, rounds)
    rows, ratio = contest.rows(f"batch {batch}", contenders, others)
    times, ratios = times + rows, [*ratios, ratio]
    ours, theirs = (one.ready["tokens"] for one in contenders)
    share = statistics.mean(a == b for x, y in zip(ours, theirs) for a, b in zip(x, y))
    speeds = ", ".join(f"{one.name} {batch * NEW / statistics.median(one.times):.1f}" for one in contenders)
    same.append(f"Batch {batch}: tokens a second: {speeds}; {share:.1%} of the tokens are the same.")
  return times + ratios + same


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
    subprocess.run([args.peer, HERE / "torch_decode.py", "--make", f"--folder={folder}"], check=True)
    lines = [title, "", contest.machine(), "", *table(folder, args.rounds, args.peer)]
  print("\n".join(lines))
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
