"""The one Transformer as data: every family in `models/zoo.py` is a setting of these fields."""

import dataclasses
from typing import Literal

from fmjax.laws import Branch, at_least, divisors, fraction

VOCAB_MULTIPLE = 128  # V is stored padded to this on every mesh, so that nothing depends on the mesh


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Branch):
  """The one Transformer. Sizes carry the letters of the alphabet in `sharding.py`."""

  preset: str | None = None  # a name in models/zoo.py; the fields given beside it change it
  kind: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
  V: int | None = None  # vocabulary; None: the tokenizer's
  D: int = 128  # model width
  L: int = 4  # layers; of the decoder, where there are two stacks
  N: int = 4  # query heads
  K: int | None = None  # key/value heads; None: N
  H: int | None = None  # head width; None: D / N
  F: int | None = None  # feed-forward hidden; None: 4 D
  R: int | None = None  # width of the token table where it is not D (Lan et al. 2020, arXiv:1909.11942, section 3.1)
  source_L: int | None = None  # layers of an encoder_decoder's encoder; None: L

  norm: Literal["layer", "rms", "rms_plus_one"] = "layer"  # rms_plus_one multiplies by 1 + scale, as Gemma does
  norm_place: Literal["pre", "post", "both"] = "pre"  # of a half of a Block: before it, after its sum, around it
  norm_eps: float = 1e-5
  activation: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "tanh"] = "gelu_tanh"
  gated: bool = False  # the feed-forward's hidden is activation(gate) * up (Shazeer 2020, arXiv:2002.05202)
  bias: bool = True  # of linear maps and layer norms
  qkv_bias: bool | None = None  # of queries, keys and values; None: as `bias`
  shared_layers: bool = False  # one layer's parameters, L times (Lan et al. 2020, section 3.1)

  positions: Literal["learned", "sinusoidal", "rotary", "relative"] = "learned"
  max_positions: int | None = None  # of a table; None: data.sequence_length
  first_position: int = 0  # rows of the table before position 0 (RoBERTa's and BART's files have two)
  rotary_base: float = 10000.0
  rotary_local_base: float | None = None  # of the layers with a window; None: rotary_base
  rotary_scaling: tuple[float, float, float, float] | None = None  # see `models.embed.frequencies`
  relative_buckets: int = 32  # Raffel et al. 2020, arXiv:1910.10683, section 2.1
  relative_distance: int = 128  # from here on all distances share a bucket

  attention_scale: float | None = None  # of the logits; None: H ** -0.5
  attention_softcap: float | None = None
  qk_norm: bool = False  # queries and keys are normed over H
  window: int | None = None  # a query sees this many keys, its own included
  window_layers: tuple[int, ...] | None = None  # the layers that `window` holds for; None: all

  token_types: int | None = None
  embedding_norm: bool = False
  embedding_scale: bool = False  # token embeddings times sqrt(D) (Vaswani et al. 2017, section 3.4)
  tied: bool = True  # the output layer is the token embedding, or there is none
  output_transform: bool = False  # a map, the activation and a norm before the output layer (Devlin et al. 2019)
  output_bias: bool = False
  output_scale: float | None = None  # of the hidden state before the output layer
  output_softcap: float | None = None

  head: Literal["sequence", "token"] | None = None  # a linear map to `classes`, of a pooled token or of each
  classes: int | None = None
  head_bias: bool = True
  pool: Literal["first", "last", "end", "mean"] = "first"  # which token; "end": batch["pool"] says; "mean": all
  pooler: Literal["tanh", "relu", "gelu"] | None = None  # a map and this activation before the head

  dropout: float = 0.0
  init_std: float | None = None  # of linear maps; None: 1 / sqrt(fan-in)
  scan_layers: bool = True  # one compiled layer in a loop; False unrolls: slower to compile, faster steps on CPU

  def fill(self):
    self.set(K=self.N, F=4 * self.D)
    if self.kind == "encoder_decoder":
      self.set(source_L=self.L)
    if self.N and self.D % self.N == 0:
      self.set(H=self.D // self.N)

  def laws(self):
    yield from at_least(self, 1, "V", "D", "L", "N", "K", "H", "F", "R", "source_L", "max_positions", "window",
                        "token_types", "classes", "relative_buckets", "relative_distance")  # fmt: skip
    yield from at_least(self, 0, "first_position")
    yield from fraction(self, "dropout")
    if self.H is None:
      near = divisors(self.D, self.N)
      yield "D", self.D, f"is not a multiple of model.N={self.N}; set model.H, or model.N to {near}"
    elif self.positions == "rotary" and self.H % 2:
      yield "H", self.H, f"rotary positions turn pairs: set model.H to {self.H + 1}"
    if self.K and self.N % self.K:
      yield "K", self.K, f"must divide model.N={self.N}: try {divisors(self.N, self.K)}"
    if self.kind != "encoder_decoder" and self.source_L is not None:
      yield "source_L", self.source_L, "only an encoder_decoder has a source (model.kind)"
    if self.kind == "encoder_decoder" and self.shared_layers:
      yield "shared_layers", True, "is for one stack, not for an encoder_decoder"
    if (self.head is None) != (self.classes is None):
      yield "classes", self.classes, f"goes with model.head={self.head!r}: set both or neither"
    if self.positions == "sinusoidal" and (self.R or self.D) % 2:
      yield "D", self.D, "sinusoidal positions come in pairs: the width must be even"
    if self.window is not None and self.kind != "decoder":
      yield "window", self.window, "is causal: model.kind must be decoder"
    for name in ("window_layers", "rotary_local_base"):
      if getattr(self, name) is not None and self.window is None:
        yield name, getattr(self, name), "needs model.window"
    for layer in self.window_layers or ():
      if not 0 <= layer < self.L:
        yield "window_layers", self.window_layers, f"names layer {layer} of model.L={self.L}"

  @property
  def padded_V(self) -> int:
    return -(-self.V // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

  @property
  def G(self) -> int:
    return self.N // self.K

  @property
  def has_table(self) -> bool:
    """Whether positions are rows of a table, which ends."""
    return self.positions in ("learned", "sinusoidal")

  @property
  def windows(self) -> tuple[int | None, ...]:
    """Each layer's window."""
    return tuple(
      self.window if self.window_layers is None or n in self.window_layers else None for n in range(self.L)
    )
