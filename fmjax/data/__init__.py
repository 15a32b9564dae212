"""Data: sources, tokenizers, their preparation, and the loader whose batch is a function of (seed, step)."""

from fmjax.data.loader import Batches
from fmjax.data.preparation import Prepared, check_fingerprint, prepare
from fmjax.data.tokenizers import Tokenizer, load_tokenizer

__all__ = ["Batches", "Prepared", "Tokenizer", "check_fingerprint", "load_tokenizer", "prepare"]
