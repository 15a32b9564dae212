"""Floating-point operations that the model's mathematics needs, counted from its config: XLA's own count sees a
scanned layer once."""

from fmjax.architecture import TransformerConfig


def train_flops(config: TransformerConfig, length: int, *, causal: bool) -> float:
  """Of one token's forward and backward pass (three times the forward), in a sequence of `length`.

  Matmuls only, two operations a multiply-add; rematerialised work does not count (Chowdhery et al. 2022, App. B).
  `causal` counts the half of attention's scores that a causal mask leaves.
  """
  c = config
  projections = c.D * c.H * (2 * c.N + 2 * c.K)
  feedforward = (3 if c.gated else 2) * c.D * c.F
  scores = 2 * length * c.N * c.H * (0.5 if causal else 1.0)
  return 3 * 2 * (c.L * (projections + feedforward + scores) + c.D * c.V)
