"""The door: what is wrong cannot get in, all of it is named at once, and what got in comes out the same."""

import dataclasses
import json
import subprocess
import sys

import ml_collections
import pytest

from fmjax import recipe
from fmjax.config import from_config_dict, to_dict
from fmjax.corpus import Component
from fmjax.errors import FmjaxError
from fmjax.objectives import OBJECTIVES
from tests.objectives.examples import NEEDED, made


def problems(tree):
  with pytest.raises(FmjaxError) as caught:
    from_config_dict(tree)
  assert caught.value.code == "CONFIG" and caught.value.status == 78
  assert len(str(caught.value).splitlines()) <= 6
  return str(caught.value)


@pytest.mark.parametrize(
  ("tree", "words"),
  [
    (dict(modle=dict(D=8)), ["modle", "'model'"]),
    (dict(model=dict(dropuot=0.1)), ["model.dropuot=0.1", "'dropout'"]),
    (dict(model=dict(D=30)), ["model.D=30", "model.N=4", "model.H"]),
    (dict(model=dict(N=4, K=3)), ["model.K=3", "2 or 4"]),
    (dict(model=dict(D="wide")), ["model.D='wide'", "whole number"]),
    (dict(model=dict(D=True)), ["model.D=True"]),
    (dict(model=dict(norm="layr")), ["'layr'", "'layer'"]),
    (dict(model=dict(preset="gpt3")), ["gpt3", "'gpt2'"]),
    (dict(model=dict(dropout=1.0)), ["[0, 1)"]),
    (dict(model=7), ["model=7", "branch"]),
    (dict(optimizer=dict(name="adam")), ["'adam'", "'adamw'"]),
    (dict(optimizer=dict(name="sgd", b1=0.9)), ["optimizer.b1"]),
    (dict(optimizer=dict(learning_rate=float("nan"))), ["finite"]),
    (dict(objective=dict(name="next_tokn")), ["'next_token'"]),
    (dict(train=dict(steps=10, epochs=1.0)), ["train.epochs", "train.steps=10"]),
    (dict(train=dict(batch_size=10, accumulate=4)), ["accumulate=4", "2 or 5"]),
    (dict(train=dict(profile=(5, 5))), ["profile"]),
    (dict(train=dict(steps=5), optimizer=dict(warmup_steps=6)), ["warmup_steps=6", "train.steps=5"]),
    (dict(mesh=dict(data=None)), ["only one axis may be None", "mesh.fsdp"]),
    (dict(mesh=dict(context=2)), ["mesh.context=2"]),
    (dict(model=dict(preset="gpt2"), data=dict(sequence_length=2048)), ["sequence_length=2048", "1024"]),
    (dict(data=dict(source="text")), ["data.path"]),
    (dict(seed=-1), ["seed=-1"]),
    (dict(data=dict(mixture={})), ["data.mixture", "no source"]),
    (dict(data=dict(mixture=3)), ["data.mixture=3", "list"]),
    (dict(data=dict(mixture=dict(a=3))), ["data.mixture", "is a branch"]),
    (dict(data=dict(path="x", mixture=dict(a={}))), ["data.path='x'", "own paths"]),
    (dict(data=dict(mixture=[dict(name="a"), dict(name="a")])), ["data.mixture='a'", "two sources"]),
    (dict(data=dict(mixture={"a b": {}})), ["data.mixture.a b.name='a b'", "letters"]),
    (dict(data=dict(mixture=[{}])), ["data.mixture.0.name=None"]),
    (dict(data=dict(mixture=dict(a=dict(weight=-1.0)))), ["data.mixture.a.weight=-1.0", "negative"]),
    (dict(data=dict(mixture=dict(a=dict(wieght=1.0)))), ["data.mixture.a.wieght", "'weight'"]),
    (dict(data=dict(mixture=dict(a=dict(epochs=0)))), ["data.mixture.a.epochs", "positive"]),
    (dict(data=dict(mixture=dict(a=dict(cap=0)))), ["data.mixture.a.cap=0", "at least 1"]),
    (dict(data=dict(mixture=dict(a=dict(source="text")))), ["data.mixture.a.path", "needs a file"]),
    (dict(data=dict(mixture=dict(a=dict(schedule=[[0, 1], [0, 2]])))), ["data.mixture.a.schedule", "in order"]),
    (dict(data=dict(mixture=dict(a=dict(schedule=[[5, 1]])))), ["data.mixture.a.schedule", "from step 0 on"]),
    (dict(data=dict(mixture=dict(a=dict(schedule=[])))), ["data.mixture.a.schedule", "from step 0 on"]),
    (dict(data=dict(mixture=dict(a=dict(schedule=[[0, -1]])))), ["data.mixture.a.schedule", "none negative"]),
    (dict(data=dict(mixture=dict(a=dict(schedule=[0, 1])))), ["data.mixture.a.schedule", "2 values"]),
    (dict(data=dict(mixture=dict(a=dict(weight=1.0, schedule=[[0, 1]])))), ["data.mixture.a.weight", "choose one"]),
    (dict(data=dict(mixture=dict(a=dict(weight=-1), b=dict(cap=0)))), ["mixture.a.weight", "mixture.b.cap"]),
    (dict(data=dict(temperature=0.5)), ["data.temperature=0.5", "at least 1"]),
  ],
)
def test_a_wrong_field_is_named_with_its_law_and_its_remedy(tree, words):
  text = problems(tree)
  assert all(word in text for word in words), text


