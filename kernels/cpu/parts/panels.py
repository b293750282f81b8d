"""Panels: strips of a matrix's columns, a few registers wide, that products, convolutions and norms go through one by one.

A packed panel holds its registers row after row, so that a micro-kernel reads it from memory in order.
"""

import numpy as np

from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cpu.tools.pointers import element_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import copy_row, transpose_tile
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import COLUMN_HEIGHTS, HEIGHTS, MAX_VECTORS, tile_cols, tile_rows

ONCE = (1, 0, 0)  # a loop of `tile_cols` that is none
PARALLEL_WORK = 1 << 22  # multiply-adds from which a second thread pays
NO_BIAS = {np.dtype(kind): np.empty(0, kind) for kind in ("float32", "float64")}


def convolution_is_large(source, w, bias, target, *rest):
    """Whether a convolution, or its gradient of the image, has work for all threads."""
    return target.size * w.shape[0] * w.shape[1] * source.shape[3] >= PARALLEL_WORK


def gradient_of_weights_is_large(x, dy, dw, *rest):
    """Whether that of a convolution has work for all threads."""
    return dy.size * dw.shape[0] * dw.shape[1] * x.shape[3] >= PARALLEL_WORK


@inlined
def split(n, dtype):
    """(registers across n columns, panels of at most MAX_VECTORS registers)."""
    vectors = -(-n // vector_lanes(dtype))
    return vectors, -(-vectors // MAX_VECTORS)


@inlined
def panel(p, n, dtype):
    """(first column, registers, elements of the last register that count) of panel p of n columns."""
    lanes = vector_lanes(dtype)
    vectors, panels = split(n, dtype)
    first, end = p * vectors // panels, (p + 1) * vectors // panels
    return first * lanes, end - first, min(lanes, n - (end - 1) * lanes)


@inlined
def panel_at(packed, column, rows):
    """Address of the packed panel that begins with a column, of so many rows."""
    return packed.ctypes.data + column * rows * np.intp(packed.itemsize)


@inlined
def pack_rows(b, k0, k1, b_packed):
    """Copy rows k0:k1 of B to their places in the panels, zeros beyond the last column."""
    dtype = b_packed.dtype
    depth, columns = b.shape
    for k in range(k0, k1):
        for p in range(split(columns, dtype)[1]):
            j, width, used = panel(p, columns, dtype)
            target = panel_at(b_packed, j, depth) + k * width * vector_lanes(dtype) * np.intp(b_packed.itemsize)
            copy_row(dtype, width, element_at(b, k, j), target, used)


@inlined
def pack_transposed(b, p, b_packed):
    """Fill panel p from B given as (n, k): register by register, zeros beyond the last column."""
    dtype = b_packed.dtype
    lanes = vector_lanes(dtype)
    register = lanes * np.intp(b_packed.itemsize)
    columns, depth = b.shape
    j0, width, _ = panel(p, columns, dtype)
    for v in range(width):
        j = j0 + v * lanes
        for k in range(0, depth, lanes):
            target = panel_at(b_packed, j0, depth) + (k * width + v) * register
            rows, steps = min(lanes, columns - j), min(lanes, depth - k)
            transpose_tile(dtype, element_at(b, j, k), b.strides[0], rows, steps, target, width * register)


@inlined
def tiles_down(
    dtype, vectors, trans_a, a, a_step, rows, depth, b, b_step, bias, c, c_step, lanes, accumulate, a_ahead, b_ahead
):  # fmt: skip
    """One panel of columns, tile by tile from top to bottom: C = A B, plus C, or plus the biases at `bias` unless it is 0.

    Addresses and steps are in bytes.
    """
    height = COLUMN_HEIGHTS[vectors] if trans_a else HEIGHTS[vectors]
    item = REGISTER_BITS // 8 // vector_lanes(dtype)
    tables = np.zeros(3 * height + 3, np.int64)  # addresses of rows of A, C and biases, and the only tap
    tables[2 * height : 3 * height] = bias
    tables[3 * height + 2] = depth
    a_rows = tables.ctypes.data
    c_rows, biases, tap = a_rows + 8 * height, a_rows + 16 * height, a_rows + 24 * height
    start = c_rows if accumulate else biases if bias else 0
    for i in range(0, rows, height):
        n = min(height, rows - i)
        if trans_a:
            tile_cols(
                dtype, vectors, a + i * item, b, ONCE, ONCE, (depth, a_step, b_step),
                c + i * c_step, c_step, n, lanes, accumulate, a_ahead, b_ahead if i == 0 else 0,
            )  # fmt: skip
        else:
            for r in range(height):
                row = i + min(r, n - 1)
                tables[r] = a + row * a_step
                tables[height + r] = c + row * c_step
            tile_rows(dtype, vectors, n, a_rows, c_rows, 0, start, tap, 1, b, b_step, lanes, a_ahead)
