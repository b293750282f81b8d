import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minigrad.data.mnist import EMBEDDED, MNIST, OFFICIAL, read_embedded

TOOL = Path(__file__).parents[2] / "tools" / "embed_mnist.py"


@pytest.fixture(scope="module")
def embed_mnist():
    spec = importlib.util.spec_from_file_location("embed_mnist", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    return MNIST(
        rng.integers(0, 2, (3, 28, 28), dtype=np.uint8),
        np.array([9, 0, 5]),
        rng.integers(0, 2, (2, 28, 28), dtype=np.uint8),
        np.array([1, 2]),
    )


def test_packed_data_reads_back(embed_mnist, small, tmp_path):
    (tmp_path / "small.npz").write_bytes(embed_mnist.pack(small))
    for ours, theirs in zip(read_embedded(tmp_path / "small.npz"), small, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_packing_is_deterministic(embed_mnist, small):
    assert embed_mnist.pack(small) == embed_mnist.pack(MNIST(*(array.copy() for array in small)))


def test_packed_data_is_an_ordinary_npz_file(embed_mnist, small, tmp_path):
    (tmp_path / "small.npz").write_bytes(embed_mnist.pack(small))
    with np.load(tmp_path / "small.npz") as file:
        assert sorted(file) == sorted(OFFICIAL)
        assert file["train_images"].shape == (3, 4, 28)


def test_a_bit_that_is_flipped_in_any_byte_is_refused(embed_mnist, small, flip, tmp_path):
    data, path = embed_mnist.pack(small), tmp_path / "small.npz"
    for bit in range(0, 8 * len(data), 7):
        path.write_bytes(flip(data, bit))
        with pytest.raises(ValueError, match=r"small\.npz: damaged"):
            read_embedded(path)


def test_every_truncation_is_refused(embed_mnist, small, tmp_path):
    data, path = embed_mnist.pack(small), tmp_path / "small.npz"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"small\.npz: damaged"):
            read_embedded(path)


def test_flips_all_over_the_shipped_file_are_refused(flip, tmp_path):
    data, path = EMBEDDED.read_bytes(), tmp_path / "shipped.npz"
    rng = np.random.default_rng(0)
    for bit in [0, 8 * len(data) - 1, *rng.integers(0, 8 * len(data), 20).tolist()]:
        path.write_bytes(flip(data, bit))
        with pytest.raises(ValueError, match="damaged"):
            read_embedded(path)


def test_shipped_file_is_small():
    assert EMBEDDED.stat().st_size < 1_900_000


def test_tool_makes_the_shipped_data_from_the_official_files(embed_mnist, official_folder):
    for ours, theirs in zip(embed_mnist.read_official(official_folder), read_embedded(EMBEDDED), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tool_refuses_files_that_are_not_official(embed_mnist, idx_bytes, tmp_path):
    for key, file in OFFICIAL.items():
        (tmp_path / file.name).write_bytes(idx_bytes(np.zeros((2, 28, 28) if "images" in key else 2, np.uint8)))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: SHA-256"):
        embed_mnist.read_official(tmp_path)


def test_tool_names_a_missing_file(embed_mnist, tmp_path):
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte nor"):
        embed_mnist.read_official(tmp_path)