def test_everything_wrong_is_told_at_once_in_six_lines():
  tree = dict(model=dict(D=30, norm="x", V="v"), train=dict(steps=-1, log_evry=1), data=dict(workers=-2), sed=1)
  text = problems(tree)
  for key in ("model.D", "model.norm", "model.V", "train.steps", "train.log_evry", "data.workers", "sed"):
    assert key in text


def test_a_config_comes_out_as_it_went_in():
  given = ml_collections.ConfigDict(dict(model=dict(preset="gpt2", D=96, N=3), optimizer=dict(name="lion", b2=0.98),
                                         train=dict(profile=(3, 5)), seed=4))  # fmt: skip
  config = from_config_dict(given)
  assert (config.model.D, config.model.L, config.model.dropout, config.optimizer.b2) == (96, 12, 0.1, 0.98)
  assert from_config_dict(json.loads(json.dumps(to_dict(config)))) == config


MIXTURE = dict(
  code=dict(source="text", path="a/*.py", weight=2.0),
  books=dict(source="jsonl", path="b", columns=("text",), cap=1000, epochs=2.0),
  web=dict(source="parquet", path="c", schedule=((0, 1.0), (500, 0.25))),
)


def mixture_of(tree):
  return from_config_dict(tree).data.mixture


def test_a_mixture_comes_out_as_it_went_in():
  as_dict = dict(data=dict(mixture=MIXTURE, temperature=2.0))
  as_list = dict(
    data=dict(mixture=[dict(name=name, **fields) for name, fields in sorted(MIXTURE.items())], temperature=2.0)
  )
  config = from_config_dict(as_dict)
  assert config == from_config_dict(as_list) == from_config_dict(ml_collections.ConfigDict(as_dict))
  assert [one.name for one in config.data.mixture] == ["books", "code", "web"]
  assert config.data.mixture[2].schedule == ((0, 1.0), (500, 0.25))
  saved = json.loads(json.dumps(to_dict(config)))
  assert from_config_dict(saved) == config and isinstance(saved["data"]["mixture"], list)


@pytest.mark.parametrize("saved", [False, True])
def test_a_word_changes_one_source_of_a_mixture(saved):
  tree = dict(data=dict(mixture=MIXTURE))
  tree = json.loads(json.dumps(to_dict(from_config_dict(tree)))) if saved else tree
  kept = json.dumps(tree)
  books, code, web = mixture_of(tree)
  words = {"data.mixture.code.weight": "3", "data.mixture.web.schedule": "((0, 2), (9, 1))"}
  changed = mixture_of(recipe.override(tree, words))
  assert changed == (books, dataclasses.replace(code, weight=3.0),
                     dataclasses.replace(web, schedule=((0, 2.0), (9, 1.0))))  # fmt: skip
  more = recipe.override(tree, {"data.mixture.new.source": "text", "data.mixture.new.path": "d"})
  assert mixture_of(more) == (books, code, Component(name="new", source="text", path="d"), web)
  assert json.dumps(tree) == kept, "the tree that was given stays as it is"


def test_a_mixture_may_be_edited_on_resume_and_nothing_else_of_the_data():
  config = from_config_dict(dict(data=dict(mixture=MIXTURE)))
  edited = from_config_dict(recipe.override(to_dict(config), {"data.mixture.code.weight": "3"}))
  assert [key for key, _, _ in recipe.differences(config, edited)] == ["data.mixture"]
  assert recipe.allowed("data.mixture") and recipe.allowed("data.temperature")
  assert not recipe.harmless("data.mixture")
  for key in (
    "data.packed",
    "data.tokenizer",
    "data.sequence_length",
    "data.cleaning.languages",
    "data.eval_fraction",
  ):
    assert not recipe.allowed(key)
  assert recipe.config_hash(config) == recipe.config_hash(edited)


