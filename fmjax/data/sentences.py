"""Where sentences end, for objectives that read whole ones: a rule that no language model is needed for."""

import re

# A line's end, or a mark that ends a sentence and what closes it, before a capital, a digit or an opening mark.
BOUNDARY = re.compile(
  r"\n+\s*|(?<=[.!?])[\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c\u2018]*[A-Z0-9\u00c0-\u00de\u0400-\u042f])|(?<=[\u3002\uff01\uff1f])"
)


def sentences(text: str) -> list[str]:
  """The sentences of `text`, each with the space behind it: joined they are the text."""
  ends = [match.end() for match in BOUNDARY.finditer(text)]
  if not ends or ends[-1] != len(text):
    ends.append(len(text))
  return [text[start:end] for start, end in zip([0, *ends], ends) if start < end]
