"""From a trained model to text."""

from fmjax.decode.sample import Sampling, generate

__all__ = ["Sampling", "generate"]
