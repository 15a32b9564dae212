"""Parameters come to rest where the house says, whichever way they are filled; the host never holds them twice."""

import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fmjax.checkpoint import placed
from fmjax.interop import from_pretrained
from fmjax.interop.load import load_params, make_plan, stream
from fmjax.interop.safetensors import Tensors
from fmjax.leaves import by_path
from tests.interop.folders import GOLDEN, mesh_of, on_one_device

FOLDER = "gpt2/GPT2LMHeadModel"  # fused maps, and a padded vocabulary


def planned(mesh):
  found = on_one_device(FOLDER)
  head, tensors = found.family.heads[found.architecture], Tensors(GOLDEN / FOLDER)
  plan = make_plan(found.family, head, found.config, jnp.float32, tensors, FOLDER)
  likes = by_path(jax.tree.map(placed, jax.eval_shape(plan.model.init, jax.random.key(0))))
  return plan, tensors, likes


@pytest.mark.parametrize("sizes", [(1, 1), (4, 1), (2, 1)])
def test_a_stack_streamed_to_its_devices_is_the_stack(sizes):
  whole = by_path(on_one_device(FOLDER).params)
  mesh = mesh_of(*sizes)
  with jax.set_mesh(mesh):
    plan, tensors, likes = planned(mesh)
    for path in ("blocks/attention/q", "blocks/feedforward/up_bias"):
      leaf = stream(tensors, plan.slots[path], likes[path], np.float32)
      assert leaf.sharding == likes[path].sharding
      np.testing.assert_array_equal(leaf, whole[path])


def test_parameters_rest_as_the_model_says():
  mesh = mesh_of(4, 1)
  with jax.set_mesh(mesh):
    plan, tensors, likes = planned(mesh)
    flat = by_path(load_params(plan, tensors, jnp.float32))
  for path, like in likes.items():
    assert flat[path].sharding == like.sharding and flat[path].dtype == like.dtype, path
  assert any(not leaf.sharding.is_fully_replicated for leaf in flat.values())


def test_loaded_parameters_may_be_donated():
  found = from_pretrained(GOLDEN / FOLDER, mesh=mesh_of(2, 1))
  before = jax.tree.map(np.array, found.params)
  with jax.set_mesh(found.mesh):
    after = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(found.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 1, rtol=1e-6), after, before)


def test_what_pads_the_vocabulary_is_zero():
  found = on_one_device(FOLDER)
  table, V = np.asarray(found.params["embed"]["tokens"]), found.config.V
  assert len(table) == 128 > V and not table[V:].any() and table[:V].any()


MEASURE = """
import os, resource, sys, threading, time
os.environ["JAX_PLATFORMS"] = "cpu"
import fmjax, jax
from fmjax.interop import from_pretrained
def resident():
  return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
from_pretrained(sys.argv[1])  # imports, compiles and what a first time takes
peak, over, before = 0, False, resident()
def watch():
  global peak
  while not over:
    peak = max(peak, resident())
    time.sleep(0.0005)
thread = threading.Thread(target=watch)
thread.start()
found = from_pretrained(sys.argv[2])
over = True
thread.join()
print(peak - before, sum(leaf.nbytes for leaf in jax.tree.leaves(found.params)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_host_holds_no_more_than_the_largest_tensor_twice(tmp_path):
  import json

  config = json.loads((GOLDEN / FOLDER / "config.json").read_text())
  config |= dict(n_embd=768, n_head=12, n_layer=6, n_positions=128, vocab_size=20000)
  rng, D, F = np.random.default_rng(0), 768, 3072
  arrays = {
    "transformer.wte.weight": rng.normal(size=(20000, D)),
    "transformer.wpe.weight": rng.normal(size=(128, D)),
  }
  for n in range(6):
    shapes = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
    arrays |= {f"transformer.h.{n}.{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    arrays |= {f"transformer.h.{n}.{name}.bias": np.ones(shape[1]) for name, shape in shapes.items()}
    arrays |= {
      f"transformer.h.{n}.{name}.{kind}": np.ones(D) for name in ("ln_1", "ln_2") for kind in ("weight", "bias")
    }
  arrays |= {f"transformer.ln_f.{kind}": np.ones(D) for kind in ("weight", "bias")}
  save_file({name: array.astype(np.float32) for name, array in arrays.items()}, tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text(json.dumps(config))
  done = subprocess.run([sys.executable, "-c", MEASURE, GOLDEN / FOLDER, tmp_path], capture_output=True, text=True)
  assert not done.returncode, done.stderr
  peak, parameters = map(int, done.stdout.split()[-2:])
  largest = 20000 * D * 4
  assert parameters < peak < parameters + 1.2 * largest + resource.getpagesize()
