"""Laws of a student: its gradient, plain training at weight 0, a teacher that rests, the same on any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import optim
from fmjax.adapt import METHODS, Adaptation, joined
from fmjax.architecture import TransformerConfig
from fmjax.config import from_config_dict
from fmjax.errors import FmjaxError
from fmjax.leaves import by_path
from fmjax.models.activations import ACTIVATIONS
from fmjax.objectives import Classification, Contrastive, MaskedToken, NextToken, Regression, Tagging, distillation
from fmjax.objectives.distillation import Distillation, Distilled, Side, Taught, divergence
from fmjax.step import loss_sums, place, started, train_step
from tests.objectives import tasks

T, SIZE = 16, 100
LABELS = ("sad", "glad", "mad")
TEXTS = ["hello", "the king", "o romeo romeo wherefore art thou", "", "deny thy father", "a", "refuse", "thy name"]
CLASSES, NUMBER, TAGS = Classification(labels=LABELS), Regression(), Tagging(labels=("A", "B"), scheme=None)
SIZES = dict(V=SIZE, D=32, N=4, F=32, max_positions=64, init_std=0.3)
OBJECTIVES = {
  "classification": CLASSES,
  "regression": NUMBER,
  "tagging": TAGS,
  "next_token": NextToken(),
  "masked_token": MaskedToken(),
}


def batch_of(name: str) -> dict:
  if name in ("classification", "regression"):
    objective = OBJECTIVES[name]
    labels = LABELS if name == "classification" else (0.5, 1.5, -1.0)
    return tasks.batch_of(objective, tasks.read(objective, [(x, labels[n % 3]) for n, x in enumerate(TEXTS)], T), T)
  if name == "tagging":
    rows = [(text.split(), ["A", "B"] * 3 if len(text.split()) == 6 else ["B"] * len(text.split())) for text in TEXTS]
    return tasks.batch_of(TAGS, tasks.read(TAGS, rows, T), T)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, SIZE, (8, T), dtype=np.int32)
  weights = (np.arange(T) < rng.integers(4, T, (8, 1))).astype(np.float32)
  if name == "next_token":
    return dict(tokens=tokens, targets=np.roll(tokens, -1, 1), weights=weights)
  places = np.stack([rng.permutation(8)[:3] for _ in range(8)]).astype(np.int32)
  return dict(tokens=tokens, segments=weights.astype(np.int32), places=places,
              targets=np.take_along_axis(tokens, places, 1), weights=np.ones((8, 3), np.float32))  # fmt: skip


def pair(name: str, *, wide: bool = False, dropout: float = 0.0, **how):
  """(a student and its teacher as one model, its loss, the student as a plain model)."""
  objective = OBJECTIVES[name]
  if objective.task == "lm":
    kind = "decoder" if name == "next_token" else "encoder"
    student = objective.model(TransformerConfig(**SIZES, kind=kind, L=1, dropout=dropout))
  else:
    student = tasks.model_of(objective, pooler="tanh", dropout=dropout)
  config = dataclasses.replace(student.config, L=3, dropout=0.3, **(dict(D=48, H=12) if wide else {}))
  teacher = dataclasses.replace(student, config=config)
  how = Distillation(teacher="x", **how)
  return (
    Taught(student.config, teacher=teacher, projects=wide and how.hidden_weight > 0),
    Distilled(objective, how),
    student,
  )


def differentiated(model, loss, batch, key=None):
  """A function of all parameters, the teacher's among them: ((total, sums), gradient)."""
  run = functools.partial(loss_sums, model=model, objective=loss, train=key is not None)
  return functools.partial(jax.jit(jax.value_and_grad(run, has_aux=True)), batch=place(batch), key=key)


def softmax(z):
  return np.exp(tasks.log_softmax(z))


