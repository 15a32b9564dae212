"""What every branch of the config is made of: a frozen dataclass that checks its laws when it is born."""

import difflib


class Wrong(ValueError):
  """Raised by a dataclass's laws; `problems` are (field, value, law) triples."""

  def __init__(self, problems):
    self.problems = list(problems)
    super().__init__("; ".join(f"{key}={value!r}: {law}" for key, value, law in self.problems))


class Branch:
  """A branch of the config: checks its laws when it is born."""

  def __post_init__(self):
    self.fill()
    if problems := list(self.laws()):
      raise Wrong(problems)

  def fill(self):
    """Replaces a None that means 'derive it' by what it derives to."""

  def laws(self):
    """Yields (field, value, law) for each law that is broken."""
    return ()

  def set(self, **values):
    for name, value in values.items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, value)


def at_least(branch, bound, *names):
  for name in names:
    value = getattr(branch, name)
    if value is not None and not value >= bound:
      yield name, value, f"must be at least {bound}"


def fraction(branch, *names):
  for name in names:
    if not 0 <= getattr(branch, name) < 1:
      yield name, getattr(branch, name), "must lie in [0, 1)"


def divisors(n: int, near: int) -> str:
  """The divisors of n next to `near`, as words for a message."""
  all_of_them = sorted((d for d in range(1, n + 1) if n % d == 0), key=lambda d: (abs(d - near), d))
  return " or ".join(str(d) for d in sorted(all_of_them[:2]))


def nearest(name: str, names) -> str:
  close = difflib.get_close_matches(str(name), list(names), 1, 0.5)
  return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
