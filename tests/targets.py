"""What kernels run on in tests: the CPU, and a GPU simulated in Python or by the host. All are held to the reference.

A case that is for one of them alone says so: `on_cpu((100, 33), (GRAIN, 1))` and `on_cuda(...)` in a table of parameters,
`pytest.mark.cpu` and `pytest.mark.cuda` on a test.
"""

import functools
import importlib

import numpy as np
import pytest

from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import Variants

GUARD = 64  # elements on either side of an array
SENTINEL = 77
# families that each run tries on two threads; some of the others are in tests/runtime/test_thread_results.py
SHARED_OUT = {"gemm", "conv"}
REACHED = set()  # (target, family, kernel) of what was run
# shuffled: threads run in any order, not one after the other; host: the kernels' PTX, translated, with checks for races
TARGETS = ["cpu", "cuda", "cuda, shuffled", "cuda, host"]
CASES = [*TARGETS[:-1], pytest.param(TARGETS[-1], marks=pytest.mark.slow)]  # slow: the compiler takes a second a kernel


def on_cpu(*cases):
    """These cases for the kernels of the CPU alone: sizes that are many for the simulator."""
    return [pytest.param(case, marks=pytest.mark.cpu) for case in cases]


def on_cuda(*cases):
    """These cases for the CUDA kernels alone."""
    return [pytest.param(case, marks=pytest.mark.cuda) for case in cases]


