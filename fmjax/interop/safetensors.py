"""Safetensors: one file or a sharded index, memory-mapped and checked before anything is loaded; and written."""

import json
import math
import mmap
import os
import pathlib
import re

import ml_dtypes
import numpy as np
import xxhash

from fmjax.errors import FmjaxError

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"  # of PEFT, never in shards
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
          "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100 << 20  # bytes; the format's own bound
CHUNK = 16 << 20  # bytes that are hashed at once
ALIGNMENT = 8  # of a header's end, so that tensors of any dtype lie as the processor likes them


def corrupt(path, what, expected, got) -> FmjaxError:
  fix = "copy or download the file again"
  return FmjaxError("CHECKPOINT_CORRUPT", what, where=path, expected=expected, got=got, fix=fix)


def read_header(path) -> dict:
  """{name: (dtype, shape, first byte, last byte + 1)} of the tensors in a file, checked against the file's size."""
  size = os.path.getsize(path)
  with open(path, "rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(LARGEST_HEADER, size - 8):
      raise corrupt(path, "the safetensors file ends inside its header", f"{length + 8:,} bytes or more", f"{size:,}")
    try:
      entries = json.loads(file.read(length))
      entries.pop("__metadata__", None)
      table = {name: read_entry(one, 8 + length) for name, one in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      what, wanted = "the header is not that of a safetensors file", "JSON of dtypes, shapes and offsets"
      raise corrupt(path, what, wanted, f"{type(error).__name__}: {error}") from error
  end = 8 + length
  for name, (dtype, shape, start, stop) in sorted(table.items(), key=lambda item: item[1][2:]):
    if start != end or stop - start != math.prod(shape) * np.dtype(dtype).itemsize:
      raise corrupt(
        path, f"tensor {name} does not lie where its header says", f"byte {end:,}", f"{start:,} to {stop:,}"
      )
    end = stop
  if end != size:
    what = "the safetensors file is truncated" if size < end else "the safetensors file has bytes beyond its tensors"
    raise corrupt(path, what, f"{end:,} bytes", f"{size:,}")
  return table


def read_metadata(path) -> dict:
  """What stands beside the tensors in the header of a file that has been checked: {name: text}."""
  with open(path, "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
  return header.get("__metadata__", {})


def digest(*folders) -> str:
  """xxh3-128 of the safetensors files of the folders."""
  hash_ = xxhash.xxh3_128()
  for path in (path for folder in folders for path in sorted(pathlib.Path(folder).glob("*.safetensors"))):
    with open(path, "rb") as file:
      while block := file.read(CHUNK):
        hash_.update(block)
  return hash_.hexdigest()


def read_entry(entry: dict, offset: int):
  start, stop = entry["data_offsets"]
  if entry["dtype"] not in DTYPES:
    raise ValueError(f"dtype {entry['dtype']} is not one of {', '.join(DTYPES)}")
  return DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])), offset + start, offset + stop


def find_files(folder: pathlib.Path, one: str = ONE) -> list[pathlib.Path]:
  """The safetensors files of a folder in Hugging Face's layout, or in PEFT's, where they are called `one`."""
  if (folder / one).is_file():
    return [folder / one]
  if one == ONE and (folder / INDEX).is_file():
    try:
      names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
      raise corrupt(folder / INDEX, "the index of the safetensors files is damaged", "a weight_map", error) from error
    for name in names:
      if pathlib.PurePath(name).name != name or not (folder / name).is_file():
        labels = dict(where=folder / INDEX, fix="copy or download the missing file")
        raise FmjaxError("CHECKPOINT_MISSING", f"a file that the index names is not here: {name}", **labels)
    return [folder / name for name in names]
  pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
  expected, layout = (f"{ONE} or {INDEX}", "Hugging Face's") if one == ONE else (one, "PEFT's")
  if pickled:
    again = "AutoModel.from_pretrained(FOLDER).save_pretrained(OUT), with the model's own class"
    if one == ADAPTER:
      again = "PeftModel.from_pretrained(MODEL, FOLDER).save_pretrained(OUT)"
    raise FmjaxError(
      "CHECKPOINT_MISSING", f"pickled weights are not read, since unpickling runs code: {pickled[0]}", where=folder,
      expected=expected, fix=f"where torch is: {again}",
    )  # fmt: skip
  raise FmjaxError("CHECKPOINT_MISSING", "the folder holds no weights", where=folder, expected=expected,
                   fix=f"give a folder in {layout} layout")  # fmt: skip


class Tensors:
  """The tensors of a folder by name, as views of memory-mapped files; nothing is read until a view is."""

  def __init__(self, folder, one: str = ONE):
    self.entries, self.maps = {}, {}
    for path in find_files(pathlib.Path(folder), one):
      for name, entry in read_header(path).items():
        self.entries[rename(name)] = (path, *entry)
      with open(path, "rb") as file:
        self.maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

  def __iter__(self):
    return iter(self.entries)

  def __contains__(self, name):
    return name in self.entries

  def __getitem__(self, name) -> np.ndarray:
    path, dtype, shape, start, _ = self.entries[name]
    count = math.prod(shape)
    return np.frombuffer(self.maps[path], dtype, count, start if count else 0).reshape(shape)

  def shape(self, name) -> tuple[int, ...]:
    return self.entries[name][2]

  def release(self, name):
    """Lets the pages of a tensor go: mapped pages count as this process's memory until then."""
    path, _, _, start, stop = self.entries[name]
    first = start - start % mmap.PAGESIZE
    if stop > first and hasattr(mmap, "MADV_DONTNEED"):
      self.maps[path].madvise(mmap.MADV_DONTNEED, first, stop - first)


def rename(name: str) -> str:
  """Names of old files, from TensorFlow's layer norm: gamma and beta."""
  return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def write(folder, tensors: dict, max_shard_size: int) -> list[pathlib.Path]:
  """Writes {name: (dtype, shape, make)} into one file, or several and an index; `make` gives a tensor when needed."""
  folder, shards, room = pathlib.Path(folder), [[]], max_shard_size
  for name, (dtype, shape, _) in tensors.items():
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if shards[-1] and size > room:
      shards.append([])
      room = max_shard_size
    shards[-1].append(name)
    room -= size
  one = len(shards) == 1
  files = [ONE if one else f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
  sizes = [write_file(folder / file, {name: tensors[name] for name in names}) for file, names in zip(files, shards)]
  if not one:
    weights = {name: file for file, names in zip(files, shards) for name in names}
    index = dict(metadata=dict(total_size=sum(sizes)), weight_map=weights)
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
  return [folder / file for file in files]


def write_file(path, tensors: dict, metadata: dict | None = None) -> int:
  """Writes one file, tensor after tensor; the bytes of its tensors. `metadata` is {name: text}."""
  header, end = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0  # transformers asks for the format
  for name, (dtype, shape, _) in tensors.items():
    start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
    header[name] = dict(dtype=NAMES[np.dtype(dtype)], shape=list(shape), data_offsets=[start, end])
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % ALIGNMENT)
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for dtype, shape, make in tensors.values():
      array = np.asarray(make(), dtype, order="C")
      assert array.shape == tuple(shape), (array.shape, shape)
      file.write(array.reshape(-1).view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())
  return end
