"""What a machine can do, and which share of it a kernel's call reaches."""

import time
from dataclasses import dataclass

import numpy as np

from minigrad.devices import Device, get_device
from minigrad.kernels.work import Work

SIDE = 1024  # of the matrices that are multiplied
COPIED = 1 << 24  # float32 numbers that are copied: more than caches hold
ROUNDS = 5


@dataclass(frozen=True)
class Limits:
    """Floating-point operations, and bytes read and written, in a second."""

    operations: float
    bytes: float

    def least(self, work: Work) -> float:
        """The seconds that work takes at the least: the longer of its operations and its bytes at these rates."""
        return max((work.operations or 0) / self.operations, work.bytes / self.bytes)


def limits(device: Device | str = "cpu") -> Limits:
    """What a device does of a large float32 product and of a large copy, by minigrad's own kernels: the best of a few rounds.

    It takes about a quarter of a second on the CPU, after compiling, and 128 MB. Arrays that stay in caches move faster than
    that, so a kernel on small ones can reach more than the whole limit. Best measured while nothing else runs.
    """
    home = get_device(device)
    a, b, c = (home.from_host(np.ones((SIDE, SIDE), np.float32)) for _ in range(3))
    nothing = home.from_host(np.empty(0, np.float32))
    x, y = (home.from_host(np.ones(COPIED, np.float32)) for _ in range(2))
    product = copy = float("inf")
    for _ in range(ROUNDS + 1):  # the first one compiles
        product = min(product, _seconds(home, home.kernels.gemm.gemm, a, b, nothing, c, False, False))
        copy = min(copy, _seconds(home, home.kernels.movement.copy, x, y))
    return Limits(2 * SIDE**3 / product, 2 * x.nbytes / copy)


def _seconds(home: Device, kernel: object, *arguments: object) -> float:
    home.synchronize()
    start = time.perf_counter()
    kernel(*arguments)  # type: ignore[operator]
    home.synchronize()
    return time.perf_counter() - start
