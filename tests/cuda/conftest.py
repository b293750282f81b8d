import numpy as np
import pytest
from targets import TARGETS, host_driver, target_named

from minigrad import random

try:
    import greenlet  # noqa: F401 - the simulator needs it

    from minigrad.kernels.cuda.tools import launch  # needs numba-cuda
except ImportError as error:
    MISSING = str(error)

    class SkippedModule(pytest.Module):
        """A file of tests that need what is not installed; a skip in this file would end the whole run."""

        def collect(self):
            pytest.skip(MISSING)

    def pytest_pycollect_makemodule(module_path, parent):
        return SkippedModule.from_parent(parent, path=module_path)


@pytest.fixture(params=TARGETS[1:3])
def memory(request, monkeypatch):
    """A simulated GPU, its threads run in order and shuffled."""
    return target_named(request.param, monkeypatch)


@pytest.fixture
def target(memory):
    """What `check_kernel` runs kernels on."""
    return memory


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU as the device "cuda"."""
    from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver

    return as_the_device(monkeypatch, SimulatedDriver(memory=1 << 24))


@pytest.fixture
def host_gpu(monkeypatch):
    """This machine as the device "cuda"."""
    return as_the_device(monkeypatch, host_driver())


@pytest.fixture
def branching(monkeypatch):
    """This machine as the device "cuda", nodes of graphs in any order that their dependencies allow."""
    from graphs import GraphDriver

    return as_the_device(monkeypatch, GraphDriver(memory=1 << 24))


@pytest.fixture
def sized(monkeypatch):
    """A device "cuda" that runs nothing, for the shape of graphs."""
    from graphs import SizeDriver

    return as_the_device(monkeypatch, SizeDriver())


def as_the_device(monkeypatch, driver):
    """The device "cuda" on a driver, until the end of the test."""
    from minigrad.devices.cuda import CudaDevice
    from minigrad.devices.registry import DEVICES

    for name in ("driver", "stream", "empty", "tables", "matmul_precision"):
        monkeypatch.setattr(launch.context, name, getattr(launch.context, name))
    launch.context.tables = {}
    device = CudaDevice(driver)
    monkeypatch.setattr(random, "_draws", {})  # which hold memory of the device that was there before
    monkeypatch.setitem(DEVICES, "cuda", device)
    return device


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def transfers(gpu, monkeypatch):
    """The number of bytes of each copy to the host."""
    copied = []
    to_host = gpu.driver.to_host
    monkeypatch.setattr(gpu.driver, "to_host", lambda *a: (copied.append(a[2]), to_host(*a)))
    return copied
