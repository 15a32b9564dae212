"""What the classes of a trained model are called, held against those of an objective."""

from fmjax.config import Config
from fmjax.errors import FmjaxError


def check(config: Config, found):
  """CHECKPOINT_MISMATCH where the head that is kept tells other labels than those of the objective."""
  theirs, mine = labels_of(found), getattr(config.objective, "labels", None)
  if differ(theirs, mine, found.hf_config is not None):
    raise FmjaxError("CHECKPOINT_MISMATCH", "the head tells other labels, or in another order",
                     where=config.init_from, expected=", ".join(mine or ()), got=", ".join(theirs or ()),
                     fix="give objective.labels in that order; for a new head set adapt.new_head=True")  # fmt: skip


def labels_of(found) -> tuple[str, ...] | None:
  """What the classes of its head are called."""
  if found.hf_config is None:
    return getattr(found.config.objective, "labels", None)
  names = found.hf_config.get("id2label") or {}
  return tuple(names[number] for number in sorted(names, key=int)) or None


def differ(theirs, mine, published: bool) -> bool:
  """Whether labels are others. A published model may call them otherwise: then their order alone tells."""
  if theirs is None or mine is None:
    return theirs is not mine and not published
  if published:  # of which some write CONTRADICTION
    theirs, mine = ([name.casefold() for name in names] for names in (theirs, mine))
  return theirs != mine and (not published or sorted(theirs) == sorted(mine))