def test_divergence_is_what_numpy_says_of_it():
  rng = np.random.default_rng(0)
  z, t = rng.normal(size=(2, 5, 7)).astype(np.float32) * 3
  logp, logq = tasks.log_softmax(z / 4), tasks.log_softmax(t / 4)
  np.testing.assert_allclose(divergence(z, t, 4.0), 16 * np.sum(np.exp(logq) * (logq - logp), -1), rtol=1e-4)
  found = jax.grad(lambda z: divergence(z, jnp.asarray(t), 4.0).sum())(jnp.asarray(z))
  np.testing.assert_allclose(found, 4 * (softmax(z / 4) - softmax(t / 4)), rtol=1e-4, atol=1e-6)
  pads = [jnp.pad(jnp.asarray(x), ((0, 0), (0, 2)), constant_values=-jnp.inf) for x in (z, t)]
  value, gradient = jax.value_and_grad(lambda z: divergence(z, pads[1], 4.0).sum())(pads[0])
  np.testing.assert_allclose(value, divergence(z, t, 4.0).sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, np.pad(found, ((0, 0), (0, 2))), rtol=1e-5, atol=1e-6)
  assert (divergence(z, z, 4.0) < 1e-5).all()
  np.testing.assert_allclose(divergence(z[:, :1], t[:, :1], 4.0), (z[:, 0] - t[:, 0]) ** 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_at_weight_1_is_that_of_the_divergence_alone(name, one_device):
  model, loss, _ = pair(name, weight=1.0, temperature=3.0)
  batch, objective = place(batch_of(name)), loss.objective
  params = jax.jit(model.init)(jax.random.key(0))
  (total, sums), gradient = differentiated(model, loss, batch)(params)
  own = {part: x for part, x in params.items() if part != "teacher"}

  def scores(one, params):
    hidden = one.apply(params, batch).hidden
    if objective.task != "lm":
      return one.classify(params, hidden, batch)
    return one.logits(params, objective.answering(hidden, batch))[..., :SIZE]

  @jax.jit
  def expected(own, theirs):
    z, back = jax.vjp(functools.partial(scores, model), own)
    t, weights = scores(model.teacher, theirs), jnp.asarray(batch["weights"])[..., None]
    if name == "regression":
      return jnp.sum(weights * (z - t) ** 2), back(2 * weights * (z - t))[0]
    logp, logq = jax.nn.log_softmax(z / 3), jax.nn.log_softmax(t / 3)
    value = 9 * jnp.sum(weights * jnp.exp(logq) * (logq - logp))
    return value, back(3 * weights * (jnp.exp(logp) - jnp.exp(logq)))[0]

  value, wanted = expected(own, params["teacher"])
  assert value > 0.1
  np.testing.assert_allclose([total, sums["distillation"]], [value, value], rtol=1e-4)
  for path, x in by_path(wanted).items():
    np.testing.assert_allclose(
      by_path(gradient)[path], x, rtol=1e-3, atol=1e-4 * np.abs(x).max() + 1e-6, err_msg=path
    )
  assert not any(np.any(x) for x in jax.tree.leaves(gradient["teacher"]))


def test_a_large_vocabulary_is_compared_in_parts(one_device):
  model, loss, _ = pair("next_token")
  params = jax.jit(model.init)(jax.random.key(0))
  batch = place(dict(batch_of("next_token"), weights=np.linspace(0.5, 2, 8 * T, dtype=np.float32).reshape(8, T)))

  def compared(params, chunk_bytes):
    sides = [Side(one, own, one.apply(own, batch).hidden) for one, own in
             ((model, params), (model.teacher, params["teacher"]))]  # fmt: skip
    return distillation.over_vocabulary(*sides, batch["weights"], 2.0, chunk_bytes)

  whole, parts = (
    jax.jit(jax.value_and_grad(functools.partial(compared, chunk_bytes=size)))(params)
    for size in (1 << 30, 4 * 8 * 128 * 3)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), whole, parts)


@pytest.mark.parametrize(("name", "wide"), [("classification", True), ("next_token", True), ("masked_token", False)])
def test_hidden_states_are_compared_layer_by_layer(name, wide, one_device):
  model, loss, _ = pair(name, wide=wide, weight=0.0, hidden_weight=0.25)
  batch = batch_of(name)
  params = jax.jit(model.init)(jax.random.key(0))
  assert ("projection" in params) == wide and by_path(params).keys() == model.declarations().keys()
  (total, sums), gradient = jax.device_get(differentiated(model, loss, batch)(params))
  own, theirs = (
    np.asarray(one.apply(tree, place(batch), hiddens=True).hiddens, np.float64)
    for one, tree in ((model, params), (model.teacher, params["teacher"]))
  )
  projected = own @ np.asarray(params["projection"], np.float64) if wide else own
  mean_BT = np.mean([(projected[n] - theirs[m]) ** 2 for n, m in ((0, 0), (1, 3))], (0, 3))
  real_BT = batch["segments"] if "segments" in batch else batch["weights"]
  rows = batch["weights"].reshape(8, -1).sum(1)
  assert sums["hidden"] == pytest.approx(np.sum(rows * (mean_BT * real_BT).sum(1) / real_BT.sum(1)), rel=1e-4)
  assert total == pytest.approx(sums["loss"] + 0.25 * sums["hidden"], rel=1e-5)
  assert not wide or np.abs(gradient["projection"]).max() > 1e-3


