"""Laws of checkpoints: bit-equal on any mesh, every flipped bit named, a kill or a full disk loses no good step."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax import checkpoint, leaves, manifest
from fmjax.checkpoint import Checkpoints, restore_step, statehash, verify
from fmjax.errors import FmjaxError

AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")
FACTS = {"config_hash": "c0ffee", "data_fingerprint": "f00d", "versions": {"jax": jax.__version__}}
W, B = jax.P("fsdp", "tensor"), jax.P()


def mesh_of(data, fsdp, tensor):
  size = data * fsdp * tensor
  return jax.make_mesh((data, fsdp, tensor, 1, 1, 1), AXES, devices=jax.devices()[:size])


def init(step=0, width=32):
  """A state with all that optax brings: named tuples, plain tuples, empty states, counts; and bfloat16."""
  key = jax.random.fold_in(jax.random.key(0), step)
  w_DF = jax.random.normal(key, (width, 2 * width), out_sharding=W)
  b_F = jax.random.normal(key, (7,), jnp.bfloat16, out_sharding=B)
  params = {"block": {"w": w_DF, "b": b_F}, "scale": jax.random.normal(key, (16,), out_sharding=B)}
  opt = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params)
  opt = jax.tree.map(lambda x: x if x.ndim == 0 else x + jnp.asarray(step + 1.5, x.dtype), opt)
  return {"step": jnp.asarray(step, jnp.int32), "params": params, "opt": opt}


def make(step=0, mesh=None, width=32):
  with jax.set_mesh(mesh or mesh_of(1, 1, 1)):
    return jax.jit(init, static_argnums=1)(step, width)


def same(one, two):
  return all(
    np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype and a.shape == b.shape
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  ) and jax.tree.structure(one) == jax.tree.structure(two)


class Run:
  """A run's folder with good steps 10 and 20, and a way to start it again."""

  def __init__(self, path: pathlib.Path, steps=(10, 20), keep=3):
    self.path, self.folder, self.events = path, path / "checkpoints", []
    self.mesh = mesh_of(1, 1, 1)
    self.checkpoints = Checkpoints(self.folder, keep, lambda name, **facts: self.events.append((name, facts)))
    for step in steps:
      self.checkpoints.save(make(step, self.mesh), FACTS, blocking=True)

  def restore(self):
    self.events.clear()
    with jax.set_mesh(self.mesh):
      return self.checkpoints.restore(jax.eval_shape(init))

  def copy(self, path):
    other = Run(path, steps=())
    shutil.copytree(self.folder, other.folder)
    return other


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  return Run(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def run(saved, tmp_path):
  return saved.copy(tmp_path)


def expect_fallback(run, capsys, file, *words):
  """Step 20 is named, set aside, and step 10 restored."""
  state, found = run.restore()
  said = capsys.readouterr().err
  assert found["step"] == 10 and same(state, make(10, run.mesh))
  assert "fmjax: note CHECKPOINT_CORRUPT  checkpoint step 20 is damaged" in said and str(file) in said, said
  assert all(word in said for word in words), said
  assert len(said.splitlines()) <= 6
  (name, facts), *_ = run.events
  assert (
    name == "corrupt"
    and facts["step"] == 20
    and facts["file"] == str(file)
    and (run.folder / facts["moved_to"]).exists()
  )
  assert run.checkpoints.steps() == [10]


# Round trips.


@pytest.mark.parametrize("to", [(1, 1, 1), (1, 4, 2), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("start", [(1, 1, 1), (1, 2, 4)])
def test_restored_on_another_mesh_is_bit_equal_and_placed(tmp_path, start, to):
  state = make(5, mesh_of(*start))
  checkpoints = Checkpoints(tmp_path / "checkpoints", 3, lambda *_, **__: None)
  checkpoints.save(state, FACTS, blocking=True)
  mesh = mesh_of(*to)
  with jax.set_mesh(mesh):
    restored, found = checkpoints.restore(jax.eval_shape(init))
  assert same(restored, state)
  placed = make(5, mesh)
  assert jax.tree.map(lambda x: x.sharding.spec, restored) == jax.tree.map(lambda x: x.sharding.spec, placed)
  assert all(x.sharding.mesh == mesh and x.committed for x in jax.tree.leaves(restored))
  assert restored["params"]["block"]["w"].sharding.spec == W
  assert found["statehash"] == statehash(restored) == statehash(state)
  assert {name: found[name] for name in FACTS} == FACTS


def test_donated_state_is_saved_as_it_was(tmp_path):
  """The thread must see the state of the call, though its buffers are given to the next steps at once."""
  checkpoints = Checkpoints(tmp_path, 9, lambda *_, **__: None)
  mesh = mesh_of(1, 1, 1)
  advance = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0)
  with jax.set_mesh(mesh):
    state, hashes = make(0, mesh, width=256), {}
    for step in range(3):
      hashes[step] = statehash(jax.tree.map(jnp.copy, state))
      copies = leaves.snapshot(state)
      assert not any(np.shares_memory(copies[path], np.asarray(x)) for path, x in leaves.by_path(state).items())
      checkpoints.save(state, FACTS)
      for _ in range(1 if step < 2 else 20):
        state = advance(state)
    checkpoints.close()
    like = jax.eval_shape(lambda: init(width=256))
    for step in range(3):
      assert statehash(restore_step(tmp_path, like, step)[0]) == hashes[step]


def test_part_of_a_state_can_be_read(run):
  with jax.set_mesh(run.mesh):
    like = {"params": jax.eval_shape(init)["params"]}
    state, _ = restore_step(run.folder, like)
  assert same(state, {"params": make(20, run.mesh)["params"]})


def test_nothing_saved_gives_none(tmp_path):
  run = Run(tmp_path, steps=())
  assert run.restore() is None and run.checkpoints.steps() == []
  with pytest.raises(FmjaxError) as caught:
    restore_step(run.folder, {})
  assert (caught.value.code, caught.value.status) == ("CHECKPOINT_MISSING", 65)


def test_newest_are_kept(tmp_path):
  run = Run(tmp_path, steps=(1, 2, 3, 4), keep=2)
  assert run.checkpoints.steps() == [3, 4] and checkpoint.newest(run.folder) == 4
  assert sorted(os.listdir(run.folder)) == ["3", "4"]
  assert [facts["step"] for name, facts in run.events if name == "save"] == [1, 2, 3, 4]


def test_saving_a_good_step_again_changes_nothing_and_another_state_replaces_it(run):
  before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
  run.checkpoints.save(make(20, run.mesh), FACTS, blocking=True)
  assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
  other = make(20, run.mesh) | {"params": make(21, run.mesh)["params"]}
  run.checkpoints.save(other, FACTS, blocking=True)
  assert same(run.restore()[0], other) and sorted(os.listdir(run.folder)) == ["10", "20"]


def test_damaged_step_can_be_trained_to_again(run, capsys):
  (run.folder / "20" / "manifest.json").unlink()
  expect_fallback(run, capsys, run.folder / "20" / "manifest.json")
  run.checkpoints.save(make(20, run.mesh), FACTS, blocking=True)
  assert run.restore()[1]["step"] == 20
  assert sorted(os.listdir(run.folder)) == ["10", "20", "20.corrupt"]
  (run.folder / "20" / "manifest.json").unlink()
  expect_fallback(run, capsys, run.folder / "20" / "manifest.json", "20.corrupt.2")


# STATEHASH.


def test_statehash_does_not_depend_on_the_mesh():
  assert len({statehash(make(3, mesh_of(*m))) for m in [(1, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]}) == 1


def test_statehash_is_this_very_function():
  """Written out by hand: it must be the same for every layout, mesh, machine and version there will ever be."""
  state = {"step": jnp.int32(7), "params": {"b": jnp.ones(2, jnp.bfloat16), "a": (jnp.zeros((1, 2)),)}}
  text = (
    b"params/a/0 float32 1,2\n" + bytes(8) + b"params/b bfloat16 2\n" + b"\x80\x3f" * 2 + b"step int32 \n\x07\0\0\0"
  )
  import xxhash

  assert statehash(state) == xxhash.xxh3_128_hexdigest(text)


@pytest.mark.parametrize(
  "change",
  [
    lambda s: {**s, "params": {"v": s["params"]["w"]}},
    lambda s: {**s, "params": {"w": s["params"]["w"].view(jnp.int32)}},
    lambda s: {**s, "params": {"w": s["params"]["w"].reshape(4, 3)}},
    lambda s: {**s, "params": {"w": -s["params"]["w"]}},  # 0.0 and -0.0 differ
    lambda s: {**s, "more": jnp.zeros(0)},
  ],
  ids=["name", "dtype", "shape", "value", "leaf"],
)
def test_statehash_depends_on(change):
  state = {"step": jnp.int32(1), "params": {"w": jnp.zeros((3, 4))}}
  assert statehash(change(state)) != statehash(state)


# Damage.


def flip_and_restore(saved, flips, seed):
  """Flips one bit of one file of the newest step at a time; returns the flips that restore does not name."""
  rng = random.Random(seed)
  folder, silent = saved.folder / "20", []
  everything = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
  for number in range(flips):
    file = everything[number % len(everything)]
    good = file.read_bytes()
    bit = rng.randrange(8 * len(good))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bad)
    try:
      step, _, damages = checkpoint.search(saved.folder)
      if step != 10 or damages[20].path != file:
        silent.append((file, bit))
    finally:
      file.write_bytes(good)
  return silent


def test_every_flipped_bit_is_named(run):
  assert flip_and_restore(run, 60, seed=0) == []
  assert run.restore()[1]["step"] == 20


@pytest.mark.slow
def test_every_flipped_bit_is_named_at_length(run):
  assert flip_and_restore(run, 1000, seed=1) == []


@pytest.mark.parametrize("pattern", ["manifest.json", "_CHECKPOINT_METADATA", "state/**/d/*"])
def test_flipped_bit_is_set_aside(run, capsys, pattern):
  file = max((run.folder / "20").glob(pattern), key=lambda path: path.stat().st_size)
  raw = bytearray(file.read_bytes())
  raw[len(raw) // 2] ^= 4
  file.write_bytes(raw)
  expect_fallback(run, capsys, file, "expected", "got", "set it aside as 20.corrupt; restored step 10 instead")


def largest(run, step=20):
  return max((path for path in (run.folder / str(step)).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


def test_truncated_file_is_set_aside(run, capsys):
  file = largest(run)
  os.truncate(file, file.stat().st_size - 1)
  expect_fallback(run, capsys, file, " bytes, got ")


def test_missing_file_is_set_aside(run, capsys):
  file = largest(run)
  file.unlink()
  expect_fallback(run, capsys, file, "no such file")


def test_empty_folder_and_plain_file_named_as_a_step_are_set_aside(run, capsys):
  (run.folder / "30").mkdir()
  (run.folder / "40").write_text("")
  assert run.restore()[1]["step"] == 20
  said = capsys.readouterr().err
  assert "step 30 is damaged" in said and "step 40 is damaged" in said
  assert sorted(os.listdir(run.folder)) == ["10", "20", "30.corrupt", "40.corrupt"]


def test_step_under_another_steps_name_is_set_aside(run, capsys):
  (run.folder / "20").rename(run.folder / "30")
  assert run.restore()[1]["step"] == 10 and "expected step 30, got step 20" in capsys.readouterr().err


def test_run_without_a_good_step_is_never_begun_anew(run):
  for step in (10, 20):
    os.truncate(largest(run, step), 1)
  for _ in range(2):
    with pytest.raises(FmjaxError) as caught:
      run.restore()
    assert (caught.value.code, caught.value.status) == ("CHECKPOINT_CORRUPT", 65)
    assert all(str(run.folder / step / "") in str(caught.value) for step in ("10", "20"))
    assert len(str(caught.value).splitlines()) <= 6
  assert sorted(os.listdir(run.folder)) == ["10", "20"]
  shutil.rmtree(run.folder / "10")
  (run.folder / "20").rename(run.folder / "20.corrupt")
  with pytest.raises(FmjaxError, match="every checkpoint"):
    run.restore()


def test_reading_a_damaged_run_changes_nothing(run, capsys):
  os.truncate(file := largest(run), 1)
  with jax.set_mesh(run.mesh):
    like = jax.eval_shape(init)
    assert restore_step(run.folder, like)[1]["step"] == 10
    assert "step 20 is damaged" in capsys.readouterr().err
    with pytest.raises(FmjaxError) as damaged:
      restore_step(run.folder, like, 20)
    with pytest.raises(FmjaxError) as missing:
      restore_step(run.folder, like, 15)
  assert damaged.value.code == "CHECKPOINT_CORRUPT" and file.name in str(damaged.value)
  assert missing.value.code == "CHECKPOINT_MISSING" and "10, 20" in str(missing.value)
  assert sorted(os.listdir(run.folder)) == ["10", "20"]


def test_another_tree_is_refused_by_name(run):
  with jax.set_mesh(run.mesh):
    like = jax.eval_shape(lambda: init(width=64))
    like["params"]["extra"] = like["params"]["scale"]
    with pytest.raises(FmjaxError) as caught:
      run.checkpoints.restore(like)
  said = str(caught.value)
  assert (caught.value.code, caught.value.status) == ("CHECKPOINT_MISMATCH", 65)
  assert "params/block/w: saved float32[32, 64], wanted float32[64, 128]" in said
  assert "params/extra: saved nothing, wanted float32[16]" in said
  assert len(said.splitlines()) <= 6 and run.checkpoints.steps() == [10, 20]
  with jax.set_mesh(run.mesh), pytest.raises(FmjaxError, match="opt/1/0/count: saved int32.., wanted nothing"):
    run.checkpoints.restore(jax.eval_shape(init) | {"opt": ()})


def test_verify_recomputes_the_hash_from_disk(run):
  expected = [(step, True, f"step {step} ok {statehash(make(step, run.mesh))}") for step in (10, 20)]
  assert list(verify(run.path)) == expected
  shutil.copytree(run.folder / "10", run.folder / "10.corrupt")
  os.truncate(file := largest(run), 1)
  lies = manifest.read(run.folder / "10")
  files = lies.pop("files")
  (run.folder / "10" / "manifest.json").write_bytes(manifest.render(lies | {"files": files, "statehash": "0" * 32}))
  wrong, aside, damaged = verify(run.path)
  assert wrong[:2] == (10, False) and "step 10 written wrongly" in wrong[2] and expected[0][2][-32:] in wrong[2]
  assert aside == (10, None, expected[0][2].replace("10 ok", "10.corrupt ok"))
  assert damaged[:2] == (20, False) and "step 20 damaged: " in damaged[2] and file.name in damaged[2]


def test_verify_without_checkpoints(tmp_path):
  with pytest.raises(FmjaxError, match="there is no checkpoint"):
    list(verify(tmp_path))


# Kills and full disks.

LOOP = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, test_checkpoint as t
run = t.Run(pathlib.Path(sys.argv[2]), steps=(), keep=2)
found = run.restore()
step = found[1]["step"] if found else 0
run.checkpoints.event = lambda name, **facts: name == "save" and print(facts["step"], flush=True)
while True:
  step += 1
  run.checkpoints.save(t.make(step), t.FACTS)
"""


def kill_at_random(path, times, seed):
  """Kills a run that does nothing but save, again and again; whatever it had said is saved can be restored."""
  rng = random.Random(seed)
  done = 0
  for _ in range(times):
    command = [sys.executable, "-c", LOOP, str(pathlib.Path(__file__).parent), str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
    os.set_blocking(child.stdout.fileno(), True)
    said = child.stdout.readline()
    time.sleep(rng.uniform(0, 0.25))
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    done = int((said + rest).split()[-1])
    run = Run(path, steps=())
    state, found = run.restore()
    assert found["step"] >= done and same(state, make(found["step"], run.mesh))
    assert not list(run.folder.glob("*-tmp*")) and not list(run.folder.glob("*.corrupt*"))
  assert done >= times


def test_kill_leaves_what_was_saved(tmp_path):
  kill_at_random(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_kill_leaves_what_was_saved_at_length(tmp_path):
  kill_at_random(tmp_path, 30, seed=1)


def test_whole_draft_becomes_its_step_and_half_a_draft_goes(run):
  """What a kill leaves between the last byte and the name, and between two names."""
  shutil.copytree(run.folder / "10", run.folder / "5-tmp")
  (run.folder / "20").rename(run.folder / "20-tmp")
  (run.folder / "10").rename(run.folder / "10-old-tmp")
  (run.folder / "30-tmp.orbax-checkpoint-tmp").mkdir()
  assert run.restore()[1]["step"] == 20
  assert sorted(os.listdir(run.folder)) == ["10", "20"]
  assert [name for name, _ in run.events] == ["tidy"]


def expect_full(run, said, step, last):
  lines = said.splitlines()
  assert len(lines) == 5 and lines[0].startswith("fmjax: error DISK_FULL  ") and f"step {step}" in lines[0], said
  assert [line.split()[0] for line in lines[1:]] == ["where:", "got:", "did:", "fix:"]
  assert f"left step {last} as it was, intact" in lines[3] and "MB free" in lines[2]
  assert sorted(map(int, os.listdir(run.folder)))[-1] == last
  assert run.restore()[1]["step"] == last


FILL = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, resource, test_checkpoint as t
run = t.Run(pathlib.Path(sys.argv[2]), steps=(), keep=99)
t.make()
if len(sys.argv) > 4:
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
  for step in range(int(sys.argv[3]), int(sys.argv[3]) + 9):
    run.checkpoints.save(t.make(step), t.FACTS)
  run.checkpoints.close()
except t.FmjaxError as error:
  print(error, file=sys.stderr)
  sys.exit(error.status)
"""


def fill(path, *words):
  """What a process says that saves until it cannot: its whole stderr, with nothing of Orbax in it."""
  command = [sys.executable, "-c", FILL, str(pathlib.Path(__file__).parent), str(path), *map(str, words)]
  child = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert child.returncode == 74, child.stderr
  return child.stderr


@pytest.fixture
def small_disk(tmp_path):
  """Mounts a filesystem of 3 MiB, with room for `inodes` files."""

  def mount(inodes):
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=3m,nr_inodes={inodes}", "none", str(tmp_path)])
    if made.returncode:
      pytest.skip("needs the right to mount")
    return tmp_path

  yield mount
  subprocess.run(["umount", str(tmp_path)], stderr=subprocess.DEVNULL)


def test_full_disk_is_seen_before_a_save(small_disk):
  run = Run(small_disk(10000), steps=(1,))
  (run.path / "other").write_bytes(bytes(shutil.disk_usage(run.path).free - 900_000))
  with pytest.raises(FmjaxError) as caught:
    run.checkpoints.save(make(2, run.mesh), FACTS)
  expect_full(run, str(caught.value), 2, last=1)
  (run.path / "other").unlink()
  run.checkpoints.save(make(2, run.mesh), FACTS, blocking=True)
  assert run.restore()[1]["step"] == 2


def test_disk_that_fills_during_a_save(small_disk):
  """No inodes are left, which nobody can see in the free space before."""
  run = Run(small_disk(60), steps=())
  said = fill(run.path, 1)
  last = max(map(int, os.listdir(run.folder)))
  expect_full(run, said, last + 1, last)


def test_limit_on_the_size_of_files(run):
  """The same without any right: ulimit -f."""
  expect_full(run, fill(run.path, 30, 4096), 30, last=20)
  run.checkpoints.save(make(30, run.mesh), FACTS, blocking=True)
  assert run.restore()[1]["step"] == 30


def test_failure_of_a_save_shows_at_the_next_one(run):
  def broken(name, **facts):
    raise ZeroDivisionError

  run.checkpoints.event = broken
  run.checkpoints.save(make(30, run.mesh), FACTS)
  with pytest.raises(FmjaxError, match="saving checkpoint step 30 failed") as caught:
    run.checkpoints.save(make(40, run.mesh), FACTS)
  assert caught.value.status == 70 and isinstance(caught.value.__cause__, ZeroDivisionError)
