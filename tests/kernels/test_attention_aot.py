"""Compiled ahead of time for absent chips: the fused kernels are in the program, and no T x S matrix is.

Needs libtpu, or jax's CUDA plugin and cuDNN, in the environment that runs the tests, or in one that FMJAX_TPU_PYTHON
or FMJAX_CUDA_PYTHON names.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = dict(
  JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-16",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1", JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
)  # fmt: skip
ABSENT = 3  # the exit status of a child without the libraries

TPU = f"""
import sys
try:
  import libtpu
except ImportError:
  sys.exit({ABSENT})
from jax.experimental.topologies import get_topology_desc
devices = get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
sizes, options = dict(data=2, fsdp=4, tensor=2), dict()
"""

# NVIDIA's data sheet of the H100 SXM, and the limits of compute capability 9.0 in the CUDA programming guide.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 cuda_compute_capability { major: 9 }
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Autotuning needs a GPU to time on.
GPU = f"""
import sys
try:
  from jax_cuda13_plugin import _versions
  _versions.cudnn_get_version()
except (ImportError, RuntimeError):
  sys.exit({ABSENT})
from jax.experimental.topologies import get_topology_desc
devices = get_topology_desc("h100", platform="cuda", target_config='''{H100}''', topology="1x1x8").devices
sizes, options = dict(data=2, fsdp=2, tensor=2), dict(xla_gpu_autotune_level=0, xla_gpu_enable_triton_gemm=False)
"""

COMPILE = """
import json, re
import jax, jax.numpy as jnp
from fmjax.config import MESH_AXES
from fmjax.kernels.attention import attention, saveable
from fmjax.sharding import flowing

mesh = jax.make_mesh(tuple(sizes.get(axis, 1) for axis in MESH_AXES), MESH_AXES, devices=devices)
B, N, K, H = 8, 4, 2, 64

def facts(T, policy=None, segments=False, bias=False, **call):
  def loss(q, k, v, ids, bias_NTS):
    more = dict(segments=(ids, ids) if segments else None, bias=bias_NTS if bias else None, **call)
    f = lambda q, k, v: attention(2 * q, 2 * k, 2 * v, causal=True, **more)
    f = f if policy is None else jax.checkpoint(f, policy=policy)
    return (f(q, k, v).astype(jnp.float32) ** 3).sum()
  def like(letters, shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, flowing(letters, shape)))
  with jax.set_mesh(mesh):
    args = [like("BTNH", (B, T, N, H)), like("BSKH", (B, T, K, H)), like("BSKH", (B, T, K, H)),
            like("BT", (B, T), jnp.int32), like("NTS", (N, T, T))]
    wrt = (0, 1, 2, 4) if bias else (0, 1, 2)
    compiled = jax.jit(jax.grad(loss, wrt)).lower(*args).compile(compiler_options=options)
  text, memory = compiled.as_text(), compiled.memory_analysis()
  calls = re.findall(r'custom_call_target="(?:__cudnn\\$)?(\\w+)"', text)
  kernels = re.findall(r"%(splash_mha_[a-z]+)\\S* = .*tpu_custom_call", text)
  return dict(calls=calls, kernels=kernels, bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes)
"""


def compiled(library: str, variable: str, calls: str) -> list:
  """`facts(...)` of each call in the list `calls`, from a child process with `library`; skips where it is missing."""
  script = library + COMPILE + f"print(json.dumps([{calls}]))"
  python = os.environ.get(variable, sys.executable)
  paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if variable not in os.environ and p)])
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | ENVIRONMENT | dict(PYTHONPATH=paths)
  done = subprocess.run([python, "-c", script], env=env, capture_output=True, text=True, timeout=300)
  if done.returncode == ABSENT:
    pytest.skip(f"{python} has no such compiler; {variable} may name a Python that has")
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_a_tpu_runs_splash_and_holds_no_square_matrix():
  plain, long, packed, kept, window, again, bias = compiled(
    TPU,
    "FMJAX_TPU_PYTHON",
    "facts(2048), facts(4096), facts(512, segments=True, softcap=30.0), facts(512, policy=saveable),"
    "facts(2048, window=300),"
    "facts(512, policy=jax.checkpoint_policies.nothing_saveable), facts(512, bias=True)",
  )
  for facts in (plain, long, packed, kept, window):
    assert sorted(facts["kernels"]) == ["splash_mha_dkv", "splash_mha_dq", "splash_mha_fwd"]
  assert sorted(again["kernels"]) == ["splash_mha_dkv", "splash_mha_dq", "splash_mha_fwd", "splash_mha_fwd"]
  assert bias["kernels"] == []
  assert long["bytes"] < 3 * plain["bytes"] < 4096**2  # twice the length; a device has one example, and two heads


def test_a_gpu_runs_cudnn_and_holds_no_square_matrix():
  plain, long, window, packed, bias, kept, again, capped = compiled(
    GPU,
    "FMJAX_CUDA_PYTHON",
    "facts(2048), facts(4096), facts(2048, window=300), facts(512, segments=True),"
    "facts(512, segments=True, bias=True),"
    "facts(512, policy=saveable), facts(512, policy=jax.checkpoint_policies.nothing_saveable),"
    "facts(512, softcap=30.0)",
  )
  forward, backward = "fmhaSoftmax", "fmhaSoftmaxBackward"
  for facts in (plain, long, window, kept):
    assert sorted(facts["calls"]) == [forward, backward]
  assert sorted(again["calls"]) == [forward, forward, backward]
  for facts in (packed, bias):
    assert {"fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"} <= set(facts["calls"])
  assert not [call for call in capped["calls"] if "fmha" in call]
  assert long["bytes"] < 3 * plain["bytes"]
