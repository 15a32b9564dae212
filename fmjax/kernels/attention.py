"""Attention: one room that picks the fastest kernel the call allows, and the slow truth beside it.

Letters are the alphabet's: queries q_BTNH, keys and values k_BSKH and v_BSKH, N = K * G query heads. A fused kernel
never holds the T x S matrix in memory; it runs on each device's own examples and heads, inside `jax.shard_map`.
"""

import functools
import logging
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from fmjax import sharding

OUT = "attention_out"  # the name under which a remat policy finds attention's result
MAX_BLOCK = 512  # of splash attention: four blocks of 512 x 512 floats fit a TPU's vector memory
MAX_BLOCKS, MIN_ROWS = 4, 128  # of queries, where XLA does it: more blocks cost more to start than they save
MASKED = -1e30  # a logit that takes no part; finite, so that a row without any key stays finite

log = logging.getLogger("fmjax")


def attention(
  q_BTNH, k_BSKH, v_BSKH, *, causal, segments=None, prefix=None, learned=None, bias=None, window=None, softcap=None,
  scale=None, dropout=0.0, key=None,
):  # fmt: skip
  """o_BTNH = softmax(mask(softcap(scale * q k^T) + bias)) v, the softmax in float32, by the kernel `choose` names.

  causal: a query sees keys up to its own position; needs T == S.
  segments: (q_BT, k_BS) whole numbers; a token sees its own segment only. A query of segment 0, padding, gives 0 and
    takes no gradient; any other must have a key of its segment in reach.
  prefix: whole numbers BS, not 0 at a key that all queries of its segment see, whatever causal and window say.
    Raffel et al. 2020, arXiv:1910.10683, section 3.2.1.
  learned: (k_PKH, v_PKH), more keys and values, which every query sees and no bias is added to.
    Li and Liang 2021, arXiv:2101.00190, section 4.
  bias: added to the logits; letters NTS or BNTS, N and B may be 1.
  window: a causal query sees this many keys, its own included: a number, or a traced one that only XLA's way takes.
    Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
  softcap: logits become softcap * tanh(logits / softcap), before the bias. Gemma 2, arXiv:2408.00118, section 2.
  scale: of the logits; None is H ** -0.5.
  dropout: share of the probabilities that is dropped, where `key` is not None.

  Runs under the mesh that is set; q and o flow as BTNH, k and v as BSKH (`sharding.FLOWING`). A remat policy that
  keeps the result is `saveable`.
  """
  (_, T, N, H), (_, S, K, _) = q_BTNH.shape, k_BSKH.shape
  if causal and T != S:
    raise ValueError(f"causal attention needs as many queries as keys, not T={T} and S={S}: mask with segments")
  if window is not None and not causal:
    raise ValueError("a window is of causal attention: mask with segments")
  if prefix is not None and not causal:
    raise ValueError("a prefix is of causal attention: without it all keys are seen")
  if N % K:
    raise ValueError(f"N={N} query heads do not fall into groups of K={K} key heads")
  if T == 1 and N > K and bias is None and key is None:
    return of_group(q_BTNH, k_BSKH, v_BSKH, segments=segments, learned=learned, softcap=softcap, scale=scale)
  if segments is not None:  # self-attention's come both as BT, and T and S must not share a mesh axis
    segments = sharding.flow(segments[0], "BT"), sharding.flow(segments[1], "BS")
  prefix = None if prefix is None else sharding.flow(prefix, "BS")
  dropout = dropout if key is not None else 0.0
  scale = H**-0.5 if scale is None else scale
  name, reason = choose(
    platform(), T=T, S=S, H=H, dtype=q_BTNH.dtype,
    bias=bias is not None, softcap=softcap is not None, dropout=dropout > 0, traced=isinstance(window, jax.Array),
    prefix=prefix is not None, learned=learned is not None,
  )  # fmt: skip
  announce(name, reason)
  if bias is not None and bias.ndim == 3:
    bias = bias[None]
  call = dict(causal=causal, scale=scale, window=window)
  if name == "cudnn":
    o_BTNH = per_device(functools.partial(cudnn, **call), q_BTNH, k_BSKH, v_BSKH, segments, bias)
  elif name == "splash":
    o_BTNH = per_device(functools.partial(splash, softcap=softcap, **call), q_BTNH, k_BSKH, v_BSKH, segments, None)
  else:
    call |= dict(prefix=prefix, learned=learned, softcap=softcap, dropout=dropout, key=key)
    o_BTNH = plain(q_BTNH, k_BSKH, v_BSKH, segments, bias, **call)
  return unpadded(o_BTNH, segments)


