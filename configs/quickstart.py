"""What can two CPU cores learn of Python's standard library in three minutes?

  fmjax train --config=configs/quickstart.py --workdir=runs/quickstart

A Llama-like decoder of 2.2 million parameters, 2 million tokens (0.6 epochs), Muon. Cost: 3 minutes on two cores.
Expects 1.51 bits a byte on the eval files of Python 3.11.7 (experiments/2026-11-quickstart).
"""

import ml_collections


def get_config():
  return ml_collections.ConfigDict(
    dict(
      data=dict(source="stdlib", tokenizer="sentencepiece", vocab_size=2048, sequence_length=128),
      model=dict(
        D=192, L=4, N=3, F=512, norm="rms", activation="silu", gated=True, bias=False, positions="rotary",
        scan_layers=False,
      ),
      # The best of five runs tried: experiments/2026-11-quickstart.
      optimizer=dict(name="muon", learning_rate=6e-3, schedule="cosine", warmup_steps=50),
      train=dict(steps=960, batch_size=16, eval_every=480, sample_tokens=96, sample_prompt="def "),
      checkpoint=dict(every=480),
    )
  )  # fmt: skip