@pytest.mark.parametrize("name", ["classification", "next_token"])
def test_where_the_last_layers_look_is_compared(name, one_device):
  """What is computed once more is what the last layer itself weighs its values by."""
  model, loss, _ = pair(name, weight=0.0, attention_weight=0.25)
  batch = batch_of(name)
  params = jax.jit(model.init)(jax.random.key(0))
  (total, sums), gradient = jax.device_get(differentiated(model, loss, batch)(params))
  real_BT = batch["segments"] if "segments" in batch else batch["weights"]
  seen, text = [], np.asarray(batch.get("segments", np.ones((8, T)))) != 0
  for one, tree in ((model, params), (model.teacher, params["teacher"])):
    hiddens = one.apply(tree, place(batch), hiddens=True).hiddens
    p_BNTS = np.exp(np.asarray(one.gaze(tree, hiddens, place(batch)), np.float64))
    seen.append(p_BNTS)
    found = last_values(one, tree, hiddens, p_BNTS)
    np.testing.assert_allclose(found[text], np.asarray(hiddens[-1])[text], rtol=0, atol=2e-4)
  own, theirs = (np.maximum(p_BNTS, 1e-300) for p_BNTS in seen)
  terms_BT = np.sum(theirs * (np.log(theirs) - np.log(own)), -1).mean(1)
  rows = batch["weights"].reshape(8, -1).sum(1)
  assert sums["attention"] == pytest.approx(np.sum(rows * (terms_BT * real_BT).sum(1) / real_BT.sum(1)), rel=1e-4)
  assert sums["attention"] > 0.1 and total == pytest.approx(sums["loss"] + 0.25 * sums["attention"], rel=1e-5)
  assert np.abs(gradient["blocks"]["attention"]["q"]).max() > 1e-3
  assert not any(np.any(x) for x in jax.tree.leaves(gradient["teacher"]))


def last_values(model, params, hiddens_LBTD, p_BNTS):
  """What the last Block gives where its attention weighs values by `p_BNTS`."""
  config, layer = model.config, jax.tree.map(lambda x: np.asarray(x[-1], np.float64), params["blocks"])
  x = np.asarray(hiddens_LBTD[-2], np.float64)

  def norm(x, own):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_eps)
    return x * own["scale"] + own["bias"]

  post = config.norm_place == "post"
  y = x if post else norm(x, layer["attention_norm"])
  attention, feed = layer["attention"], layer["feedforward"]
  v = np.einsum("btd,dnh->btnh", y, attention["v"]) + attention.get("v_bias", 0)
  x = x + np.einsum("bnts,bsnh,nhd->btd", p_BNTS, v, attention["o"]) + attention.get("o_bias", 0)
  x = norm(x, layer["attention_norm"]) if post else x
  y = x if post else norm(x, layer["feedforward_norm"])
  hidden = np.asarray(ACTIVATIONS[config.activation](jnp.asarray(y @ feed["up"] + feed["up_bias"], jnp.float32)))
  x = x + hidden @ feed["down"] + feed["down_bias"]
  return norm(x, layer["feedforward_norm"]) if post else x


def test_both_losses_are_of_the_same_scores(one_device, monkeypatch):
  """Of a student whose head drops what goes into it: labels and teacher meet what is left."""
  model, loss, _ = pair("classification", weight=1.0, dropout=0.5)
  params, apply = jax.jit(model.init)(jax.random.key(0)), type(model).apply
  for cls in {type(model), type(model.teacher)}:
    monkeypatch.setattr(cls, "apply", lambda *a, key=None, train=False, **how: apply(*a, **how))
  batch = place(batch_of("classification"))
  one, other = (loss.loss(model, params, batch, jax.random.key(key), True)[2] for key in (1, 2))
  assert abs(one["distillation"] - other["distillation"]) > 1e-3
  quiet = [loss.loss(model, params, batch, jax.random.key(key), False)[2]["distillation"] for key in (1, 2)]
  assert quiet[0] == quiet[1]


def test_layers_meet_evenly():
  assert distillation.evenly(6, 12) == [0, 2, 4, 6, 8, 10, 12]
  assert distillation.evenly(4, 6) == [0, 1, 3, 4, 6]
  assert distillation.evenly(3, 3) == [0, 1, 2, 3] and distillation.evenly(2, 1) == [0, 0, 1]


