"""Rows of a matrix by number, the second half of the family `movement`. Contracts: kernels/reference/movement.py.

take_rows            `gather`: a thread moves units of a row
take_rows_backward   Each row of dx is summed in the order of the index, without atomic additions, whose order would be
                     the hardware's. A short index is read by every thread (`scan_rows`). A long one is sorted, as keys of
                     row and place (a bitonic network: K. Batcher, "Sorting Networks and their Applications", 1968), and
                     `sum_rows` adds up each run of equal rows. No two keys are equal, so there is only one sorted order.
"""

from typing import NamedTuple

import numpy as np

from minigrad.kernels.cuda.parts.units import LOAD, STORE, UNITS, alignment, below
from minigrad.kernels.cuda.parts.walk import divided, reciprocal
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.language import cuda, device_function, real, uint32, uint64
from minigrad.kernels.cuda.tools.launch import Bytes, Longs, Reals, UInt, ULongs, blocks_for, kernel

THREADS = 256


class Width(NamedTuple):
    """Of rows, with its reciprocal."""

    units: UInt
    multiplier: UInt
    shift: UInt


def width_of(units):
    """The Width of so many units."""
    return Width(units, *reciprocal(units))


@device_function
def row_of(i, width):
    """i // width."""
    return i if width.units == uint32(1) else divided(i, width.multiplier, width.shift)


@kernel(threads=THREADS)
def gather(x: Bytes, index: Longs, y: Bytes, n: UInt, width: Width):
    """y[row, :] = x[index[row], :], rows of `width` units."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(2 * THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        j = below(uint32(i + uint32(THREADS)), n, i)
        row, other = row_of(i, width), row_of(j, width)
        source, other_source = uint32(index[row]), uint32(index[other])
        u = LOAD(x, uint32(i + uint32(source - row) * width.units))
        v = LOAD(x, uint32(j + uint32(other_source - other) * width.units))
        STORE(y, i, u)
        STORE(y, j, v)


GATHERS = {size: gather.variant(**unit) for size, unit in UNITS.items()}


def gather_rows(x, index, y):
    """y = x[index], in the widest units."""
    nbytes = y.shape[1] * y.itemsize
    unit = max(u for u in UNITS if u >= y.itemsize and alignment(x, y) % u == 0 and nbytes % u == 0)
    width = nbytes // unit
    n = y.shape[0] * width
    GATHERS[unit][blocks_for(n, 2 * THREADS), THREADS](x, index, y, n, width_of(width))


@kernel(threads=THREADS)
def scan_rows(dy: Reals, index: Longs, dx: Reals, n: UInt, m: UInt, width: Width):
    """dx[row, column] = the sum of dy[k, column] where index[k] is `row`; every thread reads the whole index."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        row = row_of(i, width)
        place = uint32(i - row * width.units)
        total = real(0)
        k = uint32(0)
        while k < m:
            if uint32(index[k]) == row:
                total += dy[uint32(k * width.units + place)]
            k = uint32(k + uint32(1))
        dx[i] = total


SORTED = 1024  # keys that a block sorts in shared memory, two to a thread


@device_function
def order(keys, thread, distance, ascends):
    """Exchange two keys that lie `distance`, a power of two, apart, if they are in the wrong order."""
    i = uint32(uint32(2) * thread - (thread & uint32(distance - uint32(1))))
    j = uint32(i + distance)
    a, b = keys[i], keys[j]
    if (a > b) == ascends:
        keys[i] = b
        keys[j] = a


