"""Which kernels an op runs, on what, and what they have to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigrad.devices import arrays_among
from minigrad.kernels.work import work_of

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel. It holds none of its arrays."""

    kernel: str  # "family.name", as in kernels/contract.py
    shapes: Shapes  # of its arrays, in order
    operations: int | None  # None where the bytes tell how long it must take
    nbytes: int  # the least it has to move
    start: float  # by time.perf_counter
    seconds: float  # on a GPU until it was launched; elsewhere until it was done, with compiling at the first call


def shapes_of(arguments: tuple[Any, ...]) -> Shapes:
    """The shapes of all arrays among arguments, also of those in lists."""
    return tuple([tuple(a.shape) for a in arrays_among(arguments)])


def shapes_in_words(shapes: Shapes) -> str:
    """Shapes in a line: "128x784 784x100 100 128x100"."""
    return " ".join("x".join(map(str, shape)) or "()" for shape in shapes)


class NotedKernels:
    """A device's kernel families; each call is told to `note` when it is over."""

    def __init__(self, kernels: Any, note: Callable[[KernelCall], None]) -> None:
        self.kernels, self.note = kernels, note

    def __getattr__(self, family: str) -> "NotedFamily":
        noted = NotedFamily(family, getattr(self.kernels, family), self.note)
        setattr(self, family, noted)
        return noted


class NotedFamily:
    """One family of kernels; each call is told."""

    def __init__(self, family: str, module: Any, note: Callable[[KernelCall], None]) -> None:
        self.family, self.module, self.note = family, module, note

    def __getattr__(self, name: str) -> Callable[..., None]:
        kernel, title, note = getattr(self.module, name), f"{self.family}.{name}", self.note

        def call(*arguments: Any) -> None:
            work, shapes = work_of(title, arguments), shapes_of(arguments)
            start = time.perf_counter()
            kernel(*arguments)
            note(KernelCall(title, shapes, work.operations, work.bytes, start, time.perf_counter() - start))

        setattr(self, name, call)
        return call
