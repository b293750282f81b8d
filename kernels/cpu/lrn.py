"""Local response normalization. Contracts and formulas: kernels/reference/lrn.py.

Rows are laid into a block one after another, with zeros between them as wide as a window: a sum over a window never
reaches into the next row, so the loops over a block are long and vectorize whatever the number of channels. Sums over a
window are in the type of the data, in the order of the channels; an element whose square is no finite number of that
type gives 0.

Backward computes s again rather than keep it: it needs x anyway, and s would be a second array of that size.
"""

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.cpu.tools.launch import inlined, parallel_kernel

BLOCK = 1 << 11  # elements of a block: four arrays of them stay in the first-level cache


@inlined
def layout(c, size):
    """(channels before and after j in its window, elements from one row of a block to the next, rows of a block)."""
    before, after = min(size // 2, c - 1), min((size - 1) // 2, c - 1)
    step = c + max(before, after)
    return before, after, step, max(1, BLOCK // step)


@inlined
def window_sums(terms, before, after, sums):
    """sums[j] = sum of terms[j - before : j + after + 1]; terms beyond the ends are zero."""
    n = sums.size
    for j in range(n):
        sums[j] = 0
    for shift in range(-before, after + 1):
        first, last = max(0, -shift), min(n, n - shift)
        source, target = terms[first + shift : last + shift], sums[first:last]
        for j in range(target.size):
            target[j] += source[j]


@inlined
def squares(x, step, terms):
    """The squares of rows x, laid into a block."""
    c = x.shape[1]
    for i in range(x.shape[0]):
        row, place = x[i], terms[i * step : (i + 1) * step]
        for j in range(c):
            place[j] = row[j] * row[j]
        for j in range(c, step):
            place[j] = 0


@inlined
def power(s, alpha, beta, k, scale):
    """s = k + alpha s, scale = s^-beta."""
    one = s.dtype.type(1)
    if beta == 0.75:  # of the paper, and what everyone uses
        for j in range(s.size):
            s[j] = k + alpha * s[j]
            root = np.sqrt(s[j])
            scale[j] = one / (root * np.sqrt(root))
    else:
        for j in range(s.size):
            s[j] = k + alpha * s[j]
            scale[j] = formulas.exp(-beta * formulas.log(s[j]))


@parallel_kernel()
def local_response_norm_forward(x, size, alpha, beta, k, y):
    m, c = x.shape
    real = x.dtype.type
    before, after, step, rows = layout(c, size)
    for block in prange(-(-m // rows)):
        part = slice(block * rows, min((block + 1) * rows, m))
        u, v = x[part], y[part]
        n = len(u) * step
        terms, s = np.empty(n, x.dtype), np.empty(n, x.dtype)
        squares(u, step, terms)
        window_sums(terms, before, after, s)
        scale = terms
        power(s, real(alpha), real(beta), real(k), scale)
        for i in range(len(u)):
            u_row, v_row, factor = u[i], v[i], scale[i * step : (i + 1) * step]
            for j in range(c):
                v_row[j] = u_row[j] * factor[j]


@parallel_kernel()
def local_response_norm_backward(dy, x, size, alpha, beta, k, dx):
    m, c = x.shape
    real = x.dtype.type
    before, after, step, rows = layout(c, size)
    slope = real(2 * alpha * beta)
    for block in prange(-(-m // rows)):
        part = slice(block * rows, min((block + 1) * rows, m))
        u, du, dv = x[part], dy[part], dx[part]
        n = len(u) * step
        terms, s, scale = np.empty(n, x.dtype), np.empty(n, x.dtype), np.empty(n, x.dtype)
        squares(u, step, terms)
        window_sums(terms, before, after, s)
        power(s, real(alpha), real(beta), real(k), scale)
        for i in range(len(u)):
            u_row, du_row = u[i], du[i]
            place, low = slice(i * step, (i + 1) * step), s[i * step : (i + 1) * step]
            share, factor = terms[place], scale[place]
            for j in range(c):
                share[j] = du_row[j] * u_row[j] * factor[j] / low[j]
        shares = s
        window_sums(terms, after, before, shares)
        for i in range(len(u)):
            u_row, du_row, dv_row = u[i], du[i], dv[i]
            place = slice(i * step, (i + 1) * step)
            factor, total = scale[place], shares[place]
            for j in range(c):
                dv_row[j] = du_row[j] * factor[j] - slope * u_row[j] * total[j]
