"""Panels: strips of a matrix's columns, a few registers wide, that products, convolutions and norms go through one by one.

A packed panel holds its registers row after row, so that a micro-kernel reads it from memory in order.
"""

import numpy as np

from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import copy_row, transpose_tile
from minigrad.kernels.cpu.vector.target import REGISTER_BITS
from minigrad.kernels.cpu.vector.tiles import HEIGHTS, MAX_VECTORS, tile_cols, tile_rows

PARALLEL_WORK = 1 << 22  # multiply-adds from which a second thread pays
NO_BIAS = {np.dtype(kind): np.empty(0, kind) for kind in ("float32", "float64")}


@inlined
def split(n, dtype):
    """(registers across n columns, panels of at most MAX_VECTORS registers)."""
    vectors = -(-n // vector_lanes(dtype))
    return vectors, -(-vectors // MAX_VECTORS)


@inlined
def panel(p, panels, vectors):
    """(first register, number of registers) of panel p."""
    first = p * vectors // panels
    return first, (p + 1) * vectors // panels - first


@inlined
def pack_rows(b, k0, k1, panels, vectors, b_packed):
    """Copy rows k0:k1 of B to their places in the panels, zeros beyond the last column."""
    dtype = b_packed.dtype
    item = np.intp(b_packed.itemsize)
    lanes = vector_lanes(dtype)
    depth, columns = b.shape
    for k in range(k0, k1):
        source = b.ctypes.data + k * b.strides[0]
        for p in range(panels):
            v0, width = panel(p, panels, vectors)
            used = min(lanes, columns - (v0 + width - 1) * lanes)
            target = b_packed.ctypes.data + (v0 * depth + k * width) * lanes * item
            copy_row(dtype, width, source + v0 * lanes * item, target, used)


@inlined
def pack_transposed(b, p, panels, vectors, b_packed):
    """Fill panel p from B given as (n, k): register by register, zeros beyond the last column."""
    dtype = b_packed.dtype
    item = np.intp(b_packed.itemsize)
    lanes = vector_lanes(dtype)
    columns, depth = b.shape
    v0, width = panel(p, panels, vectors)
    begin = b_packed.ctypes.data + v0 * lanes * depth * item
    for v in range(width):
        j = (v0 + v) * lanes
        for k in range(0, depth, lanes):
            source = b.ctypes.data + j * b.strides[0] + k * item
            target = begin + (k * width + v) * lanes * item
            rows = min(lanes, columns - j)
            transpose_tile(dtype, source, b.strides[0], rows, min(lanes, depth - k), target, width * lanes * item)


@inlined
def tiles_down(
    dtype, vectors, trans_a, a, a_step, rows, depth, b, b_step, bias, c, c_step, lanes, accumulate, a_ahead, b_ahead
):  # fmt: skip
    """One panel of columns, tile by tile from top to bottom: C = A B, plus C, or plus the biases at `bias` unless it is 0.

    Addresses and steps are in bytes.
    """
    height = HEIGHTS[vectors]
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
                dtype, vectors, a + i * item, 1, 0, 0, 1, 0, 0, depth, a_step, b, b_step,
                c + i * c_step, c_step, n, lanes, accumulate, a_ahead, b_ahead if i == 0 else 0,
            )  # fmt: skip
        else:
            for r in range(height):
                row = i + min(r, n - 1)
                tables[r] = a + row * a_step
                tables[height + r] = c + row * c_step
            tile_rows(dtype, vectors, n, a_rows, c_rows, 0, start, tap, 1, b, b_step, lanes, a_ahead)