@pytest.mark.parametrize("name", ["classification", "next_token"])
def test_weight_0_is_plain_training_and_the_teacher_rests(name, one_device):
  model, loss, student = pair(name, weight=0.0, dropout=0.2)
  batch = place(batch_of(name))
  found = []
  for one, objective in ((student, loss.objective), (model, loss)):
    adaptation = Adaptation(METHODS["full"](), one)
    tx = optim.make(optim.AdamW(eps=1e-4), adaptation.declarations())  # else rounding moves what has no gradient
    state, resting = jax.jit(functools.partial(started, adaptation=adaptation, tx=tx))(jax.random.key(0), {})
    step = jax.jit(functools.partial(train_step, model=one, objective=objective, tx=tx))
    before, numbers = jax.device_get(resting), []
    for _ in range(3):
      state, row = step(state, batch, dict(learning_rate=np.float32(1e-2)), resting)
      numbers.append(jax.device_get(row))
    found.append((numbers, jax.device_get(state)))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before, jax.device_get(resting)))
  (plain, state), (taught, other) = found
  assert by_path(resting).keys() == {f"teacher/{path}" for path in model.teacher.declarations()}
  assert taught[0]["distillation"] > 0.1
  for one, two in zip(plain, taught):
    for key in one:
      np.testing.assert_allclose(one[key], two[key], rtol=1e-6, atol=1e-6, err_msg=key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), state, other)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(one_device):
  for name in ("classification", "masked_token"):
    model, loss, student = pair(name, weight=1.0, hidden_weight=1.0, attention_weight=1.0)
    model = dataclasses.replace(model, teacher=student)
    own = jax.jit(student.init)(jax.random.key(0))
    (total, sums), gradient = differentiated(model, loss, batch_of(name))({**own, "teacher": own})
    assert abs(total) < 1e-5 and abs(sums["distillation"]) < 1e-5 and sums["hidden"] == sums["attention"] == 0
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) < 1e-4


@pytest.mark.parametrize("name", ["tagging", "next_token"])
def test_a_mesh_learns_what_one_device_does(name, on):
  model, loss, _ = pair(name, wide=True, weight=0.7, hidden_weight=0.3, attention_weight=0.2)
  found = []
  for sizes in (dict(), dict(data=2, fsdp=2, tensor=2), dict(fsdp=8)):
    with on(**sizes):
      params = jax.jit(model.init)(jax.random.key(0))
      found.append(jax.device_get(differentiated(model, loss, batch_of(name))(params)))
  for other in found[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found[0], other)


def test_what_is_put_beside_a_student_is_not_put_beside_its_teacher(one_device):
  model, loss, student = pair("next_token", wide=True, hidden_weight=1.0)
  adaptation = Adaptation(METHODS["lora"](rank=2), model, frozenset({"projection"}))
  params, resting = jax.eval_shape(adaptation.init, jax.random.key(0), {})
  assert {path.split("_lora")[0] for path in by_path(params)} == {
    "blocks/attention/q", "blocks/attention/v", "projection"}  # fmt: skip
  theirs = {path for path in by_path(resting) if path.startswith("teacher/")}
  assert theirs == {f"teacher/{path}" for path in model.teacher.declarations()}
  alone, own = model.alone(joined(resting, params))
  assert alone == student and not {"teacher", "projection"} & own.keys() and "blocks" in own


@pytest.mark.parametrize(
  ("tree", "words"),
  [
    (dict(distillation=dict(weight=1.5)), ["distillation.weight=1.5", "[0, 1]"]),
    (dict(distillation=dict(temperature=0)), ["distillation.temperature=0", "positive"]),
    (dict(distillation=dict(hidden_weight=-1.0)), ["distillation.hidden_weight=-1.0", "at least 0"]),
    (dict(distillation=dict(tempreature=2.0)), ["distillation.tempreature", "'temperature'"]),
    (dict(distillation=dict(teacher=3)), ["distillation.teacher=3", "text"]),
    (dict(distillation="runs/big"), ["distillation='runs/big'", "branch"]),
    (dict(init_layers=(0, 2), model=dict(L=2)), ["init_layers=(0, 2)", "init_from"]),
    (dict(init_layers="0,2"), ["init_layers='0,2'", "list"]),
  ],
)
def test_a_wrong_field_is_named_with_its_law(tree, words):
  with pytest.raises(FmjaxError) as caught:
    from_config_dict(tree)
  assert caught.value.code == "CONFIG" and all(word in str(caught.value) for word in words), caught.value


def test_what_a_teacher_cannot_teach_is_refused():
  how, encoder = Distillation(teacher="x"), TransformerConfig(kind="encoder")
  both = TransformerConfig(kind="encoder_decoder")
  dropped = dataclasses.replace(CLASSES, r_drop=1.0)
  asked = dataclasses.replace(how, hidden_weight=1.0)

  def wrong(how, objective, model):
    return [field for field, *_ in how.objective_laws(objective, model)]

  assert not any(wrong(how, one, encoder) for one in OBJECTIVES.values())
  assert wrong(how, Contrastive(), encoder) == ["teacher"] == wrong(how, dropped, encoder)
  assert wrong(asked, NextToken(), both) == ["hidden_weight"] and not wrong(how, NextToken(), both)
  looking = dataclasses.replace(how, attention_weight=1.0)
  relative = dataclasses.replace(encoder, positions="relative")
  assert [wrong(looking, CLASSES, one) for one in (both, relative, encoder)] == [["attention_weight"]] * 2 + [[]]
  assert not wrong(Distillation(), dropped, encoder)
