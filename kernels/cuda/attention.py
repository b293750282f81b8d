"""Scaled dot-product attention. Contracts and formulas: kernels/reference/attention.py.

A block has TILE queries, and goes through the keys a tile at a time, so that the matrix of all scores is never there: the
scores of a tile become weights in shared memory and are multiplied by a tile of values, whose sums are in registers; each
query has the largest score so far, and what came before is multiplied by exp(old - new) (FlashAttention, Dao et al. 2022).
Backward, a block makes the weights anew, from the scores and lse: one launch has tiles of queries for dq, two have tiles
of keys for dk and dv, so that all of a sum is made by one block, in the order of the tiles, without atomic additions. COLUMNS
features of the result are made at a time; for more of them the scores are computed again, by other blocks. With dropout a
thread draws the factors of its scores, each from a Philox group of its own, of which three words in four are for other threads.

A thread has four scores of a tile, two rows by two columns 16 apart. Reckoned for clarity, and not measured.
"""

import math
from typing import NamedTuple

from minigrad.kernels import formulas
from minigrad.kernels.cuda.dropout import GROUP, words_of
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, real, uint32, uint64
from minigrad.kernels.cuda.tools.launch import Bytes, Real, Reals, UInt, ULongs, blocks_for, kernel

TILE = 32  # queries, keys and depths of a tile
SIDE = 16  # threads along each side of a tile
THREADS = SIDE * SIDE
PITCH = TILE + 1  # numbers from one row of a tile in shared memory to the next
COLUMNS = 64  # features of the result that a block computes
WIDE = COLUMNS + 1
SQUARE, OBLONG = TILE * PITCH, TILE * WIDE  # numbers of tiles in shared memory
ACROSS = COLUMNS // SIDE  # columns of the result that a thread computes, in two rows
SUMS = 2 * ACROSS
NO_MASK, BOOLEAN, ADDED = range(3)
BY_KEYS = Choice("BY_KEYS")  # whether a block has keys, not queries
SLOPES = Choice("SLOPES")  # whether it is about the scores' gradients
DROPS = Choice("DROPS")  # whether weights are dropped


class Sizes(NamedTuple):
    """Queries, keys, and how long each of them and each value is."""

    n: UInt
    s: UInt
    e: UInt
    d: UInt


class Masks(NamedTuple):
    """How many masks there are, for how many matrices in a row each is, how many rows it has, and of which kind it is."""

    count: UInt
    each: UInt
    rows: UInt
    kind: UInt


class Scores(NamedTuple):
    """What a score goes through: its factor, whether later keys take no part, and the masks."""

    scale: Real
    causal: UInt
    masks: Masks
    mask: Reals  # one memory, which is read as numbers or as
    allowed: Bytes


class Dropped(NamedTuple):
    """By which numbers weights are dropped: the key, the last word that drops one, and what the others are multiplied by."""

    key: ULongs
    last: UInt
    kept: Real


class Saved(NamedTuple):
    """Of each query: the logarithm of the sum of its weights, and the product of its results and their gradients."""

    lse: Reals
    delta: Reals


