"""Laws of rows: each layout has every token once as a target, and cuts where it says it cuts."""

import numpy as np
import pytest

from fmjax.data import rows as rows_of
from fmjax.objectives import NextToken
from fmjax.objectives.objective import Documents, Packed, Sentences, Windows
from fmjax.objectives.vocabulary import Vocabulary

END = 0


class Text:
  """A stream of documents of random sentences, whose tokens are 1, 2, 3, ... in order, each document with its END."""

  def __init__(self, seed: int, documents: int, longest: int = 30):
    rng = np.random.default_rng(seed)
    self.sentences, self.lengths, tokens, place = [], [], [], 0
    for _ in range(documents):
      own = rng.integers(1, longest + 1, rng.integers(1, 12)).tolist()
      self.sentences += [*own, 1]
      self.lengths.append(sum(own) + 1)
      tokens += [*range(place + 1, place + sum(own) + 1), END]
      place += sum(own)
    self.tokens, self.count = np.array(tokens, np.int32), place
    self.sentences, self.lengths = np.array(self.sentences, np.uint32), np.array(self.lengths, np.uint32)

  def rows(self, layout, partial=False):
    made = rows_of.arrays(layout, self.lengths, self.sentences)
    return rows_of.make(
      layout, made, partial, dict(text=len(self.tokens)), lambda field: self.lengths, lambda field: self.sentences
    )

  def records(self, rows):
    return [rows.record(row, [self.read(*where) for _, where in rows.ranges(row)]) for row in range(rows.count)]

  def read(self, low, high):
    assert -1 <= low < high <= len(self.tokens)
    found = self.tokens[max(low, 0) : high]
    return np.concatenate([[END], found]) if low < 0 else found


@pytest.fixture(scope="module")
def text():
  return Text(0, 200)


def examples(records, length):
  vocabulary = Vocabulary(10**6, END, {}, np.zeros(1, bool))
  return [NextToken().transform(r, np.random.default_rng(0), vocabulary=vocabulary, length=length) for r in records]


def targets(examples):
  return np.concatenate([example["targets"][example["weights"] > 0] for example in examples]).tolist()


