"""What both sides of `families.py` compute: the shapes and their batches, in numpy alone."""

import numpy as np

BERT = dict(family="bert", B=8, T=128, dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"), start=None)
MASKED = dict(BERT, cls="BertForMaskedLM", train=True)
T5 = dict(
  family="t5", B=8, S=128, T=32, dropouts=("dropout_rate",), start=0, cls="T5ForConditionalGeneration", train=True
)
SHAPES = {
  "bert-forward": dict(BERT, cls="BertModel", train=False, dropout=0.0),
  "bert-masked": dict(MASKED, dropout=0.1),
  "bert-masked-exact": dict(MASKED, dropout=0.0),
  "t5": dict(T5, dropout=0.1),
  "t5-exact": dict(T5, dropout=0.0),
}
MASK, MASKED_SHARE = 103, 0.15  # Devlin et al. 2019, section 3.1; the id is that of bert-base-uncased


def make_batch(shape: dict, V: int) -> dict:
  """Random tokens: `tokens`, `targets`, `weights`, and `source_tokens` where there is a source."""
  rng = np.random.default_rng(1)
  B, T = shape["B"], shape["T"]
  targets = rng.integers(1, V, size=(B, T))
  if "S" in shape:
    tokens = np.concatenate([np.full((B, 1), shape["start"]), targets[:, :-1]], 1)
    return dict(
      source_tokens=rng.integers(1, V, size=(B, shape["S"])), tokens=tokens, targets=targets,
      weights=np.ones((B, T), np.float32),
    )  # fmt: skip
  masked = rng.random((B, T)) < MASKED_SHARE
  return dict(tokens=np.where(masked, MASK, targets), targets=targets, weights=masked.astype(np.float32))
