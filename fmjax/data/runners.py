"""Where preparation's work is done: in this process, in one a core, or wherever a Beam pipeline runs.

A runner is called with a function, the tasks to call it with, and what to call after each. A task leaves its results
on disk, so that a runner has nothing to hand back and a task that was done before is cheap to do again.
"""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed


def end_with_parent():
  """Ends this process as soon as the one that started it is dead, however that died."""

  def wait():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


class Local:
  """This process, or as many as it may use cores if `parallel`."""

  def __init__(self, parallel: bool):
    self.parallel = parallel

  def __call__(self, function, tasks, done):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not self.parallel or cores == 1 or len(tasks) == 1:
      for task in tasks:
        function(task)
        done(task)
      return
    # Fresh processes, for a fork of one that has started JAX's threads may hang; each with one core of its own.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context, initializer=alone) as pool:
      futures = {pool.submit(function, task): task for task in tasks}
      try:
        for future in as_completed(futures):
          future.result()
          done(futures[future])
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def alone():
  """A process among many leaves the other cores to them, and ends with the one that started it."""
  os.environ["RAYON_NUM_THREADS"] = "1"  # of the `tokenizers` library
  end_with_parent()
