"""The families by their model_type, and the search for the one that says a config."""

from collections.abc import Mapping

from fmjax.errors import FmjaxError
from fmjax.interop import decoders, encoder_decoders, encoders
from fmjax.interop.family import OUTPUT, Family, differing
from fmjax.laws import nearest

FAMILIES: Mapping[str, Family] = {
  family.model_type: family
  for room in (decoders, encoders, encoder_decoders) for family in room.FAMILIES
}  # fmt: skip


def find_family(hf: Mapping, where) -> Family:
  """The family that config.json names."""
  name = hf.get("model_type")
  if name not in FAMILIES:
    what = f"model_type={name!r} is not a family of fmjax's" if name else "config.json names no model_type"
    raise FmjaxError("CONFIG", what, where=where, fix=nearest(str(name), FAMILIES))
  return FAMILIES[name]


def family_of(config) -> tuple[Family, str]:
  """The first family and class whose config.json says all of `config`; FmjaxError CONFIG names what none can say."""
  closest = None
  for family in FAMILIES.values():
    for name in sorted(family.heads, key=lambda name: family.heads[name].task not in OUTPUT):
      fields = differing(family, name, config)
      if not fields:
        return family, name
      if closest is None or len(fields) < len(closest[0]):
        closest = fields, name
  fields, name = closest
  rows = [f"model.{field}={getattr(config, field)!r}" for field in fields[:4]]
  raise FmjaxError("CONFIG", "no family of Hugging Face's has this structure", rows=rows,
                   got=f"the closest, {name}, cannot say {', '.join(f'model.{field}' for field in fields)}",
                   fix="change these fields, or keep the model in fmjax's own checkpoints")  # fmt: skip