@pytest.mark.parametrize("stride", [1, 7, 64, 1000])
def test_each_token_is_a_windows_target_once_and_follows_its_input(text, stride):
  every = text.tokens.tolist()
  whole = examples(text.records(text.rows(Windows(stride, before=1), partial=True)), stride)
  assert targets(whole) == every
  inputs = np.concatenate([one["tokens"][one["weights"] > 0] for one in whole]).tolist()
  assert inputs == [END, *every[:-1]]
  records = text.records(text.rows(Windows(stride, before=1)))
  assert all(len(one["tokens"]) == stride + 1 for one in records)
  assert targets(examples(records, stride)) == every[: len(every) // stride * stride]


@pytest.mark.parametrize("stride, before", [(5, 0), (64, 0), (10, 1)])
def test_windows_overlap_by_what_comes_before(text, stride, before):
  records = text.records(text.rows(Windows(stride, before), partial=True))
  assert np.concatenate([one["tokens"][before:] for one in records]).tolist() == text.tokens.tolist()
  for last, one in zip(records, records[1:]):
    assert one["tokens"][:before].tolist() == last["tokens"][len(last["tokens"]) - before :].tolist()


@pytest.mark.parametrize("length", [4, 33, 150, 2000])
def test_each_token_is_a_packed_rows_target_once_and_follows_its_input(text, length):
  records = text.records(text.rows(Packed(length)))
  for one in records:
    assert one["pieces"].sum() == len(one["tokens"]) and (one["pieces"] - 1).sum() <= length
    assert one["pieces"].min() >= 2
  pieces = [piece for one in records for piece in np.split(one["tokens"], np.cumsum(one["pieces"])[:-1])]
  place = {token: number for number, token in enumerate(text.tokens.tolist()) if token != END}
  for piece in pieces:
    piece = piece.tolist()
    first = place[piece[1]] if piece[1] != END else place[piece[0]] + 1
    assert piece[1:] == text.tokens[first : first + len(piece) - 1].tolist()
    assert END not in piece[1:-1], "a piece stays in its document"
    assert piece[0] == (text.tokens[first - 1] if first else END)
  made = examples(records, length)
  found = targets(made)
  assert sorted(token for token in found if token) == list(range(1, text.count + 1))
  assert found.count(END) == len(text.lengths)
  for one in made:  # positions begin anew with each piece, and only there
    begins = np.flatnonzero((one["positions"] == 0) & (one["segments"] > 0))
    assert len(begins) == one["segments"].max() == len(set(one["segments"]) - {0})


def check_cuts(text, rows, records, length, ends):
  """Rows are as long as whole sentences allow; a sentence is cut where it alone is longer than a row."""
  for row, record in enumerate(records):
    low, high = int(rows.lows[row]), int(rows.highs[row])
    assert 0 < high - low <= length
    assert record["tokens"].tolist() == text.tokens[low:high].tolist()
    bounds = low + np.cumsum(record["sentences"])
    assert bounds[-1] == high and record["sentences"].min() > 0
    assert set(bounds[:-1].tolist()) <= ends, "sentences end where the text's do"
    inside = [end for end in ends if low < end < high]
    assert sorted(bounds[:-1].tolist()) == sorted(inside)
    if high not in ends:
      assert len(record["sentences"]) == 1 and high - low == length


@pytest.mark.parametrize("length", [10, 29, 64, 500])
def test_rows_of_sentences_have_each_token_of_a_document_once(text, length):
  rows = text.rows(Sentences(length))
  records = text.records(rows)
  assert np.concatenate([one["tokens"] for one in records]).tolist() == list(range(1, text.count + 1))
  sentence_ends = set(np.cumsum(text.sentences).tolist())
  check_cuts(text, rows, records, length, sentence_ends)
  documents = np.cumsum(text.lengths)
  for row in range(rows.count):
    own = rows.document(row)
    first = int(documents[own - 1]) if own else 0
    assert first <= rows.lows[row] and rows.highs[row] < documents[own], "a row stays in its document"
    following = [end for end in sentence_ends if end > rows.highs[row]]
    if rows.highs[row] in sentence_ends and rows.highs[row] != documents[own] - 1:
      assert min(following) - rows.lows[row] > length, "one more sentence would not fit"


@pytest.mark.parametrize("length", [10, 29, 64, 500])
def test_rows_across_documents_have_each_token_once(text, length):
  rows = text.rows(Sentences(length, across=True))
  records = text.records(rows)
  assert np.concatenate([one["tokens"] for one in records]).tolist() == text.tokens.tolist()
  check_cuts(text, rows, records, length, set(np.cumsum(text.sentences).tolist()))


@pytest.mark.parametrize("across", [False, True])
def test_a_first_sentence_longer_than_a_row_is_cut_like_any_other(across):
  text = Text(1, 3, longest=1)
  text.sentences = np.array([95, 5, 1, 40, 1], np.uint32)
  text.lengths, text.tokens = np.array([101, 41], np.uint32), np.arange(142, dtype=np.int32)
  sizes = [len(one["tokens"]) for one in text.records(text.rows(Sentences(40, across=across)))]
  # 95 = 40 + 40 + 15, and the sentence of 5 goes with the rest; `end` is a sentence only across documents.
  assert sizes == ([40, 40, 21, 40, 1] if across else [40, 40, 20, 40])


def test_a_share_of_the_rows_is_short():
  text = Text(2, 1, longest=1)
  count, length, share = 1_500_000, 66, 0.1
  text.sentences, text.lengths = np.ones(count, np.uint32), np.array([count], np.uint32)
  sizes = np.diff(text.rows(Sentences(length, short=share)).lows)
  short = sizes[sizes < length]
  # Of the short rows one in length - 1 has the whole length by chance.
  assert len(short) / len(sizes) == pytest.approx(share * (1 - 1 / (length - 1)), abs=0.005)  # 2.5 deviations
  assert short.min() == 2 and short.max() == length - 1
  assert short.mean() == pytest.approx((2 + length - 1) / 2, abs=1.5)
  assert np.diff(text.rows(Sentences(length)).lows).min() == length


def test_a_document_is_a_row_cut_at_its_length_without_its_end(text):
  other = Text(3, 200)
  both = dict(source=text, target=other)
  layout = Documents((("source", 9), ("target", 7)))
  rows = rows_of.make(layout, {}, False, {}, lambda field: both[field].lengths, None)
  assert rows.count == 200 and rows_of.fields_of(layout) == ("source", "target")
  for row in range(rows.count):
    where = rows.ranges(row)
    record = rows.record(row, [both[field].tokens[low:high] for field, (low, high) in where])
    for field, length in layout.fields:
      ends = np.cumsum(both[field].lengths)
      whole = both[field].tokens[ends[row] - both[field].lengths[row] : ends[row] - 1]
      assert record[field].tolist() == whole[:length].tolist()
      assert END not in record[field]


def test_a_split_without_documents_has_no_rows():
  nothing = Text(4, 0)
  for layout in (Windows(8, 1), Packed(8), Sentences(8), Sentences(8, across=True)):
    assert nothing.rows(layout, partial=True).count == 0
