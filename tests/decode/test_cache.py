"""A step from the cache computes what the full forward pass computes, at every position, for every kind of model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.decode import step
from fmjax.decode.prompts import padded_left
from fmjax.models import Model

SMALL = dict(V=37, D=24, L=2, N=4, F=32, init_std=0.3)
SOURCE = dict(SMALL, kind="encoder_decoder", source_L=1, max_positions=16)
MODELS = {
  "learned": dict(SMALL, max_positions=16),
  "rotary, grouped": dict(SMALL, K=2, H=8, positions="rotary", norm="rms", bias=False, qk_norm=True, tied=False),
  "windowed": dict(SMALL, L=3, K=2, positions="rotary", window=3, window_layers=(0, 2), rotary_local_base=100.0),
  "shared layers": dict(SMALL, positions="sinusoidal", max_positions=16, shared_layers=True),
  "relative, source": dict(
    SOURCE, positions="relative", relative_buckets=8, relative_distance=6, attention_scale=1.0
  ),
  "learned, source": dict(SOURCE, norm_place="post", embedding_norm=True, first_position=2),
}
TEXTS = [[5, 3, 8, 1, 9, 30, 2, 7], [4, 4, 6, 0, 1, 2, 22, 31]]
CUT = [5, 2]  # the prompts' lengths


@functools.cache
def made(name):
  model = Model(TransformerConfig(**MODELS[name]))
  return model, jax.jit(model.init)


@functools.partial(jax.jit, static_argnames="model")
def full(params, batch, *, model):
  return jax.reshard(model.logits(params, model.apply(params, batch).hidden), jax.P())


@functools.partial(jax.jit, static_argnames="model")
def prefilled(params, batch, *, model):
  return step.prefill(model, params, batch, 0, 16)


@functools.partial(jax.jit, static_argnames="model")
def decoded(params, cache, token_B1, positions_B1, *, model):
  return step.decode(model, params, cache, token_B1, positions_B1)


MESHES = {"one device": {}, "mesh": dict(fsdp=2, tensor=2), "mesh of data and tensor": dict(data=2, tensor=4)}
CASES = [(name, "stacked", "one device") for name in MODELS] + [("windowed", "unstacked", "one device")]
CASES += [("rotary, grouped", "turned", "one device"), ("rotary, grouped", "unstacked", "mesh")]
CASES += [("relative, source", "turned", "one device"), ("relative, source", "turned", "mesh")]
CASES += [("learned, source", "stacked", "mesh"), ("learned", "stacked", "mesh of data and tensor")]


@pytest.mark.parametrize(("name", "form", "mesh"), CASES)
def test_cached_steps_are_the_full_forward_pass(name, form, mesh, on):
  model, init = made(name)
  source = {}
  if model.config.kind == "encoder_decoder":
    source = dict(source_tokens=np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]], np.int32))
    source["source_segments"] = (source["source_tokens"] > 0).astype(np.int32)
  with on(**MESHES[mesh]):
    params = init(jax.random.key(0))
    z_BTV = np.asarray(full(params, dict(tokens=np.array(TEXTS, np.int32), **source), model=model))
    if form != "stacked":
      params = jax.jit(functools.partial(model.unstack, turned=form == "turned"))(params)
    tokens_BP, segments_BP = padded_left([text[:cut] for text, cut in zip(TEXTS, CUT)], 6, 0)
    cache, _, z_BV = prefilled(params, dict(tokens=tokens_BP, segments=segments_BP, **source), model=model)
    for ahead in range(4):
      at = np.array(CUT) + ahead - 1
      np.testing.assert_allclose(z_BV[:, :37], z_BTV[[0, 1], at, :37], atol=3e-5)
      if at.max() + 1 < 8:
        token_B1 = np.array([[text[n + 1]] for text, n in zip(TEXTS, at)], np.int32)
        cache, z_BV = decoded(params, cache, token_B1, at[:, None].astype(np.int32) + 1, model=model)
  assert np.abs(z_BTV[..., :37]).max() > 0.5 and jnp.isneginf(z_BV[:, 37:]).all()
