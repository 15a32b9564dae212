"""The sealed manifest of a checkpoint step, with the checksum of every file, and the check of a step against it."""

import json
import os
import pathlib

import xxhash

from fmjax.errors import FmjaxError
from fmjax.workdir import write_bytes

NAME = "manifest.json"
BLOCK = 1 << 20  # bytes read at once to be hashed


class Damage(Exception):
  """A file of a checkpoint is not what the manifest says."""

  def __init__(self, path, expected: str, got: str):
    self.path, self.expected, self.got = pathlib.Path(path), expected, got
    super().__init__(f"{path} (expected {expected}, got {got})")


def render(manifest: dict) -> bytes:
  """The manifest as it lies on disk, in one spelling, so that any flipped bit shows."""
  body = json.dumps(manifest, indent=1, sort_keys=True)
  return json.dumps(
    manifest | {"checksum": xxhash.xxh3_128_hexdigest(body.encode())}, indent=1, sort_keys=True
  ).encode()


def read(path: pathlib.Path) -> dict:
  """The manifest of the step in folder `path`; raises Damage."""
  file = path / NAME
  try:
    raw = file.read_bytes()
  except PermissionError as error:
    raise unreadable(file, error) from error
  except OSError as error:
    raise Damage(file, "a manifest", error.strerror.lower()) from error
  try:
    manifest = json.loads(raw)
    sum_ = manifest.pop("checksum")
    sealed = render(manifest)
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise Damage(file, "a sealed manifest", "other bytes") from error
  if sealed != raw:
    raise Damage(file, f"xxh3 {sum_}", "other bytes")
  return manifest


def checksum(file: pathlib.Path, sync: bool = False) -> list:
  """[bytes, xxh3] of a file; `sync` also makes its bytes durable."""
  hash_ = xxhash.xxh3_64()
  with open(file, "rb", buffering=0) as stream:
    while block := stream.read(BLOCK):
      hash_.update(block)
    if sync:
      os.fsync(stream.fileno())
    return [stream.tell(), hash_.hexdigest()]


def write(path: pathlib.Path, manifest: dict):
  """Seals the files that are in folder `path` now, and makes them durable."""
  files = sorted(file for file in path.rglob("*") if file.is_file())
  sums = {str(file.relative_to(path)): checksum(file, sync=True) for file in files}
  write_bytes(path / NAME, render(manifest | {"files": sums}))


def examine(path: pathlib.Path, step: int) -> dict:
  """The manifest of the step in folder `path`, every file checked against it; raises Damage for the first bad one."""
  manifest = read(path)
  if manifest["step"] != step:
    raise Damage(path / NAME, f"step {step}", f"step {manifest['step']}")
  for name, (size, digest) in manifest["files"].items():
    try:
      got = checksum(path / name)
    except PermissionError as error:
      raise unreadable(path / name, error) from error
    except OSError as error:
      raise Damage(path / name, f"xxh3 {digest}", error.strerror.lower()) from error
    if got[0] != size:
      raise Damage(path / name, f"{size} bytes", str(got[0]))
    if got[1] != digest:
      raise Damage(path / name, f"xxh3 {digest}", got[1])
  return manifest


def unreadable(path, error) -> FmjaxError:
  return FmjaxError("PERMISSION", f"cannot read: {error.strerror}", where=path, fix="let this user read the workdir")
