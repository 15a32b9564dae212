"""A run of seconds, for tests: every part of the house at its smallest."""

import ml_collections


def get_config():
  return ml_collections.ConfigDict(
    dict(
      data=dict(source="text", tokenizer="bytes", sequence_length=16, eval_fraction=0.2),
      model=dict(D=16, L=2, N=2),
      optimizer=dict(schedule="constant", warmup_steps=2, learning_rate=1e-2),
      train=dict(steps=6, batch_size=8, log_every=1, eval_every=3),
      checkpoint=dict(every=2),
    )
  )
