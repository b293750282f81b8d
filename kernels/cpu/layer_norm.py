"""Normalization of each row by itself. Contracts and formulas: kernels/reference/layer_norm.py.

Work is cut into blocks of whole rows that stay in the first-level cache, so only the first pass over a row finds it in
memory. Sums are in float64. The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its
precision when the mean is large against the deviation. Sums over the rows, for gamma and beta, are made for each block
of rows and added up in their order.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.tools.launch import SUMS, inlined, parallel_kernel

BLOCK = 1 << 12  # elements
MOST_BLOCKS = 64  # of which each has sums over its rows


@inlined
def less(x, high, low):
    """x - (high + low), in this order: flags that let sums be reordered would add the two first, and lose low."""
    return (x - high) - low


@inlined(flags=SUMS)
def row_sum(x):
    """Sum of a row, in float64."""
    result = 0.0
    for i in range(x.size):
        result += x[i]
    return result


@inlined(flags=SUMS)
def squares(x, high, low):
    """Sum of the squares of x - high - low, in float64."""
    result = 0.0
    for i in range(x.size):
        d = np.float64(less(x[i], high, low))
        result += d * d
    return result


@inlined(flags=SUMS)
def slopes(dy, x, gamma, high, low, scale):
    """(sum of g, sum of g h) of a row, in float64."""
    total, along = 0.0, 0.0
    for i in range(x.size):
        g = dy[i] * gamma[i]
        total += g
        along += np.float64(g) * np.float64(less(x[i], high, low) * scale)
    return total, along


@inlined(flags=SUMS)
def plain_slopes(dy, x, high, low, scale):
    """The same without gamma."""
    total, along = 0.0, 0.0
    for i in range(x.size):
        total += dy[i]
        along += np.float64(dy[i]) * np.float64(less(x[i], high, low) * scale)
    return total, along


@inlined
def apart(value, like):
    """A float64 number as one of the type of `like`, and what is left."""
    high = like.dtype.type(value)
    return high, like.dtype.type(value - np.float64(high))


@parallel_kernel(sized_by=0)
def layer_norm_forward(x, gamma, beta, eps, centered, y, mean, scale):
    m, n = x.shape
    rows = max(1, BLOCK // n)
    for block in prange(-(-m // rows)):
        for row in range(block * rows, min((block + 1) * rows, m)):
            x_row, y_row = x[row], y[row]
            center = row_sum(x_row) / n if centered else 0.0
            high, low = apart(center, x)
            factor = 1 / np.sqrt(squares(x_row, high, low) / n + eps)
            mean[row], scale[row] = center, factor
            k = x.dtype.type(factor)
            if gamma.size == 0:
                for j in range(n):
                    y_row[j] = less(x_row[j], high, low) * k
            else:
                for j in range(n):
                    y_row[j] = less(x_row[j], high, low) * k * gamma[j] + beta[j]


@parallel_kernel(sized_by=1)
def layer_norm_backward(dy, x, gamma, mean, scale, centered, dx, dgamma, dbeta):
    m, n = x.shape
    scalar = x.dtype.type
    affine = gamma.size > 0
    rows = max(BLOCK // n, -(-m // MOST_BLOCKS), 1)
    blocks = -(-m // rows)
    sums = np.zeros((blocks, 2, n if affine else 0))
    for block in prange(blocks):
        along_gamma, along_beta = sums[block, 0], sums[block, 1]
        for row in range(block * rows, min((block + 1) * rows, m)):
            dy_row, x_row, dx_row = dy[row], x[row], dx[row]
            high, low = apart(mean[row], x)
            k = scalar(scale[row])
            if affine:
                total, along = slopes(dy_row, x_row, gamma, high, low, k)
            else:
                total, along = plain_slopes(dy_row, x_row, high, low, k)
            level = scalar(total / n) if centered else scalar(0)
            slope = scalar(along / n)
            if affine:
                for j in range(n):
                    h = less(x_row[j], high, low) * k
                    along_gamma[j] += dy_row[j] * h
                    along_beta[j] += dy_row[j]
                    dx_row[j] = k * (gamma[j] * dy_row[j] - level - h * slope)
            else:
                for j in range(n):
                    h = less(x_row[j], high, low) * k
                    dx_row[j] = k * (dy_row[j] - level - h * slope)
    for j in range(dgamma.size):
        total, along = 0.0, 0.0
        for block in range(blocks):
            along += sums[block, 0, j]
            total += sums[block, 1, j]
        dgamma[j], dbeta[j] = along, total
