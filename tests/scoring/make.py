"""Writes expected.json: what transformers makes of text.txt, by the procedure of its guide on perplexity.

  /path/to/python/with/torch/and/transformers tests/scoring/make.py [FOLDER TEXT LENGTH STRIDE]

With arguments: the numbers of any folder and text. `loss` is the mean over tokens; the guide's own mean, which counts
one token too few in each window but the first, is `guide`.
"""

import json
import pathlib
import sys
import tempfile

import folders
import torch
import transformers

CASES = {"gpt2": ((96, 48), (50, 7), (32, 32)), "llama": ((96, 48), (33, 1)), "gemma2": ((96, 48), (64, 16)),
         "mistral": ((96, 48), (96, 5))}  # fmt: skip
PAIRS = [("A ship leaves the harbour", "before dawn."), ("At noon the wind", "turns, and the rain comes by night!")]


def load(folder):
  config = transformers.AutoConfig.from_pretrained(folder)
  cls = getattr(transformers, config.architectures[0])
  model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
  return transformers.AutoTokenizer.from_pretrained(folder), model


@torch.no_grad()
def perplexity(tokenizer, model, text: str, length: int, stride: int) -> dict:
  ids = tokenizer(text, return_tensors="pt").input_ids
  total, tokens, weighted, weights, previous = 0.0, 0, 0.0, 0, 0
  for begin in range(0, ids.shape[1], stride):
    end = min(begin + length, ids.shape[1])
    window = ids[:, begin:end]
    labels = window.clone()
    labels[:, : -(end - previous)] = -100
    loss = model(window, labels=labels).loss.double().item()
    count = int((labels[:, 1:] != -100).sum())
    total, tokens = total + loss * count, tokens + count
    weight = int((labels != -100).sum()) - 1
    weighted, weights, previous = weighted + loss * weight, weights + weight, end
    if end == ids.shape[1]:
      break
  return dict(length=length, stride=stride, tokens=tokens, loss=total / tokens, guide=weighted / weights)


@torch.no_grad()
def pairs(tokenizer, model) -> dict:
  total = tokens = 0
  for source, target in PAIRS:
    labels = tokenizer(target, return_tensors="pt").input_ids
    loss = model(tokenizer(source, return_tensors="pt").input_ids, labels=labels).loss.double().item()
    total, tokens = total + loss * labels.numel(), tokens + labels.numel()
  return dict(pairs=PAIRS, tokens=tokens, loss=total / tokens)


def main(words):
  if words:
    folder, text, length, stride = words
    tokenizer, model = load(folder)
    print(json.dumps(perplexity(tokenizer, model, pathlib.Path(text).read_text(), int(length), int(stride))))
    return
  found, text = {}, (folders.HERE / "text.txt").read_text()
  with tempfile.TemporaryDirectory() as home:
    for name in folders.FOLDERS:
      tokenizer, model = load(folders.write(name, pathlib.Path(home, name)))
      cases = [perplexity(tokenizer, model, text, *case) for case in CASES.get(name, ())]
      found[name] = cases or pairs(tokenizer, model)
  versions = dict(transformers=transformers.__version__, torch=torch.__version__)
  (folders.HERE / "expected.json").write_text(json.dumps(dict(found, versions=versions), indent=1) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
