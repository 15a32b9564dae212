"""Signatures estimate similarity within their error; planted duplicates go, distinct documents stay."""

import dataclasses
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from fmjax.cleaning import Cleaning
from fmjax.data import duplicates
from fmjax.data.documents import Document
from fmjax.data.duplicates import HASHES, links, near, rows_of_band, signatures, similarity, survivors

NEAR = Cleaning(near_duplicates=0.8)
EXACT = Cleaning(exact_duplicates=True)


def text_of(rng, count=300):
  return [f"w{number}" for number in rng.integers(0, 10_000, count)]


def shingles(words):
  return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def jaccard(one, other):
  one, other = shingles(one), shingles(other)
  return len(one & other) / len(one | other)


def edited(rng, words, changes):
  words = list(words)
  for at in rng.choice(len(words), changes, replace=False):
    words[at] = f"new{rng.integers(10**9)}"
  return words


def kept(cleaning, *parts):
  return [found.tolist() for found in survivors([signatures(part, cleaning) for part in parts], cleaning)]


def test_estimates_lie_around_the_similarity_with_the_binomial_spread():
  rng, errors, scales = np.random.default_rng(0), [], []
  for changes in (1, 3, 8, 15, 30):
    for _ in range(60):
      one = text_of(rng)
      other = edited(rng, one, changes)
      true = jaccard(one, other)
      estimate = similarity(near(" ".join(one))[None], near(" ".join(other))[None])[0]
      errors.append(estimate - true)
      scales.append(np.sqrt(true * (1 - true) / HASHES))
  z = np.array(errors) / np.array(scales)
  assert abs(z.mean()) < 4 / np.sqrt(len(z))
  assert abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))


def test_each_hash_keeps_another_member():
  """Of 256 permutations of 2,000 members, about 256 * (1 - 256 / 4000) keep different ones."""
  rng = np.random.default_rng(1)
  values = near(" ".join(text_of(rng, 2000)))
  assert len(set(values.tolist())) > 240
  assert (values == near(" ".join(text_of(rng, 2000)))).sum() == 0


def test_a_signature_is_that_of_the_set_whatever_the_blocks(monkeypatch):
  rng = np.random.default_rng(2)
  words = text_of(rng)
  whole = near(" ".join(words))
  np.testing.assert_array_equal(
    near(" ".join(words + words[:200])), near(" ".join(words + words[:100] + words[100:200]))
  )
  monkeypatch.setattr(duplicates, "SHINGLES", 7)
  np.testing.assert_array_equal(near(" ".join(words)), whole)
  assert whole.tobytes() == near("  ".join(words).upper()).tobytes()


def test_planted_near_duplicates_go_and_distinct_documents_stay():
  rng = np.random.default_rng(3)
  originals = [text_of(rng) for _ in range(200)]
  copies = [edited(rng, words, 2) for words in originals]  # J is about 0.94
  cousins = [edited(rng, words, 40) for words in originals]  # about 0.36
  parts = [[" ".join(words) for words in group] for group in (originals, copies, cousins)]
  assert min(map(jaccard, originals, copies)) > 0.9 and max(map(jaccard, originals, cousins)) < 0.5
  assert kept(NEAR, *parts) == [[True] * 200, [False] * 200, [True] * 200]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9])
def test_the_threshold_is_where_half_of_the_pairs_go(threshold):
  """Signatures of a known similarity stand for documents of it."""
  rng, pairs = np.random.default_rng(4), 400
  cleaning = Cleaning(near_duplicates=threshold)

  def share(similar):
    one = rng.integers(0, 1 << 16, (pairs, HASHES), np.uint16)
    other = np.where(rng.random((pairs, HASHES)) < similar, one, rng.integers(0, 1 << 16, (pairs, HASHES), np.uint16))
    found = np.zeros((2, pairs), [("near", "<u2", HASHES)])
    found["near"][0], found["near"][1] = one, other
    first, second = survivors(list(found), cleaning)
    assert first.all()
    return 1 - second.mean()

  spread = np.sqrt(threshold * (1 - threshold) / HASHES)
  assert abs(share(threshold) - 0.5) < 0.12
  assert share(threshold + 3.5 * spread) > 0.95 and share(threshold - 3.5 * spread) < 0.02


