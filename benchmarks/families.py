"""Families against transformers and torch, on this machine's CPU, with the same weights: steps and loads.

python benchmarks/families.py --peer=/path/to/python/with/transformers [--only=bert-forward ...]
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
from family_batches import SHAPES

HERE = pathlib.Path(__file__).parent
TITLES = {
  "bert-forward": "BERT-base forward, 8 x 128",
  "bert-masked": "BERT-base masked-LM step, 8 x 128, dropout 0.1",
  "bert-masked-exact": "the same without dropout",
  "t5": "T5-small step, 8 x (128, 32), dropout 0.1",
  "t5-exact": "the same without dropout",
}
RTOL = 2e-5  # of the loss of each first step, where nothing is dropped, and of the hidden states' scale


def folder(home: pathlib.Path, family: str, peer) -> pathlib.Path:
  """A model of the published size with random weights, which transformers wrote there."""
  path = home / family
  if not (path / "config.json").exists():
    command = [peer, HERE / "torch_families.py", f"--make={family}", f"--folder={path}"]
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
  return path


def agree(contenders):
  """SystemExit where the contenders do not compute the same."""
  ours, *theirs = [one.ready["check"] for one in contenders]
  for name, check in zip((one.name for one in contenders[1:]), theirs):
    worst = max(abs(a - b) for a, b in zip(ours, check)) / max(map(abs, check))
    if worst > RTOL:
      raise SystemExit(f"fmjax computes {ours}\n{name} computes {check}")


def steps(names, rounds: int, peer, home: pathlib.Path) -> list[str]:
  times, ratios = [*contest.TIMES], ["", *contest.RATIOS]
  for name in names:
    where = [f"--shape={name}", f"--folder={folder(home, SHAPES[name]['family'], peer)}"]
    torch = [peer, HERE / "torch_families.py", *where, f"--threads={os.cpu_count()}"]
    commands = {
      "fmjax": [sys.executable, HERE / "fmjax_families.py", *where],
      "torch eager": [*torch, "--mode=eager"],
      "torch.compile": [*torch, "--mode=compile"],
    }
    contenders, others = contest.contend(commands, 1, rounds)
    if not SHAPES[name]["dropout"]:
      agree(contenders)
    lines, ratio = contest.rows(TITLES[name], contenders, others)
    print("\n".join([*lines, ratio]), flush=True)
    times += lines
    ratios.append(ratio)
  return times + ratios


def one_load(python, library: str, path) -> dict:
  start = time.perf_counter()
  command = list(map(str, [python, HERE / "load.py", library, path]))
  env = dict(os.environ, JAX_PLATFORMS="cpu")
  done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
  return json.loads(done.stdout.splitlines()[-1]) | dict(process=time.perf_counter() - start)


def loads(rounds: int, peer, home: pathlib.Path) -> list[str]:
  """Loads of GPT-2 124M in fresh processes, in turns, with the file in the page cache."""
  path, pythons = folder(home, "gpt2", peer), dict(fmjax=sys.executable, transformers=peer)
  found = {library: [] for library in pythons}
  used, ticks = contest.machine_cpu()
  for number in range(-1, rounds):
    for library in sorted(pythons, reverse=number % 2 == 1):
      one = one_load(pythons[library], library, path)
      found[library] += [one] if number >= 0 else []  # the first of each warms the page cache
  used_after, ticks_after = contest.machine_cpu()
  columns = dict(load="load, s", read="load and read, s", imports="imports, s", process="process, s")
  peaks = dict(peak="peak of the load, MB", peak_read="with the read, MB")
  titles = [*columns.values(), *peaks.values(), "over the parameters, MB"]
  lines = ["| GPT-2 124M, safetensors | " + " | ".join(titles) + " |", "|-" * (len(titles) + 1) + "|"]
  for library, every in found.items():
    cells = [quartiles([one[name] for one in every], 2) for name in columns]
    cells += [quartiles([one[name] / 1024 for one in every], 0) for name in peaks]
    cells.append(quartiles([(one["peak_read"] - one["parameters"]) / 1024 for one in every], 0))
    lines.append(f"| {library} | " + " | ".join(cells) + " |")
  parameters, largest = (found["fmjax"][0][name] / 1024 for name in ("parameters", "largest"))
  totals = [every[0]["total"] for every in found.values()]
  if abs(totals[0] - totals[1]) > 1e-9 * abs(totals[1]):
    raise SystemExit(f"the parameters' sums differ: {totals}")
  return [
    *lines, "",
    f"Median (quartiles) of {rounds} fresh processes each, in turns. The parameters take {parameters:.0f} MB, the"
    f" largest {largest:.0f}. Processors in use meanwhile: {(used_after - used) / (ticks_after - ticks):.0%}.",
  ]  # fmt: skip


def quartiles(values, digits: int) -> str:
  low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
  return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", required=True, help="a python that has torch and transformers")
  parser.add_argument("--rounds", type=int, default=11)
  parser.add_argument("--only", nargs="+", choices=(*SHAPES, "load"), default=(*SHAPES, "load"))
  parser.add_argument("--folders", type=pathlib.Path, help="keep the models here, and take those that are there")
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  today, version = datetime.date.today().isoformat(), f"py{sys.version_info.major}{sys.version_info.minor}"
  out = args.out or HERE / "results" / f"{today}-families-cpu-{version}.md"
  lines = [f"# Families on CPU, {today}", "", contest.machine()]
  with tempfile.TemporaryDirectory() as home:
    home = args.folders or pathlib.Path(home)
    if names := [name for name in SHAPES if name in args.only]:
      lines += ["", *steps(names, args.rounds, args.peer, home)]
    if "load" in args.only:
      lines += ["", *(made := loads(args.rounds, args.peer, home))]
      print("\n".join(made))
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
