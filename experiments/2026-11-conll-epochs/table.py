"""A row an epoch of a run on CoNLL-2003, from its metrics: python table.py RUN SENTENCES BATCH.

Training's are means over the epoch's steps, of which each had other parameters and dropout; testa's are at its end.
"""

import pathlib
import statistics
import sys

from fmjax import metrics

home, sentences, batch = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rows = metrics.read(home / metrics.ROWS)
steps = [row for row in rows if "train/loss" in row]
print("| epoch | train loss | train accuracy | testa loss | testa accuracy | testa span F1 |", "|-|-|-|-|-|-|", sep="\n")
for row in rows:
  if "eval/loss" not in row or not row["step"]:
    continue
  epoch = row["step"] * batch / sentences
  own = [one for one in steps if epoch - 1 < one["step"] * batch / sentences <= epoch]
  loss, accuracy = (statistics.mean(one[f"train/{name}"] for one in own) for name in ("loss", "accuracy"))
  told = row["eval/loss"], row["eval/accuracy"], row["eval/span_f1"]
  print(f"| {epoch:.2f} | {loss:.3f} | {accuracy:.4f} | {told[0]:.3f} | {told[1]:.4f} | {told[2]:.4f} |")
