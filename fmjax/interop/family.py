"""What a family of Hugging Face's is, as data: which keys of its config make which fields, and what its tensors are
called. Reading and writing a config, and naming a model's tensors, are the same few functions for every family."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from fmjax.architecture import TransformerConfig
from fmjax.errors import FmjaxError
from fmjax.laws import Wrong, nearest

# Hugging Face's names of activations; the first of each of ours is the one that is written.
ACTIVATIONS = {
  "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_python_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh", "quick_gelu": "quick_gelu",
  "silu": "silu", "swish": "silu", "relu": "relu", "tanh": "tanh",
}  # fmt: skip

# What would change the computation, and the only value that fmjax computes with.
LAWS = {
  "quantization_config": None, "position_embedding_type": "absolute", "add_cross_attention": False,
  "partial_rotary_factor": 1.0, "use_bidirectional_attention": False, "num_local_experts": None, "num_experts": None,
  "attn_logit_softcapping": None, "final_logit_softcapping": None, "chunk_size_feed_forward": 0,
  "cross_attention_hidden_size": None, "pruned_heads": {}, "rope_interleaved": False,
}  # fmt: skip

# Keys that say nothing about what a forward pass without dropout computes.
SILENT = re.compile(
  r"_name_or_path|architectures|model_type|auto_map|transformers_version|(torch_)?dtype|use_cache|(id2|2id)?label.*"
  r"|_?num_labels|problem_type|.*_token_ids?|.*token_index|.*(dropout|drop|layerdrop)(_prob|_rate)?|.*_pdrop|.*_dropout"
  r"|init(ializer)?_.*|task_specific_params|gradient_checkpointing|output_(past|attentions|hidden_states)"
  r"|(use_)?return_dict.*|tie_word_embeddings|is_(encoder_)?decoder|tokenizer_class|finetuning_task|summary_.*"
  r"|pretraining_tp|pooler_.*|directionality|language|prefix|(max|min)_length|num_beams?(_groups)?|early_stopping"
  r"|(no_repeat|encoder_no_repeat)_ngram_size|(length|repetition|diversity)_penalty|bad_words_ids|do_sample|top_[kp]"
  r"|temperature|typical_p|num_return_sequences|remove_invalid_values|suppress_tokens|begin_suppress_tokens"
  r"|exponential_decay_length_penalty|output_scores|save_step|n_ctx|n_special|predict_special_tokens|torchscript"
  r"|use_bfloat16|tf_legacy_loss|_?attn_implementation.*|_experts_implementation|cache_implementation"
  r"|reorder_and_upcast_attn|max_window_layers|_?sliding_window_pattern|gradient_.*|model_max_length|vocab_file"
  r"|static_position_embeddings|extra_pos_embeddings|classif_.*|.*classifier_dropout|net_structure_type|layers_to_keep"
  r"|num_memory_blocks|down_scale_factor|gap_size|num_hidden_layers|n_positions|output_past|is_gated_act|dense_act_fn|scale_decoder_outputs"
  r"|transformers\.js_config|use_mems.*|save_.*|hidden_act|tie_weights_|is_llama_config"
)

# A field that two configs may differ in and still compute the same.
ASIDE = ("preset", "scan_layers", "dropout", "init_std")
OPTIONAL = ("attention_softcap", "output_softcap", "max_positions", "init_std")  # fields whose key may be null
OUTPUT = ("lm", "pretraining")  # the tasks that give logits over the vocabulary


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of a fused tensor: number `index` of `of` along what a map makes; GPT-2 stores maps as [ins, outs]."""

  name: str
  index: int = 0
  of: int = 1
  whole: bool = False  # the name is the tensor's, not its module's


@dataclasses.dataclass(frozen=True)
class Head:
  """A class of Hugging Face's: its task, and the fields and modules that it adds to those of its family."""

  task: str
  fields: Mapping = dataclasses.field(default_factory=dict)
  modules: Mapping = dataclasses.field(default_factory=dict)
  prefix: str | None = None  # of the family's own modules; None: the family's
  base: Mapping | None = None  # the family's own modules, where they are others in this class


