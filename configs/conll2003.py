"""Which words of a news text name whom, where and what? A pretrained encoder tags each word, CoNLL-2003's task.

  fmjax train --config=configs/conll2003.py:lora --workdir=runs/conll-lora --config.init_from=hf:FOLDER \\
    --config.data.path=conll2003/eng.train --config.data.eval_path=conll2003/eng.testa

and :full. FOLDER is a model in Hugging Face's layout. The data (Tjong Kim Sang and De Meulder 2003,
arXiv:cs/0306050) has a word a line, its entity's tag in IOB1 last.
"""

import sst2

KINDS = ("PER", "ORG", "LOC", "MISC")


def get_config(method="full"):
  config = sst2.get_config(method)
  labels = ("O", *(f"{mark}-{kind}" for kind in KINDS for mark in "BI"))
  config.objective = dict(name="tagging", labels=labels, scheme="iob1")
  config.data = dict(source="conll", path="conll2003/eng.train", eval_path="conll2003/eng.testa", columns=("0", "3"),
                     sequence_length=128, buckets=(16, 32, 64), join=8)  # fmt: skip
  config.optimizer.warmup_steps = 132
  return config
