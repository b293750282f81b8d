"""Matrix products on the micro-kernels of vector/tiles.py. Contracts: kernels/reference/gemm.py.

Each element of C is one chain of fused multiply-adds in the order of the shared index, starting from zero or from the
bias: blocks, packing and threads do not change a bit of it. Where C is small beside what it is made of, the shared
indices are cut in parts, as many as the shapes say, whose sums are added in order: the gradient of a few weights over many
rows, and a layer's result for a few rows. A thread then has the same rows of a layer's weights in its own cache when it
multiplies by them, computes their gradient (rows of C) and updates them; only the small sums change hands.

A B reads A where it lies, tile by tile over the whole shared index, while a panel of B streams by from the second-level
cache; with many rows B is copied into panels first, so that it streams from memory in order. A^T B goes through the rows
of both sides a block at a time, and copies blocks of A whose rows lie far apart: addresses a multiple of 4 KB apart fall
into the same few sets of the cache and would drive each other out.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts import bfloat16
from minigrad.kernels.cpu.parts.panels import (
    pack_rows,
    pack_transposed,
    panel,
    panel_at,
    split,
    tiles_down,
)
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
from minigrad.kernels.cpu.tools.pointers import element_at, row_at
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.copies import copy_row, touch
from minigrad.kernels.cpu.vector.tiles import HEIGHTS

BLOCK = 480  # rows of C that one task computes
REUSE = 192  # rows of C from which copying B into panels pays: each element copied is used that often
DEPTH = 384  # shared indices at a time in x^T y: as many rows of both sides as the second-level cache holds
COPY_STEP = 2048  # bytes between rows of x from which copying a block of it pays
NEAR_BYTES = 1 << 15  # of both sides of x^T y, gone through together: what stays in the first-level cache, or at least
NEAR_ROWS = 128  # so many rows, since C is read and written for every block
TOUCHED = 1 << 19  # bytes of C that are read in order before a product is written there: as many as stay in the cache
PACK_ROWS = 32  # rows of B that one task copies
AHEAD = 2  # tiles from the one at work to the one whose rows of A the cache is asked for


@inlined
def multiply_rows(a, b, bias, c, trans_a, packed, b_packed, i0, i1, q0, q1, p0, p1, accumulate):
    """Rows i0:i1, panels p0:p1 of C = A B over the indices q0:q1, plus the bias if it has a size, or plus C."""
    dtype = c.dtype
    item = np.intp(c.itemsize)
    n = c.shape[1]
    k = a.shape[0] if trans_a else a.shape[1]
    rows = i1 - i0
    # 1. A B goes through all indices at once; A^T B through as many as both sides' rows stay in the cache for.
    most = max(1, min(q1 - q0, DEPTH) if trans_a else q1 - q0)
    copied = trans_a and a.strides[0] >= COPY_STEP and n >= REUSE
    lanes = vector_lanes(dtype)
    across = -(-rows // lanes)  # registers of a row of A^T
    block = np.empty((most, across * lanes) if copied else (0, 0), dtype)
    for k0 in range(q0, q1, most):
        depth = min(most, q1 - k0)
        # 2. Where A begins and how far apart its rows are: in place, or copied so that they do not push each other out.
        if copied:
            for q in range(depth):
                copy_row(dtype, across, element_at(a, k0 + q, i0), row_at(block, q), rows - (across - 1) * lanes)
            first, step = row_at(block, 0), block.strides[0]
        else:
            step = a.strides[0]
            first = element_at(a, k0, i0) if trans_a else element_at(a, i0, k0)
        # 3. C is written crosswise: it comes into the cache in order first.
        if k0 == q0 and c.strides[0] == n * item and rows * n * item <= TOUCHED:
            touch(element_at(c, i0, 0), rows * n * item)
        # 4. Panel by panel of B, down all rows. From the second indices on, what C holds is added to.
        for p in range(p0, p1):
            j0, width, used = panel(p, n, dtype)
            if packed:
                b_step = width * lanes * item
                b_first = panel_at(b_packed, j0, k) + k0 * b_step
            else:
                b_step = b.strides[0]
                b_first = element_at(b, k0, j0)
            keep = 1 if k0 > q0 else accumulate
            biases = bias.ctypes.data + j0 * item if bias.size else 0
            tiles_down(
                dtype, width, trans_a, first, step, rows, depth, b_first, b_step, biases, element_at(c, i0, j0),
                c.strides[0], used, keep, AHEAD * HEIGHTS[width] * step if p == p0 and not trans_a else 0, 0,
            )  # fmt: skip


@inlined
def transposed_part(a, b, k0, k1, c):
    """C = A[k0:k1]^T B[k0:k1], (k, m) (k, n) -> (m, n)."""
    item = np.intp(c.itemsize)
    m, n = c.shape
    a_step, b_step = a.strides[0], b.strides[0]
    step = max(NEAR_ROWS, NEAR_BYTES // ((m + n) * item))
    for q0 in range(k0, k1, step):
        depth = min(step, k1 - q0)
        a_ahead, b_ahead = depth * a_step, depth * b_step  # the next block is fetched while this one is worked on
        for p in range(split(n, c.dtype)[1]):
            j, width, used = panel(p, n, c.dtype)
            tiles_down(
                c.dtype, width, True, element_at(a, q0, 0), a_step, m, depth, element_at(b, q0, j), b_step, 0,
                row_at(c, 0) + j * item, n * item, used, 1 if q0 > k0 else 0, a_ahead if p == 0 else 0, b_ahead,
            )  # fmt: skip


def multiply(a, b, bias, c, trans_a, trans_b, added):
    """C = A B + bias, (m, k) (k, n) (n,) -> (m, n); bias of size 0 for none; plus C if `added`.

    With trans_a, A comes as (k, m); with trans_b, B comes as (n, k).
    """
    m, n = c.shape
    k = a.shape[0] if trans_a else a.shape[1]
    lanes = vector_lanes(c.dtype)
    vectors, panels = split(n, c.dtype)
    parts = 1 if trans_b else parts_of(m, n, k, trans_a)
    # 1. A small A^T B over many indices: a part of them is a task.
    sums = np.empty((parts if parts > 1 else 0, m, n), c.dtype)
    if parts > 1 and trans_a:
        for part in prange(parts):
            transposed_part(a, b, part * k // parts, (part + 1) * k // parts, sums[part])
        add_parts(sums, bias, c, added)
        return
    # 2. B in panels, where it comes transposed or is read often enough.
    packed = trans_b or m >= REUSE
    b_packed = np.empty(vectors * lanes * k if packed else 0, c.dtype)
    if trans_b:
        for p in prange(panels):
            pack_transposed(b, p, b_packed)
    elif packed:
        for k0 in prange((k + PACK_ROWS - 1) // PACK_ROWS):
            pack_rows(b, k0 * PACK_ROWS, min(k, (k0 + 1) * PACK_ROWS), b_packed)
    # 3. A task is some rows of C, in all panels or some, over all indices or one part of them.
    threads = team_size()
    height = HEIGHTS[-(-vectors // panels)]
    tiles = -(-m // height)
    if parts > 1:
        blocks, across = 1, min(panels, -(-threads // parts))  # more threads than parts share out the panels as well
    else:
        blocks = -(-m // (BLOCK * threads)) * threads
        across = 1 if tiles >= 4 * threads else min(panels, threads)  # as they do where there are few rows
    for task in prange(parts * blocks * across):
        part, place = task // (blocks * across), task % (blocks * across)
        block, side = place // across, place % across
        i0, i1 = (block * tiles // blocks) * height, min(m, ((block + 1) * tiles // blocks) * height)
        k0, k1 = part * k // parts, (part + 1) * k // parts
        p0, p1 = side * panels // across, (side + 1) * panels // across
        target, start = (sums[part], bias[:0]) if parts > 1 else (c, bias)
        if i0 < i1:
            # 4. What the micro-kernels cannot start from is written beforehand, and they add to it: the bias for A^T B,
            # and zeros or biases where there is nothing to sum.
            started = not added and (k == 0 or (trans_a and start.size > 0))
            if started:
                start_rows(start, target, i0, i1, p0 * vectors // panels * lanes, p1 * vectors // panels * lanes)
            keep = 1 if started or (added and parts == 1) else 0
            multiply_rows(a, b, start, target, trans_a, packed, b_packed, i0, i1, k0, k1, p0, p1, keep)
    # 5. The parts in order.
    if parts > 1:
        add_parts(sums, bias, c, added)


gemm = CpuKernel(
    multiply, FLAGS, is_large=product_is_large, prepare=prepare_product, instead=((bfloat16.asked, bfloat16.product),)
)
gemm_add = CpuKernel(
    multiply,
    FLAGS,
    is_large=product_is_large,
    prepare=prepare_product_add,
    shares=gemm,
    instead=((bfloat16.asked, bfloat16.product_add),),
)


def multiply_batch(a, b, c, trans_a, trans_b):
    """C[i] = A[i] B[i] for every i: (batch, m, k) (batch, k, n) -> (batch, m, n), A and B transposed as in gemm."""
    batch, m, n = c.shape
    k = a.shape[1] if trans_a else a.shape[2]
    lanes = vector_lanes(c.dtype)
    vectors, panels = split(n, c.dtype)
    no_bias = np.empty(0, c.dtype)
    for i in prange(batch):
        b_packed = np.empty(vectors * lanes * k if trans_b else 0, c.dtype)
        if trans_b:
            for p in range(panels):
                pack_transposed(b[i], p, b_packed)
        if k == 0:
            c[i, :, :] = 0
        multiply_rows(a[i], b[i], no_bias, c[i], trans_a, trans_b, b_packed, 0, m, 0, k, 0, panels, 0)


gemm_batched = CpuKernel(
    multiply_batch,
    FLAGS,
    is_large=products_are_large,
    instead=((bfloat16.asked, bfloat16.products),),
)
