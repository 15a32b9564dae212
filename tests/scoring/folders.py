"""A golden model with a tokenizer of characters beside it: a folder that reads text. Runs without fmjax too."""

import json
import pathlib
import shutil
import string

from tokenizers import Tokenizer, decoders, models, processors

HERE = pathlib.Path(__file__).parent
CHARACTERS = sorted(string.ascii_letters + string.digits + "\n .,;:'\"!?()-")
END = "<|end|>"
# Name -> (class, whether a text begins with the end).
FOLDERS = {
  "gpt2": ("GPT2LMHeadModel", False),
  "llama": ("LlamaForCausalLM", True),
  "gemma2": ("Gemma2ForCausalLM", True),
  "mistral": ("MistralForCausalLM", False),
  "t5": ("T5ForConditionalGeneration", False),
  "bart": ("BartForConditionalGeneration", False),
}


def write(name: str, out, kind: str | None = None) -> pathlib.Path:
  """The folder `name` of tests/golden, its class `kind`, in `out`, whose ids reach into the golden vocabulary."""
  usual, begins = FOLDERS.get(name, (kind, False))
  out = pathlib.Path(out)
  out.mkdir(parents=True)
  source = HERE.parent / "golden" / name / (kind or usual)
  shutil.copy(source / "model.safetensors", out)
  vocabulary = {token: number for number, token in enumerate([*CHARACTERS, END, "\ufffd"])}
  backend = Tokenizer(models.BPE(vocabulary, [], unk_token="\ufffd"))
  backend.decoder = decoders.Fuse()
  backend.add_special_tokens([END])
  model = json.loads((source / "config.json").read_text())
  (out / "config.json").write_text(json.dumps(dict(model, eos_token_id=vocabulary[END])))
  config = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=END, pad_token=END)
  config["clean_up_tokenization_spaces"] = False
  if begins:
    ids = [(END, vocabulary[END])]
    backend.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=ids)
    config["bos_token"] = END
  backend.save(str(out / "tokenizer.json"))
  (out / "tokenizer_config.json").write_text(json.dumps(config))
  return out
