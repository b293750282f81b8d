"""Scaled dot-product attention. Contracts and formulas: kernels/reference/attention.py.

The matrix of all scores is never there. A task takes ROWS queries at a time and the keys in blocks: the scores of a block,
a matrix product, stay in the cache, become weights there and are multiplied by the values. As in FlashAttention (Dao et al.
2022) each query has the largest score so far and the sum of weights by it; where a block has a larger one, what came before
is multiplied by exp(old - new). Backward makes the same weights anew, from the scores and lse.

The products are those of gemm.py, on the micro-kernels of vector/tiles.py; keys, and backward values too, are transposed
into panels once for each matrix. With dropout the factors of a block's weights are drawn where they are needed, and in
backward again: they follow from a weight's place in the matrix of all. Backward, dk and dv of a matrix are summed over blocks
of queries in their order, or where there are few matrices in parts that the shapes decide about.
"""

import math

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.bits import fma, select
from minigrad.kernels.cpu.dropout import GROUP, fill_words
from minigrad.kernels.cpu.parts.panels import PARALLEL_WORK, pack_transposed, panel, panel_at, split, tiles_down
from minigrad.kernels.cpu.parts.rows import dot
from minigrad.kernels.cpu.tools.launch import inlined, parallel_kernel, team_size
from minigrad.kernels.cpu.tools.pointers import element_at, keep
from minigrad.kernels.cpu.vector.attention import ADDED, BOOLEAN, LN2, NO_MASK, gradient_rows, weigh_rows
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.tiles import MAX_VECTORS

ROWS = 48  # queries that a task takes through all keys at a time: a multiple of the heights of the tiles
KEYS = 384  # of a block, at most
LEAST_PARTS = 8  # of the work of a backward


@inlined
def kind_of(mask):
    """What the micro-kernels are told of a mask."""
    if mask.size == 0:
        return NO_MASK
    return BOOLEAN if mask.itemsize == 1 else ADDED


