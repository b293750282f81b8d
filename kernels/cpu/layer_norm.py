"""Normalization of each row by itself. Contracts and formulas: kernels/reference/layer_norm.py.

Work is cut into blocks of whole rows that stay in the first-level cache, so only the first pass over a row finds it in
memory. Sums are in float64. The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its
precision when the mean is large against the deviation. Sums over the rows, for gamma and beta, are made for each block
of rows and added up in their order.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.rows import dot
from minigrad.kernels.cpu.tools.launch import SUMS, inlined, parallel_kernel
from minigrad.kernels.cpu.tools.pointers import element_at, row_at
from minigrad.kernels.cpu.vector.layer_norm import HIGH, LEVEL, LOW, ROWS, SCALE, SLOPE, gradient_rows, slope_rows

BLOCK = 1 << 12  # elements
MOST_BLOCKS = 64  # of which each has sums over its rows


@inlined
def less(x, high, low):
    """x - (high + low), in this order: flags that let sums be reordered would add the two first, and lose low."""
    return (x - high) - low


@inlined
def beyond(x, start):
    """x - start in float64, in this order: flags that let sums be reordered would sum up x by itself, and lose digits."""
    return np.float64(x) - start


@inlined(flags=SUMS)
def moments(x):
    """(mean, variance) of a row, in one pass: counted from its first element, so that a large mean costs no digits.

    Where the first element is the one far from all others, log2 of the row's length bits of float64's 53 are lost.
    """
    start = np.float64(x[0])
    total, squares = 0.0, 0.0
    for i in range(x.size):
        d = beyond(x[i], start)
        total += d
        squares += d * d
    mean = total / x.size
    variance = squares / x.size - mean * mean
    return start + mean, 0.0 if variance < 0 else variance  # NaN stays


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
            center, variance = moments(x_row) if centered else (0.0, dot(x_row, x_row) / n)
            high, low = apart(center, x)
            factor = 1 / np.sqrt(variance + eps)
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
    dtype = x.dtype
    affine = gamma.size > 0
    step = n * np.intp(x.itemsize)
    rows = max(BLOCK // n, -(-m // MOST_BLOCKS), 1)
    blocks = -(-m // rows)
    sums = np.zeros((blocks, 2, n if affine else 0))
    gamma_at = gamma.ctypes.data if affine else 0
    # 1. Blocks of rows, whose number the threads do not decide; of gamma and beta each has sums of its own.
    for block in prange(blocks):
        along_gamma, along_beta = sums[block, 0], sums[block, 1]
        table, found = np.empty((5, ROWS), dtype), np.empty((2, ROWS))
        last = min((block + 1) * rows, m)
        for row in range(block * rows, last, ROWS):
            count = min(ROWS, last - row)
            for r in range(count):
                table[HIGH, r], table[LOW, r] = apart(mean[row + r], x)
                table[SCALE, r] = scale[row + r]
            # What dx has in common along a row: the means of dy gamma, and of that times the normalized x.
            slope_rows(
                dtype, row_at(dy, row), row_at(x, row), gamma_at, row_at(dx, row), step, count, n, table.ctypes.data,
                found.ctypes.data,
            )  # fmt: skip
            for r in range(count):
                table[LEVEL, r] = found[0, r] / n if centered else 0.0
                table[SLOPE, r] = found[1, r] / n
            # dx, and its row's part of the gradients of gamma and beta, while dy and x are in the cache.
            together = ROWS if count == ROWS else 1
            for r in range(0, count, together):
                gradient_rows(
                    dtype, together, row_at(dy, row + r), row_at(x, row + r), gamma_at, row_at(dx, row + r), step, n,
                    element_at(table, 0, r), along_gamma.ctypes.data, along_beta.ctypes.data,
                )  # fmt: skip
    # 2. The blocks' sums, added up in order.
    for block in range(1, blocks):
        for j in range(dgamma.size):
            sums[0, 0, j] += sums[block, 0, j]
            sums[0, 1, j] += sums[block, 1, j]
    for j in range(dgamma.size):
        dgamma[j], dbeta[j] = sums[0, 0, j], sums[0, 1, j]
