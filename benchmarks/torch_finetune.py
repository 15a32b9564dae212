"""The peer: MiniLM-L6 fine-tuned by transformers' Trainer on CPU, with peft where it has the method.

  python torch_finetune.py --task=sst2 --method=lora --seed=0 --weights=FOLDER --data=FOLDER

Runs in an environment of its own (torch, transformers, peft, accelerate, datasets, scikit-learn, seqeval; nothing of
fmjax), as their guides write it: batches padded to their longest row, float32, all cores, the last weights measured
and saved. Its last line is JSON. peft has no bottleneck adapters and no BitFit, and the library `adapters` 1.3 wants
transformers 4: those two are written out here.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import tempfile
import time
import warnings
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported: all that is used lies on the disk

import datasets
import numpy as np
import torch
import transformers
from load import kilobytes
from torch import nn

RATES = dict(full=5e-5, lora=1e-3, adapters=1e-3, bitfit=1e-3)
DECAY = dict(full=0.01)  # of the other methods none, as is the Trainer's default
WIDTH = 48  # of the adapters
ENTITIES = ("O", *(f"{place}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for place in "BI"))
IGNORED = -100  # what torch's cross entropy passes over
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "scikit-learn", "seqeval")


# SST-2: the class of a sentence.


def sentences(path: pathlib.Path) -> dict:
  """{"sentence": texts, "label": 0 or 1} of lines with a tab between."""
  pairs = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").split("\n") if line]
  return dict(sentence=[text for text, _ in pairs], label=[int(label) for _, label in pairs])


def encode_sentences(rows, tokenizer, max_length: int):
  return tokenizer(rows["sentence"], truncation=True, max_length=max_length)


def accuracy(rows, logits_BC, labels_B) -> float:
  return float((logits_BC.argmax(-1) == labels_B).mean())


# CoNLL-2003: the entities in a sentence.


def entities(path: pathlib.Path) -> dict:
  """{"words": lists of words, "tags": lists of numbers in ENTITIES}, without the marks between documents."""
  found = dict(words=[], tags=[])
  for block in path.read_text(encoding="utf-8").split("\n\n"):
    lines = [line.split() for line in block.split("\n") if line and not line.startswith("-DOCSTART-")]
    if lines:
      found["words"].append([line[0] for line in lines])
      found["tags"].append([ENTITIES.index(tag) for tag in bio([line[3] for line in lines])])
  return found


def bio(tags: list[str]) -> list[str]:
  """IOB1, where B- stands only between neighbours of one kind, as IOB2, where each entity begins with it."""
  found = []
  for before, tag in zip(["O", *tags], tags):
    begins = tag != "O" and (before == "O" or before[2:] != tag[2:])
    found.append("B-" + tag[2:] if begins else tag)
  return found


def encode_entities(rows, tokenizer, max_length: int):
  """A word's tag is that of its first piece; the others are ignored."""
  encoded = tokenizer(rows["words"], is_split_into_words=True, truncation=True, max_length=max_length)
  encoded["labels"] = []
  for row, tags in enumerate(rows["tags"]):
    words = encoded.word_ids(row)
    first = [word is not None and word != before for before, word in zip([None, *words], words)]
    encoded["labels"].append([tags[word] if own else IGNORED for word, own in zip(words, first)])
  return encoded


def entity_f1(rows, logits_BTC, labels_BT) -> float:
  """Of whole entities; the words that `max_length` cut off count as O."""
  import seqeval.metrics  # here and below: a run starts with what it needs, as a user's script does

  truth = [[ENTITIES[tag] for tag in tags] for tags in rows["tags"]]
  said = [
    [ENTITIES[tag] for tag in best[labels != IGNORED]] for best, labels in zip(logits_BTC.argmax(-1), labels_BT)
  ]
  said = [own + ["O"] * (len(tags) - len(own)) for own, tags in zip(said, truth)]
  return float(seqeval.metrics.f1_score(truth, said))


@dataclasses.dataclass(frozen=True)
class Task:
  """`read(path)` gives columns, `encode(rows, tokenizer, max_length)` adds the model's, `score` a metric."""

  metric: str
  files: dict[str, str]  # of each split
  labels: tuple[str, ...]
  max_length: int
  model: type
  collator: type
  peft_type: str
  read: Callable
  encode: Callable
  score: Callable


