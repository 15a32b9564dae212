"""From a trained model to text."""

from fmjax.decode.generate import generate, stream
from fmjax.decode.options import Generation
from fmjax.decode.text import pieces

__all__ = ["Generation", "generate", "pieces", "stream"]
