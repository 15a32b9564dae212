"""The format, as the safetensors library has it; and files that are not whole."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fmjax.errors import FmjaxError
from fmjax.interop import safetensors

ARRAYS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(4, dtype=np.float16),
  "c": np.arange(4).astype(ml_dtypes.bfloat16),
  "d": np.zeros((0, 3), np.int64),
  "e": np.array([True, False]),
  "f": np.array(3, np.float32),
}


def as_tensors(arrays):
  return {name: (array.dtype, array.shape, lambda array=array: array) for name, array in arrays.items()}


def test_reads_what_the_library_writes(tmp_path):
  save_file(ARRAYS, tmp_path / "model.safetensors", {"format": "pt"})
  tensors = safetensors.Tensors(tmp_path)
  assert set(tensors) == set(ARRAYS)
  for name, array in ARRAYS.items():
    assert tensors[name].dtype == array.dtype and tensors.shape(name) == array.shape
    np.testing.assert_array_equal(tensors[name], array)
    tensors.release(name)
    np.testing.assert_array_equal(tensors[name], array)


def test_the_library_reads_what_we_write(tmp_path):
  assert safetensors.write(tmp_path, as_tensors(ARRAYS), 10**9) == [tmp_path / "model.safetensors"]
  found = load_file(tmp_path / "model.safetensors")
  assert set(found) == set(ARRAYS) and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_a_shard_holds_what_fits(tmp_path):
  arrays = {f"t{n}": np.full(10, n, np.float32) for n in range(5)}
  files = safetensors.write(tmp_path, as_tensors(arrays), 80)
  assert [path.name for path in files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
  tensors = safetensors.Tensors(tmp_path)
  assert all(np.array_equal(tensors[name], array) for name, array in arrays.items())
  index = json.loads((tmp_path / safetensors.INDEX).read_text())
  assert index["metadata"]["total_size"] == 200
  files[1].unlink()
  with pytest.raises(FmjaxError, match="model-00002-of-00003") as caught:
    safetensors.Tensors(tmp_path)
  assert caught.value.status == 65


def test_an_index_names_no_file_elsewhere(tmp_path):
  home = tmp_path / "home"
  home.mkdir()
  save_file(ARRAYS, tmp_path / "other.safetensors")
  (home / safetensors.INDEX).write_text(json.dumps(dict(weight_map={"a": "../other.safetensors"})))
  with pytest.raises(FmjaxError, match="other.safetensors"):
    safetensors.Tensors(home)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_every_truncation_is_found_before_a_tensor_is_read(keep, tmp_path):
  path = tmp_path / "model.safetensors"
  save_file(ARRAYS, path)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(FmjaxError) as caught:
    safetensors.Tensors(tmp_path)
  assert caught.value.code == "CHECKPOINT_CORRUPT" and str(path) in str(caught.value)


@pytest.mark.parametrize(
  "entry",
  [
    dict(dtype="F32", shape=[3], data_offsets=[0, 8]),
    dict(dtype="F32", shape=[2], data_offsets=[4, 12]),
    dict(dtype="F8_E4M3", shape=[8], data_offsets=[0, 8]),
    dict(dtype="F32", shape=[2]),
    [],
  ],
)
def test_headers_that_lie(entry, tmp_path):
  text = json.dumps({"a": entry}).encode()
  (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
  with pytest.raises(FmjaxError) as caught:
    safetensors.Tensors(tmp_path)
  assert caught.value.code == "CHECKPOINT_CORRUPT"


def test_bytes_beyond_the_tensors(tmp_path):
  path = tmp_path / "model.safetensors"
  save_file(ARRAYS, path)
  path.write_bytes(path.read_bytes() + b"more")
  with pytest.raises(FmjaxError, match="beyond"):
    safetensors.Tensors(tmp_path)
