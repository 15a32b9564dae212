"""Labels, numbers and texts as arrays and back, and how rows of texts are put together and cut."""

import numpy as np
import pytest

from fmjax.objectives import labelled
from fmjax.objectives.objective import Refused
from tests.objectives.tasks import tokenizer

NAMES, NUMBERS, ONE = ("negative", "positive"), ("1", "0"), np.arange(100, 200, dtype=np.int32)


def test_a_label_is_matched_as_text_and_a_whole_number_where_no_label_is_one():
  assert [labelled.label_of(value, NAMES, 0) for value in ("positive", "negative", 0, 1)] == [1, 0, 0, 1]
  assert [labelled.label_of(value, NUMBERS, 0) for value in ("1", "0", 1, 0)] == [0, 1, 0, 1]
  assert labelled.label_of(True, ("False", "True"), 0) == 1
  for value, labels in ((2, NAMES), (-1, NAMES), ("1", NAMES), (True, NAMES), (1.0, NAMES), (None, ("None", "x")),
                        (2, NUMBERS), ("Positive", NAMES), (1, ("0", "yes"))):  # fmt: skip
    with pytest.raises(Refused) as caught:
      labelled.label_of(value, labels, 7)
    assert caught.value.number == 7 and caught.value.labels["got"] == repr(value)
  with pytest.raises(Refused) as caught:
    labelled.label_of("positiv", NAMES, 0)
  assert caught.value.labels["fix"] == "did you mean 'positive'?"


def test_numbers():
  assert [labelled.number_of(value, "label", 0) for value in (3, 2.5, " 1e2 ")] == [3.0, 2.5, 100.0]
  for value in ("", "x", None, True, float("nan"), float("inf"), [1]):
    with pytest.raises(Refused, match="'label' holds no number"):
      labelled.number_of(value, "label", 0)


def test_bits_come_back():
  for value in (0.0, -1.5, 3.1415927):
    assert labelled.float_of(labelled.float_bits(value)) == np.float32(value)
  for text in ("", "a", "abcd", "naïve 漢字 🙂"):
    bits = labelled.text_bits(text)
    assert bits.dtype == np.int32 and labelled.text_of_bits(bits) == text


def test_the_longer_of_two_texts_is_cut_as_hugging_face_cuts():
  for a in range(0, 9):
    for b in range(0, 9):
      for room in range(0, 12):
        left = labelled.shares(a, b, room)
        assert sum(left) == min(a + b, room) and left[0] <= a and left[1] <= b
        if a + b > room:
          assert abs(left[0] - left[1]) <= 1 or max(left) == room - min(a, b)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta", "albert"])
def test_rows_are_those_of_the_family_template(name):
  made, (one, two) = tokenizer(name), ("hello the king", "o romeo wherefore art thou")
  vocabulary = made.vocabulary(("cls", "sep", "pad"))
  _, front = labelled.fronts(made)
  a, b = made.encode_all([one, two])
  row, types = labelled.joined([a], vocabulary, 64)
  assert row.tolist() == made(one)["input_ids"][0].tolist() and not types.any()
  for length in (64, 14, 11, 8):
    row, types = labelled.joined([a, np.concatenate([front, b])], vocabulary, length)
    expected = made(one, two, max_length=length)
    assert row.tolist() == expected["input_ids"][0].tolist()
    if made.token_types:
      assert types.tolist() == expected["token_type_ids"][0].tolist()


def test_a_decoders_row_is_closed_and_begins_as_the_family_does():
  for name in ("gpt2", "llama", "bytes"):
    made = tokenizer(name)
    front, _ = labelled.fronts(made, "last")
    assert front.tolist() == ([made.special["bos"]] if name == "llama" else [])
    vocabulary = made.vocabulary()
    row, _ = labelled.joined([ONE[:3]], vocabulary, 10, "last")
    assert row.tolist() == [*ONE[:3], made.end]
    row, types = labelled.joined([ONE[:5], ONE[10:15]], vocabulary, 8, "last")
    assert row.tolist() == [*ONE[:3], made.end, *ONE[10:13], made.end]
    assert types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert labelled.row_extent([5, 5], "last") == 12


def test_an_extent_is_the_length_that_cuts_nothing():
  vocabulary = tokenizer("bert").vocabulary(("cls", "sep", "pad"))
  for texts in ([ONE[:7]], [ONE[:7], ONE[:3]]):
    extent = labelled.row_extent([len(text) for text in texts])
    assert len(labelled.joined(texts, vocabulary, extent)[0]) == extent
    assert len(labelled.joined(texts, vocabulary, extent + 9)[0]) == extent
    assert len(labelled.joined(texts, vocabulary, extent - 1)[0]) == extent - 1
