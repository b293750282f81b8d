"""Sums and maxima over the middle axis of (outer, reduced, inner). Contracts: kernels/reference/reduce.py.

A block is a tile of threads: `across` beside each other along the inner axis (along the reduced axis, where there is no
inner one: those are neighbours in memory then), `down` of them along the reduced axis, `deep` along the outer one, so that
both few long sums and many short ones fill it. A thread takes every `down`-th element, four at a time so that loads
overlap; the threads of one output then meet in a tree. Where there are few outputs the reduced axis is cut into chunks
besides, of a length that depends on the shape alone, and a second launch reduces what they gave.

Sums are compensated, in x's type: see `sums`. What a sum has lost goes to the second launch as one more number to be added,
so that nothing is rounded before the end. With an inner axis of multiples of four a thread reads four columns at
once; a long row is seen as rows of four columns. All of it is bound by reading x once.
"""

from typing import NamedTuple

import numpy as np

from minigrad.kernels.cuda.parts.columns import THREADS, in_fours, keep, kept
from minigrad.kernels.cuda.parts.sums import add, finite_loss, whole
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, load4, real, store4, uint32
from minigrad.kernels.cuda.tools.launch import FLOAT32, Longs, Reals, UInt, UInts, blocks_for, kernel

ACROSS = 64  # threads of a block along the inner axis, at most
DEEP = 64  # and along the outer one; more are not allowed
BLOCKS = 1024  # enough to fill a GPU, few enough to be added up quickly; reckoned, not measured
LEAST = 16  # elements of a thread, at least, if the reduced axis is cut
LONG_ROW = 2048  # reckoned, not measured
SHARED = 2 * THREADS
SHARED_FOURS = 8 * THREADS
FIRST, LAST = (
    Choice("FIRST"),
    Choice("LAST"),
)  # whether a kernel looks at elements, not at candidates; whether it decides


class Axes3(NamedTuple):
    """Lengths: of all axes before the reduced one, of that, of all behind it."""

    outer: UInt
    reduced: UInt
    inner: UInt


class Share(NamedTuple):
    """Of a block: how many lie beside one another for one outer index, and how many elements of the reduced axis it has."""

    panels: UInt
    chunk: UInt


