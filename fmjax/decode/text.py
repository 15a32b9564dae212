"""Tokens as text while they come: what is shown never changes, and ends before a stop string."""

from collections.abc import Iterable, Iterator

HALF = "\ufffd"  # what decodes from a part of a character's bytes


def pieces(tokenizer, prompt: list[int], new: Iterable[int], stops: tuple = ()) -> Iterator[str]:
  """The text of the tokens `new`, which go on from the tokens `prompt`, piece by piece as it becomes certain.

  Read with the prompt, so that a token's leading space is kept. Half a character waits for its other half, and what
  may become one of `stops` waits until it has not.
  """
  before, shown, ids, text = tokenizer.decode(prompt), 0, list(prompt), ""
  for token in new:
    ids.append(token)
    text = tokenizer.decode(ids)[len(before) :]
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
      yield text[shown : min(found)]
      return
    certain = len(text.rstrip(HALF)) - waiting(text, stops)
    if certain > shown:
      yield text[shown:certain]
      shown = certain
  yield text[shown:]


def waiting(text: str, stops) -> int:
  """How many of the last characters of `text` may be the beginning of a stop string."""
  return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