def saveable(primitive, *_, **params) -> bool:
  """The policy for `jax.checkpoint` that keeps attention's result, so that no fused kernel runs forward twice.

  A backward pass needs the softmax's statistics too. Splash gives them and the result the name OUT. cuDNN returns
  both from the primitive `dot_product_attention_fwd_wrapper`: that is kept, and no named copy of the result beside
  it. XLA's way computes the probabilities again.
  """
  named = primitive.name == "name" and params["name"] == OUT
  return named or primitive.name == "dot_product_attention_fwd_wrapper"


def platform() -> str:
  """What the program is compiled for: "cpu", "gpu", "tpu".

  The mesh that is set knows it at trace time, also when its devices are absent and the host compiles ahead of time.
  `jax.lax.platform_dependent` would not do: it traces every branch, and cuDNN's raises where there is no GPU.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  name = jax.default_backend() if device is None else device.platform
  return {"cuda": "gpu"}.get(name, name)


def choose(platform, *, T, S, H, dtype, bias, softcap, dropout, traced=False, prefix=False,
           learned=False) -> tuple[str, str]:  # fmt: skip
  """(kernel, reason) for a call with these facts. Every kernel has causal masks, segments and grouped heads."""
  limits = {
    "gpu": (
      "cudnn",
      (dtype not in (jnp.bfloat16, jnp.float16), f"cuDNN computes in 16 bits, not {jnp.dtype(dtype).name}"),
      (H % 8 or H > 128, f"cuDNN wants a head width that is a multiple of 8 up to 128, not H={H}"),
      # Its gradient refuses odd lengths in some releases.
      (T % 2 or S % 2, f"cuDNN wants even lengths, not T={T}, S={S}"),
      (softcap, "cuDNN has no soft cap"),
      # jax gives it one seed when the program is traced: every step would drop the same places.
      (dropout, "cuDNN's dropout has a fixed seed"),
    ),
    "tpu": (
      "splash",
      (dtype not in (jnp.bfloat16, jnp.float32), f"splash is not proved in {jnp.dtype(dtype).name}"),
      (T % 128 or S % 128, f"splash wants lengths that are multiples of 128, not T={T}, S={S}"),
      (bias, "splash has no bias"),
      (dropout, "splash has no dropout"),
    ),
  }
  if platform not in limits:
    return "xla", f"no fused kernel for {platform}"
  name, *refusals = limits[platform]
  refusals += [
    (traced, "windows differ between the layers of a loop: model.scan_layers=False gives them to a kernel"),
    (prefix, f"{name}'s causal mask has no prefix"),
    (learned, f"{name} has no keys that are not of the text"),
  ]
  for refused, reason in refusals:
    if refused:
      return "xla", reason
  return name, f"{platform} and nothing that {name} lacks"


@functools.cache
def announce(name: str, reason: str):
  log.info("attention: %s (%s)", name, reason)


def visible(causal, segments, T, S, first=0, window=None, prefix_BS=None):
  """The mask of queries from position `first` after the keys' on, letters BTS (B may be 1); None: all see all.

  Padding sees padding here, so that no row is empty; `unpadded` removes what comes of it.
  """
  distance_BTS = first + jnp.arange(T)[None, :, None] - jnp.arange(S)[None, None, :]
  mask_BTS = distance_BTS >= 0 if causal else None
  if window is not None:
    mask_BTS &= distance_BTS < window
  if prefix_BS is not None:
    mask_BTS |= (prefix_BS != 0)[:, None]
  if segments is not None:
    q_BT, k_BS = segments
    same_BTS = q_BT[:, :, None] == k_BS[:, None, :]
    mask_BTS = same_BTS if mask_BTS is None else mask_BTS & same_BTS
  return mask_BTS


def unpadded(o_BTNH, segments):
  """`o_BTNH` with zeroes for the queries of segment 0: one rule for kernels that leave different values there."""
  return o_BTNH if segments is None else jnp.where((segments[0] != 0)[:, :, None, None], o_BTNH, 0)


def plain(
  q_BTNH, k_BSKH, v_BSKH, segments=None, bias=None, *, causal, prefix, learned, window, softcap, scale, dropout, key
):  # fmt: skip
  """Attention as XLA compiles it from matmuls and a softmax; holds probabilities of T x S.

  Heads come first and keys are repeated for their group, so that each matmul is a batch of contiguous matrices: with
  an axis for the group, or with heads in the middle, jax 0.10 on CPU takes a sixth longer. A causal call goes by
  blocks of queries and leaves out the keys that lie after a block. With dropout it does not: the draw stays one of
  T x S; nor with a prefix, whose keys may lie anywhere.
  """
  (_, T, N, _), S = q_BTNH.shape, k_BSKH.shape[1]
  q_BNTH = (q_BTNH * scale).swapaxes(1, 2)  # scaling the query is cheaper than scaling T x S logits
  k_BNSH, v_BNSH = (repeated(x.swapaxes(1, 2), N) for x in (k_BSKH, v_BSKH))
  rows = max(MIN_ROWS, -(-T // MAX_BLOCKS)) if causal and not dropout and prefix is None else T
  parts = []
  for t in range(0, T, rows):
    start = max(0, t - window + 1) if isinstance(window, int) and rows < T else 0
    queries, keys = slice(t, t + rows), slice(start, t + rows if causal else S)
    ids = None if segments is None else (segments[0][:, queries], segments[1][:, keys])
    mask_BTS = visible(causal, ids, min(rows, T - t), len(range(*keys.indices(S))), t - start, window, prefix)
    part = None if bias is None else bias[:, :, queries, keys]
    s_BNTS = logits(q_BNTH[:, :, queries], k_BNSH[:, :, keys], mask_BTS, part, softcap)
    values_BNSH = v_BNSH[:, :, keys]
    if learned is not None:
      s_BNTS, values_BNSH = with_learned(learned, q_BNTH[:, :, queries], s_BNTS, values_BNSH, softcap)
    p_BNTS = sharding.dropout(jax.nn.softmax(s_BNTS).astype(v_BNSH.dtype), "BNTS", dropout, key)
    parts.append(sharding.einsum("BNTS,BNSH->BNTH", p_BNTS, values_BNSH))
  return checkpoint_name(jnp.concatenate(parts, axis=2).swapaxes(1, 2), OUT)


def logits(q_BNTH, k_BNSH, mask_BTS, bias, softcap):
  """s_BNTS in float32, of queries that are scaled."""
  s_BNTS = capped(sharding.einsum("BNTH,BNSH->BNTS", q_BNTH, k_BNSH, accumulate=jnp.float32), softcap)
  s_BNTS = s_BNTS if bias is None else s_BNTS + bias
  return s_BNTS if mask_BTS is None else jnp.where(mask_BTS[:, None], s_BNTS, MASKED)


def log_probabilities(q_BTNH, k_BSKH, *, causal, segments=None, prefix=None, window=None, softcap=None, scale=None):
  """What `attention` weighs values by, as logarithms, [B, N, T, S] in float32; large and negative where masked.

  The arguments are those of `attention`. A query of segment 0 sees padding here.
  """
  (_, T, N, H), S = q_BTNH.shape, k_BSKH.shape[1]
  q_BNTH = (q_BTNH * (H**-0.5 if scale is None else scale)).swapaxes(1, 2)
  k_BNSH = repeated(k_BSKH.swapaxes(1, 2), N)
  if segments is not None:
    segments = sharding.flow(segments[0], "BT"), sharding.flow(segments[1], "BS")
  prefix = None if prefix is None else sharding.flow(prefix, "BS")
  mask_BTS = visible(causal, segments, T, S, 0, window, prefix)
  return jax.nn.log_softmax(logits(q_BNTH, k_BNSH, mask_BTS, None, softcap))


def capped(s_BNTS, softcap):
  return s_BNTS if softcap is None else softcap * jnp.tanh(s_BNTS / softcap)


def with_learned(learned, q_BNTH, s_BNTS, v_BNSH, softcap):
  """The logits and the values with those of the learned keys before them; the queries are scaled already."""
  B, N = q_BNTH.shape[:2]
  k_NPH, v_NPH = (repeated(x.swapaxes(0, 1), N) for x in learned)
  s_BNTP = capped(sharding.einsum("BNTH,NPH->BNTP", q_BNTH, k_NPH, accumulate=jnp.float32), softcap)
  shape = (B, *v_NPH.shape)
  v_BNPH = jnp.broadcast_to(v_NPH[None], shape, out_sharding=sharding.flowing("BNSH", shape))
  return jnp.concatenate([s_BNTP, s_BNTS], -1), jnp.concatenate([v_BNPH, sharding.flow(v_BNSH, "BNSH")], 2)


def repeated(x, N):
  """Each key head of x_BKSH, or of x_KSH, for the N / K query heads of its group."""
  *batch, K, S, H = x.shape
  if K == N:
    return x
  x_KGSH = jnp.broadcast_to(x[..., None, :, :], (*batch, K, N // K, S, H))
  shape = (*batch, N, S, H)
  return jnp.reshape(x_KGSH, shape, out_sharding=sharding.flowing("BKSH"[-len(shape) :], shape))


def of_group(q_BTNH, k_BSKH, v_BSKH, *, segments, **call):
  """Attention of one query a head: its group's queries take the place of time, and no key is repeated."""
  (B, _, N, H), K = q_BTNH.shape, k_BSKH.shape[2]
  G = N // K
  where = sharding.flowing("BKGH", (B, K, G, H))
  q_BGKH = jnp.reshape(q_BTNH, (B, K, G, H), out_sharding=where).swapaxes(1, 2)
  if segments is not None:
    q_BT, k_BS = segments
    shape = (B, G)
    segments = jnp.broadcast_to(q_BT, shape, out_sharding=sharding.flowing("BG", shape)), k_BS
  o_BGKH = attention(q_BGKH, k_BSKH, v_BSKH, causal=False, segments=segments, **call)
  return jnp.reshape(o_BGKH.swapaxes(1, 2), q_BTNH.shape, out_sharding=sharding.flowing("BTNH", q_BTNH.shape))