TASKS = {
  "sst2": Task(
    metric="accuracy",
    files=dict(train="train.tsv", dev="dev.tsv", test="test.tsv"),
    labels=("negative", "positive"),
    max_length=64,
    model=transformers.AutoModelForSequenceClassification,
    collator=transformers.DataCollatorWithPadding,
    peft_type="SEQ_CLS",
    read=sentences,
    encode=encode_sentences,
    score=accuracy,
  ),
  "conll2003": Task(
    metric="f1",
    files=dict(train="eng.train", dev="eng.testa", test="eng.testb"),
    labels=ENTITIES,
    max_length=128,
    model=transformers.AutoModelForTokenClassification,
    collator=transformers.DataCollatorForTokenClassification,
    peft_type="TOKEN_CLS",
    read=entities,
    encode=encode_entities,
    score=entity_f1,
  ),
}


# Methods: what of the model trains.


class Bottleneck(nn.Module):
  """A narrow layer and back, added; begins as the identity (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)."""

  def __init__(self, D: int, R: int):
    super().__init__()
    self.down, self.up = nn.Linear(D, R), nn.Linear(R, D)
    nn.init.normal_(self.down.weight, std=0.02)
    for parameter in (self.down.bias, self.up.weight, self.up.bias):
      nn.init.zeros_(parameter)

  def forward(self, x_BTD):
    return x_BTD + self.up(nn.functional.gelu(self.down(x_BTD)))


def add_adapters(model):
  """One behind each half of a layer, before the residual sum; the layers' norms train with them."""
  for layer in model.bert.encoder.layer:
    for half in (layer.attention.output, layer.output):
      half.dropout = nn.Sequential(half.dropout, Bottleneck(model.config.hidden_size, WIDTH))
  for name, parameter in model.named_parameters():
    norm = "encoder.layer" in name and "LayerNorm" in name
    parameter.requires_grad = norm or ".dropout.1." in name or name.startswith("classifier")
  return model


def only_biases(model):
  """Ben Zaken et al. 2022, arXiv:2106.10199."""
  for name, parameter in model.named_parameters():
    parameter.requires_grad = name.endswith("bias") or name.startswith("classifier")
  return model