@kernel(threads=SORTED // 2)
def sort_blocks(index: Longs, keys: ULongs, m: UInt):
    """Keys of row and place, the largest number past the end; each block sorted, every second one descending."""
    shared = cuda.shared.array(SORTED, uint64)
    thread = uint32(cuda.threadIdx.x)
    start = uint32(uint32(cuda.blockIdx.x) * uint32(SORTED))
    for half in range(2):
        k = uint32(thread + uint32(half * (SORTED // 2)))
        i = uint32(start + k)
        shared[k] = (uint64(index[i]) << uint64(32)) | uint64(i) if i < m else ~uint64(0)
    size = uint32(2)
    while size <= uint32(SORTED):
        ascends = (uint32(start + uint32(2) * thread) & size) == uint32(0)
        distance = uint32(size >> uint32(1))
        while distance > uint32(0):
            cuda.syncthreads()
            order(shared, thread, distance, ascends)
            distance = uint32(distance >> uint32(1))
        size = uint32(size << uint32(1))
    cuda.syncthreads()
    for half in range(2):
        k = uint32(thread + uint32(half * (SORTED // 2)))
        keys[uint32(start + k)] = shared[k]


@kernel(threads=THREADS)
def merge_across(keys: ULongs, size: UInt, distance: UInt):
    """A step of merging runs of `size` keys, between keys that lie farther apart than a block holds."""
    thread = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    order(keys, thread, distance, (uint32(uint32(2) * thread) & size) == uint32(0))


@kernel(threads=SORTED // 2)
def merge_within(keys: ULongs, size: UInt):
    """The remaining steps of merging runs of `size` keys."""
    shared = cuda.shared.array(SORTED, uint64)
    thread = uint32(cuda.threadIdx.x)
    start = uint32(uint32(cuda.blockIdx.x) * uint32(SORTED))
    for half in range(2):
        k = uint32(thread + uint32(half * (SORTED // 2)))
        shared[k] = keys[uint32(start + k)]
    ascends = (start & size) == uint32(0)
    distance = uint32(SORTED // 2)
    while distance > uint32(0):
        cuda.syncthreads()
        order(shared, thread, distance, ascends)
        distance = uint32(distance >> uint32(1))
    cuda.syncthreads()
    for half in range(2):
        k = uint32(thread + uint32(half * (SORTED // 2)))
        keys[uint32(start + k)] = shared[k]


@kernel(threads=THREADS)
def sum_rows(dy: Reals, keys: ULongs, dx: Reals, n: UInt, m: UInt, width: Width):
    """A thread for each key and column; that of the first key of a row adds up the row."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        k = row_of(i, width)
        place = uint32(i - k * width.units)
        row = uint32(keys[k] >> uint64(32))
        if k == uint32(0) or uint32(keys[uint32(k - uint32(1))] >> uint64(32)) != row:
            total = real(0)
            key = keys[k]
            while uint32(key >> uint64(32)) == row:
                total += dy[uint32(uint32(key & uint64(0xFFFFFFFF)) * width.units + place)]
                k = uint32(k + uint32(1))
                key = keys[k] if k < m else ~key
            dx[uint32(row * width.units + place)] = total


def sorted_keys(index):
    """The numbers (index[i] << 32) + i on the GPU, sorted; a power of two of them, the largest number past the end."""
    size = max(SORTED, 1 << (index.size - 1).bit_length())
    keys = launch.context.empty((size,), np.dtype(np.uint64))
    sort_blocks[size // SORTED, SORTED // 2](index, keys, index.size)
    run = 2 * SORTED
    while run <= size:
        distance = run // 2
        while distance >= SORTED:
            merge_across[size // 2 // THREADS, THREADS](keys, run, distance)
            distance //= 2
        merge_within[size // SORTED, SORTED // 2](keys, run)
        run *= 2
    return keys


def scan(dy, index, dx):
    """dx = sums of the rows of dy, for a short index."""
    m, width = dy.shape
    scan_rows[blocks_for(dx.size, THREADS), THREADS](dy, index, dx, dx.size, m, width_of(width))


def sum_sorted(dy, index, dx):
    """Rows of dx that are in the index = sums of the rows of dy; the others are left alone."""
    m, width = dy.shape
    keys = sorted_keys(index)
    sum_rows[blocks_for(dy.size, THREADS), THREADS](dy, keys, dx, dy.size, m, width_of(width))
