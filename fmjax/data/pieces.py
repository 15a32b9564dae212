"""What one token adds to a text, as bytes: whether it goes on with a word, and how it is shown to people."""

import unicodedata


def goes_on(piece: bytes) -> bool:
  """Whether `piece` goes on with the word before it: it begins with a letter, a mark, a digit or an underscore.

  So a space, a newline and any sign begin a word, and a word has the space before it. Wide characters (Chinese,
  Japanese, Korean) are words of their own, as in BERT. A piece that begins inside of a character goes on; one that
  has only the first bytes of a character does where these are two at most, as in most alphabets.
  """
  if not piece:
    return False
  first = piece[0]
  if 0x80 <= first < 0xC0:
    return True
  size = 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
  try:
    character = piece[:size].decode()
  except UnicodeDecodeError:
    return size == 2
  is_wide = unicodedata.east_asian_width(character) in "WF"
  return character == "_" or (unicodedata.category(character)[0] in "LMN" and not is_wide)


def printable(piece: bytes) -> str:
  """Its text, with what a terminal cannot print escaped; <0xE6><0xBC> of a part of a character."""
  try:
    text = piece.decode()
  except UnicodeDecodeError:
    return "".join(f"<0x{byte:02X}>" for byte in piece)
  return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
