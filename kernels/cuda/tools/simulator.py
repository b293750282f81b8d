"""CUDA kernels in plain Python, on a machine without a GPU: slow, exact about who may see what when (see block.py).

A kernel is given what it uses of numba.cuda by the class `Cuda`, and NumPy's types for Numba's. Memory outside of what was
allocated and vector accesses that are not aligned are errors.

What it does not tell: speed, races that the order of threads does not show, and how a GPU contracts or rounds.
"""

import functools
import sys

import numpy as np
from greenlet import getcurrent
from numba import types

from minigrad.kernels.cuda.tools import language
from minigrad.kernels.cuda.tools.block import BLOCK, LANES, WARP, Index, ThreadBlock, exchange, garbage


@functools.cache
def numpy_type(dtype):
    """A Numba or NumPy type as NumPy's."""
    return np.dtype(dtype.name) if isinstance(dtype, types.Type) else np.dtype(dtype)


class Shared:
    """cuda.shared."""

    @staticmethod
    def array(shape, dtype, alignment=None):
        """One array for the block."""
        frame = sys._getframe(1)
        return getcurrent().block.shared_array((frame.f_code, frame.f_lasti), shape, numpy_type(dtype), alignment)


class Local:
    """cuda.local."""

    @staticmethod
    def array(shape, dtype, alignment=None):
        """One array for the thread."""
        return garbage(shape, numpy_type(dtype), alignment)


class Cuda:
    """What kernels use of numba.cuda."""

    shared, local = Shared, Local

    def __init__(self, grid, block):
        self.gridDim, self.blockDim = Index(*grid), Index(*block)
        self.blockIdx = None

    @property
    def threadIdx(self):
        return getcurrent().index

    @staticmethod
    def syncthreads():
        getcurrent().wait(BLOCK)

    @staticmethod
    def syncthreads_or(value):
        """1 if any thread of the block gives something else than 0."""
        thread = getcurrent()
        thread.given = value
        thread.wait(BLOCK)
        found = any(other.given for other in thread.block.threads)
        thread.wait(BLOCK)  # until all have looked
        return int(found)

    @staticmethod
    def threadfence():
        """What a thread writes others see at once."""

    @staticmethod
    def syncwarp(mask=0xFFFFFFFF):
        thread = getcurrent()
        thread.given = None
        thread.wait(WARP)

    @staticmethod
    def shfl_sync(mask, value, lane):
        return exchange(value)[int(lane)]

    @staticmethod
    def shfl_xor_sync(mask, value, lane_mask):
        return exchange(value)[getcurrent().lane ^ int(lane_mask)]

    @staticmethod
    def shfl_down_sync(mask, value, delta):
        given, lane = exchange(value), getcurrent().lane + int(delta)
        return given[lane] if lane < LANES else value

    @staticmethod
    def shfl_up_sync(mask, value, delta):
        given, lane = exchange(value), getcurrent().lane - int(delta)
        return given[lane] if lane >= 0 else value


SCALARS = {
    kind: getattr(np, kind.name)
    for kind in (
        *(types.float32, types.float64),
        *(types.int8, types.int16, types.int32, types.int64),
        *(types.uint8, types.uint16, types.uint32, types.uint64),
    )
}


def simulate(kernel, real, grid, block, arguments, shared_bytes=0, order=None):
    """Run a kernel; pointers are flat arrays. `order` (a NumPy Generator) shuffles the threads."""
    cuda = Cuda(grid, block)

    def replaced(value):
        if value is language.cuda:
            return cuda
        return SCALARS.get(value, value) if isinstance(value, types.Type) else value

    function = kernel.specialized(real, replaced=replaced)
    with np.errstate(all="ignore"):
        for z, y, x in np.ndindex(grid[2], grid[1], grid[0]):
            cuda.blockIdx = Index(x, y, z)
            ThreadBlock(function, arguments, block, shared_bytes, order).run()
