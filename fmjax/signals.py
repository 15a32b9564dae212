"""SIGTERM and SIGINT during a run: what a preempted machine and a person at the keyboard ask for."""

import contextlib
import os
import signal

from fmjax.errors import FmjaxError


class Signals:
  """SIGTERM and SIGINT: until `gentle`, the first ends the run at once; from then on it asks for a stop at the next
  step, and the second ends the process."""

  def __init__(self):
    self.asked, self.gentle, self.before = None, False, {}

  def __enter__(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      with contextlib.suppress(ValueError):  # not the main thread: signals are the caller's
        self.before[number] = signal.signal(number, self.receive)
    return self

  def __exit__(self, *_):
    for number, handler in self.before.items():
      signal.signal(number, handler)

  def receive(self, number, _):
    name = signal.Signals(number).name
    if not self.gentle:
      fix = "run the same command again"
      raise FmjaxError("INTERRUPTED", f"{name} before the first step: nothing is lost", fix=fix)
    if self.asked:
      os.write(2, f"\nfmjax: {name} again: stopped at once\n".encode())
      os._exit(75)
    self.asked = name
    os.write(2, f"\nfmjax: {name}: saving at the next step; once more to stop at once\n".encode())
