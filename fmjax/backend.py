"""What is set before JAX starts: the compilation cache, where notes go, and on a CPU how memory is kept."""

import ctypes
import logging
import os
import pathlib
import re
import sys
from importlib import metadata, util

import jax

THREADS = 8  # of each fake device
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def start():
  """To be called once, before the first array: a step compiled once is read back, and a CPU keeps its memory."""
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache/fmjax/xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if only_cpu():
    keep_memory()
    give_threads()
  logger = logging.getLogger("fmjax")
  if not logger.handlers:  # a program that has its own keeps it
    logger.setLevel(logging.INFO)
    logger.addHandler(Stderr())


class Stderr(logging.Handler):
  """What the rooms say once of themselves, such as the attention kernel they chose and why."""

  def emit(self, record):
    print(f"fmjax: {record.getMessage()}", file=sys.stderr)


def only_cpu() -> bool:
  """Whether JAX can run on nothing but the CPU here, told without starting it."""
  named = jax.config.jax_platforms
  plugins = metadata.entry_points(group="jax_plugins")
  return named == "cpu" or not (named or plugins or util.find_spec("libtpu") or util.find_spec("jax_plugins"))


def give_threads():
  """Threads for fake devices. XLA on a CPU runs independent collectives at once, and each holds a thread a device.

  With one a device, two gathers that the devices begin in different orders wait for each other until XLA aborts.
  """
  fake = re.search(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
  if fake:
    os.environ.setdefault("NPROC", str(THREADS * int(fake[1])))  # which XLA's pool of threads is as large as


def keep_memory():
  """Has malloc keep what a step frees, for the next step.

  XLA on a CPU allocates one buffer a step for all temporaries. glibc maps it anew each time, and a quarter to a third
  of a step goes into its page faults (benchmarks/README.md). The process then stays as large as its largest step.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
  if mallopt is not None:
    mallopt(M_ARENA_MAX, 1)  # a thread's own arena would map the large buffer after all
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
