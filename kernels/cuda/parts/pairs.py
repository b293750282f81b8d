"""Pairs of elements of two arrays through layouts; what `elementwise` does where arrays do not lie alike.

broadcast   y = f(a, b): a thread works out where its elements are (kernels/cuda/parts/walk.py), for four at once if the
            innermost axis allows it
compare     y = a == b and its like, an element to a thread: one kernel for all dtypes
"""

import functools

from minigrad.kernels.axes import merged
from minigrad.kernels.cuda.parts.kinds import FLOAT32, FLOAT64, KINDS, UINT64, integer_at
from minigrad.kernels.cuda.parts.units import below
from minigrad.kernels.cuda.parts.walk import Walk, both_positions, walk
from minigrad.kernels.cuda.tools.language import (
    Choice,
    cast,
    cuda,
    device_function,
    float32,
    float64,
    load4,
    store4,
    uint8,
    uint32,
    uint64,
)
from minigrad.kernels.cuda.tools.launch import Bytes, Reals, UInt, blocks_for, kernel

THREADS = 256
FORMULA = Choice("FORMULA")  # what a kernel computes of an element, or of two


@device_function
def put_pairs(y, i, u, v):
    """Write f of four pairs of elements to i."""
    store4(y, i, FORMULA(u[0], v[0]), FORMULA(u[1], v[1]), FORMULA(u[2], v[2]), FORMULA(u[3], v[3]))


@device_function
def four(x, i, step):
    """Four neighbours at i, or where step is 0 four times the element at i."""
    if step == uint32(0):
        return x[i], x[i], x[i], x[i]
    return load4(x, i)


@kernel(threads=THREADS)
def broadcast(a: Reals, b: Reals, y: Reals, n: UInt, in_vectors: UInt, way: Walk):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(4 * THREADS) + uint32(cuda.threadIdx.x))
    if in_vectors:  # n, i and the innermost axis count vectors
        i = uint32(uint32(cuda.blockIdx.x) * uint32(2 * THREADS) + uint32(cuda.threadIdx.x))
        if i < n:
            j = below(uint32(i + uint32(THREADS)), n, i)
            p, q = both_positions(i, way)
            s, t = four(a, p, way.steps[0][5]), four(b, q, way.steps[1][5])
            p, q = both_positions(j, way)
            u, v = four(a, p, way.steps[0][5]), four(b, q, way.steps[1][5])
            put_pairs(y, uint32(i * uint32(4)), s, t)
            put_pairs(y, uint32(j * uint32(4)), u, v)
    elif i < n:
        j = below(uint32(i + uint32(THREADS)), n, i)
        k = below(uint32(i + uint32(2 * THREADS)), n, i)
        m = below(uint32(i + uint32(3 * THREADS)), n, i)
        p, q = both_positions(i, way)
        ai, bi = a[p], b[q]
        p, q = both_positions(j, way)
        aj, bj = a[p], b[q]
        p, q = both_positions(k, way)
        ak, bk = a[p], b[q]
        p, q = both_positions(m, way)
        am, bm = a[p], b[q]
        y[i] = FORMULA(ai, bi)
        y[j] = FORMULA(aj, bj)
        y[k] = FORMULA(ak, bk)
        y[m] = FORMULA(am, bm)


EQUAL, NOT_EQUAL, LESS, LESS_EQUAL = range(4)


@device_function
def compared(u, v, relation):
    """1 where the relation holds, else 0."""
    if relation == uint32(EQUAL):
        return uint8(1) if u == v else uint8(0)
    if relation == uint32(NOT_EQUAL):
        return uint8(1) if u != v else uint8(0)
    if relation == uint32(LESS):
        return uint8(1) if u < v else uint8(0)
    return uint8(1) if u <= v else uint8(0)


@kernel(threads=THREADS)
def compare(a: Bytes, b: Bytes, y: Bytes, n: UInt, kind: UInt, relation: UInt, way: Walk):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        p, q = both_positions(i, way)
        if kind == uint32(FLOAT32):
            y[i] = compared(cast(a, float32)[p], cast(b, float32)[q], relation)
        elif kind == uint32(FLOAT64):
            y[i] = compared(cast(a, float64)[p], cast(b, float64)[q], relation)
        elif kind == uint32(UINT64):
            y[i] = compared(cast(a, uint64)[p], cast(b, uint64)[q], relation)
        else:
            y[i] = compared(integer_at(a, p, kind), integer_at(b, q, kind), relation)


@functools.lru_cache(maxsize=4096)
def broadcast_plan(shape, a_strides, b_strides, aligned):
    """(elements in a unit, Walk in units): 4 where vectors can be read and written, else 1; None if all is contiguous."""
    axes = merged(shape, a_strides, b_strides)
    if not axes or axes[0][1:] == [1, 1]:
        return None
    length, *steps = axes[-1]
    # of a row of one vector the index cannot be found by `divided`
    in_vectors = aligned and length % 4 == 0 and length > 4 and all(step in (0, 1) for step in steps)
    for array, step in enumerate(steps, 1):
        in_vectors &= step == 0 or all(axis[array] % 4 == 0 for axis in axes[:-1])
    if in_vectors:
        axes[-1] = [length // 4, *[4 * step for step in steps]]
    return 4 if in_vectors else 1, walk(axes)


def spread(kernel, plan, a, b, y):
    """y = f(a, b) by a variant of `broadcast` and a broadcast_plan."""
    unit, way = plan
    n = y.size // unit
    kernel[blocks_for(n, (2 if unit == 4 else 4) * THREADS), THREADS](a, b, y, n, unit == 4, way)


@functools.lru_cache(maxsize=4096)
def comparison_plan(shape, a_strides, b_strides):
    """The Walk over both."""
    return walk(merged(shape, a_strides, b_strides) or [[1, 0, 0]])


def comparison(relation, a, b, y, shape, a_strides, b_strides):
    """y = whether the relation holds, through layouts."""
    if y.size:
        way = comparison_plan(shape, a_strides, b_strides)
        compare[blocks_for(y.size, THREADS), THREADS](a, b, y, y.size, KINDS[a.dtype], relation, way)
