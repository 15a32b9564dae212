"""The slow truth that beam search is held against."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def plain_search():
  return search


def search(log_probabilities, prompt, *, W, new, ends=(), length_penalty=1.0, early_stopping=False):
  """The best text after `prompt`; `log_probabilities(texts)` gives rows [texts, V] of the next token."""
  running, done, N = [(0.0, list(prompt))], [], len(prompt)
  for number in range(new):
    rows = log_probabilities([text for _, text in running])
    options = [
      (score + float(log), text + [token])
      for (score, text), row in zip(running, rows)
      for token, log in enumerate(row)
      if np.isfinite(log)
    ]
    options = sorted(options, key=lambda option: -option[0])[: max(2, 1 + len(ends)) * W]
    stops = [text[-1] in ends or number + 1 == new for _, text in options]
    ended = [
      (score / (len(text) - N) ** length_penalty, text) for (score, text), stop in zip(options[:W], stops) if stop
    ]
    done = sorted(done + ended, key=lambda option: -option[0])[:W]
    running = [option for option, stop in zip(options, stops) if not stop][:W]
    if not running or (len(done) == W and early_stopping is True):
      break
    reach = new if early_stopping == "never" and length_penalty > 0 else number + 1
    if len(done) == W and running[0][0] / reach**length_penalty <= done[-1][0]:
      break
  return done[0][1]
