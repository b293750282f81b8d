import numpy as np
import pytest

from minigrad.devices import get_device
from minigrad.kernels.build import cache
from minigrad.kernels.cpu.tools import threads

THERE_IS_A_GPU = get_device("auto").name == "cuda"
DEVICES = ["cpu", "reference", *([pytest.param("cuda", marks=pytest.mark.gpu)] if THERE_IS_A_GPU else [])]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not THERE_IS_A_GPU:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def rng():
    """Random numbers, the same in every test."""
    return np.random.default_rng(2015)


@pytest.fixture
def set_threads():
    """Sets the number of threads; after the test it is what it was."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    """The devices at hand; of the session, so that hypothesis may use it."""
    return request.param


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder: a test's kernels change with its file, which the folder's name does not cover."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield
    cache.cache_folder.cache_clear()
