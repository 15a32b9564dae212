"""Hugging Face's folders in and out, without torch: config, weights and tokenizer of every family of texts."""

from fmjax.interop.pretrained import Pretrained, from_pretrained

__all__ = ["Pretrained", "from_pretrained"]
