"""The count of operations agrees with the compiler's where that sees every layer, and with the papers' formulas."""

import jax
import jax.numpy as jnp
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.models import Model
from fmjax.models.flops import train_flops

SIZES = dict(V=128, D=128, L=2, N=4, max_positions=64, scan_layers=False)
CONFIGS = {
  "decoder": TransformerConfig(**SIZES),
  "gated": TransformerConfig(**SIZES, K=2, gated=True, norm="rms", positions="rotary", bias=False, tied=False),
  "encoder": TransformerConfig(**SIZES, kind="encoder", R=32, output_transform=True),
  "encoder_decoder": TransformerConfig(**SIZES, kind="encoder_decoder", source_L=1, norm="rms", bias=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_count_is_the_compilers(name, on):
  config, T, S = CONFIGS[name], 64, 32 if name == "encoder_decoder" else 0
  model = Model(config)
  batch = dict(tokens=jax.ShapeDtypeStruct((1, T), jnp.int32))
  if S:
    batch["source_tokens"] = jax.ShapeDtypeStruct((1, S), jnp.int32)
  with on():
    params = jax.eval_shape(model.init, jax.random.key(0))
    forward = jax.jit(lambda p, b: model.logits(p, model.apply(p, b).hidden)).lower(params, batch).compile()
  counted = train_flops(config, T, causal=False, source_length=S) * T / 3
  # The compiler counts norms, activations and softmax too, and at this length attends to every key.
  assert counted == pytest.approx(forward.cost_analysis()["flops"], rel=0.06)
  assert counted < forward.cost_analysis()["flops"]


def test_a_causal_mask_and_a_window_leave_fewer_scores():
  plain = TransformerConfig(V=128, L=1, positions="rotary")
  windowed = TransformerConfig(V=128, L=1, positions="rotary", window=8)
  score = 3 * 2 * 2 * plain.N * plain.H

  def scores(config, length):
    return (train_flops(config, length, causal=True) - train_flops(config, 0 + 1, causal=True)) / score

  assert scores(plain, 64) == pytest.approx(32 - 0.5)
  # 8 keys each, but for the first tokens of the row, which have fewer.
  assert scores(windowed, 64) == pytest.approx(8 - 8 * 8 / 128 - 0.5)