def test_bands_find_what_is_at_the_threshold():
  for threshold in (0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0):
    rows = rows_of_band(threshold)
    assert HASHES % rows == 0 and 1 - (1 - threshold**rows) ** (HASHES // rows) > 0.95
  assert rows_of_band(0.8) == 8 and rows_of_band(1.0) == 32


def test_exact_duplicates_differ_in_spaces_and_composition_only():
  texts = ["été  a\r\nb", "e\u0301te\u0301 a b ", "Été a b", "été ab", "", " ", "été a b"]
  assert kept(EXACT, texts) == [[True, False, True, True, True, False, False]]
  assert kept(Cleaning(exact_duplicates=True, near_duplicates=0.8), texts)[0] == [
    True,
    False,
    False,
    True,
    True,
    False,
    False,
  ]


def test_the_first_stays_across_parts_whatever_the_cutting():
  rng = np.random.default_rng(5)
  texts = [" ".join(text_of(rng, 30)) for _ in range(50)]
  texts = [texts[number] for number in rng.integers(0, 50, 300)]
  seen = set()
  expected = [text not in seen and not seen.add(text) for text in texts]
  for cleaning in (EXACT, NEAR):
    for cuts in ([], [1], [100, 100, 250], list(range(300))):
      parts = [texts[a:b] for a, b in zip([0, *cuts], [*cuts, 300])]
      found = kept(cleaning, *parts)
      assert [len(part) for part in found] == [len(part) for part in parts]
      assert sum(found, []) == expected


def test_few_words_are_one_run_and_none_are_no_duplicate():
  assert kept(NEAR, ["a b", "A, B!", "a c", "", "...", "?!", "a b c d", "a b c d e"]) == [
    [True, False, True, True, True, True, True, True]
  ]


def test_a_chain_of_duplicates_is_one_group():
  rng = np.random.default_rng(6)
  chain = [text_of(rng, 400)]
  for _ in range(30):
    chain.append(edited(rng, chain[-1], 3))
  assert jaccard(chain[0], chain[-1]) < 0.5 < jaccard(chain[0], chain[1])
  assert kept(NEAR, [" ".join(words) for words in chain]) == [[True] + [False] * 30]


def test_pairs_join_to_the_least_that_a_chain_of_them_leads_to():
  rng = np.random.default_rng(8)
  for edges in rng.integers(0, 60, (40, 2, 2, 20)):
    found = np.arange(60)
    duplicates.join(found, edges)
    expected = list(range(60))
    for one, other in edges.transpose(0, 2, 1).reshape(-1, 2).tolist() * 60:
      expected[one] = expected[other] = min(expected[one], expected[other])
    assert found.tolist() == expected


def test_documents_of_one_key_are_grouped_by_similarity():
  rng = np.random.default_rng(7)
  kinds = rng.integers(0, 1 << 16, (5, HASHES), np.uint16)
  which = np.array([0, 1, 0, 2, 1, 3, 4, 4, 2, 0])
  first, later = links(np.zeros(10, np.uint64), np.ones(10, bool), kinds[which], 0.8)
  assert sorted(zip(first.tolist(), later.tolist())) == [(0, 2), (0, 9), (1, 4), (3, 8), (6, 7)]


def test_no_document_is_a_part_too():
  assert kept(NEAR, [], ["a b"], []) == [[], [True], []]
  assert kept(EXACT, [], []) == [[], []]


@dataclasses.dataclass(frozen=True)
class Task:
  """What `marked` needs of a task of preparation."""

  part: SimpleNamespace
  number: int
  folder: pathlib.Path
  cleaning: Cleaning
  keep: pathlib.Path | None = None


def test_parts_are_marked_by_any_runner_and_go_on_after_an_end(tmp_path):
  parts = [["a b", "c d"], [], ["A b", "e f"]]
  asked = []

  def documents(number):
    def give():
      asked.append(number)
      return iter([Document(f"{number}#{n}", (text,)) for n, text in enumerate(parts[number])])

    return give

  tasks = [
    Task(SimpleNamespace(documents=documents(number), bytes=1), number, tmp_path, NEAR)
    for number in range(len(parts))
  ]
  progress = SimpleNamespace(stage=lambda *_: None, advance=lambda _: None)

  def runner(function, tasks, done):
    for task in reversed(tasks):
      function(task)
      done(task)

  def dies(function, tasks, done):
    function(tasks[0])
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    duplicates.marked(tasks, dies, progress)
  found = duplicates.marked(tasks, runner, progress)
  assert [np.load(task.keep).tolist() for task in found] == [[True, True], [], [False, True]]
  assert asked == [0, 2, 1] and sorted(tmp_path.iterdir()) == sorted(task.keep for task in found)
  assert duplicates.marked(tasks, dies, progress) == found
