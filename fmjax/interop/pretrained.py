"""`from_pretrained`: a folder in Hugging Face's layout as a model that can be called, with Hugging Face's names."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.config import MeshConfig
from fmjax.data import tokenizers
from fmjax.errors import FmjaxError
from fmjax.interop.calling import Results, call
from fmjax.interop.families import find_family
from fmjax.interop.family import check_laws, find_head, for_task, read_config
from fmjax.interop.load import load_params, make_plan, note, tell
from fmjax.interop.peft import CONFIG as ADAPTER_CONFIG
from fmjax.interop.peft import put_on, read_adapter
from fmjax.interop.safetensors import Tensors
from fmjax.models import Model
from fmjax.sharding import make_mesh


def read_hf(folder, name: str) -> dict:
  """A JSON file of the folder; {} where it is not there."""
  path = pathlib.Path(folder) / name
  if not path.is_file():
    return {}
  try:
    tree = json.loads(path.read_text())
    if not isinstance(tree, dict):
      raise ValueError("not an object")
    return tree
  except ValueError as error:
    raise FmjaxError("CONFIG", f"{name} cannot be read", where=path, got=error, fix="restore the file") from error


def read_folder(path) -> tuple[pathlib.Path, dict]:
  """(folder, its config.json)."""
  folder = pathlib.Path(path)
  hf = read_hf(folder, "config.json")
  if not hf and (folder / ADAPTER_CONFIG).is_file():
    raise FmjaxError("CHECKPOINT_MISSING", f"{path} is no model, but an adapter in PEFT's layout", where=folder,
                     fix=f"say peft:{path}, or peft:{path}+hf:BASE")  # fmt: skip
  if not hf:
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"{path} is not a model in Hugging Face's layout", where=folder / "config.json",
      expected="a local folder with config.json and safetensors",
      fix="download the repository into a folder first; fmjax never asks the network",
    )  # fmt: skip
  return folder, hf


def from_pretrained(path, dtype=None, mesh=None, adapter=None, task=None, classes=None) -> "Pretrained":
  """The model in the local folder `path`, in `dtype` (float32), at rest on `mesh` (default: fsdp over all).

  `adapter` is a folder in PEFT's layout with a LoRA that is merged into it; the class is then the one it was made on.
  Else a `task` (what a head is for, of so many `classes`) asks for the family's class for it instead of the folder's
  own: a pooler that the one has and the other has not is then read.
  """
  folder, hf = read_folder(path)
  family = find_family(hf, folder / "config.json")
  lora = None if adapter is None else read_adapter(adapter)
  if lora is not None:
    lora.check_base(folder)
    hf = lora.class_of(family, hf)
  elif task is not None:
    hf = for_task(family, hf, task, classes)
  name, head = find_head(family, hf)
  if unknown := check_laws(family, hf):
    note("config.json has keys that fmjax does not know", unknown, "left them out", folder)
  config = read_config(family, name, hf)
  tensors, dtype = Tensors(folder), jnp.dtype(dtype or jnp.float32)
  tokenizer = tokenizers.from_folder(folder, hf)
  if tokenizer is not None:
    tokenizers.check_vocabulary(tokenizer, config.V, folder)
  mesh = mesh or default_mesh()
  check_heads(config, mesh)
  with jax.set_mesh(mesh):
    if lora is not None:
      tensors = put_on(lora, tensors, family, head, Model(config, dtype))
    plan = make_plan(family, head, config, dtype, tensors, folder)
    tell(plan, folder)
    params = load_params(plan, tensors, dtype)
  generation = read_hf(folder, "generation_config.json")
  return Pretrained(plan.model, params, tokenizer, mesh, hf, name, generation, frozenset(plan.fresh))


def default_mesh():
  mesh = jax.sharding.get_mesh()
  return make_mesh(MeshConfig()) if mesh.empty else mesh


def check_heads(config, mesh):
  ways = mesh.shape["tensor"]
  if config.N % ways or config.K % ways:
    raise FmjaxError("MESH", f"{config.N} query and {config.K} key heads do not divide over a tensor axis of {ways}",
                     where="mesh", fix="use a mesh with a smaller tensor axis")  # fmt: skip


# What `generate` takes from generation_config.json, or from the config.json of older folders.
GENERATION = (
  "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
  "forced_eos_token_id", "bad_words_ids", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
  "no_repeat_ngram_size", "num_beams", "length_penalty", "early_stopping", "renormalize_logits", "max_length",
  "max_new_tokens", "min_length", "min_new_tokens",
)  # fmt: skip


def with_usual(options: dict, hf_config: dict, generation_config: dict) -> dict:
  """The options of `decode.generate` that a folder names, and `options` over them."""
  said = generation_config or hf_config  # as transformers: one of the two, config.json where the other is not there
  usual = {name: said[name] for name in GENERATION[1:] if said.get(name) is not None}
  for one, other in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
    if one in options or other in options:
      usual = {name: value for name, value in usual.items() if name not in (one, other)}
  return {**usual, **options}


class Pretrained:
  """A model with its parameters, called with Hugging Face's argument names.

  config, params, tokenizer (None where the folder has none), model, mesh; `hf_config` and `generation_config` are
  the folder's, and `architecture` is the class of Hugging Face's that this stands for. `fresh` are the paths of
  parameters that the folder lacks.
  """

  def __init__(
    self,
    model,
    params,
    tokenizer,
    mesh,
    hf_config: dict,
    architecture: str,
    generation_config: dict,
    fresh=frozenset(),
  ):
    self.model, self.params, self.tokenizer, self.mesh = model, params, tokenizer, mesh
    self.config, self.hf_config, self.architecture = model.config, hf_config, architecture
    self.generation_config, self.fresh = generation_config, fresh
    self.family = find_family(hf_config, "config.json")
    self.task = self.family.heads[architecture].task

  def __call__(
    self,
    input_ids=None,
    attention_mask=None,
    *,
    token_type_ids=None,
    position_ids=None,
    decoder_input_ids=None,
    decoder_attention_mask=None,
    output_hidden_states=False,
  ) -> Results:
    """One forward pass; arguments are arrays or lists [B, T] ([B, choices, T] for multiple choice)."""
    given = dict(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
                 position_ids=position_ids, decoder_input_ids=decoder_input_ids,
                 decoder_attention_mask=decoder_attention_mask)  # fmt: skip
    given = {name: np.asarray(value) for name, value in given.items() if value is not None}
    kind = dict(family=self.family, task=self.task, hf=self.hf_config, hiddens=output_hidden_states)
    return call(self.model, self.params, self.mesh, given, **kind)

  @functools.cached_property
  def decoding(self):
    """The parameters as a step of decoding reads them best; on a CPU a second copy."""
    with jax.set_mesh(self.mesh):
      return self.model.for_decoding(self.params)

  def generate(self, input_ids, attention_mask=None, **options) -> np.ndarray:
    """Token ids [B, T] as transformers gives them; the options are those of `decode.generate`.

    What an option does not say, generation_config.json does.
    """
    from fmjax import decode

    with jax.set_mesh(self.mesh):
      return decode.generate(self.model, self.decoding, input_ids, attention_mask, tokenizer=self.tokenizer,
                             **with_usual(options, self.hf_config, self.generation_config))  # fmt: skip

  def embed(self, texts, batch_size: int = 32, max_length: int | None = None) -> np.ndarray:
    """A vector for each text, [texts, D]: the mean of its tokens' states, of length 1 (Reimers and Gurevych 2019)."""
    if self.tokenizer is None:
      raise FmjaxError("TOKENIZER_BAD", "the folder has no tokenizer", fix="put its tokenizer.json there")
    texts, made = [texts] if isinstance(texts, str) else list(texts), []
    if max_length is None and self.config.has_table:
      max_length = self.config.max_positions
    for start in range(0, len(texts), batch_size):
      batch = self.tokenizer(texts[start : start + batch_size], max_length=max_length)
      states_BTD = self(**batch).last_hidden_state.astype(np.float32)
      weights_BTC = batch["attention_mask"][..., None].astype(np.float32)
      mean_BD = (states_BTD * weights_BTC).sum(1) / np.maximum(weights_BTC.sum(1), 1)
      made.append(mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True))
    return np.concatenate(made)
