"""Self-attention: four linear maps around the attention room in `kernels/`."""

from flax import linen as nn

from fmjax.kernels.attention import attention
from fmjax.models.embed import rotate
from fmjax.models.linear import Layer


class Attention(Layer):
  @nn.compact
  def __call__(self, x_BTD, positions_BT, segments_BT):
    config = self.config
    q_BTNH = self.linear("q", "BTD,DNH->BTNH", x_BTD)
    k_BTKH = self.linear("k", "BTD,DKH->BTKH", x_BTD)
    v_BTKH = self.linear("v", "BTD,DKH->BTKH", x_BTD)
    if config.positions == "rotary":
      q_BTNH = rotate(q_BTNH, positions_BT, config.rotary_base)
      k_BTKH = rotate(k_BTKH, positions_BT, config.rotary_base)
    segments = None if segments_BT is None else (segments_BT, segments_BT)
    key = self.dropout_key()
    rate = config.dropout if key is not None else 0.0
    o_BTNH = attention(q_BTNH, k_BTKH, v_BTKH, causal=True, segments=segments, dropout=rate, key=key)
    return self.linear("o", "BTNH,NHD->BTD", o_BTNH, residual=True)
