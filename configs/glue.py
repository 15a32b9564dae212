"""GLUE (Wang et al. 2019, arXiv:1804.07461) and SuperGLUE (Wang et al. 2019, arXiv:1905.00537), a task by its name.

  fmjax train --config=configs/glue.py:mrpc --workdir=runs/mrpc --config.init_from=hf:FOLDER
  fmjax eval --workdir=runs/mrpc

Tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli; and of SuperGLUE boolq, cb, copa, multirc, wic, wsc.
FOLDER is a pretrained encoder in Hugging Face's layout. TFDS prepares the data once, from the network and, for
SuperGLUE, with TensorFlow (pip install tensorflow); what it prepared is read without:

  python -c "import tensorflow_datasets as tfds
  tfds.builder('glue/mrpc', file_format='array_record').download_and_prepare()"

All are fine-tuned as Devlin et al. 2019, section 4.1 (arXiv:1810.04805) say: batches of 32, three epochs, the best of
the learning rates 5e-5, 4e-5, 3e-5 and 2e-5. No number is promised: none of the tasks was run here but SST-2's own
sentences, by configs/sst2.py.
"""

import ml_collections

EPOCHS, BATCH = 3, 32
ENTAILMENT = ("entailment", "not_entailment")
NO_YES = ("False", "True")

# The training split's size, what is read of a record, the label's names, and where the task has others than most the
# split it is evaluated on and the metric that counts.
GLUE = {
  "cola": dict(size=8_551, texts=("sentence",), labels=("unacceptable", "acceptable"), metric="matthews"),
  "sst2": dict(size=67_349, texts=("sentence",), labels=("negative", "positive")),
  "mrpc": dict(size=3_668, texts=("sentence1", "sentence2"), labels=("not_equivalent", "equivalent"), metric="f1"),
  "qqp": dict(size=363_846, texts=("question1", "question2"), labels=("not_duplicate", "duplicate"), metric="f1"),
  "stsb": dict(size=5_749, texts=("sentence1", "sentence2"), labels=(0.0, 5.0), metric="spearman"),
  "mnli": dict(
    size=392_702,
    texts=("premise", "hypothesis"),
    labels=("entailment", "neutral", "contradiction"),
    split="validation_matched",
  ),
  "qnli": dict(size=104_743, texts=("question", "sentence"), labels=ENTAILMENT),
  "rte": dict(size=2_490, texts=("sentence1", "sentence2"), labels=ENTAILMENT),
  "wnli": dict(size=635, texts=("sentence1", "sentence2"), labels=("not_entailment", "entailment")),
}
SUPER_GLUE = {
  "boolq": dict(size=9_427, texts=("question", "passage"), labels=NO_YES),
  "cb": dict(
    size=250, texts=("premise", "hypothesis"), labels=("entailment", "contradiction", "neutral"), metric="f1_macro"
  ),
  "copa": dict(
    size=400, texts=("{premise} What was the {question}?", "{choice1}\n{choice2}"), labels=("choice1", "choice2")
  ),
  "multirc": dict(size=27_243, texts=("{question} {answer}", "paragraph"), labels=NO_YES, metric="f1"),
  "wic": dict(size=5_428, texts=("{word}: {sentence1}", "sentence2"), labels=NO_YES),
  "wsc": dict(size=554, texts=("text", "{span2_text}: {span1_text}"), labels=NO_YES),
}


def get_config(name="sst2"):
  if name not in GLUE and name not in SUPER_GLUE:
    raise ValueError(f"there is no task {name!r}: choose from {', '.join([*GLUE, *SUPER_GLUE])}")
  task = GLUE.get(name) or SUPER_GLUE[name]
  epoch = task["size"] // BATCH
  if name == "copa":
    objective = dict(name="multiple_choice", labels=task["labels"])
  elif name == "stsb":
    low, high = task["labels"]
    objective = dict(name="regression", pair=True, low=low, high=high)
  else:
    objective = dict(name="classification", labels=task["labels"], pair=len(task["texts"]) == 2)
  return ml_collections.ConfigDict(
    dict(
      init_from="hf:model",
      objective=objective,
      model=dict(dropout=0.1, scan_layers=False),
      data=dict(
        source="tfds",
        # With its version: the files alone are read, not the builder's code, which for SuperGLUE asks for TensorFlow.
        path=f"glue/{name}:2.0.0" if name in GLUE else f"super_glue/{name}:1.0.2",
        columns=(*task["texts"], "label"),
        eval_split=task.get("split", "validation"),
        sequence_length=128 if name in GLUE else 256,
        buckets=(32, 64) if name in GLUE else (64, 128),
        pool=16,
      ),
      optimizer=dict(
        name="adamw", learning_rate=3e-5, schedule="linear", warmup_steps=EPOCHS * epoch // 10, end_fraction=0.0,
        b2=0.999, weight_decay=0.01,
      ),
      train=dict(
        epochs=EPOCHS, batch_size=BATCH, eval_every=min(epoch, 1000), stop=(task.get("metric", "accuracy"), 10),
      ),
    )
  )  # fmt: skip
