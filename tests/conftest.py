"""Strict mode and eight fake CPU devices, before JAX starts."""

import gc
import math
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["NPROC"] = "64"  # threads: with one a device, collectives can wait for each other (`fmjax.backend`)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path.home() / ".cache/fmjax-tests/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)

MAPS = pathlib.Path("/proc/self/maps")
MANY = 20_000  # of Linux's 65,530: each compiled program holds some, and the one that gets none more crashes


@pytest.fixture(scope="module", autouse=True)
def few_programs():
  """Forgets what earlier modules have compiled before it is too much for one process."""
  yield
  if MAPS.is_file() and MAPS.read_bytes().count(b"\n") > MANY:
    jax.clear_caches()
    gc.collect()


SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared():
  """The folder of real data sets, where there is one."""
  if not SHARED.is_dir():
    pytest.skip("needs ../shared/data")
  return SHARED


@pytest.fixture
def one_device():
  """A mesh of one device, set for the test."""
  mesh = jax.make_mesh((1,) * 6, ("data", "fsdp", "tensor", "context", "expert", "stage"), devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    yield mesh


AXES = ("data", "fsdp", "tensor", "context", "expert", "stage")


@pytest.fixture(scope="session")
def on():
  """`with on(fsdp=2, tensor=4):` sets a mesh of those axes over as many fake devices."""

  def mesh_of(**sizes):
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    mesh = jax.make_mesh(shape, AXES, devices=jax.devices()[: math.prod(shape)])
    return jax.set_mesh(mesh)

  return mesh_of
