"""What is read of a record: its columns, and texts that are made of several."""

import functools
import string
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fmjax.data.files import decoded
from fmjax.errors import FmjaxError
from fmjax.laws import nearest


@functools.cache
def keys_of(name: str) -> tuple[str, ...]:
  """What a column is made of: the key `name` itself, or of a template, "question: {question}", those in braces."""
  if not is_template(name):
    return (name,)
  return tuple(dict.fromkeys(key for _, key, _, _ in string.Formatter().parse(name) if key))


def is_template(name: str) -> bool:
  return "{" in name


class Columns(NamedTuple):
  """What is read of a record: the values of the keys `names`; "a/b" is b of what a holds, of a list each one's b.

  Each is a text, unless they are `typed`: then text, a number, None, or a list or a dict of such. A name with braces
  is a template, and its value the text with the values of those keys, texts or numbers.
  """

  names: tuple[str, ...]
  typed: bool = False

  @property
  def keys(self) -> tuple[str, ...]:
    """All that they are made of, each once."""
    return tuple(dict.fromkeys(key for name in self.names for key in keys_of(name)))

  def tops(self, keys) -> tuple[str, ...]:
    """The keys of a record that hold them, each once; where there is none, what is asked for."""
    return tuple(dict.fromkeys(name if name in keys else name.split("/")[0] for name in self.keys))

  def of(self, record, where: str, called: Mapping[str, list[str]] | None = None) -> tuple:
    """The values that `record`, a dict, has. DATA_BAD says where one is missing, or of another kind.

    A whole number in a template is written as the name that `called`, {key: names}, has for it.
    """
    if not isinstance(record, dict):
      raise FmjaxError("DATA_BAD", "a record is not an object", where=where, got=repr(record)[:80],
                       expected=f"the keys {', '.join(self.keys)}", fix="mend or remove it")  # fmt: skip
    values = [
      filled(name, record, where, called or {}) if is_template(name) else value_of(record, name, where)
      for name in self.names
    ]
    for name, value in zip(self.names, values):
      if not self.typed and not isinstance(value, str):
        raise not_text(name, "null" if value is None else type(value).__name__, where)
    return tuple(values)


def filled(template: str, record: dict, where: str, called: Mapping[str, list[str]]) -> str:
  """The template with the record's values."""
  made = []
  for text, key, _, _ in string.Formatter().parse(template):
    made.append(text)
    if key is None:
      continue
    value = value_of(record, key, where)
    if key in called and isinstance(value, int) and 0 <= value < len(called[key]):
      value = called[key][value]
    if not isinstance(value, (str, int, float)):
      raise not_text(key, "null" if value is None else type(value).__name__, where)
    made.append(str(value))
  return "".join(made)


def value_of(record: dict, name: str, where: str):
  return plain(found(record, name, name, where), name, where)


def found(value, path: str, name: str, where: str):
  """What lies under `path` in a value; a missing value has nothing below it."""
  if isinstance(value, list):
    return [found(one, path, name, where) for one in value]
  if value is None:
    return None
  if isinstance(value, dict) and path in value:
    return value[path]
  key, slash, below = path.partition("/")
  if not isinstance(value, dict) or key not in value:
    above = name.removesuffix(path)
    raise no_column(name, [f"{above}{one}" for one in value] if isinstance(value, dict) else [above[:-1]], where)
  if not slash:
    return value[key]
  return found(value[key], below, name, where)


def plain(value, name: str, where: str):
  """A value as Python's own: UTF-8 bytes as text, numpy's scalars and arrays as numbers and lists."""
  if isinstance(value, (np.generic, np.ndarray)):
    value = value.tolist()
  if isinstance(value, bytes):
    return decoded(value, f"{where}, {name!r}")
  if isinstance(value, (list, tuple)):
    return [plain(one, name, where) for one in value]
  if isinstance(value, dict):
    return {key: plain(one, name, where) for key, one in value.items()}
  if value is None or isinstance(value, (str, int, float)):
    return value
  raise FmjaxError("DATA_BAD", f"the column {name!r} holds a value of no known kind", where=where,
                   expected="text, a number, a list or a dictionary", got=type(value).__name__,
                   fix="name other columns in data.columns, or write it as text")  # fmt: skip


def no_column(name: str, names, where: str) -> FmjaxError:
  return FmjaxError("DATA_BAD", f"there is no column {name!r}", where=where,
                    fix=f"data.columns: {nearest(name, names)}")  # fmt: skip


def not_text(name: str, kind: str, where: str) -> FmjaxError:
  return FmjaxError("DATA_BAD", f"the column {name!r} holds no text", where=where, expected="text", got=kind,
                    fix="name a column of texts in data.columns, or mend the record")  # fmt: skip
