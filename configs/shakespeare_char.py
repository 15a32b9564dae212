"""Does the decoder reach nanoGPT's published loss on Shakespeare at character level, at its CPU recipe?

  fmjax train --config=configs/shakespeare_char.py --config.data.path=input.txt --workdir=runs/shakespeare_char

The text is char-rnn's input.txt (1,115,394 characters). nanoGPT's README: 4 layers, 4 heads, width 128, context 64,
batch 12, 2,000 steps, dropout 0; validation loss 1.88. This recipe's learning rate is three times nanoGPT's.

Expects 1.77 nats a character on the whole validation split (experiments/2026-11-shakespeare-char).
"""

import ml_collections


def get_config():
  return ml_collections.ConfigDict(
    dict(
      data=dict(source="text", tokenizer="characters", sequence_length=64),
      model=dict(D=128, L=4, N=4, bias=False, init_std=0.02, activation="gelu", scan_layers=False),
      optimizer=dict(
        name="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=100,
        b2=0.99,
        weight_decay=0.1,
        clip_norm=1.0,
      ),  # fmt: skip
      train=dict(steps=2000, batch_size=12, log_every=20, eval_every=500, sample_tokens=200),
      checkpoint=dict(every=500),
    )
  )
