"""The command line: one function a command, each a few lines that call a room of the house."""

import time

STARTED = time.monotonic()

import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402

from fmjax import arguments  # noqa: E402
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
  bits = row.get("eval/bits_per_byte")
  print(f"step {row['step']:,}  {in_words(row)}" + (f"  {bits:.4f} bits a byte" if bits else ""))
  for name, other in read_baselines(args.workdir).items() if bits else ():
    print(f"  {name:<16} {other:.4f} bits a byte on the same text")
  print(f"run     {args.workdir}\nreport  {page}")


def in_words(row: dict) -> str:
  """The evaluation that a run ended with, and of a task the metric that counts."""
  if "eval/loss" not in row:
    return "no text to evaluate on"
  value = row.get(f"eval/{row['metric']}")
  told = " nats a token" if value is None else f"  {row['metric']} {value:.4f}"
  return f"eval loss {row['eval/loss']:.4f}{told}"


def study(args):
  from fmjax.study import members

  lists = {axis: getattr(args, f"{axis}s") for axis in members.AXES}
  given = members.settle(args.workdir, config_of(args) if args.config else None, args.overrides, lists)
  from fmjax import backend
  from fmjax.study import run

  backend.start()
  tree = run.run(args.workdir, given, argv=sys.argv, started=STARTED)
  print("\n".join(members.table(tree)), end="\n\n")
  for one in tree["members"]:
    print(f"run     {pathlib.Path(args.workdir) / one['name']}  {one['status']}")
  print(f"study   {pathlib.Path(args.workdir) / members.STUDY}")


def read_baselines(folder) -> dict:
  from fmjax.workdir import read_json

  return read_json(pathlib.Path(folder) / "environment.json")["data"]["baselines"]


def evaluate(args):
  from fmjax import backend, judging, published, recipe

  names = args.model or [args.workdir]
  if args.config is not None:
    tree = recipe.override(recipe.load_recipe(args.config), args.overrides)
    backend.start()
    likely = any(asked is not None for asked in (args.shots, args.template, args.label_texts))
    if not likely and published.task_of(names[0]) in published.TASKS:
      print(judging.with_head(names[0], tree, args.predictions))
    else:
      print(judging.untrained(names[0], tree, args.predictions, args.shots, args.template, args.label_texts))
    return
  backend.start()
  if args.data is None:
    print(judging.judge(names, args.overrides, args.predictions, args.beams, args.combine, args.boost))
    return
  from fmjax.scoring import perplexity

  for key, value in perplexity.evaluate_text(names[0], args.data, args.length, args.stride).items():
    print(f"{key:<20} {value if isinstance(value, str) else format(value, '.6f')}")


def show_data(args):
  from rich.console import Console

  from fmjax import data
  from fmjax.data import inspection

  config = config_of(args)
  prepared = data.prepare(config.data, config.objective)
  Console(highlight=False, soft_wrap=True).print(
    inspection.text_of(prepared, config.train.batch_size, config.data_seed, args.step, args.rows), end=""
  )


def prepare(args):
  from fmjax import data
  from fmjax.data import beam

  config = config_of(args)
  runner = None if args.runner == "local" else beam.Beam(args.runner, args.option)
  prepared = data.prepare(config.data, config.objective, runner)
  for every in prepared.splits.values():
    for one in every:
      print(one.in_words())
  for one in prepared.splits["train"]:
    print(f"{one.tokens.name:<10} {one.tokens.folder}")


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

  name = args.model or args.workdir
  check_empty(args.out)
  backend.start()
  if args.format == "peft":
    return export_lora(args.out, name)
  found = spec.load(name)
  how = dict(spec.sent(found), tokenizer=found.tokenizer, facts=facts_of(found, name.partition("@")[0]))
  size = int(args.max_shard_size * 1e9)
  print(f"folder  {export(args.out, found.model, found.params, max_shard_size=size, **how)}")


def export_lora(out, name: str):
  from fmjax import spec
  from fmjax.interop.peft_export import export_adapter
  from fmjax.interop.run import facts_of

  found, parts = spec.opened(name)
  base, adapter = spec.folders_of(found.config.init_from or "") or (None, None)
  whole = base is not None and adapter is None and found.config.init_layers is None
  own = dict(base=base, fingerprint=found.manifest.get("base")) if whole else {}
  own |= dict(hf_config=spec.sent(found)["hf_config"], facts=facts_of(found, name.partition("@")[0]))
  made = export_adapter(out, found.config.adapt, found.model, parts[1:], tokenizer=found.tokenizer, **own)
  print(f"folder  {made}")


def tokenizer(args):
  from fmjax.data import trainers
  from fmjax.interop.run import check_empty, whole

  check_empty(args.out)
  made = trainers.train_on_files(args.kind, args.files, args.vocab_size, args.lowercase)
  with whole(args.out) as draft:
    (made.save_pretrained if made.kind == "huggingface" else made.save)(draft)
  print(f"tokens     {made.vocab_size:,}\ntokenizer  {args.out}")


def report(args):
  from fmjax import report

  paths = [pathlib.Path(run) for run in args.runs]
  runs = [path for path in paths if not path.is_file()] or paths  # a study's folder has files beside its members
  print(f"report  {report.build(runs, args.out and pathlib.Path(args.out))}")


def verify(args):
  from fmjax import checkpoint

  good = True
  for _, ok, text in checkpoint.verify(args.workdir):
    print(text, flush=True)
    good &= ok is not False
  return 0 if good else EXIT["CHECKPOINT_CORRUPT"]


COMMANDS = {
  "train": train, "study": study, "data": show_data, "prepare": prepare, "tokenizer": tokenizer, "eval": evaluate,
  "generate": generate, "import": import_, "export": export, "report": report, "verify": verify,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
  words = sys.argv[1:] if words is None else words
  debug = "--debug" in words
  try:
    args = arguments.parse(words)
    return COMMANDS[args.command](args) or 0
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
