"""Normalization of each row by itself. Contracts and formulas: kernels/reference/layer_norm.py.

The threads of a row, and how they read and add up, are those of the softmax (kernels/cuda/parts/shared_rows.py). Sums are
compensated; the mean comes apart into two floats, so that x - mean keeps its precision. Sums over the rows, for gamma and
beta, are those of `reduce`, of dy h, which the first launch leaves in memory, and of dy.
"""

from typing import NamedTuple

from minigrad.kernels.bits import sqrt
from minigrad.kernels.cuda import reduce
from minigrad.kernels.cuda.parts.columns import FOURS, by_fours, in_fours
from minigrad.kernels.cuda.parts.shared_rows import (
    add_four,
    first_of_mine,
    my_row,
    my_step,
    nth,
    read,
    row_sum,
    start_of,
    tile,
    write,
)
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, device_function, float64, real, uint32
from minigrad.kernels.cuda.tools.launch import Double, Doubles, Reals, UInt, blocks_for


@device_function
def within(value, k, n):
    """The value, or 0 beyond the end of the row."""
    if FOURS:
        return value
    return value if k < n else real(0)


@device_function
def centered_four(x, start, k, n, high, low):
    """Four elements less the mean; 0 beyond the end of the row."""
    v = read(x, start, k, n, real(0))
    return (
        (v[0] - high) - low,
        within((v[1] - high) - low, nth(k, uint32(1)), n),
        within((v[2] - high) - low, nth(k, uint32(2)), n),
        within((v[3] - high) - low, nth(k, uint32(3)), n),
    )


class Asked(NamedTuple):
    """Whether the mean is taken away, and whether there are gamma and beta."""

    centered: UInt
    affine: UInt


def forward(
    x: Reals, gamma: Reals, beta: Reals, y: Reals, mean: Doubles, scale: Doubles, m: UInt, n: UInt, eps: Double, asked: Asked
):  # fmt: skip
    centered, affine = asked.centered, asked.affine
    row = my_row()
    start = start_of(row, m, n)
    total, lost = real(0), real(0)
    if centered != uint32(0):
        k = first_of_mine()
        while k < n:
            v = read(x, start, k, n, real(0))
            total, lost = add_four(total, lost, v)
            k = uint32(k + my_step())
        total, lost = row_sum(total, lost)
        cuda.syncthreads()  # all have read the sum
    center = (float64(total) + float64(lost)) / float64(n)
    high = real(center)
    low = real(center - float64(high))
    total, lost = real(0), real(0)
    k = first_of_mine()
    while k < n:
        v = centered_four(x, start, k, n, high, low)
        total, lost = add_four(total, lost, (v[0] * v[0], v[1] * v[1], v[2] * v[2], v[3] * v[3]))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    factor = float64(1) / sqrt((float64(total) + float64(lost)) / float64(n) + eps)
    if uint32(cuda.threadIdx.x) == uint32(0) and row < m:
        mean[row] = center
        scale[row] = factor
    s = real(factor)
    k = first_of_mine()
    while k < n:
        v = centered_four(x, start, k, n, high, low)
        h = v[0] * s, v[1] * s, v[2] * s, v[3] * s
        if affine != uint32(0):
            a, b = read(gamma, uint32(0), k, n, real(0)), read(beta, uint32(0), k, n, real(0))
            h = h[0] * a[0] + b[0], h[1] * a[1] + b[1], h[2] * a[2] + b[2], h[3] * a[3] + b[3]
        write(y, start, k, n, row < m, h)
        k = uint32(k + my_step())


@device_function
def slopes(dy, gamma, start, k, n, affine):
    """Four elements of gamma dy."""
    g = read(dy, start, k, n, real(0))
    if affine != uint32(0):
        a = read(gamma, uint32(0), k, n, real(0))
        g = g[0] * a[0], g[1] * a[1], g[2] * a[2], g[3] * a[3]
    return g


def backward(
    dy: Reals, x: Reals, gamma: Reals, mean: Doubles, scale: Doubles, dx: Reals, along: Reals, m: UInt, n: UInt, asked: Asked
):  # fmt: skip
    centered, affine = asked.centered, asked.affine
    row = my_row()
    start = start_of(row, m, n)
    inside = min(row, uint32(m - uint32(1)))
    center, s = mean[inside], real(scale[inside])
    high = real(center)
    low = real(center - float64(high))
    total, lost, product, rest = real(0), real(0), real(0), real(0)
    k = first_of_mine()
    while k < n:
        g, v = slopes(dy, gamma, start, k, n, affine), centered_four(x, start, k, n, high, low)
        total, lost = add_four(total, lost, g)
        product, rest = add_four(product, rest, (g[0] * v[0], g[1] * v[1], g[2] * v[2], g[3] * v[3]))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    cuda.syncthreads()  # all have read the sum
    product, rest = row_sum(product, rest)
    level = real(0)
    if centered != uint32(0):
        level = (total + lost) / real(n)
    slope = s * ((product + rest) / real(n))
    k = first_of_mine()
    while k < n:
        g, v = slopes(dy, gamma, start, k, n, affine), centered_four(x, start, k, n, high, low)
        h = v[0] * s, v[1] * s, v[2] * s, v[3] * s
        value = (
            s * (g[0] - level - h[0] * slope),
            s * (g[1] - level - h[1] * slope),
            s * (g[2] - level - h[2] * slope),
            s * (g[3] - level - h[3] * slope),
        )
        if affine != uint32(0):
            d = read(dy, start, k, n, real(0))
            write(along, start, k, n, row < m, (d[0] * h[0], d[1] * h[1], d[2] * h[2], d[3] * h[3]))
        write(dx, start, k, n, row < m, value)
        k = uint32(k + my_step())


forward_kernels = by_fours(forward, uses_float64=True)
backward_kernels = by_fours(backward, uses_float64=True)


def layer_norm_forward(x, gamma, beta, eps, centered, y, mean, scale):
    m, n = x.shape
    block = tile(n)
    kernel = forward_kernels[in_fours(n, 0, 0, x, gamma, beta, y)]
    kernel[blocks_for(m, block[1]), block](
        x, gamma, beta, y, mean, scale, m, n, eps, Asked(int(centered), int(gamma.size > 0))
    )


def layer_norm_backward(dy, x, gamma, mean, scale, centered, dx, dgamma, dbeta):
    m, n = x.shape
    affine = gamma.size > 0
    along = context.empty((m, n) if affine else (0, n), x.dtype)
    block = tile(n)
    kernel = backward_kernels[in_fours(n, 0, 0, dy, x, gamma, dx, along)]
    kernel[blocks_for(m, block[1]), block](
        dy, x, gamma, mean, scale, dx, along, m, n, Asked(int(centered), int(affine))
    )
    if affine:
        reduce.sum_forward(along.reshape(1, m, n), dgamma.reshape(1, n))
        reduce.sum_forward(dy.reshape(1, m, n), dbeta.reshape(1, n))
