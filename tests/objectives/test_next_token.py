"""What next-token prediction makes of a row, and that its batch is what it says; documents filled in the middle."""

import functools

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.laws import Wrong
from fmjax.models import Model
from fmjax.objectives import NextToken
from fmjax.objectives.objective import Packed, Windows
from fmjax.step import eval_step, place
from tests.objectives.examples import END, SPECIAL, keeps_its_promise, packed, sight, text, vocabulary

PLAIN, FIM = NextToken(), NextToken(fim_rate=1.0)
SENTINELS = [SPECIAL[name] for name in FIM.needs(8)]


def made(record, objective=PLAIN, length=8, seed=0):
  return objective.transform(record, np.random.default_rng(seed), vocabulary=vocabulary(), length=length)


def test_targets_are_the_tokens_that_follow_and_only_real_ones_weigh():
  example = made(dict(tokens=np.arange(10, 15, dtype=np.int32)))
  np.testing.assert_array_equal(example["tokens"], [10, 11, 12, 13, END, END, END, END])
  np.testing.assert_array_equal(example["targets"], [11, 12, 13, 14, END, END, END, END])
  np.testing.assert_array_equal(example["weights"], [1, 1, 1, 1, 0, 0, 0, 0])


def test_a_packed_row_knows_its_pieces():
  row = packed(np.array([20, 21]), np.array([30]))
  row["tokens"][4] = 29  # what came before, where the document's beginning lies in another row
  example = made(row)
  np.testing.assert_array_equal(example["tokens"], [END, 20, 21, 29, 30, END, END, END])
  np.testing.assert_array_equal(example["targets"], [20, 21, END, 30, END, END, END, END])
  np.testing.assert_array_equal(example["weights"], [1, 1, 1, 1, 1, 0, 0, 0])
  np.testing.assert_array_equal(example["segments"], [1, 1, 1, 2, 2, 0, 0, 0])
  np.testing.assert_array_equal(example["positions"], [0, 1, 2, 0, 1, 0, 0, 0])


@pytest.mark.parametrize("objective", [NextToken(), FIM], ids=["next_token", "fim"])
def test_the_shapes_promised_are_those_of_a_batch(objective):
  assert objective.layout(8, False) == Windows(8, before=1) and objective.layout(8, True) == Packed(8)
  for tokens in (9, 5, 1, 0):
    example = keeps_its_promise(objective, dict(tokens=text(tokens)), 8)
    assert example["weights"].sum() == max(0, tokens - 1)
  for documents in ([text(7)], [text(2), text(1)], []):
    example = keeps_its_promise(objective, packed(*documents), 8, packed=True)
    assert example["weights"].sum() == sum(len(one) + 1 for one in documents)


def test_it_trains_decoders():
  assert not list(NextToken().model_laws(TransformerConfig()))
  assert [key for key, *_ in NextToken().model_laws(TransformerConfig(kind="encoder"))] == ["kind"]


def test_the_loss_is_in_nats_a_token(on):
  """Of a model that knows nothing: log V."""
  model = Model(TransformerConfig(V=128, D=32, L=1, N=2, max_positions=8, init_std=1e-6))
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 128, (4, 9), dtype=np.int32)
    batch = place(dict(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=np.ones((4, 8), np.float32)))
    sums = jax.jit(functools.partial(eval_step, model=model, objective=PLAIN))(params, batch)
  np.testing.assert_allclose(sums["loss"] / sums["weight"], np.log(128), rtol=1e-4)


def test_packed_equals_unpacked(on):
  """Learned positions: they would tell if they did not begin anew with each document."""
  model = Model(TransformerConfig(V=5000, D=16, L=2, N=2, F=16, max_positions=24))
  documents = [text(n, seed) for seed, n in enumerate((9, 4, 8))]
  alone = [made(dict(tokens=packed(one)["tokens"]), length=24) for one in documents]
  rows = [made(packed(*documents), length=24), made(packed(), length=24)]
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    step = jax.jit(functools.partial(eval_step, model=model, objective=PLAIN))
    batches = ({name: np.stack([row[name] for row in some]) for name in some[0]} for some in (alone, rows))
    sums = [step(params, place(batch)) for batch in batches]
  assert sums[0]["weight"] == sums[1]["weight"] == 24
  for name in ("loss", "accuracy"):
    np.testing.assert_allclose(sums[1][name], sums[0][name], rtol=1e-5)


