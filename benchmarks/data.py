"""How fast batches are made: reading, masks and corruptions on one core, preparation on all, seeks and starts.

  python benchmarks/data.py [--datasets=PYTHON --tensorflow=PYTHON] [--only=NAME ...]

Everything that is timed is a process of its own, pinned to one core where the table says so. The peers do the same
work from the same tokens: rows of 512 at random places of the standard library's tokens, masked as BERT masks them.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import contest

HERE = pathlib.Path(__file__).parent
ROWS = {
  "packed": "packed documents, next token",
  "windows": "windows, next token",
  "masked": "masked token (BERT's, one segment)",
  "whole_word": "masked token, whole words",
  "pairs": "masked token and next sentence",
  "span": "span corruption (T5's)",
}


def spread(values, digits=2) -> str:
  low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
  return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def run(python, script, *words, core: int | None = 0, timeout=900) -> dict:
  """The last line of a child's output, JSON."""
  command = list(map(str, [python, HERE / script, *words]))
  command = command if core is None else ["taskset", "-c", str(core), *command]
  done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout,
                        env=dict(os.environ, JAX_PLATFORMS="cpu"))  # fmt: skip
  return json.loads(done.stdout.splitlines()[-1])


def reading(cache, rounds: int) -> list[str]:
  lines = ["| rows of 512, batches of 64, one core | million tokens a second |", "|-|-|"]
  for name, title in ROWS.items():
    found = run(
      sys.executable, "fmjax_data.py", "read", f"--objective={name}", f"--cache={cache}", f"--rounds={rounds}"
    )
    lines.append(f"| {title} | {spread([x / 1e6 for x in found['tokens_per_second']])} |")
    print(lines[-1], flush=True)
  return lines


def peers(cache, rounds: int, pythons: dict) -> list[str]:
  """The same masked-token batches by each library, in turns."""
  with tempfile.TemporaryDirectory() as folder:
    run(sys.executable, "fmjax_data.py", "dump", f"--cache={cache}", f"--folder={folder}")
    contenders = {"fmjax": [sys.executable, "fmjax_data.py", "read", "--objective=masked", f"--cache={cache}"]}
    for name, python in pythons.items():
      run(python, f"{name}_data.py", "make", f"--folder={folder}")
      contenders[name] = [python, f"{name}_data.py", "read", f"--folder={folder}"]
    found = {name: [] for name in contenders}
    for number in range(rounds):
      for name in sorted(contenders, reverse=number % 2 == 1):
        one = run(*contenders[name], "--rounds=1")
        found[name] += one["tokens_per_second"]
  lines = [
    "| masked-token batches from the same tokens, one core | million tokens a second | fmjax is faster by |",
    "|-|-|-|",
  ]
  ours = statistics.median(found["fmjax"])
  for name, values in found.items():
    lines.append(f"| {name} | {spread([x / 1e6 for x in values])} | {ours / statistics.median(values):.1f} |")
  print("\n".join(lines), flush=True)
  return lines


def preparing(rounds: int) -> list[str]:
  lines = ["| preparation, all cores | MB a second | share of the library's own speed |", "|-|-|-|"]
  for kind in ("sentencepiece", "wordpiece"):
    pairs = [run(sys.executable, "fmjax_data.py", "prepare", f"--kind={kind}", core=None) for _ in range(rounds)]
    shares = [one["prepared"] / one["raw"] for one in pairs]
    lines.append(f"| {kind}, the library alone | {spread([one['raw'] for one in pairs])} | |")
    lines.append(f"| {kind}, tokens on disk | {spread([one['prepared'] for one in pairs])} | {spread(shares)} |")
    print("\n".join(lines[-2:]), flush=True)
  return lines


def starting(rounds: int) -> list[str]:
  with tempfile.TemporaryDirectory() as folder:
    made = run(sys.executable, "fmjax_data.py", "synthesise", f"--cache={folder}", core=None)
    starts, seeks = [], []
    for _ in range(rounds):
      start = time.perf_counter()
      found = run(sys.executable, "fmjax_data.py", "start", f"--cache={folder}", core=None)
      starts.append(time.perf_counter() - start)
      seeks += [1e3 * x for x in found["seeks"]]
  return [
    f"| {made['tokens'] / 1e9:.1f} billion tokens, {made['bytes'] / 1e9:.1f} GB, {made['documents']:,} documents | |",
    "|-|-|",
    f"| a new process to its first batch, s | {spread(starts)} |",
    f"| batch 1,000,000 of a loader that is open, ms | {spread(seeks)} |",
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--datasets", help="a python that has datasets, torch and transformers")
  parser.add_argument("--tensorflow", help="a python that has tensorflow")
  parser.add_argument("--rounds", type=int, default=7)
  names = ("reading", "peers", "preparing", "starting")
  parser.add_argument("--only", nargs="+", choices=names, default=names)
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  today, version = datetime.date.today().isoformat(), f"py{sys.version_info.major}{sys.version_info.minor}"
  out = args.out or HERE / "results" / f"{today}-data-{version}.md"
  lines = [f"# Data, {today}", "", contest.machine(), ""]
  pythons = {name: getattr(args, name) for name in ("datasets", "tensorflow") if getattr(args, name)}
  with tempfile.TemporaryDirectory() as cache:
    if "reading" in args.only:
      lines += [*reading(cache, args.rounds), ""]
    if "peers" in args.only:
      lines += [*peers(cache, args.rounds, pythons), ""]
  if "preparing" in args.only:
    lines += [*preparing(args.rounds), ""]
  if "starting" in args.only:
    lines += [*(made := starting(args.rounds)), ""]
    print("\n".join(made))
  out.write_text("\n".join(lines))
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
