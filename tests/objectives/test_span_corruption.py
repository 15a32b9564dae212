"""Laws of span corruption: T5's numbers, the text back from source and target, and how spans fall."""

import math

import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.laws import Wrong
from fmjax.objectives import SpanCorruption
from fmjax.objectives.objective import Windows
from fmjax.objectives.span_corruption import corrupted, counts, fitting, lengths, parts
from tests.objectives.examples import END, SPECIAL, keeps_its_promise, text, vocabulary

NOISES = {"t5": (0.15, 3.0), "half": (0.5, 3.0), "long": (0.15, 64.0), "dense": (0.8, 1.0), "end": (0.25, None)}
SENTINELS = vocabulary().sentinels


def inverse(source, target):
  """The text of which `corrupted` made the two."""
  told = np.split(target, np.flatnonzero(np.isin(target, SENTINELS)))[1:]
  spans = {span[0]: span[1:] for span in told}
  if not spans:
    return np.concatenate([source, target])
  return np.concatenate([spans.pop(token, [token]) for token in source.tolist()])


def test_the_numbers_are_those_of_t5():
  """Of its code for 512 tokens, and of Raffel et al. 2020, section 3.1.4: 15 % in spans of three."""
  objective = SpanCorruption()
  assert objective.layout(512, False) == Windows(568) and objective.sizes(512) == (512, 114)
  assert objective.needs(512) == ("pad", *(f"sentinel_{n}" for n in range(28)))
  assert counts(568, (0.15, 3.0)) == (85, 28) and lengths(568, (0.15, 3.0)) == (512, 114)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_row_is_the_longest_that_fits(noise):
  every = np.array([lengths(tokens, noise) for tokens in range(1, 3000)])
  assert (np.diff(every, axis=0) >= 0).all()  # or a shorter row could need more room
  for length in range(3, 200):
    tokens, target, spans = fitting((noise,), length)
    assert tokens == np.flatnonzero((every <= length).all(1))[-1] + 1
    assert (target, spans) == (every[tokens - 1, 1], counts(tokens, noise)[1])


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_source_and_target_give_the_text_back(noise):
  rng = np.random.default_rng(0)
  for seed in range(1000):
    tokens = text(seed % 180, seed)
    source, target = corrupted(tokens, noise, rng, SENTINELS)
    np.testing.assert_array_equal(inverse(source, target), tokens)
    taken, spans = counts(len(tokens), noise)
    assert len(target) == taken + spans and len(source) == len(tokens) - taken + spans
    for one in (source, target):  # in their order, each between other tokens
      used = np.flatnonzero(np.isin(one, SENTINELS))
      np.testing.assert_array_equal(one[used], SENTINELS[:spans])
      assert (np.diff(used) > 1).all()
    if spans:
      assert source[0] == tokens[0] and target[0] == SENTINELS[0] and target[-1] == tokens[-1]


def test_spans_fall_as_in_t5():
  """Over 1e5 spans: their rate, their mean, and the whole distribution of their lengths, that of random cuts."""
  rng, tokens = np.random.default_rng(0), text(568)
  told, kept = [], []
  for _ in range(3600):
    source, target = corrupted(tokens, (0.15, 3.0), rng, SENTINELS)
    for one, found in ((np.append(source, SENTINELS[0]), kept), (np.append(target, SENTINELS[0]), told)):
      places = np.flatnonzero(np.isin(one, SENTINELS))
      found.append(np.diff(places, prepend=-1)[: len(places)] - 1)
  told, kept = np.stack(told)[:, 1:], np.stack(kept)[:, :-1]
  assert told.size > 1e5 and told.min() >= 1 and kept.min() >= 1  # a first token never goes
  assert told.sum() / (told.sum() + kept.sum()) == pytest.approx(0.15, rel=0.01)
  assert told.mean() == pytest.approx(3, rel=0.02)
  for found, total in ((told, 85), (kept, 483)):
    # Of the lists of 28 sizes that sum to the total, those that begin with `size`.
    expected = [math.comb(total - size - 1, 26) / math.comb(total - 1, 27) for size in range(1, 6)]
    for column in (slice(None), slice(0, 3), slice(-3, None)):
      share = [np.mean(found[:, column] == size) for size in range(1, 6)]
      np.testing.assert_allclose(share, expected, rtol=0.09)


def test_all_ways_to_cut_are_equally_likely():
  rng = np.random.default_rng(0)
  found, count = np.unique([parts(6, 3, rng) for _ in range(20000)], axis=0, return_counts=True)
  assert len(found) == math.comb(5, 2) and (found.sum(1) == 6).all()
  np.testing.assert_allclose(count, 2000, rtol=0.09)


def test_what_the_decoder_reads_and_tells():
  example = keeps_its_promise(SpanCorruption(), dict(tokens=text(568)), 512)
  assert example["source_tokens"][-1] == example["targets"][-1] == END
  assert example["tokens"][0] == SPECIAL["pad"] and example["weights"].all() and example["source_segments"].all()
  np.testing.assert_array_equal(example["tokens"][1:], example["targets"][:-1])
  np.testing.assert_array_equal(inverse(example["source_tokens"][:-1], example["targets"][:-1]), text(568))


@pytest.mark.parametrize("tokens", [568, 567, 90, 2, 1, 0])
def test_the_shapes_promised_are_those_of_a_batch(tokens):
  example = keeps_its_promise(SpanCorruption(), dict(tokens=text(tokens)), 512)
  source, target = lengths(tokens, (0.15, 3.0))
  assert example["source_segments"].sum() == source
  assert example["weights"].sum() == (target if tokens else 0)


def test_laws():
  for fields, key in ((dict(rate=0.0), "rate"), (dict(rate=1.0), "rate"), (dict(mean_span=0.5), "mean_span")):
    with pytest.raises(Wrong) as caught:
      SpanCorruption(**fields)
    assert [problem[0] for problem in caught.value.problems] == [key]
  assert [key for key, *_ in SpanCorruption().model_laws(TransformerConfig())] == ["kind"]
