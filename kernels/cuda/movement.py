"""Filling, copying and gathering elements. Contracts: kernels/reference/movement.py; layouts: kernels/axes.py.

What moves is bytes, whatever they stand for. The kernels move units of 1 to 16 bytes, the widest that divide every run of
neighbouring elements, so that a slice of images moves in 16-byte accesses and there is one kernel for all dtypes.

fill                 16 bytes to a thread, the value repeated in them
copy                 the driver's own copy; `convert` where dtypes differ, element by element
strided_read, write  `move`: a thread finds the places of its units (kernels/cuda/parts/walk.py). Where neighbours in one array
                     are not neighbours in the other, `transpose` goes through a tile in shared memory instead, so that
                     both are accessed in runs of 32 elements
take_rows, ...       kernels/cuda/parts/rows.py
take_along, ...      an element to a thread, and backward a column, so that sums are in the order of the index
"""

import functools
from typing import NamedTuple

import numpy as np

from minigrad.kernels.axes import merged
from minigrad.kernels.cuda.parts import rows
from minigrad.kernels.cuda.parts.kinds import (
    FLOAT32,
    FLOAT64,
    KINDS,
    UINT64,
    integer_at,
    put_integer,
    put_real,
)
from minigrad.kernels.cuda.parts.units import LOAD, STORE, UNITS, alignment, below
from minigrad.kernels.cuda.parts.walk import WORD, Walk, both_positions, contiguous_steps, walk
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.language import (
    Choice,
    cast,
    cuda,
    float32,
    float64,
    store4,
    uint8,
    uint16,
    uint32,
    uint64,
)
from minigrad.kernels.cuda.tools.launch import Bytes, Longs, Reals, UInt, ULong, blocks_for, kernel

THREADS = 256


# Fill


@kernel(threads=THREADS)
def fill_bytes(y: Bytes, low: UInt, high: UInt, vectors: UInt, rest: ULong):
    """8 bytes, `low` and `high`, over and over: `vectors` times 16 bytes, then `rest` bytes."""
    thread = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    words = cast(y, uint32)
    if thread < vectors:
        store4(words, uint64(thread) * uint64(4), low, high, low, high)
    i = uint64(thread)
    while i < rest:
        word = high if i & uint64(4) else low
        y[uint64(vectors) * uint64(16) + i] = uint8((word >> (uint32(i & uint64(3)) * uint32(8))) & uint32(0xFF))
        i += uint64(cuda.gridDim.x) * uint64(THREADS)


