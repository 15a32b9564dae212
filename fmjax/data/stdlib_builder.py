"""A data set of TFDS made of Python's standard library, without TensorFlow: a pattern for one of your own.

    from fmjax.data.stdlib_builder import PythonStdlib
    PythonStdlib(data_dir="/data/tfds", file_format="array_record").download_and_prepare()

prepares it once. Then any run reads it by name, whether or not this code is there:

    --config.data.source=tfds --config.data.path=python_stdlib:1.0.0 --config.data.data_dir=/data/tfds
    --config.data.eval_split=eval
"""

import tensorflow_datasets as tfds

from fmjax.corpus import SourceConfig
from fmjax.data import sources

EVAL_FRACTION = 0.1


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
  """The source of each module in the running Python's standard library. TFDS calls it python_stdlib, by its name."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict({"name": tfds.features.Text(), "text": tfds.features.Text()})
    return tfds.core.DatasetInfo(builder=self, description=type(self).__doc__, features=features)

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(False), "eval": self._generate_examples(True)}

  def _generate_examples(self, wanted: bool):
    """(key, example); TFDS puts them into the order of the keys' hashes."""
    for part in sources.parts(SourceConfig(), EVAL_FRACTION):
      for document in part.documents():
        held = sources.held(document.name, EVAL_FRACTION) if document.held is None else document.held
        if held == wanted:
          yield document.name, {"name": document.name, "text": document.text}
