"""Checkpoints hold everything, and it comes back."""

import sys

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
from minigrad import checkpoint


def test_everything_comes_back(trained, saved, make, state):
    expected = state(trained)
    parts = make(seed=1)
    found = checkpoint.load(saved, **parts, random=True)
    assert state(parts) == expected
    assert found.configuration == {"width": 0.25, "layers": [1, 2]}
    assert found.extra == {"note": "å"}
    assert found.versions["minigrad"] == mg.__version__


def test_a_checkpoint_shows_one_line_and_prints_all(trained, saved):
    found = mg.checkpoint.load(saved)
    assert len(repr(found).split("\n")) == 1
    assert f"{len(found.tensors)} tensors" in repr(found)
    lines = str(found).split("\n")
    assert len(lines) == 1 + len(found.tensors) + 6
    assert lines[1].split() == ["model.0.bias", "float32[4]"]
    assert max(map(len, lines[1:])) < 130


def test_random_streams_go_on_where_they_were(trained, saved):
    expected = mg.random.stream().random(3)
    mg.manual_seed(99)
    checkpoint.load(saved, random=True)
    np.testing.assert_array_equal(mg.random.stream().random(3), expected)


def test_weights_alone_leave_the_rest(trained, saved, make, state):
    mg.manual_seed(5)
    parts = make(seed=1)
    rest = state(parts)[1:]
    checkpoint.load(saved, model=parts["model"])
    assert state(parts)[0] == state(trained)[0]
    assert state(parts)[1:] == rest


def test_scalar_empty_and_double_tensors_come_back(tmp_path):
    class Odd(mg.nn.Module):
        def __init__(self, value):
            self.scalar = mg.nn.Parameter(np.float64(value))
            self.empty = mg.nn.Parameter(np.zeros((0, 3), np.float32))
            self.cube = mg.nn.Parameter(np.full((2, 3, 4), value).transpose(2, 0, 1))

    path = checkpoint.save(tmp_path / "a.safetensors", model=Odd(1 / 3).to("reference"))
    model = Odd(0.0).to("reference")
    checkpoint.load(path, model=model)
    assert model.scalar.item() == 1 / 3
    assert (model.cube.numpy() == 1 / 3).all()


def test_file_is_one_that_safetensors_reads(trained, saved):
    tensors = safetensors.numpy.load_file(saved)
    np.testing.assert_array_equal(tensors["model.0.weight"], trained["model"][0].weight.numpy())
    np.testing.assert_array_equal(tensors["optimizer.hyper"], trained["optimizer"].hyper[0])
    assert tensors["model.2.counter"].dtype == np.uint64


def test_strings_and_paths_and_numpy_numbers_may_be_configuration(trained, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, **trained, configuration={"path": tmp_path, "n": np.int64(3), "x": np.float32(0.5)})
    assert checkpoint.load(path).configuration == {"path": str(tmp_path), "n": 3, "x": 0.5}


def test_other_objects_may_not_be_configuration(trained, tmp_path):
    with pytest.raises(TypeError, match="configuration must be made of"):
        checkpoint.save(tmp_path / "a.safetensors", **trained, configuration={"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")


def test_missing_library_says_how_to_get_it_and_reading_needs_none(trained, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'minigrad-bn\[checkpoint\]'"):
        checkpoint.save(saved, **trained)
    checkpoint.load(saved, **trained)
