"""The command line: one function a command, each a few lines that call a room of the house."""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402

from fmjax.errors import EXIT, FmjaxError  # noqa: E402


def config_of(args):
  """The Config that --config and its overrides say, or None where neither is given."""
  from fmjax import recipe
  from fmjax.config import from_config_dict

  if args.config is None:
    if args.overrides:
      saved = pathlib.Path(args.workdir) / "config.json"
      if not saved.is_file():
        raise FmjaxError("USAGE", "overrides need a --config to override", fix="give --config=FILE")
      from fmjax.workdir import read_json

      return from_config_dict(recipe.override(read_json(saved), args.overrides), str(saved))
    return None
  return from_config_dict(recipe.override(recipe.load_recipe(args.config), args.overrides), args.config)


def train(args):
  config = config_of(args)
  from fmjax import backend, report, train

  backend.start()

  row = train.run(args.workdir, config, argv=sys.argv, started=STARTED)
  page = report.build([pathlib.Path(args.workdir)])
  if "sample" in row:
    print(row["sample"], end="\n\n")
  loss, bits = row["eval/loss"], row["eval/bits_per_byte"]
  print(f"step {row['step']:,}  eval loss {loss:.4f} nats a token  {bits:.4f} bits a byte")
  for name, bits in read_baselines(args.workdir).items():
    print(f"  {name:<16} {bits:.4f} bits a byte on the same text")
  print(f"run     {args.workdir}\nreport  {page}")


def read_baselines(folder) -> dict:
  from fmjax.workdir import read_json

  return read_json(pathlib.Path(folder) / "environment.json")["data"]["baselines"]


def evaluate(args):
  name = args.model or args.workdir
  if args.data is None:
    if args.length is not None or args.stride is not None:
      raise FmjaxError("USAGE", "--length and --stride are the window over a text", fix="give --data=FILE too")
    return evaluate_split(name)
  from fmjax import backend
  from fmjax.scoring import perplexity

  backend.start()
  for key, value in perplexity.evaluate_text(name, args.data, args.length, args.stride).items():
    print(f"{key:<20} {value if isinstance(value, str) else format(value, '.6f')}")


def evaluate_split(name: str):
  import functools

  import jax

  from fmjax import backend, data, spec
  from fmjax.evaluate import evaluate
  from fmjax.step import eval_step
  from fmjax.train import make_batches

  backend.start()
  found = spec.load(name)
  if found.manifest.get("data_fingerprint") is None:
    raise FmjaxError("USAGE", f"{name} was not trained here: it has no eval split", fix="give a text: --data=FILE")
  prepared = data.prepare(found.config.data)
  data.check_fingerprint(found.manifest["data_fingerprint"], prepared)
  with jax.set_mesh(found.mesh):
    step = jax.jit(functools.partial(eval_step, model=found.model, objective=found.config.objective))
    batches = make_batches(prepared, found.config, "eval")
    row = evaluate(step, found.params, batches, prepared.facts["eval_bytes_per_token"])
  for name, value in row.items():
    print(f"{name:<20} {value:.6f}")


def generate(args):
  from fmjax import backend, continuation

  names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "length_penalty", "repetition_penalty", "seed")
  options = continuation.asked(args.beams, args.stop, **{name: getattr(args, name) for name in names})
  backend.start()
  for piece in continuation.continuation(args.model, args.prompt, options):
    print(piece, end="", flush=True)
  print()


def import_(args):
  from fmjax import backend, spec
  from fmjax.interop.run import check_empty, import_to

  check_empty(args.out)
  backend.start()
  print(f"workdir {import_to(args.out, spec.load(args.model))}")


def export(args):
  from fmjax import backend, spec
  from fmjax.interop.export import export
  from fmjax.interop.run import check_empty, facts_of

  check_empty(args.out)
  backend.start()
  found, name = spec.load(args.model or args.workdir), args.model or args.workdir
  how = dict(tokenizer=found.tokenizer, hf_config=found.hf_config, generation_config=found.generation_config)
  how |= dict(facts=facts_of(found, name.partition("@")[0]), max_shard_size=int(args.max_shard_size * 1e9))
  print(f"folder  {export(args.out, found.model, found.params, **how)}")


