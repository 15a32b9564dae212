"""Which sentences of film reviews praise? A pretrained encoder, adapted in one of several ways.

  fmjax train --config=configs/sst2.py:lora --workdir=runs/sst2-lora --config.init_from=hf:FOLDER \\
    --config.data.path=sst2/train.tsv --config.data.eval_path=sst2/dev.tsv

and :full, :bottleneck, :bitfit, :head and :features.
FOLDER is a model in Hugging Face's layout, such as BERT's or MiniLM's. The data is SST-2 (Socher et al. 2013): a
sentence, a tab, and 1 for praise or 0 a line.
"""

import ml_collections

METHODS = {
  "full": dict(adapt=dict(name="full"), rate=5e-5, decay=0.01),
  "lora": dict(adapt=dict(name="lora", rank=8, alpha=16.0, dropout=0.1), rate=1e-3, decay=0.0),
  "bottleneck": dict(adapt=dict(name="bottleneck", width=48), rate=1e-3, decay=0.0),
  "bitfit": dict(adapt=dict(name="bitfit"), rate=1e-3, decay=0.0),
  "head": dict(adapt=dict(name="head"), rate=1e-3, decay=0.0),
  "features": dict(adapt=dict(name="features"), rate=0.0, decay=0.0, pooling="mean"),
}


def get_config(method="full"):
  if method not in METHODS:
    raise ValueError(f"there is no method {method!r}: choose from {', '.join(METHODS)}")
  chosen = METHODS[method]
  return ml_collections.ConfigDict(
    dict(
      init_from="hf:model",
      objective=dict(name="classification", labels=("0", "1"), pooling=chosen.get("pooling", "first")),
      adapt=chosen["adapt"],
      model=dict(dropout=0.1, scan_layers=False),
      data=dict(
        source="csv",
        path="sst2/train.tsv",
        eval_path="sst2/dev.tsv",
        columns=("0", "1"),
        sequence_length=64,
        buckets=(16, 24, 32, 48),
        join=8,
      ),
      # Devlin et al. 2019, App. A.3: three epochs, a tenth of warm-up, then linearly to zero.
      optimizer=dict(
        name="adamw",
        learning_rate=chosen["rate"],
        schedule="linear",
        warmup_steps=65,
        end_fraction=0.0,
        b2=0.999,
        weight_decay=chosen["decay"],
      ),
      train=dict(epochs=3, batch_size=32),
    )  # fmt: skip
  )
