"""The training step, its start-up, loop and saves, against the same model in PyTorch, on this machine's CPU.

python benchmarks/train_step.py --peer=/path/to/python/with/torch
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
SHAPES = {
  "shakespeare: 4 x 128, T 64, B 12": dict(L=4, N=4, D=128, T=64, B=12, V=65),
  "medium: 6 x 384, T 256, B 16": dict(L=6, N=6, D=384, T=256, B=16, V=65),
}
STEPS = {"shakespeare: 4 x 128, T 64, B 12": 20, "medium: 6 x 384, T 256, B 16": 1}  # of a turn
PADDED_V = 128  # as fmjax stores it, so that both sides do the same work
QUICKSTART = HERE.parent / "configs" / "quickstart.py"


def steps_table(rounds: int, peer) -> list[str]:
  times, ratios = [*contest.TIMES], ["", *contest.RATIOS]
  for title, shape in SHAPES.items():
    torch = [peer, HERE / "torch_gpt.py", f"--shape={json.dumps(shape | {'V': PADDED_V})}"]
    torch.append(f"--threads={os.cpu_count()}")
    commands = {
      "fmjax": [sys.executable, HERE / "fmjax_gpt.py", f"--shape={json.dumps(shape)}"],
      "torch eager": [*torch, "--mode=eager"],
      "torch.compile": [*torch, "--mode=compile"],
    }
    rows, ratio = contest.rows(title, *contest.contend(commands, STEPS[title], rounds))
    times += rows
    ratios.append(ratio)
  return times + ratios


def first_step(cache: pathlib.Path) -> tuple[float, float]:
  """(seconds from the command to the first step's row, seconds of compilation), of a run of the quick start."""
  with tempfile.TemporaryDirectory() as home:
    words = ["train.steps=2", "train.log_every=1", "train.eval_batches=1", "train.sample_tokens=None"]
    words += ["optimizer.warmup_steps=1"]
    command = [sys.executable, "-m", "fmjax", "train", f"--config={QUICKSTART}", f"--workdir={home}/run"]
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR=str(cache))
    start = time.perf_counter()
    process = subprocess.Popen(
      [*command, *(f"--config.{word}" for word in words)],
      env=env | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"},
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    rows, seconds = pathlib.Path(home, "run/metrics.jsonl"), None
    while process.poll() is None:
      if seconds is None and rows.exists() and rows.stat().st_size:
        seconds = time.perf_counter() - start
      time.sleep(0.01)
    if process.returncode or seconds is None:
      raise SystemExit(process.stderr.read())
    events = [json.loads(line) for line in pathlib.Path(home, "run/events.jsonl").read_text().splitlines()]
    return seconds, next(event["seconds"] for event in events if event["event"] == "compile")


def start_table(rounds: int) -> list[str]:
  with tempfile.TemporaryDirectory() as home:
    first_step(pathlib.Path(home, "data"))  # prepares the data where it is not
    pairs = []
    for number in range(rounds):
      cache = pathlib.Path(home, str(number))
      pairs.append((first_step(cache), first_step(cache)))
  lines = ["| quick start, from the command to the first step's row | seconds | of which compile |", "|-|-|-|"]
  for title, found in zip(("compilation cache cold", "compilation cache warm"), zip(*pairs)):
    total, compiling = ([f"{x:.1f}" for x in sorted(column)] for column in zip(*found))
    lines.append(f"| {title} | {', '.join(total)} | {', '.join(compiling)} |")
  return lines


def loop_table(rounds: int) -> list[str]:
  command = [sys.executable, HERE / "loop.py", f"--config={QUICKSTART}", f"--rounds={rounds}"]
  env = dict(os.environ, JAX_PLATFORMS="cpu")
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(done.stderr)
  found = json.loads(done.stdout.splitlines()[-1])
  bare, loop = statistics.median(found["bare"]), statistics.median(found["loop"])
  saves = [one for one in found["saves"] if one["steps"]]
  slower = [one["seconds"] / (one["steps"] * one["usual"]) - 1 for one in saves]
  held, steps = [one["held"] for one in saves], statistics.mean(one["steps"] for one in saves)
  return [
    "| quick start's shape | median ms | least, quartiles, most |", "|-|-|-|",
    f"| the bare jitted step | {contest.spread(found['bare'])} |",
    f"| a step of the loop, data and log included | {contest.spread(found['loop'])} |",
    f"| an async save holds the loop for | {contest.spread(held)} |",
    "",
    f"The loop adds {loop / bare - 1:+.1%}. The steps that overlap a save ({steps:.1f} of them on average) take"
    f" {statistics.median(slower):+.1%} longer (median of {len(saves)} saves,"
    f" {min(slower):+.1%} .. {max(slower):+.1%}).",
  ]  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer", required=True, help="a python that has torch")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--only", choices=("steps", "start", "loop"))
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  today = datetime.date.today().isoformat()
  out = args.out or HERE / "results" / f"{today}-cpu-py{sys.version_info.major}{sys.version_info.minor}.md"
  lines = [f"# Training step on CPU, {today}", "", contest.machine()]
  sections = dict(
    steps=lambda: steps_table(args.rounds, args.peer),
    start=lambda: start_table(max(1, args.rounds // 5)),
    loop=lambda: loop_table(max(1, args.rounds // 4)),
  )
  for name, section in sections.items():
    if args.only in (None, name):
      made = ["", *section()]
      print("\n".join(made), flush=True)
      lines += made
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("\n".join(lines) + "\n")
  print(f"\nwritten to {out}")


if __name__ == "__main__":
  main()