@inlined
def panels_of_block(s, dtype):
    """(panels of s keys, of them in a block, elements of a row of a block's scores)."""
    vectors, panels = split(s, dtype)
    lanes = vector_lanes(dtype)
    together = max(1, KEYS // (MAX_VECTORS * lanes))
    return panels, together, min(together * MAX_VECTORS, vectors) * lanes


@inlined
def pack_keys(k):
    """A matrix (s, e) transposed into panels."""
    vectors, panels = split(k.shape[0], k.dtype)
    packed = np.empty(vectors * vector_lanes(k.dtype) * k.shape[1], k.dtype)
    for p in range(panels):
        pack_transposed(k, p, packed)
    return packed


@inlined
def columns_of_panels(p0, p1, s, dtype):
    """(first, end) of the columns of panels p0:p1."""
    last, width, used = panel(p1 - 1, s, dtype)
    return panel(p0, s, dtype)[0], last + (width - 1) * vector_lanes(dtype) + used


@inlined
def products(q, i0, rows, packed, s, p0, limit, target, step):
    """Rows i0: of q times the panels of s packed rows, from panel p0 on, those that begin before `limit`."""
    dtype = q.dtype
    item = np.intp(q.itemsize)
    e = q.shape[1]
    start = panel(p0, s, dtype)[0]
    for p in range(p0, split(s, dtype)[1]):
        j, width, used = panel(p, s, dtype)
        if j >= limit:
            break
        tiles_down(
            dtype, width, False, element_at(q, i0, 0), e * item, rows, e, panel_at(packed, j, e),
            width * vector_lanes(dtype) * item, 0, target + (j - start) * item, step, used, 0, 0, 0,
        )  # fmt: skip


@inlined
def combine(transposed, weights, step, rows, depth, v, k0, y, i0, accumulate):
    """Rows i0: of y (+)= W v[k0 : k0 + depth], W (rows, depth) at an address, or given as (depth, rows)."""
    dtype = y.dtype
    item = np.intp(y.itemsize)
    d = y.shape[1]
    for p in range(split(d, dtype)[1]):
        j, width, used = panel(p, d, dtype)
        tiles_down(
            dtype, width, transposed, weights, step, rows, depth, element_at(v, k0, j), d * item, 0,
            element_at(y, i0, j), d * item, used, accumulate, 0, 0,
        )  # fmt: skip


@inlined
def mask_row(mask, matrix, i, j):
    """(address of the mask's element for query i and key j, bytes to that of the next query)."""
    if mask.size == 0:
        return np.intp(0), np.intp(0)
    _, rows, s = mask.shape
    item = np.intp(mask.itemsize)
    step = s * item if rows > 1 else np.intp(0)
    return mask.ctypes.data + matrix * rows * s * item + i * step + j * item, step


@inlined
def finish(state, rows, lse):
    """lse, and the inverse of the sums in the third row of the state; infinity and 0 for rows without a key."""
    largest, sums, inverse = state[0], state[1], state[2]
    real = state.dtype.type
    for r in range(rows):
        none = sums[r] == 0
        inverse[r] = select(none, real(0), real(1) / sums[r])
        lse[r] = select(none, real(np.inf), fma(largest[r], real(LN2), formulas.log(sums[r])))


@inlined
def room_for_factors(rate, across, dtype):
    """(room for the factors of a block, for the words of a row), empty where nothing is dropped."""
    return np.empty((ROWS if rate > 0 else 0, across), dtype), np.empty(
        across + 2 * GROUP if rate > 0 else 0, np.uint32
    )


@inlined
def draw_factors(factors, words, rows, keys, first, s, rate, key):
    """1 / (1 - rate), or 0 for weights that are dropped, of rows that begin at element `first` of all, s apart."""
    threshold = np.uint64(math.ceil(rate * 2.0**32))
    kept, dropped = factors.dtype.type(1 / (1 - rate)), factors.dtype.type(0)
    for r in range(rows):
        at = first + r * s
        group, ahead = at // GROUP, at % GROUP
        fill_words(np.uint64(group), key[0], key[1], words[: -(-(ahead + keys) // GROUP) * GROUP])
        row, drawn = factors[r], words[ahead:]
        for j in range(keys):
            row[j] = kept if drawn[j] >= threshold else dropped


@inlined
def multiply(x, factors, rows, keys):
    """Rows of x times factors."""
    for r in range(rows):
        row, by = x[r], factors[r]
        for j in range(keys):
            row[j] *= by[j]


def work(q, k, v):
    """Multiply-adds of a forward."""
    return q.shape[0] * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2])


@parallel_kernel(is_large=lambda q, k, v, *rest: work(q, k, v) >= PARALLEL_WORK)
def attention_forward(q, k, v, mask, each, scale, causal, rate, key, y, lse):
    b, n = lse.shape
    s, d = v.shape[1], v.shape[2]
    dtype = q.dtype
    item = np.intp(q.itemsize)
    kind = kind_of(mask)
    panels, together, across = panels_of_block(s, dtype)
    blocks = -(-n // ROWS)
    # 1. A task is some blocks of queries of one matrix; how many does not change a bit.
    parts = min(blocks, -(-4 * team_size() // b))
    for task in prange(b * parts):
        i, part = task // parts, task % parts
        q_i, v_i, y_i, lse_i = q[i], v[i], y[i], lse[i]
        packed = pack_keys(k[i])
        buffer = np.empty((ROWS, across), dtype)
        scores = buffer.ctypes.data
        step = across * item
        state = np.empty((3, ROWS), dtype)
        factors, words = room_for_factors(rate, across, dtype)
        numbers = np.array([scale / LN2, scale]).astype(dtype)
        for block in range(part, blocks, parts):
            i0 = block * ROWS
            rows = min(ROWS, n - i0)
            limit = min(s, i0 + rows) if causal else s  # of the keys that these queries see
            state[0, :] = -np.inf
            state[1, :] = 0
            for p0 in range(0, panels, together):
                j0, j1 = columns_of_panels(p0, min(p0 + together, panels), s, dtype)
                if j0 >= limit:
                    break
                keys = min(j1, limit) - j0
                # 2. Scores, and weights by the largest so far.
                products(q_i, i0, rows, packed, s, p0, min(j1, limit), scores, step)
                mask_at, mask_step = mask_row(mask, i // each % max(mask.shape[0], 1), i0, j0)
                weigh_rows(
                    dtype, kind, scores, step, rows, keys, i0 + 1 - j0 if causal else keys, 1 if causal else 0,
                    numbers.ctypes.data, mask_at, mask_step, state.ctypes.data, ROWS * item,
                )  # fmt: skip
                if rate > 0:
                    draw_factors(factors, words, rows, keys, (i * n + i0) * s + j0, s, rate, key)
                    multiply(buffer, factors, rows, keys)
                # 3. The values, weighed, beside those of the blocks before.
                if j0 > 0:
                    for r in range(rows):
                        y_row, factor = y_i[i0 + r], state[2, r]
                        for j in range(d):
                            y_row[j] *= factor
                combine(False, scores, step, rows, keys, v_i, j0, y_i, i0, 1 if j0 > 0 else 0)
            # 4. Divided by the sum of the weights.
            finish(state, rows, lse_i[i0 : i0 + rows])
            for r in range(rows):
                y_row, factor = y_i[i0 + r], state[2, r]
                for j in range(d):
                    y_row[j] *= factor
        keep(buffer)


@parallel_kernel(is_large=lambda dy, q, k, v, *rest: work(q, k, v) >= PARALLEL_WORK)
def attention_backward(dy, q, k, v, mask, each, scale, causal, rate, key, y, lse, dq, dk, dv):
    b, n, e = q.shape
    s, d = v.shape[1], v.shape[2]
    dtype = q.dtype
    item = np.intp(q.itemsize)
    kind = kind_of(mask)
    panels, together, across = panels_of_block(s, dtype)
    blocks = -(-n // ROWS)
    # 1. A task is a matrix, or some blocks of its queries; then it has sums of its own.
    parts = min(blocks, -(-LEAST_PARTS // b))
    k_sums = np.empty((parts if parts > 1 else 0, b, s, e), dtype)
    v_sums = np.empty((parts if parts > 1 else 0, b, s, d), dtype)
    for task in prange(b * parts):
        i, part = task // parts, task % parts
        q_i, k_i, v_i, dy_i, y_i, dq_i = q[i], k[i], v[i], dy[i], y[i], dq[i]
        dk_i = k_sums[part, i] if parts > 1 else dk[i]
        dv_i = v_sums[part, i] if parts > 1 else dv[i]
        dk_i[:, :] = 0
        dv_i[:, :] = 0
        k_packed, v_packed = pack_keys(k_i), pack_keys(v_i)
        buffer = np.empty((2, ROWS, across), dtype)
        scores, slopes = buffer.ctypes.data, buffer.ctypes.data + ROWS * across * item
        step = across * item
        delta = np.empty(ROWS, dtype)
        factors, words = room_for_factors(rate, across, dtype)
        numbers = np.array([scale / LN2, scale]).astype(dtype)
        for block in range(part, blocks, parts):
            i0 = block * ROWS
            rows = min(ROWS, n - i0)
            limit = min(s, i0 + rows) if causal else s
            for r in range(rows):
                delta[r] = dot(dy_i[i0 + r], y_i[i0 + r])
            for p0 in range(0, panels, together):
                j0, j1 = columns_of_panels(p0, min(p0 + together, panels), s, dtype)
                if j0 >= limit:
                    break
                keys = min(j1, limit) - j0
                # 2. The weights once more, and the gradients of the scores.
                products(q_i, i0, rows, k_packed, s, p0, min(j1, limit), scores, step)
                products(dy_i, i0, rows, v_packed, s, p0, min(j1, limit), slopes, step)
                if rate > 0:
                    draw_factors(factors, words, rows, keys, (i * n + i0) * s + j0, s, rate, key)
                    multiply(buffer[1], factors, rows, keys)
                mask_at, mask_step = mask_row(mask, i // each % max(mask.shape[0], 1), i0, j0)
                gradient_rows(
                    dtype, kind, scores, slopes, step, rows, keys, i0 + 1 - j0 if causal else keys,
                    1 if causal else 0, numbers.ctypes.data, mask_at, mask_step, lse[i, i0:].ctypes.data,
                    delta.ctypes.data,
                )  # fmt: skip
                if rate > 0:
                    multiply(buffer[0], factors, rows, keys)
                # 3. What they give to values, keys and queries.
                combine(True, scores, step, keys, rows, dy_i, i0, dv_i, j0, 1)
                combine(True, slopes, step, keys, rows, q_i, i0, dk_i, j0, 1)
                combine(False, slopes, step, rows, keys, k_i, j0, dq_i, i0, 1 if j0 > 0 else 0)
        keep(buffer)
    # 4. The parts in their order.
    if parts > 1:
        for i in prange(b):
            for part in range(parts):
                for j in range(s):
                    add_row(k_sums[part, i, j], dk[i, j], part)
                    add_row(v_sums[part, i, j], dv[i, j], part)


@inlined
def add_row(x, total, part):
    """total += x, or total = x for the first part."""
    if part == 0:
        for j in range(x.size):
            total[j] = x[j]
    else:
        for j in range(x.size):
            total[j] += x[j]
