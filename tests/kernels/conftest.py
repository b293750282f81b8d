"""Fixtures that hold the kernels of a family against their reference."""

import importlib

import numpy as np
import pytest

from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import Variants


@pytest.fixture
def rng():
    return np.random.default_rng(2015)


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.slow)])
def dtype(request):
    """In the default run float32 alone: to compile every kernel for float64 too takes as long; ops are tested in both."""
    return np.dtype(request.param)


def copied(argument):
    """A copy of an array or of a list of arrays; anything else as it is."""
    if isinstance(argument, list):
        return [copied(item) for item in argument]
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def arrays_of(arguments):
    """All arrays among the arguments, those in lists too."""
    for argument in arguments:
        if isinstance(argument, list):
            yield from arrays_of(argument)
        elif isinstance(argument, np.ndarray):
            yield argument


def assert_close(actual, expected, ulps, precision=None):
    """Equal for integers; for floats within `ulps` roundings, in `precision`, of the largest finite number expected."""
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    finite = np.abs(expected[np.isfinite(expected)])
    tolerance = ulps * np.finfo(precision or expected.dtype).eps * finite.max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.fixture
def check_kernel(set_threads):
    """A function that runs a kernel and its reference on copies of the arguments and compares every array afterwards.

    Inputs are compared as well: a kernel that wrote to one would be found. On 1 and on 2 threads the bits must be the
    same. `parallel` says which variant the sizes must have led to. An array is held to the precision of its dtype, or to
    `precision` if that is given. What the kernel left in the arguments is returned.
    """

    def check(family, name, *arguments, parallel=False, ulps=4, precision=None):
        kernel = getattr(importlib.import_module(f"minigrad.kernels.cpu.{family}"), name)
        reference = getattr(importlib.import_module(f"minigrad.kernels.reference.{family}"), name)

        expected = copied(list(arguments))
        reference(*expected)
        runs = []
        for count in range(1, min(2, threads.available_threads()) + 1):
            set_threads(count)
            run = copied(list(arguments))
            kernel(*run)
            runs.append(run)

        assert isinstance(kernel.resolve(*copied(list(arguments)))[0], Variants) == parallel
        for actual, wanted in zip(arrays_of(runs[0]), arrays_of(expected), strict=True):
            assert_close(actual, wanted, ulps, precision)
        for one, two in zip(arrays_of(runs[0]), arrays_of(runs[-1]), strict=True):
            assert one.tobytes() == two.tobytes()
        return runs[0]

    return check
