"""The words of a command line: what each command takes, and `--config.a.b=v` for any field of a config."""

import argparse

from fmjax.errors import FmjaxError

SPEC = "WORKDIR, WORKDIR@STEP, WORKDIR@best, hf:FOLDER, peft:FOLDER, peft:FOLDER+hf:BASE or avg:SPEC,SPEC,..."


class Parser(argparse.ArgumentParser):
  def error(self, message):
    raise FmjaxError("USAGE", message, fix=f"{self.prog} --help")


def parser() -> Parser:
  """Its arguments have `command`, a name, and the command's own."""
  top = Parser(prog="fmjax", description="Foundation models in JAX: pretrain, evaluate, generate.")
  top.add_argument("--debug", action="store_true", help="show the traceback of an error")
  commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

  def command(name, text):
    made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.add_argument("--debug", action="store_true", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    return made

  runs(command)
  data(command)
  models(command)
  return top


def runs(command):
  one = command("train", "Train a config; run again to resume.")
  one.add_argument("--config", metavar="FILE[:ARG]", help="a recipe; --config.a.b=v changes a field of it")
  one.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
  one = command("study", "Train members that differ in seed, learning rate or weight decay, side by side.")
  one.add_argument("--config", metavar="FILE[:ARG]", help="a recipe; run again without it to resume")
  one.add_argument("--workdir", required=True, metavar="DIR", help="has a folder for each member, a run of its own")
  one.add_argument("--seeds", type=listed(int), metavar="SEED,...", help="default: the config's own")
  one.add_argument("--learning_rates", type=listed(float), metavar="RATE,...", help="each with each seed")
  one.add_argument("--weight_decays", type=listed(float), metavar="DECAY,...", help="each with each of these")
  one = command(
    "eval",
    "Evaluate a model on its run's eval split, on other data by --config.data.eval_path=FILE, or on a text's file.",
  )
  which = one.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", metavar="DIR")
  which.add_argument("--model", action="append", metavar="SPEC", help=f"{SPEC}; several answer a task together")
  one.add_argument("--combine", metavar="HOW", help="of several models: average (the default), vote, or 0.5,0.3,0.2")
  one.add_argument("--boost", metavar="FILE.npy", help="write what the next member should weigh each example by")
  one.add_argument(
    "--data", metavar="FILE", help='a text, or .jsonl of {"text": ...} or {"source": ..., "target": ...}'
  )
  one.add_argument("--length", type=int, metavar="TOKENS", help="of the window that slides over a text")
  one.add_argument("--stride", type=int, metavar="TOKENS", help="by which it slides; default: half its length")
  one.add_argument("--config", metavar="FILE[:ARG]", help="a task that a language model answers without training")
  one.add_argument("--shots", type=int, metavar="K", help="of such a task: examples in the prompt; default 0")
  one.add_argument("--template", metavar="TEXT", help='of such a task: "Review: {text}\\nSentiment:"')
  one.add_argument("--label_texts", metavar="TEXT,...", help="of such a task: what each label is written as")
  one.add_argument("--predictions", metavar="FILE", help="a task's answers, as .jsonl; default: in the run's folder")
  one.add_argument("--beams", type=int, metavar="N", help="of a task that is answered by a text")
  one = command("report", "Write one HTML page about one or several runs.")
  one.add_argument("runs", nargs="+", metavar="RUN")
  one.add_argument("--out", metavar="FILE")
  one = command("verify", "Check every checkpoint of a run, byte by byte.")
  one.add_argument("workdir", metavar="WORKDIR")


def check_eval(args):
  """USAGE where the words of `fmjax eval` do not go together: it is of a run, a text, or a task without training."""
  several, task, text = len(args.model or ()) > 1, args.config is not None, args.data is not None
  asked = {name for name in ("shots", "template", "label_texts") if getattr(args, name) is not None}
  window = args.length is not None or args.stride is not None
  for wrong, what, fix in (
    (window and not text, "--length and --stride are the window over a text", "give --data=FILE too"),
    (text and args.overrides, "--data is a text by itself: it has no config", "leave --config.* or --data out"),
    (text and (several or args.combine or args.boost), "a text is evaluated by one model", "give one --model"),
    (asked and not task, "--shots, --template and --label_texts are of a task", "give --config=FILE too"),
    (task and (args.workdir or text or several or args.combine or args.beams or args.boost),
     "a task is answered without training by one --model", "leave the other words out"),
  ):  # fmt: skip
    if wrong:
      raise FmjaxError("USAGE", what, fix=fix)


def listed(kind):
  """Numbers with commas between them."""

  def values(text: str) -> list:
    return [kind(one) for one in text.split(",")]

  values.__name__ = f"list of numbers ({kind.__name__})"
  return values


def data(command):
  one = command("data", "Show the rows of a batch as the model sees them.")
  one.add_argument("--config", metavar="FILE[:ARG]", required=True)
  one.add_argument("--step", type=int, default=0, help="which batch; default 0")
  one.add_argument("--rows", type=int, default=4, help="how many of its rows; default 4")
  one = command("prepare", "Turn a config's sources into tokens on disk, on all cores or by Apache Beam.")
  one.add_argument("--config", metavar="FILE[:ARG]", required=True)
  one.add_argument("--runner", default="local", help="local, or one of Beam's, such as DataflowRunner")
  one.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of Beam's pipeline")
  training = command("tokenizer", "Make a tokenizer.").add_subparsers(required=True, metavar="train")
  text = "Train a tokenizer on files; data.tokenizer takes the folder."
  one = training.add_parser("train", help=text, description=text, allow_abbrev=False)
  one.add_argument("--kind", required=True, choices=["unigram", "bpe", "wordpiece", "byte-bpe"])
  one.add_argument("--vocab_size", required=True, type=int, metavar="N")
  one.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
  one.add_argument("--lowercase", action="store_true", help="of wordpiece: as BERT's uncased vocabularies")
  one.add_argument("files", nargs="+", metavar="FILE", help="a text, or a glob in quotes")


def models(command):
  one = command("generate", "Continue a prompt, streamed.")
  one.add_argument("--model", required=True, metavar="SPEC", help=SPEC)
  one.add_argument("--prompt", default="", metavar="TEXT", help="what the text goes on from, or a T5's source")
  one.add_argument("--max_new_tokens", type=int, help="default: 128, or what the positions leave")
  one.add_argument("--temperature", type=float, help="1 where nothing is said; 0 takes the likeliest token")
  one.add_argument("--top_k", type=int, help="draw among so many tokens")
  one.add_argument("--top_p", type=float, help="draw among the likeliest tokens that hold this probability")
  one.add_argument("--min_p", type=float, help="draw among tokens this likely against the likeliest")
  one.add_argument("--beams", type=int, help="2 or more: beam search instead of sampling")
  one.add_argument("--length_penalty", type=float, help="of beams: above 1 favours long texts")
  one.add_argument("--repetition_penalty", type=float, help="above 1 makes tokens of the text less likely")
  one.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be given again")
  one.add_argument("--seed", type=int)
  one = command("import", "Turn a folder in Hugging Face's layout into a workdir, at step 0.")
  one.add_argument("--model", required=True, metavar="hf:FOLDER", help="or peft:FOLDER, peft:FOLDER+hf:BASE")
  one.add_argument("--out", required=True, metavar="DIR", help="the workdir to make")
  one = command("export", "Write a model as a folder in Hugging Face's layout, or a run's LoRA as one in PEFT's.")
  which = one.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", metavar="DIR")
  which.add_argument("--model", metavar="SPEC", help=SPEC)
  one.add_argument(
    "--format", choices=["hf", "peft"], default="hf", help="the whole model, merged, or its LoRA alone"
  )
  one.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
  one.add_argument("--max_shard_size", type=float, default=5.0, metavar="GB", help="of one safetensors file")


def parse(words: list[str]):
  """The arguments, with every `--config.a.b=v` (or `--config.a.b v`) of a train command in `overrides`."""
  plain, overrides, words = [], {}, list(words)
  while words:
    word = words.pop(0)
    key, equals, text = word.partition("=")
    if not key.startswith("--config."):
      plain.append(word)
      continue
    if not equals:
      if not words:
        raise FmjaxError("USAGE", f"{key} needs a value", fix=f"{key}=VALUE")
      text = words.pop(0)
    overrides[key.removeprefix("--config.")] = text
  args = parser().parse_args(plain)
  if overrides and args.command not in ("train", "study", "data", "prepare", "eval"):
    raise FmjaxError("USAGE", f"fmjax {args.command} takes no --config.{next(iter(overrides))}")
  args.overrides = overrides
  if args.command == "eval":
    check_eval(args)
  return args
