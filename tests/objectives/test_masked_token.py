"""What masked-token prediction draws, as statistics and as laws of each row, and what its loss sums."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.interop.families import family_of
from fmjax.objectives import masked_token
from fmjax.objectives.masked_token import MaskedToken
from fmjax.objectives.objective import Sentences
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.step import eval_step, loss_sums, place

SPECIAL = dict(pad=0, cls=1, sep=2, mask=3, unk=4)
END, SIZE = 5, 1000
CONTINUES = np.random.default_rng(0).random(SIZE) < 0.4
CONTINUES[: END + 1] = False
VOCABULARY = Vocabulary(SIZE, END, SPECIAL, CONTINUES)
BERT, ROBERTA, ALBERT = MaskedToken(pairs="next"), MaskedToken(), MaskedToken(pairs="order", ngram=3)
DRAWS = 100_000


def record(rng, length, sentence=20, partners=1):
  """A row of `length` tokens in sentences of about `sentence`, with partners like it."""
  tokens = rng.integers(END + 1, SIZE, length, dtype=np.int32)
  ends = np.unique(np.append(rng.integers(1, max(length, 2), length // sentence), length)) if length else []
  made = dict(tokens=tokens, sentences=np.diff(ends, prepend=0).astype(np.int32))
  return made | dict(partners=[record(rng, length, sentence, 0) for _ in range(partners)]) if partners else made


def examples(objective, count, length=512, short=0):
  """(record, example) of `count` rows of `length` tokens, or of `short` fewer."""
  rng = np.random.default_rng(1)
  rows = [record(rng, objective.layout(length, False).length - short) for _ in range(count)]
  return [(row, objective.transform(row, rng, vocabulary=VOCABULARY, length=length)) for row in rows]


def real(example):
  """(places, targets) without what fills them up."""
  count = int(example["weights"].sum())
  assert example["weights"][:count].all() and not example["weights"][count:].any()
  return example["places"][:count], example["targets"][:count]


def test_the_share_of_masks_and_what_becomes_of_them():
  masked = random = kept = rows = 0
  for row, example in examples(ROBERTA, DRAWS // 77 + 1):
    places, targets = real(example)
    assert len(places) == 77 == round(0.15 * 512)
    assert (np.diff(places) > 0).all()
    whole = np.concatenate([[1], row["tokens"], [2]])
    np.testing.assert_array_equal(whole[places], targets)
    untouched = np.setdiff1d(np.arange(512), places)
    np.testing.assert_array_equal(whole[untouched], example["tokens"][untouched])
    now = example["tokens"][places]
    masked += np.sum(now == SPECIAL["mask"])
    kept += np.sum(now == targets)
    random += np.sum((now != targets) & (now != SPECIAL["mask"]))
    rows += 1
  shares = np.array([masked, random, kept]) / (77 * rows)
  np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.004)


def test_every_place_is_as_likely_to_be_masked_and_every_token_to_be_drawn():
  for objective in (ROBERTA, MaskedToken(whole_word=True), MaskedToken(ngram=3)):
    at, drawn = np.zeros(128), np.zeros(SIZE)
    for row, example in examples(objective, DRAWS // 19 + 1, 128):
      places, targets = real(example)
      at[places] += 1
      now = example["tokens"][places]
      np.add.at(drawn, now[(now != targets) & (now != SPECIAL["mask"])], 1)
      assert len(row["tokens"]) == 126
    assert at[0] == at[-1] == 0
    # Whole words: a row's first token always begins a word, and a long word fits less often.
    tolerance = 0.05 if objective.whole_word or objective.ngram else 0.03
    expected = at.sum() / 126
    for part in np.split(at[1:-1], 6):
      assert part.mean() == pytest.approx(expected, rel=tolerance)
    assert np.var(at[1:-1]) < 1.5 * expected
    assert not drawn[: END + 1].any()
    halves = drawn[END + 1 : 503].sum() / drawn.sum()
    assert halves == pytest.approx(497 / 994, rel=0.03)


def test_rows_that_are_not_full_have_fewer_masks_and_the_shortest_has_one():
  for tokens in (1, 2, 10, 100, 400):
    (_, example), *_ = examples(ROBERTA, 1, short=510 - tokens)
    n = tokens + 2
    assert example["segments"].sum() == n and (example["segments"][:n] == 1).all()
    assert len(real(example)[0]) == max(1, round(0.15 * n))
    assert not example["tokens"][n:].any()


def test_special_tokens_are_never_masked():
  rng = np.random.default_rng(2)
  for objective in (ROBERTA, BERT, ALBERT):
    for _ in range(50):
      row = record(rng, 100)
      row["tokens"][rng.integers(100, size=30)] = SPECIAL["unk"]
      _, targets = real(objective.transform(row, rng, vocabulary=VOCABULARY, length=128))
      assert len(targets) and VOCABULARY.ordinary[targets].all()


def spans(tokens):
  """The word, as a number, of each of the tokens that make words; -1 of the others."""
  ordinary = VOCABULARY.ordinary[tokens]
  number, found = -1, np.full(len(tokens), -1)
  for here, token in enumerate(tokens.tolist()):
    if ordinary[here]:
      number += not (CONTINUES[token] and here and ordinary[here - 1])
      found[here] = number
  return found


@pytest.mark.parametrize("objective", [MaskedToken(whole_word=True), MaskedToken(ngram=3), ALBERT])
def test_a_word_is_masked_wholly_or_not_at_all(objective):
  total = 0
  for _, example in examples(objective, 200, 256):
    places, targets = real(example)
    whole = example["tokens"].copy()
    whole[places] = targets
    word = spans(whole)
    masked = np.zeros(256, bool)
    masked[places] = True
    for number in np.unique(word[places]):
      assert masked[word == number].all()
    total += len(places)
  assert total / 200 == pytest.approx(round(0.15 * 256), rel=0.02)


def test_masking_by_tokens_breaks_words():
  """That the law above can fail."""
  broken = 0
  for _, example in examples(ROBERTA, 10, 256):
    places, targets = real(example)
    whole = example["tokens"].copy()
    whole[places] = targets
    word = spans(whole)
    broken += np.isin(word, word[places]).sum() - len(places)
  assert broken > 0


def test_the_lengths_of_masked_runs_are_as_the_paper_says():
  rng, counts = np.random.default_rng(3), np.zeros(4)
  while counts.sum() < DRAWS:
    sizes = masked_token.runs(np.ones(510, np.int64), 3, rng)
    assert sizes.sum() == 510
    counts += np.bincount(sizes[masked_token.drawn(sizes, 77, rng)], minlength=4)
  # The last of a row's runs must fit, which leaves out a long one more often.
  np.testing.assert_allclose(counts[1:] / counts.sum(), np.array([6, 3, 2]) / 11, rtol=0.04)


def test_a_budget_is_spent_as_by_taking_one_after_the_other():
  rng = np.random.default_rng(4)
  for _ in range(200):
    sizes, budget = rng.integers(1, 6, rng.integers(1, 30)), int(rng.integers(1, 20))
    state = rng.bit_generator.state
    found = masked_token.drawn(sizes, budget, rng)
    rng.bit_generator.state = state
    left, wanted = budget, np.zeros(len(sizes), bool)
    for item in rng.permutation(len(sizes)):
      if sizes[item] <= left:
        wanted[item] = True
        left -= sizes[item]
    np.testing.assert_array_equal(found, wanted)


def test_half_of_the_pairs_are_in_order_and_labels_say_which():
  rng = np.random.default_rng(5)
  row = record(rng, 125)
  tokens, ends = row["tokens"], np.cumsum(row["sentences"]).tolist()
  random = swapped = 0
  cuts = np.zeros(126)
  for _ in range(DRAWS // 10):
    pair = masked_token.next_pair(row, rng, 125)
    assert pair.weight == 1 and len(pair.a) and len(pair.b) and len(pair.a) + len(pair.b) <= 125
    inside = np.isin(pair.b, tokens).mean()
    assert inside < 0.9 if pair.label else inside == 1
    random += pair.label
  for _ in range(DRAWS):
    pair = masked_token.order_pair(row, rng, 125)
    first, second = (pair.b, pair.a) if pair.label else (pair.a, pair.b)
    assert len(first) in ends[:-1] and len(first) + len(second) == 125
    assert first[0] == tokens[0] and second[-1] == tokens[-1]
    cuts[len(first)] += 1
    swapped += pair.label
  assert random / (DRAWS // 10) == pytest.approx(0.5, rel=0.05)
  assert swapped / DRAWS == pytest.approx(0.5, rel=0.02)
  np.testing.assert_allclose(cuts[ends[:-1]] / DRAWS, 1 / (len(ends) - 1), rtol=0.1)


def test_neither_the_size_nor_a_broken_sentence_tells_a_random_pair():
  """Sizes of both kinds have the same mean; whole rows and random ones are cut as often."""
  rng = np.random.default_rng(6)
  sizes, broken = ([], []), ([], [])
  for _ in range(4000):
    row = record(rng, 509)
    pair = masked_token.next_pair(row, rng, 509)
    partner = row["partners"][0]
    lasts = [one["tokens"][np.cumsum(one["sentences"]) - 1] for one in (row, partner)]
    sizes[pair.label].append(len(pair.a) + len(pair.b))
    broken[pair.label].append(pair.b[-1] not in lasts[pair.label])
  assert np.mean(sizes[0]) == pytest.approx(np.mean(sizes[1]), rel=0.02)
  assert np.mean(broken[0]) == pytest.approx(np.mean(broken[1]), abs=0.03)


def test_a_row_of_one_sentence():
  rng = np.random.default_rng(7)
  row = dict(record(rng, 60), sentences=np.array([60], np.int32))
  pair = masked_token.next_pair(row, rng, 125)
  assert pair.label == 1 and pair.weight == 1 and len(pair.a) and len(pair.b)
  labels = set()
  for _ in range(50):
    pair = masked_token.order_pair(row, rng, 125)
    assert pair.weight == 1 and len(pair.a) + len(pair.b) == 60 and min(len(pair.a), len(pair.b)) > 0
    labels.add(pair.label)
  assert labels == {0, 1}
  one = dict(tokens=row["tokens"][:1], sentences=np.array([1], np.int32))
  assert masked_token.order_pair(one, rng, 125).weight == 0
  alone = dict(row, partners=[dict(tokens=row["tokens"][:0], sentences=np.zeros(0, np.int32))])
  assert masked_token.next_pair(alone, rng, 125).weight == 0


def test_pairs_are_cut_as_token_by_token():
  rng, fronts, lost = np.random.default_rng(8), 0, 0
  for _ in range(3000):
    sizes, room = rng.integers(1, 40, 2), int(rng.integers(2, 50))
    texts = [np.arange(size) for size in sizes]
    a, b = masked_token.truncated(*texts, room, rng)
    wanted = sizes.tolist()
    while sum(wanted) > room:
      wanted[0 if wanted[0] > wanted[1] else 1] -= 1
    assert [len(a), len(b)] == wanted
    for text, size in ((a, sizes[0]), (b, sizes[1])):
      np.testing.assert_array_equal(text, np.arange(text[0], text[0] + len(text)))
      fronts, lost = fronts + text[0], lost + size - len(text)
  assert fronts / lost == pytest.approx(0.5, rel=0.03)


def test_a_pair_is_two_texts_between_special_tokens():
  for objective in (BERT, ALBERT):
    for _, example in examples(objective, 20, 128):
      n = int(example["segments"].sum())
      tokens, types = example["tokens"], example["token_types"]
      first, second = np.flatnonzero(tokens == SPECIAL["sep"])
      assert tokens[0] == SPECIAL["cls"] and second == n - 1
      np.testing.assert_array_equal(types, (np.arange(128) > first) & (np.arange(128) < n))


def test_documents_of_full_sentences_have_a_separator_between_them():
  tokens = np.array([END, 10, 11, END, 12, END], np.int32)
  row = masked_token.full_sentences(tokens, VOCABULARY)
  np.testing.assert_array_equal(row, [1, 10, 11, 2, 12, 2])


def test_what_each_paper_reads():
  assert ROBERTA.layout(512, False) == Sentences(510, across=True)
  assert BERT.layout(512, False) == Sentences(509, short=0.1, partners=1)
  assert ALBERT.layout(512, False) == Sentences(509, short=0.1)
  assert set(ROBERTA.needs(512)) <= set(SPECIAL)


def test_a_transform_is_a_function_of_its_generator():
  row = record(np.random.default_rng(9), 100)
  for objective in (BERT, ROBERTA, ALBERT):
    one, same, other = (
      objective.transform(row, np.random.default_rng(seed), vocabulary=VOCABULARY, length=128) for seed in (1, 1, 2)
    )
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert one["places"].tobytes() != other["places"].tobytes()


def test_an_example_is_what_was_promised_and_without_text_it_weighs_nothing():
  for objective in (BERT, ROBERTA, ALBERT):
    promised = objective.batch_shapes(3, 128)
    for tokens in (0, 1, 100):
      row = record(np.random.default_rng(0), tokens)
      example = objective.transform(row, np.random.default_rng(0), vocabulary=VOCABULARY, length=128)
      assert {k: (3, *v.shape) for k, v in example.items()} == {k: v.shape for k, v in promised.items()}
      assert {k: v.dtype for k, v in example.items()} == {k: v.dtype for k, v in promised.items()}
      if not tokens:
        assert not any(example[name].any() for name in example)


def test_laws():
  assert [key for key, *_ in wrong(MaskedToken, rate=0.0)] == ["rate"]
  assert [key for key, *_ in wrong(MaskedToken, replaced_by_mask=0.95)] == ["replaced_by_random"]
  assert [key for key, *_ in wrong(MaskedToken, ngram=0)] == ["ngram"]
  decoder, encoder = TransformerConfig(V=SIZE), TransformerConfig(V=SIZE, kind="encoder")
  assert [key for key, *_ in ROBERTA.model_laws(decoder)] == ["kind"]
  assert not list(ROBERTA.model_laws(encoder))
  assert [key for key, *_ in BERT.model_laws(encoder)] == ["token_types", "head"]
  assert not list(BERT.model_laws(CONFIG))


def test_what_the_laws_ask_for_has_a_class_of_hugging_face():
  albert = dataclasses.replace(CONFIG, R=16, shared_layers=True)
  assert [family_of(config)[1] for config in (CONFIG, albert)] == ["BertForPreTraining", "AlbertForPreTraining"]


def wrong(cls, **fields):
  with pytest.raises(ValueError) as caught:
    cls(**fields)
  return caught.value.problems


# The loss.

CONFIG = TransformerConfig(
  kind="encoder", V=SIZE, D=32, L=1, N=2, max_positions=32, token_types=2, norm_place="post", embedding_norm=True,
  output_transform=True, output_bias=True, head="sequence", classes=2, pooler="tanh", init_std=0.3,
)  # fmt: skip


def batch_of(objective, rows=8, length=32):
  rng = np.random.default_rng(10)
  given = [record(rng, n, 6) for n in [29, 29, 20, 29, 3, 29, 25, 0][:rows]]
  made = [objective.transform(one, rng, vocabulary=VOCABULARY, length=length) for one in given]
  return {name: np.stack([one[name] for one in made]) for name in made[0]}


def sums_of(objective, params, batch):
  """Floats, a pair of (sum, weight) as it is."""
  model = objective.model(CONFIG)
  found = jax.jit(functools.partial(eval_step, model=model, objective=objective))(params, place(batch))
  return jax.tree.map(float, found)


@pytest.fixture(scope="module")
def alone(on):
  """(params, {objective: its sums}) of one device."""
  with on():
    params = jax.device_get(jax.jit(BERT.model(CONFIG).init)(jax.random.key(0)))
    return params, {objective: sums_of(objective, params, batch_of(objective)) for objective in (BERT, ROBERTA)}


def log_softmax(z):
  z = np.asarray(z, np.float64)
  return z - np.log(np.sum(np.exp(z - z.max(-1, keepdims=True)), -1, keepdims=True)) - z.max(-1, keepdims=True)


def test_the_loss_is_that_of_the_logits_at_the_masks(alone, on):
  params, found = alone
  for objective, sums in found.items():
    batch, model = batch_of(objective), objective.model(CONFIG)
    with on():
      placed = place(batch)
      hidden = model.apply(params, placed).hidden
      z_BTV, z_BC = model.logits(params, hidden), model.classify(params, hidden, placed)
    rows = np.arange(8)[:, None]
    logp_BPV = log_softmax(np.asarray(z_BTV)[..., :SIZE])[rows, batch["places"]]
    nll = -logp_BPV[rows, np.arange(5)[None], batch["targets"]]
    masked = np.sum(batch["weights"] * nll)
    correct = np.sum(batch["weights"] * (np.argmax(logp_BPV, -1) == batch["targets"]))
    assert sums["weight"] == batch["weights"].sum() > 20
    if objective.pairs is None:
      assert sums["loss"] == pytest.approx(masked, rel=1e-5) and sums["accuracy"] == correct
      continue
    pairs = -log_softmax(z_BC)[np.arange(8), batch["labels"]] * batch["label_weights"]
    right = np.sum((np.argmax(z_BC, -1) == batch["labels"]) * batch["label_weights"])
    assert sums["masked_loss"] == pytest.approx(masked, rel=1e-5)
    assert sums["pair_loss"] == (pytest.approx(pairs.sum(), rel=1e-5), 7)
    assert sums["pair_accuracy"] == (right, 7)
    assert sums["loss"] == pytest.approx(masked + (batch["weights"].sum(1) * pairs).sum(), rel=1e-5)


def test_the_loss_is_the_same_on_eight_devices(alone, on):
  params, found = alone
  for objective, mesh in ((BERT, dict(data=2, fsdp=2, tensor=2)), (ROBERTA, dict(data=2, context=4))):
    with on(**mesh):
      sums = sums_of(objective, params, batch_of(objective))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums, found[objective])


def test_parts_of_a_batch_sum_to_the_whole(alone, on):
  params, found = alone
  batch = batch_of(BERT)
  with on():
    parts = [sums_of(BERT, params, {k: v[rows] for k, v in batch.items()}) for rows in (slice(4), slice(4, 8))]
  whole = jax.tree.map(lambda a, b: a + b, *parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, found[BERT])


def test_what_carries_the_gradient_is_the_loss_that_is_reported(alone, on):
  """In training without dropout the first of the three results and the metric `loss` are one number."""
  params, found = alone
  with on():
    batch = place(batch_of(BERT))
    run = functools.partial(loss_sums, model=BERT.model(CONFIG), objective=BERT, train=True)
    (total, _), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(params, batch, jax.random.key(0))
  assert float(total) == pytest.approx(found[BERT]["loss"], rel=1e-5)
  for path in (("head", "classes"), ("pooler", "dense"), ("output", "dense"), ("embed", "types")):
    assert np.abs(gradient[path[0]][path[1]]).max() > 0


def test_states_are_picked_exactly(on):
  hidden = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
  places = np.random.default_rng(1).integers(16, size=(4, 3), dtype=np.int32)
  with on():
    found = masked_token.picked(jnp.asarray(hidden), jnp.asarray(places))
  np.testing.assert_array_equal(found, hidden[np.arange(4)[:, None], places])
