"""The house's rules, read from the source: who imports whom, how large a room may be, what it may be called."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "fmjax").rglob("*.py"))
TABLES = {"models/zoo.py"}  # data, not code

# Lower rooms first: a room imports from its own floor and from those below it.
FLOORS = [
  {"errors"},
  {"laws", "workdir", "signals", "arguments", "measures", "stopping"},
  {"architecture", "cleaning", "corpus"},
  {"config"},
  {"sharding", "chips", "metrics", "backend", "leaves"},
  {"kernels", "manifest", "checkpoint", "recipe", "history"},
  {"models", "report"},
  {"objectives", "optim", "adapt"},
  {"step", "data"},
  {"evaluate", "decode", "interop", "labels", "spec", "scoring"},
  {"environment", "resume", "start", "probe", "teacher", "assembly"},
  {"train", "continuation", "ensemble", "published"},
  {"judging", "study"},
  {"__main__", "__init__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The door knows the rooms whose fields it builds; the imports stand inside its functions.
UPWARD = {("config", room) for room in ("objectives", "optim", "models", "adapt", "start")}


def room(path: pathlib.Path) -> str:
  return path.relative_to(ROOT / "fmjax").parts[0].removesuffix(".py")


def imports(tree):
  """(top package, room of fmjax or None) of each import."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module]
      if node.module == "fmjax":
        names = [f"fmjax.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      first, *rest = name.split(".")
      yield first, rest[0] if rest else None


def functions(tree):
  return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_keeps_the_rules(path):
  text = path.read_text()
  tree = ast.parse(text)
  here = room(path)
  assert here in FLOOR, f"{here} has no floor: say in this test whom it may import"
  for package, target in imports(tree):
    assert package not in {"torch", "tensorflow", "transformers", "configs", "experiments", "tests"}, package
    assert package != "flax" or here == "models"
    if package == "fmjax" and target and target != here:
      assert FLOOR[target] < FLOOR[here] or FLOOR[target] == FLOOR[here] or (here, target) in UPWARD, (here, target)
  name = str(path.relative_to(ROOT / "fmjax"))
  assert name in TABLES or text.count("\n") <= 400, "a file is at most 400 lines"
  for function in functions(tree):
    assert function.end_lineno - function.lineno < 60, f"{function.name}: a function is at most 60 lines"
  assert path.stem not in {"utils", "helpers", "common", "misc"}
  assert ast.get_docstring(tree) or not text.strip(), "a module says what it is"


def test_rooms_of_one_floor_do_not_import_each_other_in_a_circle():
  arrows = {}
  for path in FILES:
    here = room(path)
    for package, target in imports(ast.parse(path.read_text())):
      if package == "fmjax" and target and target != here and (here, target) not in UPWARD:
        arrows.setdefault(here, set()).add(target)

  def reaches(start, goal, seen):
    return any(t == goal or (t not in seen and reaches(t, goal, seen | {t})) for t in arrows.get(start, ()))

  assert not [here for here in arrows if reaches(here, here, {here})]


def test_core_does_not_lean_on_experiments_or_configs():
  """Nobody can import them either: they are no packages."""
  for folder in ("configs", "experiments", "benchmarks"):
    assert (ROOT / folder).is_dir() and not (ROOT / folder / "__init__.py").exists()


def test_no_private_word_is_left_in_the_tree():
  words = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")
  for path in [*FILES, *(ROOT / "configs").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
    assert not [word for word in words if word in path.read_text()], path
