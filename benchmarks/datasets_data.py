"""The peer of `data.py` in Hugging Face datasets and torch: the same tokens in rows of 512, masked."""

import argparse
import json
import pathlib
import time

import numpy as np

T, B, SECONDS = 512, 64, 2.0
SPECIAL = 5


def make(folder):
  import datasets

  tokens = np.load(folder / "tokens.npy")
  rows = tokens[: len(tokens) // (T - 2) * (T - 2)].reshape(-1, T - 2) + SPECIAL
  ends = np.full((len(rows), 1), 1), np.full((len(rows), 1), 2)
  rows = np.concatenate([ends[0], rows, ends[1]], 1)
  datasets.Dataset.from_dict({"input_ids": rows.tolist()}).save_to_disk(folder / "datasets")
  return dict(rows=len(rows))


def read(folder, rounds):
  import datasets
  import tokenizers
  import torch
  from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

  torch.set_num_threads(1)
  words = {name: i for i, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"])}
  words |= {f"w{i}": i + SPECIAL for i in range(8192 + SPECIAL)}
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]",
    cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", unk_token="[UNK]",
  )  # fmt: skip
  collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
  data = datasets.load_from_disk(str(folder / "datasets")).with_format("torch")
  loader = torch.utils.data.DataLoader(data, batch_size=B, shuffle=True, collate_fn=collate, drop_last=True)

  def forever():
    while True:
      yield from loader

  return timed(forever(), lambda batch: batch["input_ids"].numel(), rounds)


def timed(batches, size, rounds):
  next(batches)
  found = []
  for _ in range(rounds):
    start, tokens = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
      tokens += size(next(batches))
    found.append(tokens / (time.perf_counter() - start))
  return dict(tokens_per_second=found)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("what", choices=["make", "read"])
  parser.add_argument("--folder", type=pathlib.Path)
  parser.add_argument("--rounds", type=int, default=1)
  args = parser.parse_args()
  print(json.dumps(make(args.folder) if args.what == "make" else read(args.folder, args.rounds)))


if __name__ == "__main__":
  main()
