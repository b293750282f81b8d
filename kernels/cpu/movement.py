"""Filling, copying and gathering elements. Contracts: kernels/reference/movement.py; layouts: kernels/axes.py.

A layout, whose axes are merged already, is read or written tile by tile: a tile spans the last axis and that other axis
along which memory is densest, so that transposing uses whole cache lines.
"""

import numpy as np
from numba import prange
from numba.cpython.unsafe.tuple import tuple_setitem

from minigrad.kernels.axes import DIMS
from minigrad.kernels.cpu.tools.launch import GRAIN, inlined, parallel_kernel, team_size

BLOCK = 1 << 14  # elements
TILE = 1 << 10  # elements ...
TILE_SIDE = 32  # ... or a square of this side
LARGE = 4 * GRAIN  # these loops only move memory: a parallel region pays later than elsewhere


def is_large(x, *arguments):
    """Whether the first argument has enough elements for all threads."""
    return x.size >= LARGE


@parallel_kernel(is_large=lambda value, y: y.size >= LARGE)
def fill(value, y):
    for block in prange((y.size + BLOCK - 1) // BLOCK):
        part = y[block * BLOCK : (block + 1) * BLOCK]
        for i in range(part.size):
            part[i] = value


@parallel_kernel(is_large=is_large)
def copy(x, y):
    for block in prange((y.size + BLOCK - 1) // BLOCK):
        source = x[block * BLOCK : (block + 1) * BLOCK]
        target = y[block * BLOCK : (block + 1) * BLOCK]
        for i in range(target.size):
            target[i] = source[i]


@inlined
def c_strides(shape):
    """Strides of a C-contiguous array, in elements."""
    strides = shape
    step = 1
    for d in range(DIMS - 1, -1, -1):
        strides = tuple_setitem(strides, d, step)
        step *= shape[d]
    return strides


@inlined
def swap(values, i, j):
    """A tuple with two of its items exchanged."""
    return tuple_setitem(tuple_setitem(values, i, values[j]), j, values[i])


@inlined
def pair_axes(shape, x_strides, y_strides):
    """The layout with the axis of the shortest steps, other than the last, moved beside the last."""
    best = DIMS - 2
    for d in range(DIMS - 2):
        if shape[d] > 1 and (
            shape[best] == 1
            or min(abs(x_strides[d]), abs(y_strides[d])) < min(abs(x_strides[best]), abs(y_strides[best]))
        ):
            best = d
    return swap(shape, best, DIMS - 2), swap(x_strides, best, DIMS - 2), swap(y_strides, best, DIMS - 2)


@inlined
def tile_sides(rows, columns, contiguous):
    """(rows, columns) of a tile of an area that has these."""
    area, side = (BLOCK, BLOCK) if contiguous else (TILE, TILE_SIDE)
    tile_columns = max(1, min(columns, side))
    tile_rows = max(1, min(rows, area // tile_columns))
    return tile_rows, max(1, min(columns, area // tile_rows))


@inlined
def cut_tiles(shape, x_strides, y_strides):
    """(number of tiles, their rows and columns, the reordered layout)."""
    shape, x_strides, y_strides = pair_axes(shape, x_strides, y_strides)
    rows, columns = tile_sides(shape[-2], shape[-1], x_strides[-1] == 1 and y_strides[-1] == 1)
    count = -(-shape[-2] // rows) * -(-shape[-1] // columns)
    for d in range(DIMS - 2):
        count *= shape[d]
    return count, rows, columns, shape, x_strides, y_strides


@inlined
def copy_tile(x, x_start, y, y_start, tile, rows, columns, shape, x_strides, y_strides):
    """y[i] = x[i] for the elements of one tile of the layout."""
    down, across = -(-shape[-2] // rows), -(-shape[-1] // columns)
    first_row, first_column = tile // across % down * rows, tile % across * columns
    x_start += first_row * x_strides[-2] + first_column * x_strides[-1]
    y_start += first_row * y_strides[-2] + first_column * y_strides[-1]
    place = tile // across // down
    for d in range(DIMS - 3, -1, -1):
        x_start += place % shape[d] * x_strides[d]
        y_start += place % shape[d] * y_strides[d]
        place //= shape[d]
    rows, columns = min(rows, shape[-2] - first_row), min(columns, shape[-1] - first_column)
    x_step, y_step = x_strides[-1], y_strides[-1]
    for i in range(rows):
        x_row = x_start + i * x_strides[-2]
        y_row = y_start + i * y_strides[-2]
        if x_step == 1 and y_step == 1:
            source = x[x_row : x_row + columns]
            target = y[y_row : y_row + columns]
            for j in range(columns):
                target[j] = source[j]
        else:
            for j in range(columns):  # unsigned: Numba would test every signed index for being negative
                y[np.uintp(y_row + j * y_step)] = x[np.uintp(x_row + j * x_step)]


@parallel_kernel(is_large=lambda x, shape, strides, offset, y: y.size >= LARGE)
def strided_read(x, shape, strides, offset, y):
    count, rows, columns, shape, x_strides, y_strides = cut_tiles(shape, strides, c_strides(shape))
    for tile in prange(count):
        copy_tile(x, offset, y, 0, tile, rows, columns, shape, x_strides, y_strides)


@parallel_kernel(is_large=is_large)
def strided_write(x, shape, strides, offset, y):
    count, rows, columns, shape, x_strides, y_strides = cut_tiles(shape, c_strides(shape), strides)
    for tile in prange(count):
        copy_tile(x, 0, y, offset, tile, rows, columns, shape, x_strides, y_strides)


@parallel_kernel(is_large=lambda x, index, y: y.size >= LARGE)
def take_rows(x, index, y):
    m, d = y.shape
    rows = max(1, BLOCK // max(d, 1))
    for block in prange(-(-m // rows)):
        for i in range(block * rows, min((block + 1) * rows, m)):
            row = x[index[i]]
            for j in range(d):
                y[i, j] = row[j]


@parallel_kernel(is_large=lambda dy, index, dx: dy.size >= LARGE or dx.size >= LARGE)
def take_rows_backward(dy, index, dx):
    # Every thread reads the whole index and adds to rows of its own, so the order of each sum is that of the index.
    n, d = dx.shape
    tasks = team_size()
    for task in prange(tasks):
        start, stop = task * n // tasks, (task + 1) * n // tasks
        for row in range(start, stop):
            for j in range(d):
                dx[row, j] = 0
        for i in range(index.size):
            row = index[i]
            if start <= row < stop:
                for j in range(d):
                    dx[row, j] += dy[i, j]


@parallel_kernel(is_large=lambda x, index, y: y.size >= LARGE)
def take_along(x, index, y):
    outer, count, inner = y.shape
    group = max(1, BLOCK // max(inner, 1))
    for task in prange(-(-outer * count // group)):
        for row in range(task * group, min((task + 1) * group, outer * count)):
            o, i = row // count, row % count
            for j in range(inner):
                y[o, i, j] = x[o, index[o, i, j], j]


@parallel_kernel(is_large=lambda dy, index, dx: dy.size >= LARGE or dx.size >= LARGE)
def take_along_backward(dy, index, dx):
    outer, n, inner = dx.shape
    group = max(1, BLOCK // max(n * inner, 1))
    for task in prange(-(-outer // group)):
        for o in range(task * group, min((task + 1) * group, outer)):
            for i in range(n):
                for j in range(inner):
                    dx[o, i, j] = 0
            for i in range(index.shape[1]):
                for j in range(inner):
                    dx[o, index[o, i, j], j] += dy[o, i, j]
