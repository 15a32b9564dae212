"""One message, at most six lines, whatever is put into it."""

import pickle

import pytest

from fmjax.errors import EXIT, MAX_LINE, FmjaxError


def test_labels_come_in_the_order_a_reader_needs():
  error = FmjaxError("DATA_BAD", "it broke", fix="mend it", got=3, where="here", expected=4)
  assert str(error).splitlines() == [
    "fmjax: error DATA_BAD  it broke", "  where: here", "  expected: 4", "  got:   3", "  fix:   mend it",
  ]  # fmt: skip
  assert error.status == 65


@pytest.mark.parametrize("rows", [0, 3, 5, 40])
def test_never_more_than_six_lines_and_no_row_is_dropped(rows):
  for labels in (dict(), dict(where="w", fix="f"), dict(where="w", expected="e", got="g", fix="f")):
    text = str(FmjaxError("CONFIG", "wrong", rows=[f"row{n}." for n in range(rows)], **labels))
    assert len(text.splitlines()) <= 6
    assert all(f"row{n}." in text for n in range(rows))


def test_a_long_line_is_cut():
  assert max(map(len, str(FmjaxError("CONFIG", "x " * 5000, where="y " * 5000)).splitlines())) <= MAX_LINE + 30


def test_it_survives_the_way_from_a_worker_process():
  error = FmjaxError("DATA_BAD", "it broke", rows=["a"], where="here")
  again = pickle.loads(pickle.dumps(error))
  assert str(again) == str(error) and again.code == error.code


def test_only_an_interrupted_run_asks_to_be_started_again():
  assert [code for code, status in EXIT.items() if status == 75] == ["INTERRUPTED"]
  assert set(EXIT.values()) == {64, 65, 70, 74, 75, 78}
