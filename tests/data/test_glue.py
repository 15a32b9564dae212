"""GLUE's and SuperGLUE's tasks as TFDS prepares them, read by their recipe: each value in its place."""

import csv
import importlib.util
import sys

import numpy as np
import pytest

from fmjax import data, recipe
from fmjax.config import from_config_dict
from fmjax.corpus import DataConfig
from fmjax.data import records
from fmjax.data.loader import Batches
from fmjax.objectives.seq2seq import SequenceToSequence

# TFDS asks protobuf 6, which Apache Beam brings, for what that deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")
MODEL = {"init_from": "None", "model.kind": "encoder", "model.D": "8", "model.L": "1", "model.N": "1"}


def glue_files(folder, task):
  """The files that GLUE's own download has, of three records."""
  names = dict(text="sentence1", other="sentence2", label="label")
  rows = [("it rains", "it is wet", "entailment"), ("a dog", "a cat", "not_entailment"), ("x", "y", "entailment")]
  if task == "stsb":
    names["label"] = "score"
    rows = [(text, other, score) for (text, other, _), score in zip(rows, ("5.0", "1.25", "0.0"))]
  for split in ("train", "dev"):
    with open(folder / f"{split}.tsv", "w") as stream:
      csv.writer(stream, delimiter="\t").writerows([["index", *names.values()], *([0, *row] for row in rows)])
  return rows


def prepared_of(task, folder, **more):
  words = {"data.data_dir": str(folder), "data.tokenizer": "bytes", "data.cache": str(folder / "cache")} | MODEL
  config = from_config_dict(recipe.override(recipe.load_recipe(f"configs/glue.py:{task}"), words | more))
  for cache in (records.builder_of, records.examples_of):
    cache.cache_clear()
  return config, data.prepare(config.data, config.objective)


