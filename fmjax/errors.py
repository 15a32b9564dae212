"""One error type: a code, one message of at most six lines, and the exit status a supervisor can act on."""

import contextlib
import functools

# Exit statuses follow sysexits.h; 75 is the only one a supervisor should answer by starting the command again.
EXIT = {
  "USAGE": 64,
  "WORKDIR_BUSY": 64,
  "DATA_MISSING": 65,
  "DATA_BAD": 65,
  "DATA_CHANGED": 65,
  "TOKENIZER_BAD": 65,
  "CHECKPOINT_CORRUPT": 65,
  "CHECKPOINT_MISSING": 65,
  "CHECKPOINT_MISMATCH": 65,
  "DIVERGED": 70,
  "INTERNAL": 70,
  "DISK_FULL": 74,
  "PERMISSION": 74,
  "DEVICE": 74,
  "INTERRUPTED": 75,
  "CONFIG": 78,
  "CONFIG_CHANGED": 78,
  "MESH": 78,
}
MAX_LINES = 6
MAX_LINE = 600  # characters; a longer line is cut so that a path or a list cannot flood the terminal


class FmjaxError(Exception):
  """What a person must know to go on: `code` (a key of EXIT), `what` happened, and labelled lines below it.

  Labels are, in order: where, expected, got, did (what fmjax did about it), fix (what to do now). `rows` are
  free lines between the first line and the labelled ones. Rows that do not fit into six lines share the last one.
  """

  def __init__(self, code, what, *, rows=(), where=None, expected=None, got=None, did=None, fix=None):
    self.code, self.what, self.rows = code, what, tuple(rows)
    labels = dict(where=where, expected=expected, got=got, did=did, fix=fix)
    self.labels = {name: str(text) for name, text in labels.items() if text is not None}
    super().__init__(what)

  def __reduce__(self):  # a worker process hands it on as it is
    return functools.partial(FmjaxError, self.code, self.what, rows=self.rows, **self.labels), ()

  @property
  def status(self) -> int:
    return EXIT[self.code]

  def __str__(self):
    return message("error", self.code, self.what, self.rows, self.labels)


@contextlib.contextmanager
def extra(name: str, what: str, instead: str = ""):
  """Around the import of a package that not all users have: USAGE, where it is lacking, with the extra to install."""
  try:
    yield
  except ImportError as error:
    raise FmjaxError("USAGE", what, got=error, fix=f"pip install 'fmjax[{name}]'{instead}") from error


def message(kind: str, code: str, what: str, rows=(), labels=None) -> str:
  """The house's form of an `error` or a `note`: `fmjax: KIND CODE  what`, then at most five indented lines."""
  lines = [f"{name + ':':<6} {text}" for name, text in (labels or {}).items()]
  room = max(1, MAX_LINES - 1 - len(lines))
  rows = list(rows)
  if len(rows) > room:
    rows[room - 1 :] = ["; ".join(rows[room - 1 :])]
  return "\n".join([f"fmjax: {kind} {code}  {one_line(what)}", *("  " + one_line(line) for line in rows + lines)])


def one_line(text) -> str:
  text = " ".join(str(text).splitlines())
  return text if len(text) <= MAX_LINE else text[: MAX_LINE - 4] + " ..."