def adapted(model, method: str, task: Task):
  if method == "lora":
    import peft

    how = dict(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"])
    return peft.get_peft_model(model, peft.LoraConfig(task_type=task.peft_type, **how))
  return {"full": lambda model: model, "adapters": add_adapters, "bitfit": only_biases}[method](model)


# Runs.


def since_start() -> float:
  """Seconds since this process began, imports and all."""
  ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
  return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def fine_tune(task: Task, args, rows: dict, tokenizer, folder: str) -> dict:
  """Trains on rows["train"], measures the others."""
  model = task.model.from_pretrained(
    args.weights,
    num_labels=len(task.labels),
    id2label=dict(enumerate(task.labels)),
    label2id={label: number for number, label in enumerate(task.labels)},
    dtype="float32",
  )
  model = adapted(model, args.method, task)
  how = transformers.TrainingArguments(
    output_dir=folder,
    num_train_epochs=args.epochs,
    per_device_train_batch_size=args.batch_size,
    per_device_eval_batch_size=args.batch_size,
    learning_rate=args.learning_rate,
    weight_decay=args.weight_decay,
    lr_scheduler_type="linear",
    warmup_steps=0.1,  # a share of all steps
    max_grad_norm=1.0,
    label_names=["labels"],  # it does not find them in a peft model by itself
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    dataloader_pin_memory=False,  # which has no use on a CPU
    seed=args.seed,
  )
  collator = task.collator(tokenizer)
  trainer = transformers.Trainer(model=model, args=how, train_dataset=rows["train"], data_collator=collator)
  startup = since_start()
  trainer.train()
  trained = since_start()
  trainer.save_model()
  saved, metrics = since_start(), {}
  for split in ("dev", "test"):
    found = trainer.predict(rows[split])
    metrics[split] = task.score(rows[split], found.predictions, found.label_ids)
  return dict(
    metrics=metrics,
    trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    seconds=dict(startup=startup, train=trained - startup, save=saved - trained, eval=since_start() - saved),
    steps=trainer.state.global_step,
  )


@torch.inference_mode()
def mean_states(model, rows, collator, batch_size: int) -> np.ndarray:
  """x_BD: the mean of the last states of each row's tokens."""
  rows, found = rows.remove_columns(["sentence", "label"]), []
  for batch in torch.utils.data.DataLoader(rows, batch_size, collate_fn=collator):
    weights_BT1 = batch["attention_mask"].unsqueeze(-1)
    found.append((model(**batch).last_hidden_state * weights_BT1).sum(1) / weights_BT1.sum(1))
  return torch.cat(found).numpy()


def probe(task: Task, args, rows: dict, tokenizer) -> dict:
  """The encoder as it is; a logistic regression of its mean states, to convergence."""
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  warnings.simplefilter("error", ConvergenceWarning)
  model = transformers.AutoModel.from_pretrained(args.weights, dtype="float32", add_pooling_layer=False).eval()
  collator = task.collator(tokenizer)
  startup = since_start()
  regression = LogisticRegression(max_iter=10_000)
  classifier = make_pipeline(StandardScaler(), regression)
  classifier.fit(mean_states(model, rows["train"], collator, args.batch_size), rows["train"]["label"])
  trained, metrics = since_start(), {}
  for split in ("dev", "test"):
    states = mean_states(model, rows[split], collator, args.batch_size)
    metrics[split] = float(classifier.score(states, rows[split]["label"]))
  return dict(
    metrics=metrics,
    trained_parameters=regression.coef_.size + regression.intercept_.size,
    seconds=dict(startup=startup, train=trained - startup, eval=since_start() - trained),
    steps=int(regression.n_iter_.max()),
  )


def arguments():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument("--task", choices=TASKS, required=True)
  parser.add_argument("--method", choices=(*RATES, "features"), required=True)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--epochs", type=int, default=3)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--learning_rate", type=float, help=f"else the method's: {RATES}")
  parser.add_argument("--weight_decay", type=float, help=f"of matrices; else the method's: {DECAY}, the others 0")
  parser.add_argument("--max_length", type=int, help="of a row, in tokens; else the task's")
  parser.add_argument("--weights", required=True, help="config.json, model.safetensors and tokenizer.json")
  parser.add_argument("--data", type=pathlib.Path, required=True, help="the task's files")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--limit", type=int, help="the first examples of each split alone, to try it")
  args = parser.parse_args()
  if args.method == "features" and args.task != "sst2":
    parser.error("--method=features is of sentences: --task=sst2")
  if args.learning_rate is None:
    args.learning_rate = RATES.get(args.method)
  if args.weight_decay is None:
    args.weight_decay = DECAY.get(args.method, 0.0)
  args.max_length = args.max_length or TASKS[args.task].max_length
  return args


def main():
  args = arguments()
  task = TASKS[args.task]
  torch.set_num_threads(args.threads)
  transformers.set_seed(args.seed)
  tokenizer = transformers.AutoTokenizer.from_pretrained(args.weights)
  rows = {}
  for split, name in task.files.items():
    columns = {column: own[: args.limit] for column, own in task.read(args.data / name).items()}
    how = dict(tokenizer=tokenizer, max_length=args.max_length)
    rows[split] = datasets.Dataset.from_dict(columns).map(task.encode, batched=True, fn_kwargs=how)
  if args.method == "features":
    found = probe(task, args, rows, tokenizer)
  else:
    with tempfile.TemporaryDirectory() as folder:
      found = fine_tune(task, args, rows, tokenizer, folder)
  settings = ("epochs", "batch_size", "learning_rate", "weight_decay", "max_length", "threads", "limit")
  versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
  found["seconds"]["total"] = since_start()
  found |= dict(
    metric=task.metric,
    peak_rss_mb=kilobytes("VmHWM") / 1024,
    examples={split: len(own) for split, own in rows.items()},
    settings={name: getattr(args, name) for name in settings},
    versions=dict(python=platform.python_version(), **versions),
  )
  print(json.dumps(dict(task=args.task, method=args.method, seed=args.seed) | found))


if __name__ == "__main__":
  main()
