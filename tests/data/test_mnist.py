import gzip
import hashlib
import shutil
import sys

import numpy as np
import pytest

from minigrad.data import load_binary_mnist, load_mnist, mnist
from minigrad.data.idx import read_idx
from minigrad.data.mnist import MNIST, OFFICIAL, OfficialFile, binarize


@pytest.fixture
def small():
    """A dataset in MNIST's form: 20 training and 7 test images of 5 by 4 pixels."""
    rng = np.random.default_rng(0)
    return MNIST(
        rng.integers(0, 256, (20, 5, 4), dtype=np.uint8),
        rng.integers(0, 10, 20, dtype=np.uint8),
        rng.integers(0, 256, (7, 5, 4), dtype=np.uint8),
        rng.integers(0, 10, 7, dtype=np.uint8),
    )


@pytest.fixture
def place(idx_bytes):
    """A function that writes a dataset's four files to a folder."""

    def write(data, folder, suffix=""):
        folder.mkdir(parents=True, exist_ok=True)
        for key, array in data._asdict().items():
            content = idx_bytes(array)
            path = folder / (OFFICIAL[key].name + suffix)
            path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
        return folder

    return write


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and no MINIGRAD_DATA."""
    monkeypatch.delenv("MINIGRAD_DATA", raising=False)
    monkeypatch.setattr(mnist, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def small_is_official(monkeypatch, small, idx_bytes):
    """Let the small dataset be the one with the official checksums."""
    for key, array in small._asdict().items():
        content = idx_bytes(array)
        file = OfficialFile(OFFICIAL[key].name, hashlib.sha256(content).hexdigest(), len(content))
        monkeypatch.setitem(OFFICIAL, key, file)


@pytest.fixture
def mirror(site, monkeypatch, small, small_is_official, idx_bytes):
    """A site whose folder /good/ serves the small dataset; the only mirrors are its /bad/ and /good/."""
    monkeypatch.setattr(mnist, "MIRRORS", (site.url("/bad/"), site.url("/good/")))
    for key, array in small._asdict().items():
        site.answers[f"/good/{OFFICIAL[key].name}.gz"] = gzip.compress(idx_bytes(array))
    return site


def assert_equal(data, expected):
    for ours, theirs in zip(data, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_binary_mnist_has_the_papers_shapes():
    data = load_binary_mnist()
    assert [array.shape for array in data] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert [array.dtype for array in data] == [np.uint8, np.int64, np.uint8, np.int64]


def test_binary_mnist_holds_the_official_counts_of_digits():
    data = load_binary_mnist()
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.train_labels).tolist() == train
    assert np.bincount(data.test_labels).tolist() == test


def test_binary_mnist_can_be_flat_and_float():
    data, flat = load_binary_mnist(), load_binary_mnist(flat=True, dtype=np.float32)
    assert flat.test_images.dtype == np.float32
    np.testing.assert_array_equal(flat.test_images, data.test_images.reshape(10000, 784))
    assert flat.train_images.shape == (60000, 784)


def test_binary_mnist_arrays_are_fresh():
    load_binary_mnist().test_images[:] = 7
    assert load_binary_mnist().test_images.max() == 1


def test_binary_mnist_is_the_official_data_above_127(official_folder):
    data = load_binary_mnist()
    for key, file in OFFICIAL.items():
        official = read_idx(mnist.find_file(official_folder, file.name), sha256=file.sha256)
        expected = official > 127 if key.endswith("images") else official
        np.testing.assert_array_equal(getattr(data, key), expected)


def test_load_mnist_reads_the_official_files(official_folder):
    data = load_mnist(official_folder)
    assert [array.shape for array in data] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert [array.dtype for array in data] == [np.uint8, np.int64, np.uint8, np.int64]
    assert_equal(
        data._replace(train_images=binarize(data.train_images), test_images=binarize(data.test_images)),
        load_binary_mnist(),
    )


def test_binarize_keeps_what_is_above_127():
    assert binarize(np.array([[0, 127], [128, 255]], np.uint8)).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_files_of_a_folder_are_read(suffix, subfolder, small, place, tmp_path):
    place(small, tmp_path / "data" / subfolder, suffix)
    assert_equal(load_mnist(tmp_path / "data"), small)


@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_files_of_minigrad_data_are_read(subfolder, small, place, cache, monkeypatch, tmp_path):
    place(small, tmp_path / "data" / subfolder)
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "data"))
    assert_equal(load_mnist(download=False), small)


def test_files_of_the_cache_are_read(small, place, cache, small_is_official):
    place(small, cache, ".gz")
    assert_equal(load_mnist(download=False), small)


def test_argument_goes_before_minigrad_data(small, place, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "MINIGRAD_DATA", str(place(small._replace(test_labels=9 - small.test_labels), tmp_path / "other"))
    )
    assert_equal(load_mnist(place(small, tmp_path / "data")), small)


def test_an_empty_folder_is_not_replaced_by_other_data(small, place, cache, small_is_official, tmp_path):
    place(small, cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked in.*empty.*only place looked in"):
        load_mnist(tmp_path / "empty")


def test_minigrad_data_without_mnist_leads_on_to_the_cache(
    small, place, cache, small_is_official, monkeypatch, tmp_path
):
    place(small, cache)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "empty"))
    assert_equal(load_mnist(download=False), small)


def test_a_folder_that_does_not_exist_is_an_error(cache, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the argument names .*absent"):
        load_mnist(tmp_path / "absent")
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match=r"MINIGRAD_DATA names .*typo"):
        load_mnist()


def test_a_part_of_the_files_is_an_error(small, place, tmp_path):
    (place(small, tmp_path) / OFFICIAL["test_labels"].name).unlink()
    with pytest.raises(FileNotFoundError, match="but not t10k-labels-idx1-ubyte"):
        load_mnist(tmp_path)


def test_no_data_and_no_download_lists_places_files_and_the_embedded_data(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(download=False)
    message = str(caught.value)
    expected = [f"{tmp_path}\n", f"{tmp_path}/mnist\n", f"{cache}\n", "MINIGRAD_DATA", "load_binary_mnist"]
    expected += [file.name for file in OFFICIAL.values()]
    assert [part for part in expected if part not in message] == []


def test_no_data_and_no_network_lists_the_mirrors_too(mirror, cache):
    mirror.answers.clear()
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked in.*/bad/.*404.*/good/.*404.*load_binary_mnist"):
        load_mnist()


def test_no_data_and_no_pooch_says_how_to_install_it(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked in.*pip install 'minigrad-bn\[data\]'.*load_binary_mnist"):
        load_mnist()


def test_files_are_downloaded_once(mirror, cache, small):
    assert_equal(load_mnist(), small)
    asked = len(mirror.asked)
    assert_equal(load_mnist(), small)
    assert len(mirror.asked) == asked == 8  # the bad mirror and the good one, for each of four files


def test_an_error_page_in_the_cache_is_downloaded_anew(mirror, cache, small, place):
    place(small, cache, ".gz")
    page = cache / f"{OFFICIAL['train_images'].name}.gz"
    page.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: not an IDX file"):
        load_mnist(download=False)
    assert_equal(load_mnist(), small)
    assert page.read_bytes()[:2] == b"\x1f\x8b"


def test_other_data_in_the_cache_is_not_taken_for_the_official(small, place, cache):
    place(small, cache)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: SHA-256"):
        load_mnist(download=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data._replace(train_labels=data.train_labels[:-1]), "20 images, but .*labels.* 19 labels"),
        (lambda data: data._replace(test_images=data.test_images[1:]), "6 images, but .*labels.* 7 labels"),
        (lambda data: data._replace(test_labels=np.arange(4, 11, dtype=np.uint8)), "t10k-labels.*label 6 is 10"),
        (lambda data: data._replace(test_images=data.test_images[:, 1:]), r"\(5, 4\) pixels.*\(4, 4\)"),
        (lambda data: data._replace(train_images=data.train_labels), "train-images.*1 axes.*3 were expected"),
        (lambda data: data._replace(train_labels=data.train_images), "train-labels.*3 axes.*1 were expected"),
        (lambda data: data._replace(train_images=data.train_images.astype("i2")), "int16, where uint8"),
    ],
    ids=["labels", "images", "label 10", "pixels", "images rank", "labels rank", "type"],
)
def test_files_that_do_not_belong_together_are_refused(change, message, small, place, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_mnist(place(change(small), tmp_path))


@pytest.mark.parametrize("key", OFFICIAL)
def test_truncated_official_files_are_refused(key, official_folder, tmp_path):
    for file in OFFICIAL.values():
        path = mnist.find_file(official_folder, file.name)
        shutil.copy(path, tmp_path)
    path = mnist.find_file(tmp_path, OFFICIAL[key].name)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=path.name):
        load_mnist(tmp_path)
