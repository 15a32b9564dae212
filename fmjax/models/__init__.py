"""The only folder that imports Flax. The rest of the house sees `Model`: pure functions of a tree of parameters."""

from fmjax.models.model import Model, Outputs

__all__ = ["Model", "Outputs"]
