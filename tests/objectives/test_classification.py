"""What is told of a text: rows and labels, losses of plain numpy, R-Drop, and answers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.objectives import Classification, MultipleChoice, Regression, Tagging
from fmjax.step import loss_sums, place
from tests.objectives import tasks

LABELS, T = ("sad", "glad", "mad"), 16
ONE, PAIR = Classification(labels=LABELS), Classification(labels=LABELS, pair=True)
NUMBER = Regression(low=0.0, high=5.0)
CHOICE = MultipleChoice(labels=("0", "1"))
TEXTS = ["hello", "the king", "o romeo romeo wherefore art thou", "", "deny thy father", "a", "refuse", "thy name"]
ROWS = [(text, LABELS[n % 3]) for n, text in enumerate(TEXTS)]


def test_a_row_is_a_text_or_a_pair_and_its_label():
  bert = tasks.tokenizer("bert")
  (row,), (pair,) = tasks.read(ONE, [("the king", 1)], T), tasks.read(PAIR, [("the king", "hello", "mad")], T)
  batch = tasks.batch_of(ONE, [row], T)
  tokens = bert("the king")["input_ids"][0].tolist()
  assert batch["tokens"][0].tolist() == tokens + [bert.special["pad"]] * (T - len(tokens))
  assert batch["segments"].sum() == len(tokens) == ONE.extent({name: len(x) for name, x in row.items()})
  assert batch["labels"].tolist() == [1] and batch["weights"].tolist() == [1] and not batch["token_types"].any()
  batch, expected = tasks.batch_of(PAIR, [pair], T), bert("the king", "hello")
  size = expected["input_ids"].shape[1]
  for name, theirs in (("tokens", "input_ids"), ("token_types", "token_type_ids")):
    assert batch[name][0, :size].tolist() == expected[theirs][0].tolist()
  assert batch["labels"].tolist() == [2] and PAIR.extent({name: len(x) for name, x in pair.items()}) == size
  assert ONE.layout(T, False).encoder.texts(("a", "sad")) == ["a"]


def test_a_row_of_no_record_weighs_nothing_and_one_of_no_text_does():
  for objective in (ONE, PAIR, NUMBER):
    batch = tasks.batch_of(objective, [tasks.nothing(objective, T)], T)
    assert not any(batch[name].any() for name in ("segments", "labels", "weights"))
  (row,) = tasks.read(ONE, [("", "sad")], T)
  batch = tasks.batch_of(ONE, [row], T)
  assert batch["weights"][0] == 1 and batch["segments"].sum() == 2


def test_what_is_refused():
  error = tasks.refused(ONE, ("x", "gladd"))
  assert error.labels["got"] == "'gladd'" and "glad" in error.labels["fix"]
  assert "'text' holds no text" in str(tasks.refused(ONE, (3, "glad")))
  assert "'other' holds no text" in str(tasks.refused(PAIR, ("x", None, "glad")))
  assert tasks.refused(NUMBER, ("x", 5.5)).labels["expected"] == "0.0 to 5.0"
  assert "'label' holds no number" in str(tasks.refused(NUMBER, ("x", "much")))
  with pytest.raises(Exception) as caught:
    tasks.read(ONE, [("x", "glad"), ("y", "bad")], T)
  assert caught.value.number == 1


def test_laws():
  assert tasks.laws_of(Classification) == ["labels"] == tasks.laws_of(Classification, labels=("a", "a"))
  assert tasks.laws_of(Classification, labels=("a", "b", "a")) == ["labels"]
  assert tasks.laws_of(Classification, labels=LABELS, r_drop=-1.0, label_smoothing=1.0) == [
    "r_drop",
    "label_smoothing",
  ]
  assert tasks.laws_of(Regression, low=1.0, high=1.0) == ["high"]
  encoder = dict(kind="encoder", V=100, head="sequence", classes=3)
  last = Classification(labels=LABELS, pooling="last")
  for objective, config, wrong in (
    (ONE, encoder, []),
    (ONE, dict(encoder, classes=2), ["head"]),
    (ONE, dict(encoder, kind="decoder"), ["kind"]),
    (ONE, dict(encoder, kind="encoder_decoder"), ["kind"]),
    (last, dict(encoder, kind="decoder"), ["pool"]),
    (last, dict(encoder, kind="decoder", pool="last"), []),
    (Classification(labels=LABELS, r_drop=1.0), encoder, ["dropout"]),
  ):
    assert [field for field, *_ in objective.model_laws(TransformerConfig(**config))] == wrong
  assert last.needs(T) == () and set(ONE.needs(T)) == {"cls", "sep", "pad"}
  assert ONE.judged_by == ("accuracy", "f1_macro", "matthews")


@pytest.fixture(scope="module")
def told(on):
  """{objective: (params, sums, predicted)} of a batch, the same on eight devices."""
  found = {}
  for objective, rows in ((ONE, ROWS), (NUMBER, [(text, n / 2) for n, text in enumerate(TEXTS)])):
    batch = tasks.batch_of(objective, tasks.read(objective, rows, T), T)
    model = tasks.model_of(objective, pooler="tanh")
    found[objective] = model, batch, *tasks.same_on_eight_devices(objective, model, batch, on)
  return found


def test_the_loss_is_that_of_plain_numpy(told, on):
  model, batch, params, sums, predicted = told[ONE]
  with on():
    z_BC = np.asarray(ONE.scores(model, params, place(batch)))
  logp_BC = tasks.log_softmax(z_BC)
  np.testing.assert_allclose(predicted["probabilities"], np.exp(logp_BC), rtol=1e-5)
  assert sums["weight"] == 8 and sums["accuracy"] == np.sum(np.argmax(z_BC, 1) == batch["labels"])
  assert sums["loss"] == pytest.approx(-logp_BC[np.arange(8), batch["labels"]].sum(), rel=1e-5)
  _, batch, _, sums, predicted = told[NUMBER]
  assert sums["loss"] == pytest.approx(np.sum((predicted["number"] - batch["labels"]) ** 2), rel=1e-5)
  assert batch["labels"].tolist() == [n / 2 for n in range(8)]


def test_padding_and_rows_of_no_record_change_nothing(told, on):
  model, batch, params, *_ = told[ONE]
  rows = [*tasks.read(ONE, ROWS, T), *[tasks.nothing(ONE, T)] * 2]
  tasks.padding_changes_nothing(ONE, model, params, batch, tasks.batch_of(ONE, rows, 24), on)


def test_answers(told):
  model, _, _, sums, predicted = told[ONE]
  answers = ONE.answers(tasks.read(ONE, ROWS, T), predicted, tasks.tokenizer("bert"))
  assert sum(one["predicted"] == one["expected"] for one in answers) == sums["accuracy"]
  assert [one["expected"] for one in answers] == [label for _, label in ROWS]
  for one in answers:
    assert sum(one["probabilities"].values()) == pytest.approx(1, rel=1e-5)
    assert one["predicted"] == max(one["probabilities"], key=one["probabilities"].get)
  rows = tasks.read(NUMBER, [("x", "2.5"), ("y", 4)], T)
  answers = NUMBER.answers(rows, dict(number=np.array([-1.0, 4.5], np.float32)), None)
  assert answers == [dict(predicted=0.0, expected=2.5), dict(predicted=4.5, expected=4.0)]


def test_a_decoder_tells_by_its_last_token(on):
  objective = Classification(labels=LABELS, pooling="last")
  rows = tasks.read(objective, ROWS, T, "gpt2")
  tight, wide = (tasks.batch_of(objective, rows, length, "gpt2") for length in (32, 40))
  assert tight["tokens"][1][tight["segments"][1].sum() - 1] == tasks.tokenizer("gpt2").end
  model = tasks.model_of(objective, "gpt2", kind="decoder", head_bias=False)
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    z_BC, other_BC = (np.asarray(objective.scores(model, params, place(batch))) for batch in (tight, wide))
    alone = {name: x[2:3, : tight["segments"][2].sum()] for name, x in tight.items() if x.ndim == 2}
    hidden_BTD = model.apply(params, place(alone)).hidden
  np.testing.assert_allclose(z_BC, other_BC, rtol=1e-4, atol=1e-5)
  expected = np.asarray(hidden_BTD)[0, -1] @ np.asarray(params["head"]["classes"])
  np.testing.assert_allclose(z_BC[2], expected, rtol=1e-4, atol=1e-5)


def trained(objective, model, params, batch, key=0):
  run = functools.partial(loss_sums, model=model, objective=objective, train=True)
  return jax.device_get(jax.jit(run)(params, place(batch), jax.random.key(key)))


def test_r_drop_and_label_smoothing(told, on):
  batch, params = told[ONE][1:3]
  model = tasks.model_of(ONE, pooler="tanh", dropout=0.2)
  weights = dict(batch, weights=np.arange(8, dtype=np.float32))
  dropped, both = (Classification(labels=LABELS, r_drop=weight) for weight in (0.5, 2.0))
  with on():
    keys = jax.random.key(0), jax.random.fold_in(jax.random.key(0), 1 << 20)
    z, other = (np.asarray(ONE.scores(model, params, place(batch), key, True)) for key in keys)
    found = [trained(one, model, params, weights) for one in (dropped, both)]
    still = trained(both, tasks.model_of(ONE, pooler="tanh"), params, weights)
    smooth, sums = trained(Classification(labels=LABELS, label_smoothing=0.1), told[ONE][0], params, weights)
  p, q = tasks.log_softmax(z), tasks.log_softmax(other)
  nll_B = -(p + q)[np.arange(8), batch["labels"]] / 2
  apart_B = np.sum(np.exp(p) * (p - q) + np.exp(q) * (q - p), 1) / 2
  for (total, sums_), weight in zip(found, (0.5, 2.0)):
    assert total == pytest.approx(np.sum(weights["weights"] * (nll_B + weight * apart_B)), rel=1e-4)
    assert sums_["loss"] == pytest.approx(np.sum(weights["weights"] * nll_B), rel=1e-4)
    assert sums_["r_drop"] == pytest.approx(np.sum(weights["weights"] * apart_B), rel=1e-3)
  assert still[1]["r_drop"] == 0 and still[0] == still[1]["loss"]
  with on():
    logp = tasks.log_softmax(ONE.scores(told[ONE][0], params, place(batch)))
  expected_B = -0.9 * logp[np.arange(8), batch["labels"]] - 0.1 * logp.mean(1)
  assert smooth == pytest.approx(np.sum(weights["weights"] * expected_B), rel=1e-5)
  assert sums["loss"] == pytest.approx(-np.sum(weights["weights"] * logp[np.arange(8), batch["labels"]]), rel=1e-5)


def test_r_drop_of_numbers_is_a_squared_difference():
  a, b = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [2.0]])
  assert NUMBER.apart(a, b).tolist() == [4.0, 0.0]


def test_a_model_of_one_type_of_tokens_reads_a_pair(on):
  """RoBERTa has one, whatever text a token is of: the second text's type has no row of its own."""
  rows = tasks.read(PAIR, [("hello", "the king", "mad")] * 2, T, "roberta")
  batch = tasks.batch_of(PAIR, rows, T, "roberta")
  assert batch["token_types"].any()
  model = tasks.model_of(PAIR, "roberta", token_types=1)
  with on():
    params = jax.jit(model.init)(jax.random.key(0))
    z_BC, same_BC = (
      np.asarray(PAIR.scores(model, params, place(one)))
      for one in (batch, dict(batch, token_types=np.zeros_like(batch["token_types"])))
    )
  assert np.isfinite(z_BC).all() and (z_BC == same_BC).all()


