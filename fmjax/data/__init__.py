"""Data: sources, tokenizers, their preparation, and the loader whose batch is a function of (seed, step)."""

from fmjax.data.dataset import Prepared, check_fingerprint, prepare
from fmjax.data.loader import Batches
from fmjax.data.mixture import edited, union
from fmjax.data.tokenizers import Tokenizer, load_tokenizer

__all__ = ["Batches", "Prepared", "Tokenizer", "check_fingerprint", "edited", "load_tokenizer", "prepare", "union"]