@dataclasses.dataclass(frozen=True)
class Family:
  """A model_type of Hugging Face's. Names of modules hold {l} where a layer's number stands."""

  model_type: str
  prefix: str  # of the modules in classes with a head
  sizes: Mapping  # our field -> the key that holds it
  fixed: Mapping  # our fields that every model of the family has
  defaults: Mapping  # keys -> their value where config.json does not say
  modules: Mapping  # our path -> module or Part
  heads: Mapping  # class -> Head; the first is the model without a head
  laws: Mapping = dataclasses.field(default_factory=dict)
  read: Callable = lambda hf, task: {}  # the fields that no single key holds
  write: Callable = lambda config: {}  # and back
  tied_anyway: bool = False  # transformers ties this family's tables whatever its config says
  aliases: Mapping = dataclasses.field(default_factory=dict)  # tensor -> other names of the same
  buffers: str = r"$^"  # tensors that are no parameters
  computed: Callable = lambda config, name: {}  # tensors that are no parameters and yet written, by name
  counts_tokens: bool = False  # positions count the tokens that are not padding
  conv1d: bool = False  # maps in blocks are stored as [ins, outs]


def labels(hf: Mapping) -> int:
  return len(hf["id2label"]) if hf.get("id2label") else hf.get("num_labels") or 2


def task_fields(head: Head, hf: Mapping) -> dict:
  """The fields of a head that its task decides."""
  heads = dict(sequence=("sequence", None), token=("token", None), qa=("token", 2), choice=("sequence", 1),
               next=("sequence", 2), pretraining=("sequence", 2), discriminator=("token", 1))  # fmt: skip
  if head.task not in heads:
    return {}
  kind, classes = heads[head.task]
  return dict(head=kind, classes=classes or labels(hf))


def find_head(family: Family, hf: Mapping) -> tuple[str, Head]:
  """(class, Head) that the config names; the model without a head where it names none."""
  names = hf.get("architectures") or [next(iter(family.heads))]
  if names[0] not in family.heads:
    raise unsupported(
      f"the class {names[0]} is not one of {family.model_type}'s here", nearest(names[0], family.heads)
    )
  return names[0], family.heads[names[0]]


def class_for(family: Family, hf: Mapping, task: str) -> str | None:
  """The family's class for a task: the one that the config names, where it has that task; None: there is none."""
  names = [name for name, head in family.heads.items() if head.task == task]
  own = (hf.get("architectures") or [None])[0]
  return own if own in names else next(iter(names), None)


def with_labels(hf: Mapping, names) -> dict:
  """The config with classes of these names."""
  table = {str(number): name for number, name in enumerate(names)}
  known = {key: value for key, value in hf.items() if key not in ("num_labels", "_num_labels")}
  return known | dict(id2label=table, label2id={name: int(number) for number, name in table.items()})


def with_head(family: Family, hf: Mapping, name: str, classes: int | None) -> dict:
  """The config as the class `name` of the family, whose head tells so many classes where their number is its own."""
  count = dict(sequence=classes, token=classes, qa=2).get(family.heads[name].task)
  hf = {**hf, "architectures": [name]}
  return hf if count in (None, labels(hf)) else with_labels(hf, [f"LABEL_{number}" for number in range(count)])


def for_task(family: Family, hf: Mapping, task: str, classes: int | None) -> Mapping:
  """The config as the family's class for `task`; as it is where that is its own class, or there is none."""
  name = class_for(family, hf, task)
  return hf if name in (None, find_head(family, hf)[0]) else with_head(family, hf, name, classes)


def unsupported(what, fix="convert the model, or use another one") -> FmjaxError:
  return FmjaxError("CONFIG", what, where="config.json", fix=fix)


def check_laws(family: Family, hf: Mapping) -> list[str]:
  """Refuses what would be computed otherwise; the keys that nothing here knows."""
  laws = {**LAWS, **family.laws}
  known = {*family.sizes.values(), *family.defaults}
  for key, value in hf.items():
    if key in known and key not in family.laws or key not in laws or value is None:
      continue
    if value != laws[key]:
      raise unsupported(f"{key}={value!r} is a {family.model_type} that fmjax does not compute (only {laws[key]!r})")
  return [key for key in hf if key not in known and key not in laws and not SILENT.fullmatch(key)]


