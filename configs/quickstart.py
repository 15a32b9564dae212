"""What can two CPU cores learn of Python's standard library in three minutes?

fmjax train --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections


def get_config():
  return ml_collections.ConfigDict(
    dict(
      data=dict(source="stdlib", tokenizer="sentencepiece", vocab_size=4096, sequence_length=128),
      model=dict(
        D=256,
        L=4,
        N=4,
        norm="rms",
        activation="silu",
        gated=True,
        bias=False,
        positions="rotary",
        F=640,
        scan_layers=False,
      ),  # fmt: skip
      optimizer=dict(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=50, weight_decay=0.1),
      train=dict(steps=600, batch_size=16, eval_every=200, eval_batches=32, sample_tokens=96, sample_prompt="def "),
      checkpoint=dict(every=200),
    )
  )