def test_nothing_is_seen_of_what_comes_or_of_other_documents(on):
  model = Model(TransformerConfig(V=5000, D=16, L=2, N=2, F=16, max_positions=12, tied=False))
  row = packed(text(5), text(4, 1))
  row["tokens"][[0, 7]] = 10, 11  # no token twice
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    seen = sight(NextToken(), model, params, made(row, length=11))
  first, second = (np.tril(np.ones((n, n), bool)) for n in (6, 5))
  np.testing.assert_array_equal(seen, np.block([[first, np.zeros((6, 5), bool)], [np.zeros((5, 6), bool), second]]))


# Fill in the middle.


def parts_of(document):
  """(prefix, middle, suffix, whether the suffix comes first) of a document that was cut in three."""
  assert document[0] == SENTINELS[0]
  _, of_suffix, of_middle = np.flatnonzero(np.isin(document, SENTINELS))
  assert document[of_suffix] == SENTINELS[1] and document[of_middle] == SENTINELS[2]
  return document[1:of_suffix], document[of_suffix + 1 : of_middle], document[of_middle + 1 :], of_suffix == 1


def test_the_parts_give_the_document_back():
  seen = set()
  for seed in range(300):
    document = text(4 + seed % 20, seed)
    example = made(packed(document), FIM, 32, seed)
    changed, end = example["targets"][: len(document)], example["targets"][len(document)]
    assert end == END and sorted(changed) == sorted([*SENTINELS, *document[:-3]])
    prefix, suffix, rest, suffix_first = parts_of(changed)
    if suffix_first:  # the second variant, or an empty prefix: the prefix goes before the middle, as in the text
      whole = np.concatenate([rest, suffix])
    else:
      whole = np.concatenate([prefix, rest, suffix])
    np.testing.assert_array_equal(whole, document[:-3])
    seen.add((bool(suffix_first), bool(len(suffix)), bool(len(rest))))
  assert len(seen) == 7 or len(seen) == 8  # both orders, with and without empty parts


def test_a_window_keeps_its_documents_apart():
  ends = [3, 4, 12, 30]
  for seed in range(50):
    tokens = text(40, seed)
    tokens[ends] = END
    example = made(dict(tokens=tokens), FIM, 39, seed)
    changed = np.append(example["tokens"], example["targets"][-1])
    np.testing.assert_array_equal(np.flatnonzero(changed == END), ends)
    np.testing.assert_array_equal(changed[:3], tokens[:3])  # too short
    for low, high in ((5, 12), (13, 30), (31, 40)):
      assert sorted(changed[low:high]) == sorted([*SENTINELS, *tokens[low : high - 3]])


def test_the_rates_are_those_asked_for():
  objective, size = NextToken(fim_rate=0.3, spm_rate=0.4), 12
  row = packed(*[text(size)] * 1000)
  cut, first, lengths = 0, 0, []
  for seed in range(100):
    documents = made(row, objective, 1000 * (size + 1), seed)["targets"].reshape(1000, size + 1)[:, :size]
    changed = documents[documents[:, 0] == SENTINELS[0]]
    cut += len(changed)
    where = [np.argmax(changed == one, axis=1) for one in SENTINELS]
    suffix = where[2] - where[1] - 1
    lengths += suffix.tolist()
    # An empty prefix looks the same in both orders: one of two cuts out of n + 1 places is the first of them.
    first += np.count_nonzero(where[1] == 1)
  assert cut / 100_000 == pytest.approx(0.3, rel=0.03)
  n = size - 3
  low = np.sort(np.indices((n + 1, n + 1)).reshape(2, -1), axis=0)
  empty = np.mean(low[0] == 0)
  assert first / cut == pytest.approx(0.4 + 0.6 * empty, rel=0.03)
  assert np.mean(lengths) == pytest.approx(np.mean(n - low[1]), rel=0.03)


def test_without_it_nothing_is_drawn():
  rng = np.random.default_rng(3)
  NextToken().transform(dict(tokens=text(9)), rng, vocabulary=vocabulary(), length=8)
  assert rng.random() == np.random.default_rng(3).random()
  assert NextToken().needs(8) == () and FIM.needs(8) == ("fim_prefix", "fim_suffix", "fim_middle")


@pytest.mark.parametrize("fields", [dict(fim_rate=1.1), dict(spm_rate=-0.1), dict(z_loss=-1.0)], ids=str)
def test_shares_that_cannot_be_are_refused(fields):
  with pytest.raises(Wrong) as caught:
    NextToken(**fields)
  assert [problem[0] for problem in caught.value.problems] == list(fields)
