"""Matrix products of float32 matrices whose factors are rounded to bfloat16, on the tiles of vector/tiles.py.

Two numbers of A's row and two of B's column that meet make a word of 32 bits each (vector/bfloat16.py). A product of words is
then cut, packed and computed as one of float32 numbers with half as many shared indices; only the tiles multiply otherwise.
Rounding is a part of packing: B, which all rows of C read, is written as panels of words once; of A each task rounds the rows
that it is about to multiply, while they are in the cache. Nothing is kept rounded.

Each element of C is one chain in the order of the shared index, or a few parts added in order (parts/products.py), whatever the
number of threads.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.panels import panel, panel_at, split, tiles_down
from minigrad.kernels.cpu.parts.products import (
    add_parts,
    parts_of,
    prepare_product,
    prepare_product_add,
    product_is_large,
    products_are_large,
    start_rows,
)
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined, team_size
from minigrad.kernels.cpu.tools.pointers import element_at, keep, row_at
from minigrad.kernels.cpu.vector.bfloat16 import pair_rows, round_row
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import transpose_tile
from minigrad.kernels.cpu.vector.tiles import HEIGHTS
from minigrad.kernels.precision import Products

ROWS = 192  # of C that one task computes, at most: what it rounds of A stays in the second-level cache, with
DEPTH = 512  # pairs of shared indices at a time
APART = 16  # words from one row of rounded numbers to the next: rows a multiple of 4 KB apart push each other out of the cache
PACK_DOWN, PACK_ALONG = 32, 256  # pairs of B that are packed together: of whole rows, of the columns of a panel
NEAR = 64  # pairs of x^T y that a part goes through together: what a tile reads of them stays in the first-level cache


def asked(x, *rest):
    """Whether the products of an array are to be of rounded factors."""
    return Products.in_bfloat16 and x.dtype == np.float32


@inlined
def pack(b, trans_b, p0, p1, q0, q1, packed):
    """Pairs q0:q1 of panels p0:p1 of the words of B, zeros beyond the last column."""
    dtype = packed.dtype
    n, k = (b.shape[0], b.shape[1]) if trans_b else (b.shape[1], b.shape[0])
    pairs, lanes = (k + 1) // 2, vector_lanes(dtype)
    register = lanes * np.intp(packed.itemsize)
    if not trans_b:
        for p in range(p0, p1):
            j, width, used = panel(p, n, dtype)
            for q in range(q0, q1):
                target = panel_at(packed, j, pairs) + q * width * register
                first, both = element_at(b, 2 * q, j), 1 if 2 * q + 1 < k else 0
                pair_rows(b.dtype, first, first + b.strides[0], both, (width - 1) * lanes + used, target)
        return
    words = np.empty((lanes, q1 - q0 + APART), dtype)
    for p in range(p0, p1):
        j0, width, _ = panel(p, n, dtype)
        for v in range(width):
            j = j0 + v * lanes
            rows = min(lanes, n - j)
            for r in range(rows):
                round_row(b.dtype, element_at(b, j + r, 2 * q0), min(2 * q1, k) - 2 * q0, row_at(words, r))
            for q in range(q0, q1, lanes):
                target = panel_at(packed, j0, pairs) + (q * width + v) * register
                source = element_at(words, 0, q - q0)
                transpose_tile(dtype, source, words.strides[0], rows, min(lanes, q1 - q), target, width * register)
    keep(words)


@inlined
def pair_columns(x, q0, q1, j0, j1, words):
    """words[q - q0, j - j0] = (x[2 q, j], x[2 q + 1, j]), zero for a row that x has not."""
    for q in range(q0, q1):
        first, both = element_at(x, 2 * q, j0), 1 if 2 * q + 1 < x.shape[0] else 0
        pair_rows(x.dtype, first, first + x.strides[0], both, j1 - j0, row_at(words, q - q0))


@inlined
def multiply_rows(a, bias, c, trans_a, packed, i0, i1, q0, q1, p0, p1, accumulate):
    """Rows i0:i1, panels p0:p1 of C = A B over the pairs q0:q1, plus the bias if it has a size, or plus C."""
    dtype = packed.dtype
    item = np.intp(packed.itemsize)
    lanes = vector_lanes(dtype)
    n, rows = c.shape[1], i1 - i0
    k = a.shape[0] if trans_a else a.shape[1]
    most = max(1, min(DEPTH, q1 - q0))
    across = (-(-rows // lanes) | 1) * lanes if trans_a else most + APART
    words = np.empty((most if trans_a else rows, across), dtype)
    for first in range(q0, q1, most):
        depth = min(most, q1 - first)
        # 1. The words of A.
        if trans_a:
            pair_columns(a, first, first + depth, i0, i1, words)
        else:
            for r in range(rows):
                source, count = element_at(a, i0 + r, 2 * first), min(2 * depth, k - 2 * first)
                round_row(a.dtype, source, count, row_at(words, r))
        # 2. Panel by panel of B, down all rows. From the second pairs on, what C holds is added to.
        for p in range(p0, p1):
            j, width, used = panel(p, n, dtype)
            b_step = width * lanes * item
            biases = bias.ctypes.data + j * item if bias.size else 0
            tiles_down(
                dtype, width, trans_a, element_at(words, 0, 0), words.strides[0], rows, depth,
                panel_at(packed, j, (k + 1) // 2) + first * b_step, b_step, biases, element_at(c, i0, j),
                c.strides[0], used, 1 if first > q0 else accumulate, 0, 0,
            )  # fmt: skip
    keep(words)


@inlined
def transposed_part(a, b, q0, q1, c):
    """C = A^T B over the pairs q0:q1 of their rows, (k, m) (k, n) -> (m, n)."""
    m, n = c.shape
    item, lanes = np.intp(c.itemsize), vector_lanes(c.dtype)
    vectors, panels = split(n, c.dtype)
    across = (-(-m // lanes) | 1) * lanes
    a_words, b_words = np.empty((NEAR, across), np.uint32), np.empty(NEAR * vectors * lanes, np.uint32)
    for first in range(q0, q1, NEAR):
        depth = min(NEAR, q1 - first)
        pair_columns(a, first, first + depth, 0, m, a_words)
        for p in range(panels):
            j, width, used = panel(p, n, c.dtype)
            for q in range(depth):
                row, both = 2 * (first + q), 1 if 2 * (first + q) + 1 < b.shape[0] else 0
                source, target = element_at(b, row, j), panel_at(b_words, j, NEAR) + q * width * lanes * item
                pair_rows(b.dtype, source, source + b.strides[0], both, (width - 1) * lanes + used, target)
            tiles_down(
                a_words.dtype, width, True, element_at(a_words, 0, 0), across * item, m, depth, panel_at(b_words, j, NEAR),
                width * lanes * item, 0, element_at(c, 0, j), c.strides[0], used, 1 if first > q0 else 0, 0, 0,
            )  # fmt: skip
    keep(a_words)
    keep(b_words)


def multiply(a, b, bias, c, trans_a, trans_b, added):
    """C = A B + bias, (m, k) (k, n) (n,) -> (m, n); bias of size 0 for none; plus C if `added`.

    With trans_a, A comes as (k, m); with trans_b, B comes as (n, k).
    """
    m, n = c.shape
    k = a.shape[0] if trans_a else a.shape[1]
    pairs = (k + 1) // 2
    lanes = vector_lanes(c.dtype)
    vectors, panels = split(n, c.dtype)
    parts = 1 if trans_b else parts_of(m, n, k, trans_a)
    # 1. A small A^T B over many indices: a part of them is a task.
    sums = np.empty((parts if parts > 1 else 0, m, n), c.dtype)
    if parts > 1 and trans_a:
        for part in prange(parts):
            transposed_part(a, b, part * pairs // parts, (part + 1) * pairs // parts, sums[part])
        add_parts(sums, bias, c, added)
        return
    # 2. A task is some rows of C, in all panels or some, over all indices or one part of them.
    threads = team_size()
    height = HEIGHTS[-(-vectors // panels)]
    tiles = -(-m // height)
    blocks = 1 if m <= ROWS else -(-m // (ROWS * threads)) * threads
    across = min(panels, -(-threads // parts)) if blocks == 1 else 1
    # 3. The words of B in panels: here, or by the tasks where each has its own part of B.
    packed = np.empty(vectors * lanes * pairs, np.uint32)
    if blocks > 1:
        together = PACK_ALONG if trans_b else PACK_DOWN
        chunks, beside = -(-pairs // together), panels if trans_b else 1
        for task in prange(chunks * beside):
            p, q = task % beside, task // beside * together
            pack(b, trans_b, p, p + 1 if trans_b else panels, q, min(pairs, q + together), packed)
    for task in prange(parts * blocks * across):
        part, place = task // (blocks * across), task % (blocks * across)
        block, side = place // across, place % across
        i0, i1 = (block * tiles // blocks) * height, min(m, ((block + 1) * tiles // blocks) * height)
        q0, q1 = part * pairs // parts, (part + 1) * pairs // parts
        p0, p1 = side * panels // across, (side + 1) * panels // across
        target, start = (sums[part], bias[:0]) if parts > 1 else (c, bias)
        if i0 < i1:
            if blocks == 1:
                together = PACK_ALONG if trans_b else PACK_DOWN
                for q in range(q0, q1, together):
                    pack(b, trans_b, p0, p1, q, min(q1, q + together), packed)
            # 4. What the tiles cannot start from is written beforehand, and they add to it: the bias for A^T B, and zeros
            # or biases where there is nothing to sum.
            started = not added and (k == 0 or (trans_a and start.size > 0))
            if started:
                start_rows(start, target, i0, i1, p0 * vectors // panels * lanes, p1 * vectors // panels * lanes)
            accumulate = 1 if started or (added and parts == 1) else 0
            multiply_rows(a, start, target, trans_a, packed, i0, i1, q0, q1, p0, p1, accumulate)
    # 5. The parts in order.
    if parts > 1:
        add_parts(sums, bias, c, added)


product = CpuKernel(multiply, FLAGS, is_large=product_is_large, prepare=prepare_product)
product_add = CpuKernel(multiply, FLAGS, is_large=product_is_large, prepare=prepare_product_add, shares=product)


def multiply_batch(a, b, c, trans_a, trans_b):
    """C[i] = A[i] B[i] for every i: (batch, m, k) (batch, k, n) -> (batch, m, n), A and B transposed as in `multiply`."""
    batch, m, n = c.shape
    k = a.shape[1] if trans_a else a.shape[2]
    pairs = (k + 1) // 2
    vectors, panels = split(n, c.dtype)
    no_bias = np.empty(0, c.dtype)
    together = PACK_ALONG if trans_b else PACK_DOWN
    for i in prange(batch):
        packed = np.empty(vectors * vector_lanes(c.dtype) * pairs, np.uint32)
        for q in range(0, pairs, together):
            pack(b[i], trans_b, 0, panels, q, min(pairs, q + together), packed)
        if k == 0:
            c[i, :, :] = 0
        for i0 in range(0, m, ROWS):
            multiply_rows(a[i], no_bias, c[i], trans_a, packed, i0, min(m, i0 + ROWS), 0, pairs, 0, panels, 0)


products = CpuKernel(
    multiply_batch,
    FLAGS,
    is_large=products_are_large,
)