def tile(outer, reduced, columns):
    """(blocks along the first axis of the grid, panels of columns, block, rows of a chunk, chunks)."""
    panels = -(-columns // ACROSS)
    across = -(-columns // panels)
    down = max(1, min(THREADS // across, -(-reduced // 4)))
    deep = min(THREADS // (across * down), outer, DEEP)
    blocks = blocks_for(outer, deep) * panels
    chunk = max(LEAST * down, -(-reduced * blocks // BLOCKS))
    chunks = blocks_for(reduced, chunk)
    return blocks, panels, (across, down, deep), chunk, chunks


@device_function
def my_outer(panels):
    """The outer index of this thread."""
    group = uint32(uint32(cuda.blockIdx.x) // panels)
    return uint32(group * uint32(cuda.blockDim.z) + uint32(cuda.threadIdx.z))


@device_function
def my_column(panels):
    """Its column, or group of four columns."""
    panel = uint32(uint32(cuda.blockIdx.x) % panels)
    return uint32(panel * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x))


@device_function
def my_place():
    """Its number in the block; threads of one output are blockDim.x apart."""
    return uint32(
        uint32(cuda.threadIdx.x)
        + uint32(cuda.blockDim.x) * (uint32(cuda.threadIdx.y) + uint32(cuda.blockDim.y) * uint32(cuda.threadIdx.z))
    )


@kernel(threads=THREADS)
def sum_columns(x: Reals, y: Reals, axes: Axes3, share: Share):
    outer, reduced, inner = axes
    panels, chunk = share
    shared = cuda.shared.array(SHARED, real, 16)
    i, j, down = my_outer(panels), my_column(panels), uint32(cuda.blockDim.y)
    start = uint32(uint32(cuda.blockIdx.y) * chunk)
    end = uint32(min(uint32(start + chunk), reduced))
    total, lost = real(0), real(0)
    if i < outer and j < inner:
        r = uint32(start + uint32(cuda.threadIdx.y))
        k, step = uint32((i * reduced + r) * inner + j), uint32(down * inner)
        while r + uint32(3) * down < end:
            a, b = x[k], x[uint32(k + step)]
            c, d = x[uint32(k + uint32(2) * step)], x[uint32(k + uint32(3) * step)]
            total, lost = add(total, lost, a)
            total, lost = add(total, lost, b)
            total, lost = add(total, lost, c)
            total, lost = add(total, lost, d)
            r = uint32(r + uint32(4) * down)
            k = uint32(k + uint32(4) * step)
        while r < end:
            total, lost = add(total, lost, x[k])
            r = uint32(r + down)
            k = uint32(k + step)
    me = my_place()
    shared[me] = total
    shared[uint32(me + uint32(THREADS))] = lost
    cuda.syncthreads()
    n = down
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        if uint32(uint32(cuda.threadIdx.y) + half) < n:
            other = uint32(me + half * uint32(cuda.blockDim.x))
            both = shared[uint32(me + uint32(THREADS))] + shared[uint32(other + uint32(THREADS))]
            shared[me], shared[uint32(me + uint32(THREADS))] = add(shared[me], both, shared[other])
        cuda.syncthreads()
        n = half
    if uint32(cuda.threadIdx.y) == uint32(0) and i < outer and j < inner:
        if LAST:
            y[uint32(i * inner + j)] = whole(shared[me], shared[uint32(me + uint32(THREADS))])
        else:
            k = my_part(i, inner, j)
            y[k] = shared[me]
            y[uint32(k + uint32(cuda.gridDim.y) * inner)] = finite_loss(shared[uint32(me + uint32(THREADS))])


@device_function
def my_part(i, inner, j):
    """Where the sum of this chunk goes; what it lost goes behind the sums of all chunks."""
    return uint32((i * uint32(2) * uint32(cuda.gridDim.y) + uint32(cuda.blockIdx.y)) * inner + j)


@device_function
def add_fours(total, lost, v):
    """`add` for four columns."""
    a, b = add(total[0], lost[0], v[0]), add(total[1], lost[1], v[1])
    c, d = add(total[2], lost[2], v[2]), add(total[3], lost[3], v[3])
    return (a[0], b[0], c[0], d[0]), (a[1], b[1], c[1], d[1])


@kernel(threads=THREADS, types=(FLOAT32,))
def sum_fours(x: Reals, y: Reals, axes: Axes3, share: Share):
    outer, reduced, inner = axes
    panels, chunk = share
    shared = cuda.shared.array(SHARED_FOURS, real, 16)
    i, j, down = my_outer(panels), uint32(my_column(panels) * uint32(4)), uint32(cuda.blockDim.y)
    start = uint32(uint32(cuda.blockIdx.y) * chunk)
    end = uint32(min(uint32(start + chunk), reduced))
    zero = real(0)
    total, lost = (zero, zero, zero, zero), (zero, zero, zero, zero)
    if i < outer and j < inner:
        r = uint32(start + uint32(cuda.threadIdx.y))
        k, step = uint32((i * reduced + r) * inner + j), uint32(down * inner)
        while r + uint32(3) * down < end:
            a, b = load4(x, k), load4(x, uint32(k + step))
            c, d = load4(x, uint32(k + uint32(2) * step)), load4(x, uint32(k + uint32(3) * step))
            total, lost = add_fours(total, lost, a)
            total, lost = add_fours(total, lost, b)
            total, lost = add_fours(total, lost, c)
            total, lost = add_fours(total, lost, d)
            r = uint32(r + uint32(4) * down)
            k = uint32(k + uint32(4) * step)
        while r < end:
            total, lost = add_fours(total, lost, load4(x, k))
            r = uint32(r + down)
            k = uint32(k + step)
    me = my_place()
    losses = uint32(me + uint32(4 * THREADS))
    keep(shared, me, total)
    keep(shared, losses, lost)
    cuda.syncthreads()
    n = down
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        if uint32(uint32(cuda.threadIdx.y) + half) < n:
            other = uint32(half * uint32(cuda.blockDim.x))
            a, b = kept(shared, losses), kept(shared, uint32(losses + other))
            both = (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])
            c, d = add_fours(kept(shared, me), both, kept(shared, uint32(me + other)))
            keep(shared, me, c)
            keep(shared, losses, d)
        cuda.syncthreads()
        n = half
    if uint32(cuda.threadIdx.y) == uint32(0) and i < outer and j < inner:
        a, b = kept(shared, me), kept(shared, losses)
        if LAST:
            k = uint32(i * inner + j)
            store4(y, k, whole(a[0], b[0]), whole(a[1], b[1]), whole(a[2], b[2]), whole(a[3], b[3]))
        else:
            k = my_part(i, inner, j)
            store4(y, k, a[0], a[1], a[2], a[3])
            k = uint32(k + uint32(cuda.gridDim.y) * inner)
            store4(y, k, finite_loss(b[0]), finite_loss(b[1]), finite_loss(b[2]), finite_loss(b[3]))


sums_in_one, sums_of_chunks = sum_columns.variant(LAST=True), sum_columns.variant(LAST=False)
fours_in_one, fours_of_chunks = sum_fours.variant(LAST=True), sum_fours.variant(LAST=False)


@device_function
def replaces(v, p, w, q):
    """Whether w at position q is the maximum rather than v at p: NaN is, and of equals the first."""
    if v != v:
        return w != w and q < p
    return w != w or w > v or (w == v and q < p)


@device_function
def position(candidates, k, r):
    """Where in x the r-th of those that are compared lies, along the reduced axis."""
    if FIRST:
        return r
    return candidates[k]


@kernel(threads=THREADS)
def max_columns(
    x: Reals, candidates: UInts, y: Reals, index: Longs, axes: Axes3, length: UInt, share: Share
):  # fmt: skip
    outer, reduced, inner = axes
    panels, chunk = share
    values = cuda.shared.array(THREADS, real, 16)
    positions = cuda.shared.array(THREADS, uint32, 16)
    i, j, down = my_outer(panels), my_column(panels), uint32(cuda.blockDim.y)
    start = uint32(uint32(cuda.blockIdx.y) * chunk)
    last = uint32(min(uint32(start + chunk), reduced) - uint32(1))
    is_output = i < outer and j < inner
    best, largest = uint32(0), real(0)
    if is_output:
        first = uint32(i * reduced)  # of those that are compared
        base = uint32(i * length * inner + j)
        r = min(uint32(start + uint32(cuda.threadIdx.y)), last)
        best = position(candidates, uint32((first + r) * inner + j), r)
        largest = x[uint32(base + best * inner)]
        while r <= last:  # four at a time; beyond the last, the last again
            s = min(uint32(r + down), last)
            t = min(uint32(r + uint32(2) * down), last)
            u = min(uint32(r + uint32(3) * down), last)
            a = position(candidates, uint32((first + r) * inner + j), r)
            b = position(candidates, uint32((first + s) * inner + j), s)
            c = position(candidates, uint32((first + t) * inner + j), t)
            d = position(candidates, uint32((first + u) * inner + j), u)
            va, vb = x[uint32(base + a * inner)], x[uint32(base + b * inner)]
            vc, vd = x[uint32(base + c * inner)], x[uint32(base + d * inner)]
            if replaces(largest, best, va, a):
                largest, best = va, a
            if replaces(largest, best, vb, b):
                largest, best = vb, b
            if replaces(largest, best, vc, c):
                largest, best = vc, c
            if replaces(largest, best, vd, d):
                largest, best = vd, d
            r = uint32(r + uint32(4) * down)
    me = my_place()
    values[me] = largest
    positions[me] = best
    cuda.syncthreads()
    n = down
    while n > uint32(1):
        half = uint32((n + uint32(1)) >> uint32(1))
        if uint32(uint32(cuda.threadIdx.y) + half) < n:
            other = uint32(me + half * uint32(cuda.blockDim.x))
            if replaces(values[me], positions[me], values[other], positions[other]):
                values[me] = values[other]
                positions[me] = positions[other]
        cuda.syncthreads()
        n = half
    if uint32(cuda.threadIdx.y) == uint32(0) and is_output:
        if LAST:
            y[uint32(i * inner + j)] = values[me]
            index[uint32(i * inner + j)] = positions[me]
        else:
            k = uint32((i * uint32(cuda.gridDim.y) + uint32(cuda.blockIdx.y)) * inner + j)
            candidates[k] = positions[me]


max_in_one = max_columns.variant(FIRST=True, LAST=True)
max_of_chunks = max_columns.variant(FIRST=True, LAST=False)
max_of_candidates = max_columns.variant(FIRST=False, LAST=True)


@kernel(threads=THREADS)
def put_at_maximum(dy: Reals, index: Longs, dx: Reals, axes: Axes3, share: Share):
    outer, reduced, inner = axes
    panels, chunk = share
    i, j, down = my_outer(panels), my_column(panels), uint32(cuda.blockDim.y)
    if i < outer and j < inner:
        best, gradient = uint32(index[uint32(i * inner + j)]), dy[uint32(i * inner + j)]
        r = uint32(uint32(cuda.blockIdx.y) * chunk)
        end = uint32(min(uint32(r + chunk), reduced))
        r = uint32(r + uint32(cuda.threadIdx.y))
        k, step = uint32((i * reduced + r) * inner + j), uint32(down * inner)
        while r < end:
            dx[k] = gradient if r == best else real(0)
            r = uint32(r + down)
            k = uint32(k + step)


def sum_forward(x, y):
    outer, reduced, inner = x.shape
    if not y.size:
        return
    fours = in_fours(inner, 0, 0, x, y)
    if inner == 1 and reduced >= LONG_ROW and in_fours(reduced, 0, 0, x):
        x, fours = x.reshape(outer, reduced // 4, 4), True
    columns = x.shape[2] // 4 if fours else inner
    blocks, panels, block, chunk, chunks = tile(outer, x.shape[1], columns)
    if chunks * x.shape[2] == inner:
        (fours_in_one if fours else sums_in_one)[blocks, block](x, y, Axes3(*x.shape), Share(panels, chunk))
        return
    sums = context.empty((outer, 2 * chunks, x.shape[2]), x.dtype)
    (fours_of_chunks if fours else sums_of_chunks)[(blocks, chunks), block](
        x, sums, Axes3(*x.shape), Share(panels, chunk)
    )
    sum_forward(sums.reshape(outer, -1, inner), y)


def max_forward(x, y, index):
    outer, reduced, inner = x.shape
    if not y.size:
        return
    blocks, panels, block, chunk, chunks = tile(outer, reduced, inner)
    if chunks == 1:
        max_in_one[blocks, block](x, index, y, index, Axes3(*x.shape), reduced, Share(panels, chunk))
        return
    candidates = context.empty((outer, chunks, inner), np.uint32)
    max_of_chunks[(blocks, chunks), block](x, candidates, y, index, Axes3(*x.shape), reduced, Share(panels, chunk))
    blocks, panels, block, _, _ = tile(outer, chunks, inner)
    max_of_candidates[blocks, block](
        x, candidates, y, index, Axes3(outer, chunks, inner), reduced, Share(panels, chunks)
    )


def max_backward(dy, index, dx):
    outer, reduced, inner = dx.shape
    if not dx.size:
        return
    blocks, panels, block, chunk, chunks = tile(outer, reduced, inner)
    put_at_maximum[(blocks, chunks), block](dy, index, dx, Axes3(*dx.shape), Share(panels, chunk))


@kernel(threads=THREADS)
def run_along(x: Reals, y: Reals, columns: UInt, n: UInt, inner: UInt, reverse: UInt):
    """Running sums, a column to a thread, with what the additions have lost carried on (W. Kahan, 1965)."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < columns:
        place = uint32(uint32(i // inner) * n * inner + i % inner)
        if reverse:
            place = uint32(place + uint32(n - uint32(1)) * inner)
        total, lost = real(0), real(0)
        k = uint32(0)
        while k < n:
            term = x[place] - lost
            new = total + term
            lost = (new - total) - term
            lost = lost if lost == lost else real(0)  # beside infinity nothing is lost
            total = new
            y[place] = total
            place = uint32(place - inner) if reverse else uint32(place + inner)
            k = uint32(k + uint32(1))


def cumsum(x, reverse, y):
    if y.size:
        outer, n, inner = x.shape
        columns = outer * inner
        run_along[blocks_for(columns, THREADS), THREADS](x, y, columns, n, inner, int(reverse))
