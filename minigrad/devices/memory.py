"""Memory that is used again: pools of blocks, and the leases by which arrays hold them."""

import math
from typing import Any

import numpy as np

ALIGNMENT = 64


class Lease:
    """What owns the memory of a pooled array: when the last array on it is gone, the block returns to its pool."""

    __slots__ = ("block", "pool")

    def __init__(self, pool: "Pool", block: Any) -> None:
        self.pool = pool
        self.block = block

    def __del__(self) -> None:
        self.pool.give_back(self.block)


class ArrayLease(Lease):
    """A lease that NumPy can make an array of."""

    __slots__ = ("__array_interface__",)

    def __init__(self, pool: "Pool", block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(pool, block)
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.__array_interface__["data"][0], False),
            "version": 3,
        }


class Pool:
    """Blocks of memory that are handed out again once no array uses them."""

    def __init__(self) -> None:
        self.free: dict[int, list[Any]] = {}
        self.allocated = 0  # bytes of all blocks ever made and not released

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, fresh: bool = False) -> Any:
        """An array with whatever the memory holds; `fresh` is memory that no array of this pool has had before."""
        return np.asarray(ArrayLease(self, self.block(math.prod(shape) * dtype.itemsize, fresh), shape, dtype))

    def block(self, nbytes: int, fresh: bool = False) -> Any:
        """A block for so many bytes."""
        size = bucket(nbytes)
        blocks = None if fresh else self.free.get(size)
        try:
            return blocks.pop() if blocks else self.new_block(size)
        except IndexError:  # another thread was faster
            return self.new_block(size)

    def give_back(self, block: Any) -> None:
        """Keep a block that no array uses."""
        self.free.setdefault(block.size, []).append(block)

    def new_block(self, size: int) -> Any:
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
