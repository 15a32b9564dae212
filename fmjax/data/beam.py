"""Preparation as an Apache Beam pipeline, on the runner that the user names.

A task is a small record and its results are files below the cache's folder, so that folder must be one that every
worker sees under the same path: a network file system, or a bucket that is mounted. The files are the same bytes
that a local preparation writes.
"""

from fmjax.errors import FmjaxError, extra


class Beam:
  """`runner` is one of Beam's (DirectRunner, DataflowRunner, SparkRunner, FlinkRunner), `options` its options."""

  def __init__(self, runner: str, options: list[str]):
    with extra("beam", "Apache Beam is not installed", ", or --runner=local"):
      from apache_beam.options.pipeline_options import PipelineOptions
    self.options = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])

  def __call__(self, function, tasks, done):
    import apache_beam as beam

    try:
      with beam.Pipeline(options=self.options) as pipeline:
        # Shuffled, or the tasks that were created together would be done by one worker.
        _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(function)
    except Exception as error:
      raise meant_by(error) from error
    for task in tasks:
      done(task)


def meant_by(error: BaseException) -> BaseException:
  """The error of a task, which Beam hides in its own, or that itself."""
  below = error
  while below is not None and not isinstance(below, FmjaxError):
    below = below.__cause__ or below.__context__
  return error if below is None else below
