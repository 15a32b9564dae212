"""fmjax: foundation models in JAX."""


def from_pretrained(path, dtype=None, mesh=None):
  """The model in a local folder in Hugging Face's layout: see `fmjax.interop.from_pretrained`."""
  from fmjax import interop  # here, so that a command's --help starts no JAX

  return interop.from_pretrained(path, dtype, mesh)
