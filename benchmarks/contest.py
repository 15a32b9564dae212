"""How contenders meet: each is a process of its own that stays alive and takes its turn, the others wait."""

import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time


class Contender:
  """A process that works when asked: see `serve`."""

  def __init__(self, name, command, env):
    self.name, self.times = name, []
    self.process = subprocess.Popen(
      list(map(str, command)), env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    self.ready = self.answer()

  def answer(self):
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f"{self.name} ended with {self.process.wait()}")
    return json.loads(line)

  def turn(self, steps: int):
    self.process.stdin.write(f"{steps}\n")
    self.process.stdin.flush()
    self.times.append(statistics.median(self.answer()))

  def cpu(self) -> int:
    """Clock ticks that the process has used."""
    fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

  def close(self):
    self.process.stdin.close()
    self.process.wait()
    self.process.stdout.close()


def serve(work, ready: dict):
  """A contender's side: `ready` as a line of JSON, then for a line N of input the seconds of N calls of `work`."""
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    times = []
    for _ in range(int(line)):
      start = time.perf_counter()
      work()
      times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)


def machine_cpu() -> tuple[int, int]:
  """Clock ticks of all processors since the start: in use, and in all."""
  ticks = [int(word) for word in open("/proc/stat").readline().split()[1:9]]
  return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def contend(commands: dict, steps: int, rounds: int) -> tuple[list[Contender], float]:
  """The contenders after all rounds, and the share of the machine that anything else took meanwhile.

  Each round has a turn of `steps` of each, in an order that rotates.
  """
  env = dict(os.environ, JAX_PLATFORMS="cpu")
  contenders = []
  with contextlib.ExitStack() as closing:
    for name, command in commands.items():
      contenders.append(Contender(name, command, env))
      closing.callback(contenders[-1].close)
    used, ticks = machine_cpu()
    used -= sum(one.cpu() for one in contenders)
    for number in range(rounds):
      first = number % len(contenders)
      for contender in contenders[first:] + contenders[:first]:
        contender.turn(steps)
    used_after, ticks_after = machine_cpu()
    others = (used_after - sum(one.cpu() for one in contenders) - used) / (ticks_after - ticks)
  return contenders, others


def spread(seconds) -> str:
  """Median, and (least, quartiles, most), in milliseconds."""
  low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
  rest = " ".join(f"{1e3 * x:.1f}" for x in (min(seconds), low, high, max(seconds)))
  return f"{1e3 * middle:.1f} | {rest}"


TIMES = ["| shape | contender | median ms | least, quartiles, most | compile and first steps, s |", "|-|-|-|-|-|"]
RATIOS = [
  "| shape | torch / fmjax, ratio of medians | quartiles of the rounds' ratios | CPU that others took |",
  "|-|-|-|-|",
]


def rows(title: str, contenders: list[Contender], others: float) -> tuple[list[str], str]:
  """(rows of TIMES, the row of RATIOS) of the contest of the first contender, ours, with the best of the others."""
  times = [
    f"| {title} | {one.name} {one.ready['version']} | {spread(one.times)} | {one.ready['start_seconds']:.1f} |"
    for one in contenders
  ]
  ours, *theirs = contenders
  best = min(theirs, key=lambda one: statistics.median(one.times))
  ratio = statistics.median(best.times) / statistics.median(ours.times)
  low, _, high = statistics.quantiles([b / a for a, b in zip(ours.times, best.times)], n=4, method="inclusive")
  return times, f"| {title} | **{ratio:.2f}** ({best.name}) | {low:.2f} .. {high:.2f} | {others:.0%} |"


def machine() -> str:
  models = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
  load = os.getloadavg()[0]
  return f"{models[0]}, {os.cpu_count()} cores; Python {platform.python_version()}; load average before: {load:.1f}."