def slow(*cases):
    """These cases are left to `pytest --full`."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def slow_rows(*rows):
    """The same of tests that take several values at once."""
    return [pytest.param(*row, marks=pytest.mark.slow) for row in rows]


def first_only(first, *others):
    """These cases, of which the default run takes the first, since it shows what the others do."""
    return [first, *slow(*others)]


def fenced(fences, array):
    """A copy of an array in the midst of memory that is to stay as it is, which is added to the fences."""
    memory = np.full(array.size + 2 * GUARD, SENTINEL, array.dtype)
    copy = memory[GUARD : GUARD + array.size].reshape(array.shape)
    copy[...] = array
    fences += memory[:GUARD], memory[GUARD + array.size :]
    return copy


class Cpu:
    """The CPU: each kernel on one thread and on two, which must give the same bits."""

    name = "cpu"
    threads = 2  # in the default run 1, but for some families: a variant for several threads is compiled anew

    def run(self, family, name, *arguments):
        """What a kernel leaves in copies of its arguments."""
        REACHED.add((self.name, family, name))
        before, runs = threads.get_num_threads(), []
        try:
            most = 2 if family in SHARED_OUT else self.threads
            for count in range(1, min(most, threads.available_threads()) + 1):
                threads.set_num_threads(count)
                fences = []
                runs.append(each_array(functools.partial(fenced, fences), arguments))
                self.kernel(family, name)(*runs[-1])
                for fence in fences:
                    assert (fence == fence.dtype.type(SENTINEL)).all(), "written outside of an array"
        finally:
            threads.set_num_threads(before)
        for one, two in zip(arrays_of(runs[0]), arrays_of(runs[-1]), strict=True):
            assert one.tobytes() == two.tobytes()
        return runs[0]

    def kernel(self, family, name):
        return getattr(importlib.import_module(f"minigrad.kernels.cpu.{family}"), name)

    def runs_parallel(self, family, name, *arguments):
        """Whether these sizes lead to the variant for several threads."""
        return isinstance(self.kernel(family, name).resolve(*copied(arguments))[0], Variants)


class Cuda:
    """A GPU in Python, or on the host; what it allocates is filled with garbage."""

    name = "cuda"

    def __init__(self, monkeypatch, shuffled=False, on_host=False):
        from minigrad.kernels.cuda.tools import launch
        from minigrad.kernels.cuda.tools.simulated_driver import SimulatedDriver

        order = np.random.default_rng(1) if shuffled else None
        self.driver = host_driver() if on_host else SimulatedDriver(order=order)
        monkeypatch.setattr(launch.context, "driver", self.driver)
        self.stream = self.driver.new_stream()
        monkeypatch.setattr(launch.context, "stream", self.stream)
        monkeypatch.setattr(launch.context, "empty", self.empty)
        monkeypatch.setattr(launch.context, "tables", {})

    def empty(self, shape, dtype):
        from minigrad.kernels.cuda.tools.array import CudaArray

        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return CudaArray(self.driver.allocate(max(nbytes, 1)), tuple(shape), dtype, None)

    def put(self, array):
        array = np.asarray(array, order="C")
        copy = self.empty(array.shape, array.dtype)
        self.driver.to_device(copy.pointer, array.ctypes.data, array.nbytes, self.stream)
        return copy

    def get(self, array):
        copy = np.empty(array.shape, array.dtype)
        self.driver.to_host(copy.ctypes.data, array.pointer, array.nbytes, self.stream)
        return copy

    def run(self, family, name, *arguments):
        """What a kernel leaves in copies of its arguments, there and back."""
        REACHED.add((self.name, family, name))
        given = each_array(self.put, arguments)
        getattr(importlib.import_module(f"minigrad.kernels.cuda.{family}"), name)(*given)
        return [self.got(argument) for argument in given]

    def got(self, argument):
        if isinstance(argument, list):
            return [self.got(item) for item in argument]
        return self.get(argument) if hasattr(argument, "pointer") else argument


@functools.cache
def only_host_driver():
    from minigrad.kernels.cuda.host.driver import HostDriver

    return HostDriver(order=np.random.default_rng(1), checks=True)


def host_driver():
    """The one that all tests share, since each would load its kernels anew; with nothing in its memory."""
    driver = only_host_driver()
    for address in list(driver.blocks):
        driver.free(address)
    driver.late.clear()  # its streams
    driver.launches.clear()
    return driver


def target_named(name, monkeypatch):
    """One of TARGETS; the test is skipped if what it takes is not installed."""
    if name == "cpu":
        return Cpu()
    pytest.importorskip("greenlet", reason="the simulator needs greenlet")
    pytest.importorskip("minigrad.kernels.cuda.tools.language", exc_type=ImportError)
    return Cuda(monkeypatch, shuffled="shuffled" in name, on_host="host" in name)


def check(target, family, name, *arguments, parallel=False, ulps=4, scale=None, precision=np.float64):
    """Run a kernel and its reference on copies of the arguments and compare every array afterwards; gives the kernel's.

    Inputs are compared as well: a kernel that wrote to one would be found. Integers must be equal, floats within `ulps`
    roundings of the largest finite number expected, or of `scale`; `precision` is that of float64 results of float32
    work. `parallel` says which variant the sizes must lead to on the CPU.
    """
    if target.name == "cpu":
        assert target.runs_parallel(family, name, *arguments) == parallel
    expected = copied(arguments)
    getattr(importlib.import_module(f"minigrad.kernels.reference.{family}"), name)(*expected)
    results = target.run(family, name, *arguments)
    for actual, wanted in zip(arrays_of(results), arrays_of(expected), strict=True):
        assert_close(actual, wanted, ulps, scale, precision)
    return results


def assert_close(actual, expected, ulps, scale=None, precision=np.float64):
    """Of one shape and type; equal, or for floats within `ulps` roundings of the largest number or of `scale`."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max(initial=0) if scale is None else scale
    eps = max(np.finfo(expected.dtype).eps, np.finfo(precision).eps)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=0, atol=ulps * eps * largest)


def each_array(function, arguments):
    """The arguments, with function(array) for each array among them, those in lists too."""
    return [
        each_array(function, argument) if isinstance(argument, list)
        else function(argument) if isinstance(argument, np.ndarray) else argument
        for argument in arguments
    ]  # fmt: skip


def copied(arguments):
    return each_array(np.copy, arguments)


def arrays_of(arguments):
    """All arrays among the arguments, those in lists too."""
    for argument in arguments:
        if isinstance(argument, list):
            yield from arrays_of(argument)
        elif isinstance(argument, np.ndarray):
            yield argument
