"""Ways to adapt a model: what trains of it, what is put beside it, and how that is merged; and their names."""

from fmjax.adapt.lora import LoRA
from fmjax.adapt.method import Adaptation, joined
from fmjax.adapt.narrow import IA3, Bottleneck, Prefix, Prompt
from fmjax.adapt.partial import BitFit, Features, Full, HeadOnly

METHODS = {
  "full": Full,
  "head": HeadOnly,
  "features": Features,
  "bitfit": BitFit,
  "lora": LoRA,
  "bottleneck": Bottleneck,
  "ia3": IA3,
  "prefix": Prefix,
  "prompt": Prompt,
}

__all__ = ["METHODS", "Adaptation", "joined"]