def fill(value, y):
    if not y.size:
        return
    low, high = np.full(8 // y.itemsize, value, y.dtype).view(np.uint32).tolist()
    vectors = 0 if y.pointer % 16 else y.nbytes // 16
    rest = y.nbytes - 16 * vectors
    fill_bytes[blocks_for(vectors or -(-rest // 4), THREADS), THREADS](y, low, high, vectors, rest)


# Copy


@kernel(threads=THREADS, uses_float64=True)
def convert(x: Bytes, y: Bytes, n: UInt, source: UInt, target: UInt):
    """Through int64 or float64, which hold every value of the other types."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        if source == uint32(FLOAT32):
            put_real(y, i, target, float64(cast(x, float32)[i]))
        elif source == uint32(FLOAT64):
            put_real(y, i, target, cast(x, float64)[i])
        elif target < uint32(FLOAT32):
            put_integer(y, i, target, integer_at(x, i, source))
        elif source == uint32(UINT64):
            wide = cast(x, uint64)[i]
            if target == uint32(FLOAT32):
                cast(y, float32)[i] = float32(wide)
            else:
                cast(y, float64)[i] = float64(wide)
        else:
            value = integer_at(x, i, source)
            if target == uint32(FLOAT32):  # not through float64, which would round twice
                cast(y, float32)[i] = float32(value)
            else:
                cast(y, float64)[i] = float64(value)


def copy(x, y):
    if not y.size or x.pointer == y.pointer:
        return
    if x.dtype == y.dtype:
        context = launch.context
        context.driver.on_device(y.pointer, x.pointer, y.nbytes, context.stream)
    else:
        convert[blocks_for(y.size, THREADS), THREADS](x, y, y.size, KINDS[x.dtype], KINDS[y.dtype])


# Views


TYPE = Choice("TYPE")  # of an element that only moves


class Offsets(NamedTuple):
    """Where two arrays begin in their memory, in units."""

    x: UInt
    y: UInt


@kernel(threads=THREADS)
def move(x: Bytes, y: Bytes, n: UInt, way: Walk, first: Offsets):
    """y[q(i)] = x[p(i)], in units."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(4 * THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        j = below(uint32(i + uint32(THREADS)), n, i)
        k = below(uint32(i + uint32(2 * THREADS)), n, i)
        m = below(uint32(i + uint32(3 * THREADS)), n, i)
        pi, qi = both_positions(i, way)
        pj, qj = both_positions(j, way)
        pk, qk = both_positions(k, way)
        pm, qm = both_positions(m, way)
        s, t = LOAD(x, uint32(pi + first.x)), LOAD(x, uint32(pj + first.x))
        u, v = LOAD(x, uint32(pk + first.x)), LOAD(x, uint32(pm + first.x))
        STORE(y, uint32(qi + first.y), s)
        STORE(y, uint32(qj + first.y), t)
        STORE(y, uint32(qk + first.y), u)
        STORE(y, uint32(qm + first.y), v)


SIDE = 32  # of a tile
PITCH = SIDE + 1  # between its rows, so that a column lies in 32 different banks
TILE = SIDE * PITCH


class Plane(NamedTuple):
    """The two axes that are exchanged, and how far apart the columns of x and the rows of y are."""

    rows: UInt
    columns: UInt
    x_step: UInt
    y_step: UInt


@kernel(threads=THREADS)
def transpose(x: Bytes, y: Bytes, plane: Plane, way: Walk, first: Offsets):
    """y[column + row y_step] = x[row + column x_step], a tile to a block; further axes along the grid's z."""
    tile = cuda.shared.array(TILE, TYPE)
    x, y = cast(x, TYPE), cast(y, TYPE)
    p, q = both_positions(uint32(cuda.blockIdx.z), way)
    first_row, first_column = uint32(cuda.blockIdx.x) * uint32(SIDE), uint32(cuda.blockIdx.y) * uint32(SIDE)
    lane = uint32(cuda.threadIdx.x) & uint32(SIDE - 1)
    warp = uint32(cuda.threadIdx.x) >> uint32(5)
    row = uint32(first_row + lane)
    for k in range(4):
        line = uint32(warp + uint32(k * (THREADS // SIDE)))
        column = uint32(first_column + line)
        if row < plane.rows and column < plane.columns:
            tile[line * uint32(PITCH) + lane] = x[uint32(p + first.x + row + column * plane.x_step)]
    cuda.syncthreads()
    column = uint32(first_column + lane)
    for k in range(4):
        line = uint32(warp + uint32(k * (THREADS // SIDE)))
        row = uint32(first_row + line)
        if row < plane.rows and column < plane.columns:
            y[uint32(q + first.y + column + row * plane.y_step)] = tile[lane * uint32(PITCH) + line]


MOVES = {size: move.variant(**unit) for size, unit in UNITS.items()}
TRANSPOSES = {size: transpose.variant(TYPE=kind) for size, kind in {1: uint8, 2: uint16, 4: uint32, 8: uint64}.items()}
SHORT = 8  # an axis below this length is not worth a tile
MOST_BLOCKS = 65535  # along the grid's y and z


@functools.lru_cache(maxsize=4096)
def move_plan(shape, x_strides, y_strides, x_offset, y_offset, itemsize, alignment):
    """(kernel, grid, the arguments after x and y), for pointers that are multiples of `alignment` bytes."""
    axes = merged(shape, x_strides, y_strides)
    return tiled_plan(axes, x_offset, y_offset, itemsize) or unit_plan(axes, x_offset, y_offset, itemsize, alignment)


def tiled_plan(axes, x_offset, y_offset, itemsize):
    """A plan for `transpose`; None where x and y are densest along the same axis, or an axis is too short or too long."""
    x_runs = [i for i, (length, x_step, _) in enumerate(axes) if x_step == 1 and length >= SHORT]
    y_runs = [i for i, (length, _, y_step) in enumerate(axes) if y_step == 1 and length >= SHORT]
    if not x_runs or not y_runs or y_runs[0] in x_runs:
        return None
    rows, _, y_step = axes[x_runs[0]]
    columns, x_step, _ = axes[y_runs[0]]
    others = [axis for i, axis in enumerate(axes) if i not in (x_runs[0], y_runs[0])]
    depth = functools.reduce(lambda product, axis: product * axis[0], others, 1)
    grid = blocks_for(rows, SIDE), blocks_for(columns, SIDE), depth
    if max(grid[1:]) > MOST_BLOCKS:
        return None
    plane = Plane(rows, columns, x_step % WORD, y_step % WORD)
    return TRANSPOSES[itemsize], grid, (plane, walk(others or [[1, 0, 0]]), Offsets(x_offset, y_offset))


def unit_plan(axes, x_offset, y_offset, itemsize, alignment):
    """A plan for `move`, in the widest units there can be."""
    unit = itemsize
    if axes and axes[-1][1:] == [1, 1]:
        length = axes[-1][0]
        counts = [x_offset, y_offset, length, *[step for axis in axes[:-1] for step in axis[1:]]]
        unit = max(
            u for u in UNITS if u >= itemsize and alignment % u == 0 and not any(c * itemsize % u for c in counts)
        )
        elements = unit // itemsize
        axes = [[n, *[step // elements for step in steps]] for n, *steps in axes[:-1]]
        if length > elements:
            axes.append([length // elements, 1, 1])
        x_offset, y_offset = x_offset // elements, y_offset // elements
    n = functools.reduce(lambda product, axis: product * axis[0], axes, 1)
    return MOVES[unit], blocks_for(n, 4 * THREADS), (n, walk(axes or [[1, 0, 0]]), Offsets(x_offset, y_offset))


def strided_read(x, shape, strides, offset, y):
    if y.size:
        steps = contiguous_steps(shape)
        kernel, grid, plan = move_plan(shape, strides, steps, offset, 0, y.itemsize, alignment(x, y))
        kernel[grid, THREADS](x, y, *plan)


def strided_write(x, shape, strides, offset, y):
    if x.size:
        steps = contiguous_steps(shape)
        kernel, grid, plan = move_plan(shape, steps, strides, 0, offset, y.itemsize, alignment(x, y))
        kernel[grid, THREADS](x, y, *plan)


# Rows


FEW = 256  # entries of an index that is read by every thread ...
SOON = 1 << 26  # ... if that is not more than so many entries in all


def take_rows(x, index, y):
    if y.size:
        rows.gather_rows(x, index, y)


def take_rows_backward(dy, index, dx):
    if not dx.size:
        return
    if index.size <= FEW and index.size * dx.size <= SOON:
        rows.scan(dy, index, dx)
    else:
        fill(0, dx)
        if dy.size:
            rows.sum_sorted(dy, index, dx)


# Along an axis


@kernel(threads=THREADS)
def gather_along(x: Bytes, index: Longs, y: Bytes, n: UInt, length: UInt, count: UInt, inner: UInt):
    """An element to a thread."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        row, column = uint32(i // inner), uint32(i % inner)
        place = uint32(uint32(row // count) * length + uint32(index[i]))
        STORE(y, i, LOAD(x, uint32(place * inner + column)))


@kernel(threads=THREADS)
def scatter_along(dy: Reals, index: Longs, dx: Reals, columns: UInt, length: UInt, count: UInt, inner: UInt):
    """A column to a thread, which adds in the order of the index."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < columns:
        outer, column = uint32(i // inner), uint32(i % inner)
        source = uint32(outer * count * inner + column)
        target = uint32(outer * length * inner + column)
        k = uint32(0)
        while k < count:
            place = uint32(target + uint32(index[source]) * inner)
            dx[place] = dx[place] + dy[source]
            source = uint32(source + inner)
            k = uint32(k + uint32(1))


GATHERS = {size: gather_along.variant(**unit) for size, unit in UNITS.items() if size < 16}


def take_along(x, index, y):
    if y.size:
        _, count, inner = y.shape
        GATHERS[x.itemsize][blocks_for(y.size, THREADS), THREADS](x, index, y, y.size, x.shape[1], count, inner)


def take_along_backward(dy, index, dx):
    fill(0, dx.reshape(-1))
    if dy.size:
        outer, count, inner = dy.shape
        columns = outer * inner
        scatter_along[blocks_for(columns, THREADS), THREADS](dy, index, dx, columns, dx.shape[1], count, inner)
