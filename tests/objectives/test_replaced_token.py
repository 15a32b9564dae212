"""What replaced-token detection reads, shares, samples and sums."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.interop import from_pretrained
from fmjax.interop.export import export
from fmjax.leaves import by_path
from fmjax.models import Model
from fmjax.objectives import replaced_token
from fmjax.objectives.objective import Sentences
from fmjax.objectives.replaced_token import ReplacedToken
from fmjax.objectives.vocabulary import Vocabulary
from fmjax.step import eval_step, loss_sums, place

SPECIAL = dict(pad=0, cls=1, sep=2, mask=3, unk=4)
END, SIZE = 5, 200
VOCABULARY = Vocabulary(SIZE, END, SPECIAL, np.zeros(SIZE, bool))
OBJECTIVE = ReplacedToken()
CONFIG = TransformerConfig(
  kind="encoder", V=SIZE, D=64, L=1, N=4, R=32, max_positions=32, token_types=2, norm_place="post", norm_eps=1e-12,
  embedding_norm=True, activation="gelu", head="token", classes=1, pooler="gelu", init_std=0.3,
)  # fmt: skip
MODEL = OBJECTIVE.model(CONFIG)
FAVOURITE = 77  # what the generator below always samples


def record(rng, length, sentence=6):
  tokens = rng.integers(END + 1, SIZE, length, dtype=np.int32)
  ends = np.unique(np.append(rng.integers(1, max(length, 2), length // sentence), length)) if length else []
  return dict(tokens=tokens, sentences=np.diff(ends, prepend=0).astype(np.int32))


def batch_of(length=32):
  rng = np.random.default_rng(0)
  given = [record(rng, n) for n in (29, 29, 20, 29, 3, 29, 25, 0)]
  made = [OBJECTIVE.transform(one, rng, vocabulary=VOCABULARY, length=length) for one in given]
  return {name: np.stack([one[name] for one in made]) for name in made[0]}


BATCH = batch_of()


@pytest.fixture(scope="module")
def params(on):
  with on():
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(0)))


@pytest.fixture(scope="module")
def decided(params):
  """Parameters whose generator samples one token only, whatever the noise."""
  bias_V = np.where(np.arange(CONFIG.padded_V) == FAVOURITE, 1e3, 0.0).astype(np.float32)
  output = dict(params["generator"]["output"], bias=bias_V)
  return dict(params, generator=dict(params["generator"], output=output))


def sums_of(params, batch):
  return jax.tree.map(
    float, jax.jit(functools.partial(eval_step, model=MODEL, objective=OBJECTIVE))(params, place(batch))
  )


# Rows.


def test_masks_are_85_in_100_and_the_rest_stay():
  rng, masked, total = np.random.default_rng(1), 0, 0
  for _ in range(100_000 // 77 + 1):
    row = record(rng, 509)
    example = OBJECTIVE.transform(row, rng, vocabulary=VOCABULARY, length=512)
    now = example["tokens"][example["places"]]
    places = example["weights"] > 0
    assert places.sum() in (76, 77) and np.isin(now[places], [SPECIAL["mask"], *example["targets"]]).all()
    assert ((now == SPECIAL["mask"]) | (now == example["targets"]))[places].all()
    masked += np.sum(now[places] == SPECIAL["mask"])
    total += places.sum()
  assert masked / total == pytest.approx(0.85, abs=0.005)


def test_a_row_is_two_halves_of_whole_sentences_or_one_text():
  rng, single, first = np.random.default_rng(2), 0, 0
  for _ in range(20_000):
    row = record(rng, 120)
    ends = np.cumsum(row["sentences"])
    a, b, *_ = replaced_token.halves(row, 0.1, rng)
    np.testing.assert_array_equal(np.concatenate([a, b]), row["tokens"])
    if not len(b):
      single += 1
      continue
    place = int(np.searchsorted(ends, 60))  # the sentence in the middle
    assert len(a) in ends
    assert len(a) in (ends[max(place - 1, 0)], ends[place])
    first += len(a) == ends[place]
  assert single / 20_000 == pytest.approx(0.1, rel=0.07)
  assert first / (20_000 - single) == pytest.approx(0.5, rel=0.05)


def test_an_example_is_what_was_promised_and_without_text_it_weighs_nothing():
  promised = OBJECTIVE.batch_shapes(3, 128)
  for tokens in (0, 1, 100, 125):
    example = OBJECTIVE.transform(
      record(np.random.default_rng(0), tokens), np.random.default_rng(0), vocabulary=VOCABULARY, length=128
    )
    assert {k: (3, *v.shape) for k, v in example.items()} == {k: v.shape for k, v in promised.items()}
    assert {k: v.dtype for k, v in example.items()} == {k: v.dtype for k, v in promised.items()}
    if not tokens:
      assert not any(example[name].any() for name in example)
  assert OBJECTIVE.layout(512, False) == Sentences(509, short=0.05)


def test_laws():
  with pytest.raises(ValueError, match="generator_size"):
    ReplacedToken(generator_size=0.0)
  with pytest.raises(ValueError, match="replaced_by_mask"):
    ReplacedToken(replaced_by_mask=1.5)
  assert not list(OBJECTIVE.model_laws(CONFIG))
  other = dataclasses.replace(CONFIG, kind="decoder", token_types=None, classes=2, tied=False)
  assert [key for key, *_ in OBJECTIVE.model_laws(other)] == ["kind", "token_types", "head", "tied"]


# The two networks.


def test_the_generator_is_small_and_its_embedding_is_the_discriminators(params):
  generator = MODEL.generator.config
  assert (generator.D, generator.N, generator.F, generator.H, generator.R) == (16, 1, 64, 16, 32)
  base = dataclasses.replace(CONFIG, R=None)
  assert dataclasses.replace(MODEL, config=base).generator.config.R == 64
  flat = by_path(params)
  assert not [path for path in flat if path.startswith("generator/embed/") and "project" not in path]
  assert flat["generator/embed/project"].shape == (32, 16) and flat["embed/project"].shape == (32, 64)
  own = MODEL.generator_params(params)
  for name in ("tokens", "positions", "types"):
    assert own["embed"][name] is params["embed"][name]
  assert own["embed"]["norm"]["scale"] is params["embed"]["norm"]["scale"]
  assert own["embed"]["project"] is params["generator"]["embed"]["project"]


def test_declarations_name_every_parameter(params, on):
  with on():
    table = MODEL.declarations()
  flat = by_path(params)
  assert set(table) == set(flat)
  assert all(len(table[path].letters) == flat[path].ndim for path in flat)
  assert table["generator/blocks/attention/q"].letters == "LDNH"


def test_init_is_the_same_bits_on_every_mesh(params, on):
  with on(data=2, fsdp=2, tensor=2):
    other = jax.jit(MODEL.init)(jax.random.key(0))
    assert len(other["generator"]["blocks"]["attention"]["q"].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(other))


def test_what_is_left_without_the_generator_is_a_discriminator(params, on, tmp_path):
  alone = {name: branch for name, branch in params.items() if name != "generator"}
  with on():
    plain = Model(CONFIG)
    wanted = jax.eval_shape(plain.init, jax.random.key(0))
    jax.tree.map(lambda a, b: (a.shape == b.shape) or pytest.fail("another shape"), alone, wanted)
    placed = jax.device_put(alone, jax.tree.map(lambda x: x.sharding, jax.jit(plain.init)(jax.random.key(0))))
    export(tmp_path / "out", plain, placed)
    found = from_pretrained(tmp_path / "out", mesh=jax.sharding.get_mesh())
  assert found.hf_config["architectures"] == ["ElectraForPreTraining"]
  for path, x in by_path(found.params).items():
    np.testing.assert_array_equal(x[:SIZE] if path == "embed/tokens" else x, by_path(alone)[path][: len(x)][:SIZE])


# The step.


def test_samples_stand_in_the_masks_places_only_and_labels_say_where_they_differ(on):
  rng = np.random.default_rng(3)
  with on():
    drawn = rng.integers(SIZE, size=BATCH["places"].shape, dtype=np.int32)
    drawn[:, 0] = BATCH["targets"][:, 0]  # right by chance: counts as the text's own
    tokens_BT, replaced_BT = replaced_token.replaced(place(BATCH), jnp.asarray(drawn))
  tokens, labels = BATCH["tokens"].copy(), np.zeros(BATCH["tokens"].shape, bool)
  for row in range(8):
    for place_, target, weight, sample in zip(
      BATCH["places"][row], BATCH["targets"][row], BATCH["weights"][row], drawn[row]
    ):
      if weight:
        tokens[row, place_] = sample
        labels[row, place_] = sample != target
  np.testing.assert_array_equal(tokens_BT, tokens)
  np.testing.assert_array_equal(replaced_BT, labels)
  assert 0 < labels.sum() < BATCH["weights"].sum()


def test_samples_follow_the_softmax(on):
  with on():
    logits_BPV = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.2, 0.0])), (100, 500, 4))
    found = replaced_token.sampled(logits_BPV, jax.random.key(0))
  np.testing.assert_allclose(np.bincount(found.ravel(), minlength=4) / 50_000, [0.5, 0.3, 0.2, 0.0], atol=0.01)


def test_the_loss_is_that_of_both_networks_logits(params, decided, on):
  with on():
    sums = sums_of(decided, BATCH)
    own = MODEL.generator_params(decided)
    hidden = MODEL.generator.apply(own, place(BATCH)).hidden
    z_BTV = np.asarray(MODEL.generator.logits(own, hidden), np.float64)[..., :SIZE]
    tokens = BATCH["tokens"].copy()
    at = [(row, p, t) for row in range(8)
          for p, t, w in zip(BATCH["places"][row], BATCH["targets"][row], BATCH["weights"][row]) if w]  # fmt: skip
    for row, p, _ in at:
      tokens[row, p] = FAVOURITE
    placed = place(dict(BATCH, tokens=tokens))
    z_BT = np.asarray(MODEL.classify(params, MODEL.apply(params, placed).hidden, placed), np.float64)[..., 0]
  logp_BTV = z_BTV - z_BTV.max(-1, keepdims=True)
  logp_BTV -= np.log(np.exp(logp_BTV).sum(-1, keepdims=True))
  masked = -sum(logp_BTV[one] for one in at)
  label_BT = np.zeros(tokens.shape, bool)
  for row, p, t in at:
    label_BT[row, p] = t != FAVOURITE
  real_BT = BATCH["segments"] > 0
  p_BT = 1 / (1 + np.exp(-z_BT))
  detected = -np.sum(np.log(np.where(label_BT, p_BT, 1 - p_BT))[real_BT])
  assert sums["weight"] == len(at) > 20 and sums["replaced"] == label_BT.sum() > 20
  assert sums["masked_loss"] == pytest.approx(masked, rel=1e-5)
  assert sums["masked_accuracy"] == sum(t == FAVOURITE for _, _, t in at)
  assert sums["discriminator_loss"] == (pytest.approx(detected, rel=1e-5), real_BT.sum())
  assert sums["discriminator_accuracy"] == (np.sum(((p_BT > 0.5) == label_BT)[real_BT]), real_BT.sum())
  assert sums["loss"] == pytest.approx(masked + 50 * 0.15 * detected, rel=1e-5)


def test_parts_and_devices_sum_to_the_whole(decided, on):
  with on():
    whole = sums_of(decided, BATCH)
    halves = [sums_of(decided, {k: v[rows] for k, v in BATCH.items()}) for rows in (slice(4), slice(4, 8))]
  with on(data=2, fsdp=2, tensor=2):
    meshed = sums_of(decided, BATCH)
  for other in (jax.tree.map(lambda a, b: a + b, *halves), meshed):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), other, whole)


def test_samples_are_new_in_each_step_and_the_same_in_each_evaluation(params, on):
  with on():
    batch = place(BATCH)
    run = jax.jit(functools.partial(loss_sums, model=MODEL, objective=OBJECTIVE, train=True))
    one, two = (run(params, batch, jax.random.key(n))[1] for n in (1, 2))
    assert one["masked_loss"] == two["masked_loss"] and one["discriminator_loss"] != two["discriminator_loss"]
    assert sums_of(params, BATCH) == sums_of(params, BATCH)


def test_each_network_learns_from_its_own_loss_and_the_table_from_both(params, on):
  """The generator's own parameters take no gradient from the discriminator, whose input they sample."""

  def gradient(weight):
    objective = dataclasses.replace(OBJECTIVE, discriminator_weight=weight)
    run = functools.partial(loss_sums, model=MODEL, objective=objective, train=True)
    return jax.jit(jax.grad(run, has_aux=True))(params, place(BATCH), jax.random.key(0))[0]

  with on():
    alone, both = (by_path(jax.device_get(gradient(weight))) for weight in (0.0, 50.0))
  for path in alone:
    if path.startswith("generator/"):
      np.testing.assert_allclose(alone[path], both[path], rtol=1e-5, atol=1e-5)
      assert np.abs(both[path]).max() > 0 or path.endswith("/k_bias")
    elif path.startswith(replaced_token.SHARED):
      assert np.abs(alone[path]).max() > 0 and np.abs(both[path] - alone[path]).max() > 1e-3
    else:
      assert not alone[path].any() and (np.abs(both[path]).max() > 0)