@device_function
def load_tile(x, start, first, rows, column, columns, width, pitch, shared):
    """Rows first to first + 31 of a matrix, `width` columns of them from `column` on, to shared memory; 0 past the ends."""
    i = uint32(uint32(cuda.threadIdx.y) * uint32(SIDE) + uint32(cuda.threadIdx.x))
    while i < uint32(TILE * width):
        row, k = uint32(i // uint32(width)), uint32(i % uint32(width))
        value = real(0)
        if uint32(first + row) < rows and uint32(column + k) < columns:
            value = x[uint32(start + uint32(first + row) * columns + uint32(column + k))]
        shared[uint32(row * uint32(pitch) + k)] = value
        i = uint32(i + uint32(THREADS))


@device_function
def products(a, a_start, a_first, a_rows, b, b_start, b_first, b_rows, depth, left, right):
    """This thread's four products of rows of A by rows of B, tiles of which go by way of shared memory."""
    row, column = uint32(uint32(cuda.threadIdx.y) * uint32(PITCH)), uint32(uint32(cuda.threadIdx.x) * uint32(PITCH))
    apart = uint32(SIDE * PITCH)
    p, q, r, s = real(0), real(0), real(0), real(0)
    k0 = uint32(0)
    while k0 < depth:
        cuda.syncthreads()
        load_tile(a, a_start, a_first, a_rows, k0, depth, TILE, PITCH, left)
        load_tile(b, b_start, b_first, b_rows, k0, depth, TILE, PITCH, right)
        cuda.syncthreads()
        k = uint32(0)
        while k < uint32(TILE):
            upper, lower = left[uint32(row + k)], left[uint32(row + apart + k)]
            near, far = right[uint32(column + k)], right[uint32(column + apart + k)]
            p += upper * near
            q += upper * far
            r += lower * near
            s += lower * far
            k = uint32(k + uint32(1))
        k0 = uint32(k0 + uint32(TILE))
    return p, q, r, s


@device_function
def mask_of(matrix, masks, s):
    """Where the mask of a matrix begins."""
    return uint32(uint32(matrix // masks.each % masks.count) * masks.rows * s)


@device_function
def term(score, i, j, n, s, scores, place):
    """t of query i and key j; nothing where there is no such key, or it takes no part."""
    masks = scores.masks
    t = scores.scale * score
    if i >= n or j >= s or (scores.causal != uint32(0) and j > i):
        t = real(formulas.INFINITY) * real(-1)
    elif masks.kind != uint32(NO_MASK):
        at = uint32(place + (i if masks.rows > uint32(1) else uint32(0)) * s + j)
        if masks.kind == uint32(ADDED):
            t += scores.mask[at]
        elif scores.allowed[at] == uint32(0):
            t = real(formulas.INFINITY) * real(-1)
    return t


@device_function
def factor_of(row, j, s, dropped):
    """What the weight of key j in a row of all queries is multiplied by: 0 where its word is `last` at most."""
    low, half = uint64(0xFFFFFFFF), uint64(32)
    element = uint64(uint64(row) * uint64(s) + uint64(j))
    group, place = uint64(element // uint64(GROUP)), uint64(element % uint64(GROUP))
    seed, counter = dropped.key[0], dropped.key[1]
    a, b, c, d = words_of(group & low, group >> half, counter & low, counter >> half, seed & low, seed >> half)
    near, far = a if place == uint64(0) else b, c if place == uint64(2) else d
    return dropped.kept if uint32(near if place < uint64(2) else far) > dropped.last else real(0)


@device_function
def add_products(weights, values, sums):
    """Add the weights of this thread's two rows times the values of its columns."""
    row = uint32(uint32(cuda.threadIdx.y) * uint32(PITCH))
    k = uint32(0)
    while k < uint32(TILE):
        upper, lower = weights[uint32(row + k)], weights[uint32(row + uint32(SIDE * PITCH) + k)]
        place = uint32(k * uint32(WIDE) + uint32(cuda.threadIdx.x))
        for c in range(ACROSS):
            value = values[uint32(place + uint32(c * SIDE))]
            sums[c] += upper * value
            sums[ACROSS + c] += lower * value
        k = uint32(k + uint32(1))


@device_function
def store_rows(y, start, first, rows, column, columns, sums, upper, lower):
    """This thread's sums to the result, each of its two rows times a factor."""
    i = uint32(first + uint32(cuda.threadIdx.y))
    for c in range(ACROSS):
        j = uint32(column + uint32(cuda.threadIdx.x) + uint32(c * SIDE))
        if i < rows and j < columns:
            y[uint32(start + i * columns + j)] = sums[c] * upper
        if uint32(i + uint32(SIDE)) < rows and j < columns:
            y[uint32(start + uint32(i + uint32(SIDE)) * columns + j)] = sums[ACROSS + c] * lower


@kernel(threads=THREADS)
def forward(
    q: Reals, k: Reals, v: Reals, y: Reals, lse: Reals, sizes: Sizes, tiles: UInt, scores: Scores, dropped: Dropped
):
    n, s, e, d = sizes
    left, right = cuda.shared.array(SQUARE, real, 16), cuda.shared.array(SQUARE, real, 16)
    weights = cuda.shared.array(SQUARE, real, 16)
    values = cuda.shared.array(OBLONG, real, 16)
    top = cuda.shared.array(TILE, real, 16)
    total = cuda.shared.array(TILE, real, 16)
    factor = cuda.shared.array(TILE, real, 16)
    sums = cuda.local.array(SUMS, real)
    for c in range(SUMS):
        sums[c] = real(0)
    nothing = real(formulas.INFINITY) * real(-1)
    x, z = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
    me = uint32(z * uint32(SIDE) + x)
    matrix = uint32(uint32(cuda.blockIdx.x) // tiles)
    first = uint32(uint32(cuda.blockIdx.x) % tiles * uint32(TILE))
    column = uint32(uint32(cuda.blockIdx.y) * uint32(COLUMNS))
    place = mask_of(matrix, scores.masks, s)
    if me < uint32(TILE):
        top[me] = nothing
        total[me] = real(0)
    end = s
    if scores.causal != uint32(0):
        end = uint32(min(s, uint32(first + uint32(TILE))))
    here = uint32(z * uint32(PITCH) + x)
    below = uint32(here + uint32(SIDE * PITCH))
    i, lower = uint32(first + z), uint32(first + z + uint32(SIDE))
    j0 = uint32(0)
    while j0 < end:
        # 1. The terms of the tile.
        found = products(q, uint32(matrix * n * e), first, n, k, uint32(matrix * s * e), j0, s, e, left, right)
        j = uint32(j0 + x)
        far = uint32(j + uint32(SIDE))
        weights[here] = term(found[0], i, j, n, s, scores, place)
        weights[uint32(here + uint32(SIDE))] = term(found[1], i, far, n, s, scores, place)
        weights[below] = term(found[2], lower, j, n, s, scores, place)
        weights[uint32(below + uint32(SIDE))] = term(found[3], lower, far, n, s, scores, place)
        cuda.syncthreads()
        # 2. The largest term of each row so far.
        if me < uint32(TILE):
            best = top[me]
            c = uint32(0)
            while c < uint32(TILE):
                t = weights[uint32(me * uint32(PITCH) + c)]
                best = t if best < t else best
                c = uint32(c + uint32(1))
            shift = real(0) if best == nothing else best
            factor[me] = formulas.exp(top[me] - shift)
            top[me] = best
        load_tile(v, uint32(matrix * s * d), j0, s, column, d, COLUMNS, WIDE, values)
        cuda.syncthreads()
        # 3. The weights by it.
        shift = real(0) if top[z] == nothing else top[z]
        weights[here] = formulas.exp(weights[here] - shift)
        weights[uint32(here + uint32(SIDE))] = formulas.exp(weights[uint32(here + uint32(SIDE))] - shift)
        shift = real(0) if top[uint32(z + uint32(SIDE))] == nothing else top[uint32(z + uint32(SIDE))]
        weights[below] = formulas.exp(weights[below] - shift)
        weights[uint32(below + uint32(SIDE))] = formulas.exp(weights[uint32(below + uint32(SIDE))] - shift)
        cuda.syncthreads()
        if me < uint32(TILE):
            sum_ = real(0)
            c = uint32(0)
            while c < uint32(TILE):
                sum_ += weights[uint32(me * uint32(PITCH) + c)]
                c = uint32(c + uint32(1))
            total[me] = total[me] * factor[me] + sum_
        if DROPS:
            cuda.syncthreads()
            above, beneath = uint32(matrix * n + i), uint32(matrix * n + lower)
            weights[here] *= factor_of(above, j, s, dropped)
            weights[uint32(here + uint32(SIDE))] *= factor_of(above, far, s, dropped)
            weights[below] *= factor_of(beneath, j, s, dropped)
            weights[uint32(below + uint32(SIDE))] *= factor_of(beneath, far, s, dropped)
            cuda.syncthreads()
        # 4. The values, weighed.
        for c in range(ACROSS):
            sums[c] *= factor[z]
            sums[ACROSS + c] *= factor[uint32(z + uint32(SIDE))]
        add_products(weights, values, sums)
        j0 = uint32(j0 + uint32(TILE))
    cuda.syncthreads()
    if me < uint32(TILE):
        none = total[me] == real(0)
        factor[me] = real(0) if none else real(1) / total[me]
        row = uint32(first + me)
        if row < n and column == uint32(0):
            lse[uint32(matrix * n + row)] = real(formulas.INFINITY) if none else top[me] + formulas.log(total[me])
    cuda.syncthreads()
    store_rows(y, uint32(matrix * n * d), first, n, column, d, sums, factor[z], factor[uint32(z + uint32(SIDE))])


@kernel(threads=THREADS)
def row_products(a: Reals, b: Reals, y: Reals, m: UInt, n: UInt):
    """y[i] = the product of rows i of both."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < m:
        total = real(0)
        k = uint32(i * n)
        while k < uint32(uint32(i + uint32(1)) * n):
            total += a[k] * b[k]
            k = uint32(k + uint32(1))
        y[i] = total


class Shape(NamedTuple):
    """Of a gradient: rows of the result, rows that they meet, and the columns of a and b, of c and d, and of the result."""

    mine: UInt
    others: UInt
    depth: UInt
    depth_of_slopes: UInt
    columns: UInt


@device_function
def slope(t, gradient, factor, query, n, scale, saved, start):
    """p of a term times the factor of dropout, or ds if SLOPES."""
    if query >= n:
        return real(0)
    p = formulas.exp(t - saved.lse[uint32(start + query)])
    if SLOPES:
        return scale * p * (gradient * factor - saved.delta[uint32(start + query)])
    return p * factor


@device_function
def weight_of(score, gradient, mine, other, n, s, scores, place, saved, start, dropped):
    """What a score is to the result: of row `mine` of the block's tile and `other` of the other tile."""
    i, j = (other, mine) if BY_KEYS else (mine, other)
    t = term(score, i, j, n, s, scores, place)
    factor = real(1)
    if DROPS:
        factor = factor_of(uint32(start + i), j, s, dropped)
    return slope(t, gradient, factor, i, n, scores.scale, saved, start)


@kernel(threads=THREADS)
def gradient(
    a: Reals, b: Reals, c: Reals, d: Reals, values: Reals, result: Reals, shape: Shape, tiles: UInt, saved: Saved,
    scores: Scores, dropped: Dropped,
):  # fmt: skip
    """result = W values, W the weights, or ds, of scores a b^T, gradients c d^T; a and c have `mine` rows, b and d `others`."""
    mine, others, depth, depth_of_slopes, columns = shape
    left, right = cuda.shared.array(SQUARE, real, 16), cuda.shared.array(SQUARE, real, 16)
    weights = cuda.shared.array(SQUARE, real, 16)
    loaded = cuda.shared.array(OBLONG, real, 16)
    sums = cuda.local.array(SUMS, real)
    for i in range(SUMS):
        sums[i] = real(0)
    x, z = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
    matrix = uint32(uint32(cuda.blockIdx.x) // tiles)
    first = uint32(uint32(cuda.blockIdx.x) % tiles * uint32(TILE))
    column = uint32(uint32(cuda.blockIdx.y) * uint32(COLUMNS))
    n, s = (others, mine) if BY_KEYS else (mine, others)
    place, start = mask_of(matrix, scores.masks, s), uint32(matrix * n)
    here = uint32(z * uint32(PITCH) + x)
    below = uint32(here + uint32(SIDE * PITCH))
    upper, lower = uint32(first + z), uint32(first + z + uint32(SIDE))
    j0, end = uint32(0), others
    if scores.causal != uint32(0):
        if BY_KEYS:
            j0 = first  # the queries before see none of these keys
        else:
            end = uint32(min(others, uint32(first + uint32(TILE))))
    of_mine, of_others = uint32(matrix * mine), uint32(matrix * others)
    while j0 < end:
        near, far = uint32(j0 + x), uint32(j0 + x + uint32(SIDE))
        p = products(
            a, uint32(of_mine * depth), first, mine, b, uint32(of_others * depth), j0, others, depth, left, right
        )
        g = p
        if SLOPES:
            g = products(
                c, uint32(of_mine * depth_of_slopes), first, mine, d, uint32(of_others * depth_of_slopes), j0, others,
                depth_of_slopes, left, right,
            )  # fmt: skip
        weights[here] = weight_of(p[0], g[0], upper, near, n, s, scores, place, saved, start, dropped)
        weights[uint32(here + uint32(SIDE))] = weight_of(
            p[1], g[1], upper, far, n, s, scores, place, saved, start, dropped
        )
        weights[below] = weight_of(p[2], g[2], lower, near, n, s, scores, place, saved, start, dropped)
        weights[uint32(below + uint32(SIDE))] = weight_of(
            p[3], g[3], lower, far, n, s, scores, place, saved, start, dropped
        )
        load_tile(values, uint32(of_others * columns), j0, others, column, columns, COLUMNS, WIDE, loaded)
        cuda.syncthreads()
        add_products(weights, loaded, sums)
        j0 = uint32(j0 + uint32(TILE))
    store_rows(result, uint32(of_mine * columns), first, mine, column, columns, sums, real(1), real(1))


FORWARD = {drops: forward.variant(DROPS=drops) for drops in (False, True)}
GRADIENT_OF_QUERIES = {drops: gradient.variant(BY_KEYS=False, SLOPES=True, DROPS=drops) for drops in (False, True)}
GRADIENT_OF_KEYS = {drops: gradient.variant(BY_KEYS=True, SLOPES=True, DROPS=drops) for drops in (False, True)}
GRADIENT_OF_VALUES = {drops: gradient.variant(BY_KEYS=True, SLOPES=False, DROPS=drops) for drops in (False, True)}


def scores_of(mask, each, scale, causal):
    """The Scores with a mask, or with none if it is empty."""
    if not mask.size:
        return Scores(scale, int(causal), Masks(1, 1, 1, NO_MASK), mask, mask)
    kind = BOOLEAN if mask.itemsize == 1 else ADDED
    return Scores(scale, int(causal), Masks(mask.shape[0], each, mask.shape[1], kind), mask, mask)


def dropped_by(rate, key):
    """(whether weights are dropped, Dropped)."""
    threshold = math.ceil(rate * 2.0**32)  # the first word that keeps a weight
    return threshold > 0, Dropped(key, max(threshold - 1, 0), 1 / (1 - rate))


def grid_for(rows, matrices, columns):
    """(grid, tiles of a matrix's rows)."""
    tiles = blocks_for(rows, TILE)
    return (matrices * tiles, blocks_for(columns, COLUMNS)), tiles


def attention_forward(q, k, v, mask, each, scale, causal, rate, key, y, lse):
    b, n, e = q.shape
    s, d = v.shape[1:]
    grid, tiles = grid_for(n, b, d)
    scores, (drops, dropped) = scores_of(mask, each, scale, causal), dropped_by(rate, key)
    FORWARD[drops][grid, (SIDE, SIDE)](q, k, v, y, lse, Sizes(n, s, e, d), tiles, scores, dropped)


def attention_backward(dy, q, k, v, mask, each, scale, causal, rate, key, y, lse, dq, dk, dv):
    b, n, e = q.shape
    s, d = v.shape[1:]
    scores, (drops, dropped) = scores_of(mask, each, scale, causal), dropped_by(rate, key)
    delta = context.empty((b, n), q.dtype)
    row_products[blocks_for(b * n, THREADS), THREADS](dy, y, delta, b * n, d)
    saved = Saved(lse, delta)

    def launch(kernel, factors, result, shape):
        grid, tiles = grid_for(shape.mine, b, shape.columns)
        kernel[grid, (SIDE, SIDE)](*factors, result, shape, tiles, saved, scores, dropped)

    launch(GRADIENT_OF_QUERIES[drops], (q, k, dy, v, k), dq, Shape(n, s, e, d, e))
    launch(GRADIENT_OF_KEYS[drops], (k, q, v, dy, q), dk, Shape(s, n, e, d, e))
    launch(GRADIENT_OF_VALUES[drops], (k, q, v, dy, dy), dv, Shape(s, n, e, d, d))
