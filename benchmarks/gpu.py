"""One GPU: attention's kernels against their slow truth, and the training step of GPT-2 124M against PyTorch.

python benchmarks/gpu.py --peer=/path/to/python/with/torch     (a python that has torch with CUDA)
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import contest

HERE = pathlib.Path(__file__).parent
GPT2 = dict(L=12, N=12, D=768, T=1024, B=32, V=50304, dtype="bfloat16")
B, T, N, H = 8, 2048, 16, 64


def calls(jnp, T):
  """Name -> (key heads, what `attention` is called with)."""
  ids_BT = jnp.broadcast_to(1 + (jnp.arange(T) // (T // 4)), (B, T)).astype(jnp.int32)
  padded_BT = jnp.where(jnp.arange(T) < T - 100, 1, 0)[None] * jnp.ones((B, 1), jnp.int32)
  bias_NTS = jnp.sin(jnp.arange(N)[:, None, None] + jnp.arange(T)[None, :, None] - jnp.arange(T)[None, None])
  return {
    "causal": (N, dict(causal=True)),
    "causal, 4 key heads": (4, dict(causal=True)),
    "causal, packed": (N, dict(causal=True, segments=(ids_BT, ids_BT))),
    "causal, window 256": (N, dict(causal=True, window=256)),
    "full, padded": (N, dict(causal=False, segments=(padded_BT, padded_BT))),
    "full, bias": (N, dict(causal=False, bias=bias_NTS)),
  }


def attention_table(rounds: int) -> list[str]:
  import jax
  import jax.numpy as jnp

  from fmjax import sharding
  from fmjax.config import MeshConfig
  from fmjax.kernels import attention as room

  def inputs(K, T):
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (B, T, heads, H), jnp.bfloat16) for key, heads in zip(keys, (N, K, K, N))]

  def step(attend, call):
    def loss(q, k, v, w):
      o = attend(q, k, v, **call)
      return jnp.sum(o.astype(jnp.float32) * w), o

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

  def error(got, want):
    got, want = (jnp.asarray(x, jnp.float32) for x in (got, want))
    return float(jnp.max(jnp.abs(got - want)) / jnp.max(jnp.abs(want)))

  def milliseconds(run, args):
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(rounds):
      start = time.perf_counter()
      jax.block_until_ready(run(*args))
      times.append(time.perf_counter() - start)
    return contest.spread(times)

  lines = [
    f"| attention, {B} x {T}, {N} heads of {H}, bfloat16, forward and backward | kernel | error: result, q, k, v |"
    " median ms (least, quartiles, most) | as XLA compiles it, ms |",
    "|-|-|-|-|-|",
  ]
  with jax.set_mesh(sharding.make_mesh(MeshConfig())):
    for name, (K, call) in calls(jnp, T).items():
      _, short = calls(jnp, 512)[name]
      args = inputs(K, 512)
      (_, o), grads = step(room.attention, short)(*args)
      with jax.default_matmul_precision("highest"):
        (_, truth), true_grads = step(room.reference, short)(*(x.astype(jnp.float32) for x in args))
      # Rows of padding give zero on both sides.
      errors = " ".join(f"{error(a, b):.1e}" for a, b in zip((o, *grads), (truth, *true_grads)))
      args, where = inputs(K, T), room.choose("gpu", T=T, S=T, H=H, dtype=jnp.bfloat16, bias=False, softcap=False,
                                              dropout=False)  # fmt: skip
      fused = milliseconds(step(room.attention, call), args)
      room.platform, known = (lambda: "none"), room.platform
      plain = milliseconds(step(room.attention, call), args)
      room.platform = known
      lines.append(f"| {name} | {where[0]} | {errors} | {fused} | {plain} |")
  return lines


def step_table(peer, rounds: int) -> list[str]:
  from fmjax.architecture import TransformerConfig
  from fmjax.models.flops import train_flops

  torch = [peer, HERE / "torch_gpt.py", f"--shape={json.dumps(GPT2)}", "--device=cuda"]
  commands = {
    "fmjax": [sys.executable, HERE / "fmjax_gpt.py", f"--shape={json.dumps(GPT2)}"],
    "fmjax, scanned": [sys.executable, HERE / "fmjax_gpt.py", f"--shape={json.dumps(GPT2 | dict(scan_layers=True))}"],
    "torch eager": [*torch, "--mode=eager"],
    "torch.compile": [*torch, "--mode=compile"],
  }
  contenders, others = contest.contend(commands, 10, rounds, "cuda")
  ours, scanned, *theirs = contenders
  times, ratio = contest.rows("GPT-2 124M, 32 x 1024, bfloat16", [ours, *theirs], others)
  flops = train_flops(TransformerConfig(**{name: GPT2[name] for name in "LNDV"}), GPT2["T"], causal=True)
  rate = {one.name: GPT2["B"] * GPT2["T"] / statistics.median(one.times) for one in contenders}
  scanned = f"| the same | {scanned.name} | {contest.spread(scanned.times)} | {scanned.ready['start_seconds']:.1f} |"
  lines = [*contest.TIMES, *times, scanned, "", *contest.RATIOS, ratio, ""]
  lines += ["| contender | tokens a second | share of the GPU's 989.4 TFLOP/s |", "|-|-|-|"]
  return lines + [f"| {name} | {tokens:,.0f} | {tokens * flops / 989.4e12:.1%} |" for name, tokens in rate.items()]


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--peer", required=True)
  parser.add_argument("--rounds", type=int, default=10)
  parser.add_argument("--only", choices=("attention", "step"))
  args = parser.parse_args()
  lines = []
  if args.only != "attention":
    lines += step_table(args.peer, args.rounds)
  if args.only != "step":
    lines += ["", *attention_table(args.rounds)]
  print("\n".join(lines))


if __name__ == "__main__":
  main()
