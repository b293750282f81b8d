"""Memory of the GPU: blocks that are used again, and what the host knows of their contents."""

from typing import Any, NamedTuple

import numpy as np

from minigrad.devices.memory import Lease, Pool
from minigrad.kernels.cuda.tools.array import CudaArray
from minigrad.kernels.cuda.tools.driver import OutOfMemory

SMALL = 1 << 20  # bytes; integer arrays up to here are remembered on the host too, so that checks need not ask the GPU


class MemoryBlock:
    """Memory of the GPU, and what is known of its contents.

    It has no finalizer of its own: where the garbage collector finds a lease and its block together, it would run both,
    and the lease hands the block on.
    """

    __slots__ = ("known", "lent", "pointer", "size")

    def __init__(self, driver: Any, size: int) -> None:
        self.size = size
        self.pointer = driver.allocate(size)
        self.known: np.ndarray | None = None  # a copy of what was put at its start
        self.lent = False  # to another library, which may write there

    def forget(self) -> None:
        """Others write there too from now on: nothing is known of it, until it is handed out anew."""
        self.known, self.lent = None, True


class BlockOwner(NamedTuple):
    """What an array without a lease has for its base: it keeps the pool, and so the block's memory."""

    pool: Pool
    block: MemoryBlock


class CudaPool(Pool):
    """Blocks of the GPU's memory that are handed out again once no array uses them.

    With `main`, the pool of the device, it is one of a recording: launches that were noted go to the addresses of blocks that
    no array uses any more, so none is given back to the GPU before the pool itself is gone.
    """

    def __init__(self, driver: Any, main: "CudaPool | None" = None) -> None:
        super().__init__()
        self.driver = driver
        self.main = main
        self.closed = False

    def __del__(self) -> None:
        self.closed = True
        self.release()

    def give_back(self, block: MemoryBlock) -> None:
        """Keep a block that no array uses, unless the pool itself is gone."""
        super().give_back(block)
        if self.closed:
            self.release()

    def release(self) -> None:
        """Give the blocks that no array uses back to the GPU."""
        while self.free:
            size, blocks = self.free.popitem()
            for block in blocks:
                self.driver.free(block.pointer)
                self.allocated -= size

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, fresh: bool = False) -> CudaArray:
        """An array with whatever the memory holds; `fresh` is memory that no array of this pool has had before."""
        dtype = np.dtype(dtype)
        array = CudaArray(0, tuple(shape), dtype, None)
        block = self.block(array.nbytes, fresh)
        block.known, block.lent = None, False
        array.pointer, array.base = block.pointer, Lease(self, block)
        return array

    def new_block(self, size: int) -> MemoryBlock:
        """Fresh memory; what lies free on the device is given back to the GPU before giving up."""
        try:
            block = MemoryBlock(self.driver, size)
        except OutOfMemory:
            (self.main or self).release()
            block = self.last_try(size)
        self.allocated += size
        return block

    def last_try(self, size: int) -> MemoryBlock:
        """Fresh memory, or an error that says how much there is."""
        try:
            return MemoryBlock(self.driver, size)
        except OutOfMemory as error:
            free, total = self.driver.free_memory(), self.driver.memory
            raise OutOfMemory(
                f"the GPU is out of memory: {size:,} bytes were asked for, {free:,} of its {total:,} are free, and this "
                f"pool holds {self.allocated:,}; use a smaller batch, or end what else runs on the GPU (see nvidia-smi)"
            ) from error


def block_of(array: CudaArray) -> MemoryBlock:
    """The block that an array's memory is in."""
    base = array.base
    while isinstance(base, CudaArray):
        base = base.base
    return base.block


def is_ours(array: CudaArray, block: MemoryBlock) -> bool:
    """Whether what is put into an array may be noted as what its block is known to begin with."""
    return array.pointer == block.pointer and not block.lent


def host_copy(array: CudaArray) -> np.ndarray | None:
    """The host's copy of an array's values, if there is one."""
    block = block_of(array)
    copy = block.known
    if copy is None or array.pointer != block.pointer or copy.size != array.size or copy.dtype != array.dtype:
        return None
    return copy.reshape(array.shape)


def known(array: CudaArray) -> np.ndarray:
    """The values of an array, from the host's copy if there is one."""
    copy = host_copy(array)
    return np.asarray(array) if copy is None else copy


def remembered(values: np.ndarray) -> np.ndarray | None:
    """The copy that the host keeps of what it sends, if it keeps one: of labels and the like."""
    return values.copy() if values.dtype.kind in "iub" and values.nbytes <= SMALL else None
