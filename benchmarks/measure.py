"""How the asv benchmarks check an answer and take a sample."""

import copy
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.devices import Device, get_device, is_array
from minigrad.kernels import reference

from .tools.copies import check_copy

check_copy()

SAMPLE = 0.02  # seconds that one sample repeats the work for, at least


DEVICES = ["cpu", "cuda"]  # a parameter; where there is no GPU, asv reports "cuda" as skipped
PLACES = ["cpu, 1 thread", "cpu, 2 threads", "cuda"]  # the same where the number of threads matters


def must_sample(name: str, measure: Callable[..., None]) -> Callable[..., None]:
    """A measurement that fails if it has not taken a sample: asv would report 0 seconds."""

    @functools.wraps(measure)
    def measured(self: "Benchmark", *parameters: Any) -> None:
        before = self.clock
        measure(self, *parameters)
        if self.clock <= before:
            raise RuntimeError(
                f"{name} has measured nothing, since asv reads the clock of this benchmark: let it call self.sample(work)"
            )

    return measured


def sampled(name: str) -> Callable[..., None]:
    """A measurement of the work that has this name."""

    def measure(self: "Benchmark", *parameters: Any) -> None:
        self.sample(self.works[name])

    return measure


class Benchmark:
    """Base of the benchmarks: `sample` times a piece of work that may take less than a microsecond.

    asv prepares anew before every call that it times, and so would time single calls, just after preparing. A sample here
    repeats the work itself; the clock that asv reads goes on by the time of one repetition. All of the repetitions are
    done when the clock is read, on the GPU too; how long the GPU itself takes for one is what compare.py measures.
    """

    timed: tuple[str, ...] = ()  # `time_<name>` takes a sample of `works[name]`, which `setup` has made
    clock = 0.0
    repeats = 1
    device = get_device("cpu")

    def __init__(self) -> None:
        self.works: dict[str, Callable[[], Any]] = {}

    def __init_subclass__(cls) -> None:
        for name in cls.timed:
            setattr(cls, f"time_{name}", sampled(name))
        for name, value in list(vars(cls).items()):
            if name.startswith("time_"):
                setattr(cls, name, must_sample(f"{cls.__name__}.{name}", value))

    def timer(self) -> float:
        """The clock that asv reads."""
        return self.clock

    def sample(self, work: Callable[[], Any]) -> None:
        """Repeat `work`, in which nothing may be compiled, for SAMPLE seconds or more."""
        wait = self.device.synchronize
        with mg.no_compile():
            while (seconds := repeated(work, self.repeats, wait)) < SAMPLE:
                self.repeats = math.ceil(self.repeats * min(100, max(2, 1.2 * SAMPLE / seconds)))
        self.clock += seconds / self.repeats

    def use(self, place: str) -> Device:
        """Work on "cpu", "cuda" or one of PLACES from now on; skips the benchmark where this machine has no such place."""
        name, _, threads = place.partition(", ")
        if threads:
            use_threads(int(threads.split()[0]))
        try:
            self.device = get_device(name)
        except RuntimeError as error:
            raise NotImplementedError(str(error)) from error
        return self.device

    def kernel_call(self, family: str, name: str, *arguments: Any, images: int | None = None) -> Callable[[], None]:
        """A call of a kernel of the device, compiled, after it left in all its arguments what the reference kernel leaves.

        Arrays are given as NumPy's; the call works on copies of them, on the device. It is held against the reference on
        the first `images` alone, if they are given: on all, that would take too long.
        """
        kernel = getattr(getattr(self.device.kernels, family), name)
        compared = arguments if images is None else first_of(arguments, images)
        ours, theirs = self.put(compared), copy.deepcopy(compared)
        kernel(*ours)
        getattr(getattr(reference, family), name)(*theirs)
        for i, (got, expected) in enumerate(zip(arrays(ours), arrays(theirs), strict=True)):
            scale = float(np.abs(expected).max(initial=0))
            np.testing.assert_allclose(
                self.device.to_host(got), expected, rtol=1e-4, atol=1e-5 * scale, err_msg=f"{family}.{name}, array {i}"
            )
        call = functools.partial(kernel, *self.put(arguments))
        if images is not None:
            call()  # what is compiled for the whole is
        return call

    def put(self, argument: Any) -> Any:
        """Copies on the device of NumPy arrays, also in lists and tuples; anything else as it is."""
        if isinstance(argument, np.ndarray):
            return self.device.from_host(argument.copy())
        if type(argument) in (list, tuple):
            return type(argument)([self.put(a) for a in argument])
        return argument


def first_of(arguments: tuple[Any, ...], images: int) -> tuple[Any, ...]:
    """The arguments of a kernel for the first images: (n, h, w, c) of the most n are cut, weights of a window are not."""
    count = max(len(a) for a in arguments if np.ndim(a) == 4)
    return tuple([a[:images] if np.ndim(a) == 4 and len(a) == count else a for a in arguments])


def repeated(work: Callable[[], Any], count: int, wait: Callable[[], None]) -> float:
    """Seconds that `count` calls take together until they are done."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        work()
    wait()
    return time.perf_counter() - start


def arrays(arguments: Any) -> list[Any]:
    """All arrays among arguments, also those in lists and tuples."""
    if is_array(arguments):
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
