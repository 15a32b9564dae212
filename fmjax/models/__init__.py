"""The only folder that imports Flax. The rest of the house sees `Model`: init, apply, logits, declarations."""

from fmjax.models.transformer import Model, Outputs

__all__ = ["Model", "Outputs"]