def per_device(kernel, q_BTNH, k_BSKH, v_BSKH, segments, bias):
  """`kernel` on each device's own examples and heads. Along the mesh's other axes all devices compute the same."""
  args = [(q_BTNH, "BTNH"), (k_BSKH, "BSKH"), (v_BSKH, "BSKH")]
  args += [(segments[0], "BT"), (segments[1], "BS")] if segments is not None else []
  args += [(bias, "BNTS")] if bias is not None else []
  args = [(sharding.flow(x, letters), sharding.flowing(letters, x.shape)) for x, letters in args]

  def run(q_BTNH, k_BSKH, v_BSKH, *rest):
    given = {} if segments is None else dict(segments=rest[:2])
    return kernel(q_BTNH, k_BSKH, v_BSKH, **given, **({} if bias is None else dict(bias=rest[-1])))

  # The kernels do not say over which mesh axes their results vary, so the check of that is off.
  xs, specs = zip(*args)
  return jax.shard_map(run, in_specs=specs, out_specs=specs[0], check_vma=False)(*xs)


def cudnn(q_BTNH, k_BSKH, v_BSKH, segments=None, bias=None, *, causal, window, scale):
  """cuDNN's flash attention. Segments become a mask of T x S an example, which all heads share."""
  mask_BTS = visible(False, segments, q_BTNH.shape[1], k_BSKH.shape[1])
  return jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, None if bias is None else bias.astype(q_BTNH.dtype),
    None if mask_BTS is None else mask_BTS[:, None], scale=scale, is_causal=causal, implementation="cudnn",
    local_window_size=None if window is None else (window - 1, 0),
  )  # fmt: skip


