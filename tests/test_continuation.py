"""`fmjax generate` on folders in Hugging Face's layout: what is printed, and what is refused."""

import pathlib
import shutil
import string

import pytest

from fmjax.__main__ import main
from fmjax.data.tokenizers import Characters
from fmjax.interop.pretrained import from_pretrained

GOLDEN = pathlib.Path(__file__).parent / "golden"
LAYOUTS = ("gpt2/GPT2LMHeadModel", "llama/LlamaForCausalLM", "t5/T5ForConditionalGeneration")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A function of a golden model's name: its folder with a tokenizer."""

  def made(name):
    path = tmp_path_factory.mktemp("model") / "folder"
    shutil.copytree(GOLDEN / name, path)
    Characters(" " + string.ascii_letters + string.digits + string.punctuation[:20]).save_pretrained(path)
    return path

  return made


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_goes_on_from_a_prompt(name, folder, capsys):
  path = folder(name)
  words = ["generate", f"--model=hf:{path}", "--prompt=abc ab", "--max_new_tokens=24"]
  assert main([*words, "--temperature=0"]) == 0
  out = capsys.readouterr().out
  model = from_pretrained(path)
  ids = model.tokenizer("abc ab")["input_ids"][0].tolist()
  row = model.generate([ids], [[1] * len(ids)], max_new_tokens=24, num_beams=1, do_sample=False)[0].tolist()
  answer = model.tokenizer.decode(row[1 if name.startswith("t5") else len(ids) :])
  assert out == ("" if name.startswith("t5") else "abc ab") + answer + "\n"
  assert answer
  assert main([*words, "--beams=2"]) == 0


def test_an_imported_model_is_prompted_as_its_folder_is(folder, tmp_path, capsys):
  path, out = folder("t5/T5ForConditionalGeneration"), tmp_path / "run"
  assert main(["import", f"--model=hf:{path}", f"--out={out}"]) == 0
  capsys.readouterr()
  texts = []
  for name in (f"hf:{path}", str(out)):
    assert main(["generate", f"--model={name}", "--prompt=abc ab", "--max_new_tokens=12"]) == 0
    texts.append(capsys.readouterr().out)
  assert texts[0] == texts[1] and texts[0].strip()


def test_a_prompt_longer_than_the_positions_is_refused(folder, capsys):
  path = folder("gpt2/GPT2LMHeadModel")
  assert main(["generate", f"--model=hf:{path}", f"--prompt={'a' * 200}"]) == 64
  captured = capsys.readouterr()
  assert "the prompt has 200 tokens" in captured.err and not captured.out
  assert len(captured.err.splitlines()) <= 3
