"""How the asv benchmarks check an answer and take a sample."""

import copy
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.kernels import cpu, reference

SAMPLE = 0.02  # seconds that one sample repeats the work for, at least


class Benchmark:
    """Base of the benchmarks: `sample` times a piece of work that may take less than a microsecond.

    asv prepares anew before every call that it times, and so would time single calls, just after preparing. A sample here
    repeats the work itself; the clock that asv reads goes on by the time of one repetition.
    """

    clock = 0.0
    repeats = 1

    def timer(self) -> float:
        """The clock that asv reads."""
        return self.clock

    def sample(self, work: Callable[[], Any]) -> None:
        """Repeat `work`, in which nothing may be compiled, for SAMPLE seconds or more."""
        with mg.no_compile():
            while (seconds := repeated(work, self.repeats)) < SAMPLE:
                self.repeats = math.ceil(self.repeats * min(100, max(2, 1.2 * SAMPLE / seconds)))
        self.clock += seconds / self.repeats


def repeated(work: Callable[[], Any], count: int) -> float:
    """Seconds that `count` calls take together."""
    start = time.perf_counter()
    for _ in range(count):
        work()
    return time.perf_counter() - start


def kernel_call(family: str, name: str, *arguments: Any) -> Callable[[], None]:
    """A call of a CPU kernel, compiled, after it has left in all its arguments what the reference kernel leaves."""
    kernel = getattr(getattr(cpu, family), name)
    ours, theirs = copy.deepcopy(arguments), copy.deepcopy(arguments)
    kernel(*ours)
    getattr(getattr(reference, family), name)(*theirs)
    for i, (got, expected) in enumerate(zip(arrays(ours), arrays(theirs), strict=True)):
        scale = float(np.abs(expected).max(initial=0))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=f"{family}.{name}, array {i}")
    return functools.partial(kernel, *arguments)


def arrays(arguments: Any) -> list[np.ndarray]:
    """All arrays among arguments, also those in lists."""
    if isinstance(arguments, np.ndarray):
        return [arguments]
    if isinstance(arguments, list | tuple):
        return [array for argument in arguments for array in arrays(argument)]
    return []


def normal(*shape: int) -> np.ndarray:
    """The same standard normal float32 numbers at every call."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def empty(*shape: int) -> np.ndarray:
    """Room for a float32 result; zeros, so that what a kernel leaves alone can be compared."""
    return np.zeros(shape, np.float32)


def use_threads(count: int) -> None:
    """Use so many threads, or skip the benchmark on a machine with fewer cores."""
    try:
        mg.set_num_threads(count)
    except ValueError as error:
        raise NotImplementedError(str(error)) from error