def report(args):
  from fmjax import report

  print(f"report  {report.build([pathlib.Path(run) for run in args.runs], args.out and pathlib.Path(args.out))}")


def verify(args):
  from fmjax import checkpoint

  good = True
  for _, ok, text in checkpoint.verify(args.workdir):
    print(text, flush=True)
    good &= ok is not False
  return 0 if good else EXIT["CHECKPOINT_CORRUPT"]


class Parser(argparse.ArgumentParser):
  def error(self, message):
    raise FmjaxError("USAGE", message, fix=f"{self.prog} --help")


def parser() -> Parser:
  top = Parser(prog="fmjax", description="Foundation models in JAX: pretrain, evaluate, generate.")
  top.add_argument("--debug", action="store_true", help="show the traceback of an error")
  commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

  def command(name, function, text):
    made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.set_defaults(function=function)
    made.add_argument("--debug", action="store_true", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    return made

  one = command("train", train, "Train a config; run again to resume.")
  one.add_argument("--config", metavar="FILE[:ARG]", help="a recipe; --config.a.b=v changes a field of it")
  one.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
  one = command("eval", evaluate, "Evaluate a model on its run's eval split, or on the text of a file.")
  which = one.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", metavar="DIR")
  which.add_argument("--model", metavar="SPEC", help="WORKDIR, WORKDIR@STEP or hf:FOLDER")
  one.add_argument(
    "--data", metavar="FILE", help='a text, or .jsonl of {"text": ...} or {"source": ..., "target": ...}'
  )
  one.add_argument("--length", type=int, metavar="TOKENS", help="of the window that slides over a text")
  one.add_argument("--stride", type=int, metavar="TOKENS", help="by which it slides; default: half its length")
  one = command("generate", generate, "Continue a prompt, streamed.")
  one.add_argument("--model", required=True, metavar="SPEC", help="WORKDIR, WORKDIR@STEP or hf:FOLDER")
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
  one = command("import", import_, "Turn a folder in Hugging Face's layout into a workdir, at step 0.")
  one.add_argument("--model", required=True, metavar="hf:FOLDER")
  one.add_argument("--out", required=True, metavar="DIR", help="the workdir to make")
  one = command("export", export, "Write a model as a folder in Hugging Face's layout.")
  which = one.add_mutually_exclusive_group(required=True)
  which.add_argument("--workdir", metavar="DIR")
  which.add_argument("--model", metavar="SPEC", help="WORKDIR, WORKDIR@STEP or hf:FOLDER")
  one.add_argument("--format", choices=["hf"], default="hf")
  one.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
  one.add_argument("--max_shard_size", type=float, default=5.0, metavar="GB", help="of one safetensors file")
  one = command("report", report, "Write one HTML page about one or several runs.")
  one.add_argument("runs", nargs="+", metavar="RUN")
  one.add_argument("--out", metavar="FILE")
  one = command("verify", verify, "Check every checkpoint of a run, byte by byte.")
  one.add_argument("workdir", metavar="WORKDIR")
  return top


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
  if overrides and args.command != "train":
    raise FmjaxError("USAGE", f"fmjax {args.command} takes no --config.{next(iter(overrides))}")
  args.overrides = overrides
  return args


def main(words: list[str] | None = None) -> int:
  words = sys.argv[1:] if words is None else words
  debug = "--debug" in words
  try:
    args = parse(words)
    return args.function(args) or 0
  except FmjaxError as error:
    if debug:
      raise
    print(error, file=sys.stderr, flush=True)
    return error.status
  except KeyboardInterrupt:
    return EXIT["INTERRUPTED"]
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader left; say nothing more
    return 0
  except Exception as error:
    if debug:
      raise
    where = f"{type(error).__name__} in fmjax {' '.join(words[:1])}"
    fix = "run it again with --debug for the traceback, and please report it"
    print(FmjaxError("INTERNAL", f"{error}", where=where, fix=fix), file=sys.stderr, flush=True)
    return EXIT["INTERNAL"]


if __name__ == "__main__":
  sys.exit(main())