@pytest.mark.parametrize("name", ["sequence", "token"])
def test_what_goes_into_the_head_is_dropped_out_while_it_trains(name, one_device):
  objective = ONE if name == "sequence" else Tagging(labels=("A", "B"), scheme=None)
  model = tasks.model_of(objective, pooler="tanh" if name == "sequence" else None, dropout=0.5)
  params = jax.jit(model.init)(jax.random.key(0))
  rows = [(text, "glad") for text in TEXTS] if name == "sequence" else [([text], ["B"]) for text in TEXTS]
  batch = place(tasks.batch_of(objective, tasks.read(objective, rows, T), T))
  hidden_BTD = model.apply(params, batch).hidden
  plain = np.asarray(model.classify(params, hidden_BTD, batch))
  run = jax.jit(lambda key: model.classify(params, hidden_BTD, batch, key))
  found = np.stack([run(jax.random.key(number)) for number in range(500)])
  assert found.std(0).min() > 0.01
  np.testing.assert_allclose(found.mean(0), plain, rtol=0, atol=5 * (found.std(0) / 500**0.5).max())
  still = dataclasses.replace(model, config=dataclasses.replace(model.config, dropout=0.0))
  quiet = [objective.scores(model, params, batch, key, False) for key in (None, jax.random.key(0))]
  np.testing.assert_array_equal(*quiet)
  np.testing.assert_array_equal(still.classify(params, hidden_BTD, batch, jax.random.key(0)), plain)


@pytest.mark.parametrize("objective", [ONE, NUMBER, Tagging(labels=("A", "B"), scheme=None), CHOICE], ids=str)
def test_the_loss_drops_what_goes_into_its_head(objective, one_device, monkeypatch):
  """In training alone, whatever the layers drop: they drop nothing here."""
  model = tasks.model_of(objective, dropout=0.5)
  params, apply = jax.jit(model.init)(jax.random.key(0)), type(model).apply
  monkeypatch.setattr(type(model), "apply", lambda *a, key=None, train=False, **how: apply(*a, **how))
  rows = {
    "classification": [(text, "glad") for text in TEXTS],
    "regression": [(text, 2.0) for text in TEXTS],
    "tagging": [([text or "a"], ["B"]) for text in TEXTS],
    "multiple_choice": [(text, ["yes", "no"], 1) for text in TEXTS],
  }[objective.name]
  batch = place(tasks.batch_of(objective, tasks.read(objective, rows, T), T))

  def loss(seed, train):
    return float(objective.loss(model, params, batch, jax.random.key(seed), train)[0])

  assert abs(loss(1, True) - loss(2, True)) > 1e-3 and loss(1, False) == loss(2, False)
