"""transformers reads what fmjax writes: every golden folder, exported, and loaded by an installed transformers.

  python tests/interop/reload.py --peer=/path/to/python/with/torch/and/transformers [FAMILY/CLASS ...]

Printed is each folder that has a missing, unexpected or mismatched key, or whose outputs differ from those recorded
by more than the tolerance; the exit code is 1 where there is one.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve()
TOLERANCE = 1e-6  # the same program on the same numbers


def reload(out: pathlib.Path, golden: pathlib.Path) -> int:
  """In the peer's process: how many of the folders in `out` are not as they were."""
  import torch
  import transformers
  from safetensors.torch import load_file

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  folders, bad = sorted(path.parent for path in out.glob("*/*/config.json")), 0
  for folder in folders:
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    options = dict(output_loading_info=True, attn_implementation="eager", local_files_only=True)
    model, info = getattr(transformers, name).from_pretrained(folder, **options)
    held = load_file(golden / folder.relative_to(out) / "expected.safetensors")
    with torch.no_grad():
      found = model.eval()(**{key[3:]: array for key, array in held.items() if key.startswith("in/")})
    whole = {key[4:]: array for key, array in held.items() if key.startswith("out/") and key.count("/") == 1}
    worst = max(
      (float((found[key] - array).abs().max()) for key, array in whole.items() if key in found), default=0.0
    )
    left = {key: sorted(info[key])[:3] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if left or worst > TOLERANCE:
      bad += 1
      print(f"{folder.relative_to(out)}: outputs differ by {worst:.1e}  {left or ''}")
  print(f"{len(folders)} folders, {bad} not as they were")
  return bad


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("folders", nargs="*", metavar="FAMILY/CLASS", help="default: all")
  parser.add_argument("--peer", help="a Python with torch and transformers")
  parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)  # given to the peer's process
  args = parser.parse_args()
  golden = HERE.parents[1] / "golden"
  if args.out:
    return int(reload(args.out, golden) > 0)
  from fmjax.interop import from_pretrained
  from fmjax.interop.export import export

  every = sorted(path.parent.relative_to(golden).as_posix() for path in golden.glob("*/*/expected.safetensors"))
  with tempfile.TemporaryDirectory() as scratch:
    for folder in args.folders or every:
      found = from_pretrained(golden / folder)
      (pathlib.Path(scratch) / folder).parent.mkdir(exist_ok=True)
      how = dict(hf_config=found.hf_config, generation_config=found.generation_config)
      export(pathlib.Path(scratch) / folder, found.model, found.params, **how)
    return subprocess.run([args.peer, HERE, f"--out={scratch}"]).returncode


if __name__ == "__main__":
  sys.exit(main())