def read_config(family: Family, name: str, hf: Mapping) -> TransformerConfig:
  """The config of class `name` that config.json, read as `hf`, says."""
  head, hf = family.heads[name], {**family.defaults, **hf}
  fields = {field: hf.get(key) for field, key in family.sizes.items()}
  if isinstance(activation := fields.get("activation"), str):
    if activation not in ACTIVATIONS:
      raise unsupported(f"the activation {activation!r} is not known", nearest(activation, ACTIVATIONS))
    fields["activation"] = ACTIVATIONS[activation]
  if head.task in OUTPUT and not family.tied_anyway:
    fields["tied"] = bool(hf.get("tie_word_embeddings", True))
  fields |= {**family.fixed, **head.fields, **task_fields(head, hf)}
  fields |= family.read(hf, head)
  try:
    return TransformerConfig(**fields)
  except (Wrong, TypeError) as error:
    raise FmjaxError("CONFIG", f"config.json is not that of a {family.model_type}", got=error,
                     fix="restore the file") from error  # fmt: skip


def write_config(family: Family, name: str, config: TransformerConfig) -> dict:
  """config.json of `config` as class `name`; `fits` says whether it says all of it."""
  hf = {**family.defaults, **{key: getattr(config, field) for field, key in family.sizes.items()}}
  for field, key in family.sizes.items():
    if field == "activation":
      usual = family.defaults.get(key)
      names = [usual] * (ACTIVATIONS.get(usual) == config.activation) or [
        name for name, ours in ACTIVATIONS.items() if ours == config.activation
      ]
      hf[key] = names[0]
  head = family.heads[name]
  hf |= dict(model_type=family.model_type, architectures=[name])
  hf["tie_word_embeddings"] = config.tied
  if config.head and head.task in ("sequence", "token"):
    hf["id2label"] = {str(n): f"LABEL_{n}" for n in range(config.classes)}
    hf["label2id"] = {label: int(n) for n, label in hf["id2label"].items()}
  hf |= family.write(config)
  ids = {key: config.V - 1 for key, token in hf.items() if key.endswith("_token_id") and (token or 0) >= config.V}
  return hf | ids  # Marian's padding is its last token


def differing(family: Family, name: str, config: TransformerConfig) -> list[str]:
  """The fields of `config` that class `name` of the family cannot say."""
  try:
    again = read_config(family, name, write_config(family, name, config))
  except (FmjaxError, TypeError, KeyError):
    return ["kind"]
  aside = ASIDE if config.has_table else (*ASIDE, "max_positions")
  if family.tied_anyway:
    aside = (*aside, "tied")
  names = [field.name for field in dataclasses.fields(config) if field.name not in aside]
  unsaid = {field for field in family.sizes if getattr(config, field) is None and field not in OPTIONAL}
  return [field for field in names if field in unsaid or getattr(config, field) != getattr(again, field)]


def name_of(family: Family, head: Head, path: str, prefix: str, gated: bool) -> Part | None:
  """The tensor that holds the parameter at `path`, its name with {l} where it is a layer's; None: it has no name.

  `gated_up` is what `up` is called beside a gate, where a family has two names for it.
  """
  module, _, last = path.rpartition("/")
  norm = module.endswith("norm") and last in ("scale", "bias")
  key = module if norm else path.removesuffix("_bias")
  suffix = ".bias" if last == "bias" or last.endswith("_bias") else ".weight"
  base = family.modules if head.base is None else head.base
  for table, before in ((head.modules, ""), (base, prefix)):
    found = table.get(key.replace("/up", "/gated_up")) if gated else None
    if (found := found or table.get(key)) is not None:
      found = found if isinstance(found, Part) else Part(found)
      return dataclasses.replace(found, name=before + found.name + ("" if found.whole else suffix))
  return None
