"""fmjax: foundation models in JAX."""