def splash(q_BTNH, k_BSKH, v_BSKH, segments=None, *, causal, window, softcap, scale):
  """Pallas's splash attention, which skips the blocks that the causal mask leaves empty."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  (_, T, N, _), S = q_BTNH.shape, k_BSKH.shape[1]
  # As large as the lengths allow: a larger block reads keys and values from HBM fewer times.
  q, kv = math.gcd(T, MAX_BLOCK), math.gcd(S, MAX_BLOCK)
  sizes = kernels.BlockSizes(q, kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv)
  mask = (masks.CausalMask if causal else masks.FullMask)((T, S))
  if window is not None:
    mask = masks.LocalMask((T, S), (window - 1, 0), 0)
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([mask] * N), block_sizes=sizes, head_shards=1, q_seq_shards=1,
    attn_logits_soft_cap=softcap, residual_checkpoint_name=OUT,
  )  # fmt: skip
  heads_first = [x.swapaxes(1, 2) for x in (q_BTNH * scale, k_BSKH, v_BSKH)]
  ids = None if segments is None else kernels.SegmentIds(*segments)
  return jax.vmap(kernel)(*heads_first, ids).swapaxes(1, 2)


def reference(
  q_BTNH, k_BSKH, v_BSKH, *, causal, segments=None, prefix=None, learned=None, bias=None, window=None, softcap=None,
  scale=None, dropout=0.0, key=None,
):  # fmt: skip
  """The slow truth: what `attention` means, in float32, one plain line a step. Takes whole arrays, on no mesh."""
  (_, T, N, H), S = q_BTNH.shape, k_BSKH.shape[1]
  q_BTNH, k_BSNH, v_BSNH = (
    jnp.repeat(x.astype(jnp.float32), N // x.shape[2], axis=2) for x in (q_BTNH, k_BSKH, v_BSKH)
  )
  s_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH) * (H**-0.5 if scale is None else scale)
  if softcap is not None:
    s_BNTS = softcap * jnp.tanh(s_BNTS / softcap)
  if bias is not None:
    s_BNTS = s_BNTS + bias.reshape((-1, *bias.shape[-3:]))
  free_BNTS = jnp.zeros((1, 1, 1, S), bool) if prefix is None else prefix[:, None, None] != 0
  if causal:
    s_BNTS = jnp.where(jnp.tril(jnp.ones((1, 1, T, S), bool)) | free_BNTS, s_BNTS, MASKED)
  if window is not None:
    s_BNTS = jnp.where(jnp.triu(jnp.ones((1, 1, T, S), bool), 1 - window) | free_BNTS, s_BNTS, MASKED)
  if segments is not None:
    q_BNTS, k_BNTS = segments[0][:, None, :, None], segments[1][:, None, None, :]
    s_BNTS = jnp.where(q_BNTS == k_BNTS, s_BNTS, MASKED)
  if learned is not None:
    k_PNH, v_PNH = (jnp.repeat(x.astype(jnp.float32), N // x.shape[1], axis=1) for x in learned)
    s_BNTP = jnp.einsum("BTNH,PNH->BNTP", q_BTNH, k_PNH) * (H**-0.5 if scale is None else scale)
    s_BNTP = s_BNTP if softcap is None else softcap * jnp.tanh(s_BNTP / softcap)
    s_BNTS = jnp.concatenate([s_BNTP, s_BNTS], -1)
    v_BSNH = jnp.concatenate([jnp.broadcast_to(v_PNH[None], (len(q_BTNH), *v_PNH.shape)), v_BSNH], 1)
  p_BNTS = jax.nn.softmax(s_BNTS)
  if segments is not None:
    p_BNTS = jnp.where(q_BNTS == 0, 0, p_BNTS)
  if dropout and key is not None:
    p_BNTS = jnp.where(jax.random.bernoulli(key, 1 - dropout, p_BNTS.shape), p_BNTS / (1 - dropout), 0)
  return jnp.einsum("BNTS,BSNH->BTNH", p_BNTS, v_BSNH)
