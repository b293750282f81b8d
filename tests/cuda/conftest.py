import inspect

import numpy as np
import pytest

from minigrad.kernels import cuda, reference

try:
    import greenlet  # noqa: F401 - the simulator needs it

    from minigrad.kernels.cuda.tools import launch
    from minigrad.kernels.cuda.tools.array import CudaArray
    from minigrad.kernels.cuda.tools.driver import SimulatedDriver
except ImportError as error:
    MISSING = str(error)

    class SkippedModule(pytest.Module):
        """A file of tests that need what is not installed; a skip in this file would end the whole run."""

        def collect(self):
            pytest.skip(MISSING)

    def pytest_pycollect_makemodule(module_path, parent):
        return SkippedModule.from_parent(parent, path=module_path)


class Memory:
    """NumPy arrays to the simulated GPU and back; what it allocates is filled with garbage."""

    def __init__(self, driver):
        self.driver = driver

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return CudaArray(self.driver.allocate(max(nbytes, 1)), tuple(shape), dtype, None)

    def put(self, array):
        array = np.asarray(array, order="C")
        copy = self.empty(array.shape, array.dtype)
        self.driver.to_device(copy.pointer, array.ctypes.data, array.nbytes, None)
        return copy

    def get(self, array):
        copy = np.empty(array.shape, array.dtype)
        self.driver.to_host(copy.ctypes.data, array.pointer, array.nbytes, None)
        return copy


@pytest.fixture(params=[None, 1], ids=["in order", "shuffled"])
def memory(request, monkeypatch):
    """A simulated GPU, its threads run in order and shuffled."""
    order = None if request.param is None else np.random.default_rng(request.param)
    memory = Memory(SimulatedDriver(order=order))
    monkeypatch.setattr(launch.context, "driver", memory.driver)
    monkeypatch.setattr(launch.context, "stream", None)
    monkeypatch.setattr(launch.context, "empty", memory.empty)
    return memory


@pytest.fixture
def check_kernel(memory):
    """check_kernel(family, name, *arguments, ulps=..., scale=...): the CUDA kernel against the reference, on copies.

    Arrays go to the GPU and back; all of them are compared after, within `ulps` of their precision times `scale` (by
    default the largest magnitude of the expected array), integers exactly. `precision` is that of float64 results of
    float32 work. Gives the kernel's arrays back.
    """

    def check(family, name, *arguments, ulps=16, scale=None, precision=np.float64):
        expected = [copied(a) for a in arguments]
        getattr(getattr(reference, family), name)(*expected)
        given = [on_device(memory, a) for a in arguments]
        function = getattr(getattr(cuda, family), name)
        assert list(inspect.signature(function).parameters) == list(
            inspect.signature(getattr(getattr(reference, family), name)).parameters
        )
        function(*given)
        results = []
        for got, want in zip(given, expected, strict=True):
            if isinstance(got, list):
                got = [memory.get(a) if isinstance(a, CudaArray) else a for a in got]
                for g, w in zip(got, want, strict=True):
                    compare(np.asarray(g), np.asarray(w), ulps, scale, precision)
            elif isinstance(got, CudaArray):
                got = memory.get(got)
                compare(got, want, ulps, scale, precision)
            results.append(got)
        return results

    return check


def copied(argument):
    if isinstance(argument, list):
        return [copied(a) for a in argument]
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def on_device(memory, argument):
    if isinstance(argument, list):
        return [on_device(memory, a) for a in argument]
    return memory.put(argument) if isinstance(argument, np.ndarray) else argument


def compare(got, want, ulps, scale, precision):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.isfinite(want)
    eps = max(np.finfo(got.dtype).eps, np.finfo(precision).eps)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    largest = np.abs(want[finite]).max(initial=0) if scale is None else scale
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=ulps * eps * largest)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)
