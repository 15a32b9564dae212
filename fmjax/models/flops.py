"""Floating-point operations that the model's mathematics needs, counted from its config: XLA's own count sees a
scanned layer once."""

from fmjax.architecture import TransformerConfig


def train_flops(config: TransformerConfig, length: int, *, causal: bool, source_length: int = 0) -> float:
  """Of one token's forward and backward pass (three times the forward), in a sequence of `length`.

  Matmuls only, two operations a multiply-add; rematerialised work does not count (Chowdhery et al. 2022, App. B).
  `causal` counts the half of attention's scores that a causal mask leaves, of a window likewise. An encoder_decoder's
  token has its share of a source of `source_length`.
  """
  c = config
  width = c.R or c.D
  q_o, k_v = 2 * c.D * c.H * c.N, 2 * c.D * c.H * c.K
  layer = q_o + k_v + (3 if c.gated else 2) * c.D * c.F
  score = 2 * c.N * c.H  # of one query and one key
  reach = [min(window or length, length) for window in c.windows]
  seen = [keys - keys * keys / (2 * length) if causal and c.kind != "encoder" else keys for keys in reach]
  total = c.L * layer + sum(seen) * score + width * c.V
  total += (c.D * width if c.output_transform else 0) + (c.R or 0) * c.D
  if source_length:
    share = source_length / length
    total += c.source_L * share * (layer + score * source_length)  # the encoder
    total += c.L * (q_o + share * k_v + score * source_length)  # the crossings
  return 3 * 2 * total
