"""Safetensors files of weights that are not what they should be; tests/fuzz feeds thousands of damaged ones."""

import json
import struct

import numpy as np
import pytest

import minigrad as mg

pytest.importorskip("safetensors")


def written(path, tensors, metadata=None, body=None):
    """A file whose header says so; the body is as long as it should be, and a hole where it is not given."""
    header, end = {"__metadata__": metadata or {"format": "minigrad"}}, 0
    for name, (dtype, shape, itemsize) in tensors.items():
        size = int(np.prod(shape)) * itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + (body or b""))
        file.truncate(8 + len(text) + end)
    return path


@pytest.fixture
def model():
    return mg.nn.Linear(2, 3).to("reference")


def state(model):
    return {name: t.numpy() for name, t in model.state_dict().items()}


def test_a_file_of_gigabytes_is_refused_before_it_is_read(model, tmp_path):
    huge = {"weight": ("F32", [2, 3], 4), "bias": ("F32", [3], 4), "more": ("F32", [10_000, 250_000], 4)}
    path = written(tmp_path / "a.safetensors", huge)
    before = state(model)
    with pytest.raises(ValueError, match="holds 2,500,000,009 numbers, and the model 9: it is another model's"):
        mg.interop.load_safetensors(model, path)
    for name, array in state(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_few_tensors_too_many_are_named(model, tmp_path):
    path = written(
        tmp_path / "a.safetensors", {"weight": ("F32", [2, 3], 4), "bias": ("F32", [3], 4), "more": ("F32", [2], 4)}
    )
    with pytest.raises((ValueError, KeyError), match="more"):
        mg.interop.load_safetensors(model, path)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_dtypes_that_numpy_lacks_are_named(model, tmp_path, dtype):
    size = 2 if dtype == "BF16" else 1
    path = written(tmp_path / "a.safetensors", {"weight": (dtype, [2, 3], size), "bias": (dtype, [3], size)})
    with pytest.raises(
        ValueError, match=rf"a\.safetensors holds \w+ in {dtype}, which NumPy lacks; convert it to float32"
    ):
        mg.interop.load_safetensors(model, path)
