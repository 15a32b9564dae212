"""Text is shown whole, at once where it is certain, and not past a stop string."""

import pytest

from fmjax.data.tokenizers import Bytes
from fmjax.decode.text import pieces

tokens = Bytes()


def shown(text, stops=(), prompt=""):
  return list(pieces(tokens, tokens.encode(prompt), tokens.encode(text), stops))


def test_a_character_is_shown_once_it_is_whole():
  assert shown("añ€z") == ["a", "ñ", "€", "z", ""]
  broken = [*"é".encode()[:1], 65]
  assert "".join(pieces(tokens, [], broken)) == tokens.decode(broken)
  assert "".join(pieces(tokens, [], broken[:1])) == "\ufffd"


@pytest.mark.parametrize(
  ("text", "stops", "expected"),
  [
    ("one\n\ntwo", ["\n\n"], "one"),
    ("one\ntwo", ["\n\n"], "one\ntwo"),
    ("abcabd", ["abd"], "abc"),
    ("xaby", ["by", "ab"], "x"),
    ("ends with th", ["the"], "ends with th"),
  ],
)
def test_nothing_is_shown_from_a_stop_string_on(text, stops, expected):
  parts = shown(text, stops)
  assert "".join(parts) == expected


def test_a_stop_string_must_be_new_text():
  assert "".join(shown("more", ["end"], prompt="the end ")) == "more"
