"""Where arrays live: memory that is reused, and the kernels that work on it.

"cpu"         NumPy arrays, Numba kernels (minigrad.kernels.cpu)
"reference"   NumPy arrays, plain NumPy kernels (minigrad.kernels.reference): slow, nothing compiled, a second opinion
"""

import functools
import importlib
import math
from typing import Any

import numpy as np

# Below this size malloc is faster than our bookkeeping; above it the system hands out fresh pages, which costs a page
# fault for every 4 KB, on every step, unless we keep the memory.
POOLED_BYTES = 1 << 18
ALIGNMENT = 64


class Lease:
    """What owns the memory of a pooled array: when the last array on it is gone, the block returns to its pool."""

    __slots__ = ("__array_interface__", "block", "pool")

    def __init__(self, pool: "Pool", block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.pool = pool
        self.block = block
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.__array_interface__["data"][0], False),
            "version": 3,
        }

    def __del__(self) -> None:
        self.pool.free.setdefault(self.block.size, []).append(self.block)


class Pool:
    """Blocks of memory that are handed out again once no array uses them."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = {}
        self.allocated = 0  # bytes of all blocks ever made and not released

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with whatever the memory holds."""
        size = bucket(math.prod(shape) * dtype.itemsize)
        blocks = self.free.get(size)
        try:
            block = blocks.pop() if blocks else self.new_block(size)
        except IndexError:  # another thread was faster
            block = self.new_block(size)
        return np.asarray(Lease(self, block, shape, dtype))

    def new_block(self, size: int) -> np.ndarray:
        """`size` fresh bytes, aligned to a cache line; what lies free is given back to the system before giving up."""
        try:
            memory = np.empty(size + ALIGNMENT, np.uint8)
        except MemoryError:
            self.release()
            memory = np.empty(size + ALIGNMENT, np.uint8)
        self.allocated += size
        start = -memory.__array_interface__["data"][0] % ALIGNMENT
        return memory[start : start + size]

    def release(self) -> None:
        """Give the blocks that no array uses back to the system."""
        self.allocated -= sum(size * len(blocks) for size, blocks in self.free.items())
        self.free.clear()


def bucket(nbytes: int) -> int:
    """The block size for so many bytes: at most an eighth more, so that shapes that are nearly alike share blocks."""
    step = max(ALIGNMENT, 1 << max(0, nbytes.bit_length() - 4))
    return max(step, -(-nbytes // step) * step)


class Device:
    """A home of arrays: `kernels` has the kernel families as attributes; `empty` allocates."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pool = Pool()
        self.op_name = ""  # the op at work, for recordings

    @functools.cached_property
    def kernels(self) -> Any:
        """The kernel families of this device, imported when first used."""
        return importlib.import_module(f"minigrad.kernels.{self.name}")

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A C-contiguous array with whatever its memory holds."""
        size = math.prod(shape)
        if size < POOLED_BYTES // 8 or size * np.dtype(dtype).itemsize < POOLED_BYTES:
            return np.empty(shape, dtype)
        return self.pool.empty(shape, np.dtype(dtype))

    def check(self, function: Any, *arguments: Any) -> None:
        """Run a check of values, which raises if they are wrong."""
        function(*arguments)

    def __repr__(self) -> str:
        return f"Device({self.name!r})"


DEVICES = {name: Device(name) for name in ("cpu", "reference")}


def get_device(name: "str | Device | None") -> Device:
    """The device called `name`; None is the CPU. Raises ValueError for a name that is none, RuntimeError for "cuda"."""
    if isinstance(name, Device):
        return name
    if name is None or name == "auto":
        return DEVICES["cpu"]
    if name in DEVICES:
        return DEVICES[name]
    if isinstance(name, str) and name.partition(":")[0] in ("cuda", "gpu"):
        raise RuntimeError(
            'this version of minigrad has no CUDA kernels yet; use device="cpu", or device="auto" to take what there is'
        )
    raise ValueError(f"unknown device {name!r}; there are {', '.join(map(repr, DEVICES))} and 'auto'")