def test_one_source_is_a_mixture_of_one():
  config = from_config_dict(dict(data=dict(source="text", path="x", eval_path="y", columns=["text"])))
  assert config.data.components == (Component(name="text", weight=1.0, source="text", path="x", eval_path="y",
                                              columns=("text",)),)  # fmt: skip


def test_a_changed_name_drops_the_old_names_fields():
  tree = dict(optimizer=dict(name="adamw", b1=0.8, learning_rate=0.1))
  config = from_config_dict(recipe.override(tree, {"optimizer.name": "sgd", "optimizer.momentum": "0.5"}))
  assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.learning_rate) == ("sgd", 0.5, 0.1)
  assert tree["optimizer"]["b1"] == 0.8


def test_words_are_literals_or_text():
  words = {"train.profile": "(10,15)", "data.path": "a/b.txt", "model.scan_layers": "False", "data.source": "text"}
  tree = recipe.override({}, words)
  assert (
    tree["train"]["profile"] == (10, 15) and tree["data"]["path"] == "a/b.txt" and not tree["model"]["scan_layers"]
  )


def test_epochs_given_on_the_command_line_replace_the_recipes_steps():
  assert from_config_dict(recipe.override(dict(train=dict(steps=5)), {"train.epochs": "2"})).train.steps is None


def test_what_may_change_on_resume():
  for key in ("train.steps", "train.eval_every", "mesh.tensor", "checkpoint.keep", "train.remat", "train.log_every"):
    assert recipe.harmless(key)
  for key in (
    "train.batch_size",
    "train.accumulate",
    "seed",
    "model.D",
    "optimizer.learning_rate",
    "data.path",
    "train.dtype",
  ):
    assert not recipe.harmless(key)


def test_the_hash_of_a_config_ignores_what_may_change():
  a, b, c = (from_config_dict(dict(train=t)) for t in (dict(steps=5), dict(steps=6), dict(batch_size=8)))
  assert recipe.config_hash(a) == recipe.config_hash(b) != recipe.config_hash(c)


def test_recipes_that_cannot_be_read(tmp_path):
  (tmp_path / "broken.py").write_text("def get_config():\n  return undefined\n")
  with pytest.raises(FmjaxError, match="does not run"):
    recipe.load_recipe(str(tmp_path / "broken.py"))
  with pytest.raises(FmjaxError) as caught:
    recipe.load_recipe(str(tmp_path / "borken.py"))
  assert "broken.py" in str(caught.value)


def test_a_recipe_takes_its_argument(tmp_path):
  body = (
    "import ml_collections\ndef get_config(arg=None):\n  return ml_collections.ConfigDict(dict(seed=int(arg or 0)))\n"
  )
  (tmp_path / "one.py").write_text(body)
  assert recipe.load_recipe(f"{tmp_path}/one.py:7") == {"seed": 7}
  assert recipe.load_recipe(f"{tmp_path}/one.py") == {"seed": 0}


@pytest.mark.parametrize(
  "path, objective", [("quickstart", "next_token"), ("shakespeare_char", "next_token"), ("multi30k", "seq2seq")]
)
def test_every_recipe_is_a_config(path, objective):
  words = {"data.path": "x"} if path == "shakespeare_char" else {}
  found = from_config_dict(recipe.override(recipe.load_recipe(f"configs/{path}.py"), words))
  assert found.objective.name == objective and from_config_dict(to_dict(found)) == found


def test_help_needs_no_jax():
  code = "import sys; from fmjax.__main__ import arguments; arguments.parser(); assert 'jax' not in sys.modules"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_config_error_starts_no_backend(tmp_path):
  code = (
    "import sys, fmjax.__main__ as m\n"
    f"status = m.main(['train', '--config=configs/quickstart.py', '--workdir={tmp_path}/w', '--config.model.D=x'])\n"
    "from jax._src import xla_bridge\nassert status == 78 and not xla_bridge._backends"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "model.D='x'" in done.stderr and not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if made(name).shortest > 1])
def test_a_sequence_without_room_for_text_is_refused(name):
  """A row of no tokens would be planned without end."""
  shortest = made(name).shortest
  found = problems(dict(objective=dict(name=name, **NEEDED.get(name, {})), data=dict(sequence_length=shortest - 1)))
  assert f"data.sequence_length={shortest - 1}: leaves no room for text" in str(found)