def texts_of(prepared, split, *fields):
  (one,) = prepared.splits[split]
  rows = one.read(list(range(one.examples)))
  return [tuple(prepared.tokenizer.decode(row[field].tolist()) for field in fields) for row in rows], rows


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_glue_by_name_from_its_own_builder(task, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.text import glue

  told = glue_files(tmp_path, task)

  def splits(self, manager):
    return [
      tfds.core.SplitGenerator(name=name, gen_kwargs=dict(data_file=str(tmp_path / f"{file}.tsv"), split=file))
      for name, file in (("train", "train"), ("validation", "dev"))
    ]

  monkeypatch.setattr(glue.Glue, "_split_generators", splits)
  tfds.builder(f"glue/{task}", data_dir=tmp_path, file_format="array_record").download_and_prepare()
  config, prepared = prepared_of(task, tmp_path)
  for split in ("train", "eval"):
    found, rows = texts_of(prepared, split, "text", "other")
    assert sorted(found) == sorted((text, other) for text, other, _ in told)
    for row, pair in zip(rows, found):
      (label,) = [label for *texts, label in told if tuple(texts) == pair]
      wanted = config.objective.labels.index(label) if task == "rte" else pytest.approx(float(label))
      assert config.objective.label_in(row["label"]) == wanted
  assert "tensorflow" not in sys.modules


RECORDS = {
  "boolq": dict(question=["is it wet", "is it dry"], passage=["It rains.", "It snows."], label=["True", "False"]),
  "copa": dict(
    premise=["It rained.", "He ran."], question=["effect", "cause"], choice1=["It was wet.", "A dog came."],
    choice2=["It was dry.", "He slept."], label=["choice1", "choice2"],
  ),
  "wic": dict(
    word=["bank", "bank"], sentence1=["a bank", "the bank"], sentence2=["banks", "a river"], label=["True", "False"]
  ),
  "wsc": dict(
    text=["Ann fed it.", "He saw Bo."], span1_text=["Ann", "Bo"], span2_text=["it", "He"], label=["False", "True"]
  ),
}  # fmt: skip
TEXTS = {
  "boolq": [("is it wet", "It rains."), ("is it dry", "It snows.")],
  "wic": [("bank: a bank", "banks"), ("bank: the bank", "a river")],
  "wsc": [("Ann fed it.", "it: Ann"), ("He saw Bo.", "He: Bo")],
}


@pytest.fixture(scope="module")
def super_glue(tmp_path_factory):
  """Data sets with the features of SuperGLUE's builder, whose own code asks for TensorFlow."""
  import tensorflow_datasets as tfds

  class SuperGlue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version=tfds.core.Version("1.0.2")) for name in RECORDS]

    def _info(self):
      columns = RECORDS[self.builder_config.name]
      names = ["choice1", "choice2"] if self.builder_config.name == "copa" else ["False", "True"]
      features = dict.fromkeys(columns, tfds.features.Text()) | dict(label=tfds.features.ClassLabel(names=names))
      features["idx"] = np.int32
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
      return dict(train=self._generate_examples(), validation=self._generate_examples())

    def _generate_examples(self):
      columns = RECORDS[self.builder_config.name]
      for number, values in enumerate(zip(*columns.values())):
        yield number, dict(zip(columns, values), idx=number)

  folder = tmp_path_factory.mktemp("super_glue")
  for name in RECORDS:
    SuperGlue(config=name, data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


@pytest.mark.parametrize("task", TEXTS)
def test_super_glue_by_name(task, super_glue):
  config, prepared = prepared_of(task, super_glue)
  for split in ("train", "eval"):
    found, rows = texts_of(prepared, split, "text", "other")
    labels = dict(zip(TEXTS[task], RECORDS[task]["label"]))
    assert sorted(found) == sorted(labels)
    assert [config.objective.labels[row["label"][0]] for row in rows] == [labels[pair] for pair in found]


def test_choices_that_are_columns_are_lines_of_a_template(super_glue):
  _, prepared = prepared_of("copa", super_glue)
  found, rows = texts_of(prepared, "train", "context", "choice_0", "choice_1")
  wanted = {
    ("It rained. What was the effect?", "It was wet.", "It was dry."): 0,
    ("He ran. What was the cause?", "A dog came.", "He slept."): 1,
  }
  assert {one: row["label"][0] for one, row in zip(found, rows)} == wanted


def test_every_task_as_text_has_its_labels_names(super_glue):
  columns = ("boolq passage: {passage} question: {question}", "{label}")
  where = dict(source="tfds", path="super_glue/boolq:1.0.2", data_dir=str(super_glue), eval_split="validation")
  made = DataConfig(**where, columns=columns, tokenizer="bytes", cache=str(super_glue / "text"))
  prepared = data.prepare(made, SequenceToSequence())
  found, _ = texts_of(prepared, "train", "source", "target")
  assert sorted(found) == [
    ("boolq passage: It rains. question: is it wet", "True"),
    ("boolq passage: It snows. question: is it dry", "False"),
  ]


def every_task():
  where = importlib.util.spec_from_file_location("glue", "configs/glue.py")
  module = importlib.util.module_from_spec(where)
  where.loader.exec_module(module)
  return module


@pytest.mark.parametrize("task", [*every_task().GLUE, *every_task().SUPER_GLUE])
def test_every_task_is_a_config_that_its_builder_knows(task):
  """The columns of each are features of its builder's config, where that can be read without TensorFlow."""
  config = from_config_dict(recipe.override(recipe.load_recipe(f"configs/glue.py:{task}"), MODEL))
  assert config.train.stop[0] in config.objective.judged_by and config.data.eval_split
  if task not in every_task().GLUE:
    return
  from tensorflow_datasets.text import glue

  (builder,) = [one for one in glue.Glue.BUILDER_CONFIGS if one.name == task]
  assert f"glue/{task}:{builder.version}" == config.data.path
  assert set(config.data.columns) == {*builder.text_features, "label"}
  if task == "stsb":
    assert builder.label_classes is None
  else:
    assert tuple(builder.label_classes) == config.objective.labels


def test_a_batch_of_a_task(super_glue):
  config, prepared = prepared_of("copa", super_glue, **{"train.batch_size": "2"})
  batch = next(iter(Batches(prepared, "train", 2, 0)))[1]
  assert batch["tokens"].shape[0] == 2 and batch["tokens"].shape[1] % 2 == 0
