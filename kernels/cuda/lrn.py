"""Local response normalization along the rows of x (m, c). Contracts and formulas: kernels/reference/lrn.py.

A block has as many rows as there is room for beside each other, a thread an element of one, or every 256-th of a long one.

Forward, a thread reads the window of its element from memory itself: the neighbours of the warp have it in the cache, so
that the traffic is that of a copy. Backward needs s of all the window, each of them a sum over a window again: squares
and terms go by way of shared memory, and x and dy are read once. Rows that do not fit there take two launches, with the
terms in memory between them.

Sums over a window are in the type of the data, in the order of the channels; an element whose square is no finite number
of that type gives 0.
"""

import math
from typing import NamedTuple

from minigrad.kernels import formulas
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, device_function, real, uint32
from minigrad.kernels.cuda.tools.launch import Real, Reals, UInt, blocks_for, kernel

THREADS = 256
WIDEST = 1024  # channels of a row in shared memory; as many of several rows together


class Reach(NamedTuple):
    """How many channels before and after one are in its window."""

    before: UInt
    after: UInt


class Terms(NamedTuple):
    """s = k + alpha (sum of squares), and its power -beta."""

    alpha: Real
    beta: Real
    k: Real


@device_function
def square_sum(memory, start, j, reach, c):
    """Sum of the squares over the window of j, in the row at `start`."""
    i = uint32(j - reach.before) if j > reach.before else uint32(0)
    end = min(uint32(j + reach.after), uint32(c - uint32(1)))
    total = real(0)
    while i <= end:
        v = memory[uint32(start + i)]
        total += v * v
        i = uint32(i + uint32(1))
    return total


@device_function
def term_sum(memory, start, j, reach, c):
    """Sum of the terms of those in whose windows j lies."""
    i = uint32(j - reach.after) if j > reach.after else uint32(0)
    end = min(uint32(j + reach.before), uint32(c - uint32(1)))
    total = real(0)
    while i <= end:
        total += memory[uint32(start + i)]
        i = uint32(i + uint32(1))
    return total


@device_function
def power(s, beta):
    """s^-beta."""
    if beta == real(0.75):  # of the paper, and what everyone uses
        root = real(math.sqrt(s))
        return real(1) / (root * real(math.sqrt(root)))
    return formulas.exp(-beta * formulas.log(s))


@device_function
def my_row():
    return uint32(uint32(cuda.blockIdx.x) * uint32(cuda.blockDim.y) + uint32(cuda.threadIdx.y))


@kernel(threads=THREADS)
def normalize(x: Reals, y: Reals, m: UInt, c: UInt, reach: Reach, formula: Terms):
    row, j = my_row(), uint32(cuda.threadIdx.x)
    if row < m:
        start = uint32(row * c)
        while j < c:
            s = formula.k + formula.alpha * square_sum(x, start, j, reach, c)
            y[uint32(start + j)] = x[uint32(start + j)] * power(s, formula.beta)
            j = uint32(j + uint32(cuda.blockDim.x))


@kernel(threads=THREADS)
def gradient(
    dy: Reals, x: Reals, dx: Reals, m: UInt, c: UInt, reach: Reach, formula: Terms, slope: Real
):  # fmt: skip
    values = cuda.shared.array(WIDEST, real, 16)
    terms = cuda.shared.array(WIDEST, real, 16)
    direct = cuda.shared.array(WIDEST, real, 16)
    row, me, across = my_row(), uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
    start, place = uint32(row * c), uint32(uint32(cuda.threadIdx.y) * c)
    j = me
    while j < c and row < m:
        values[uint32(place + j)] = x[uint32(start + j)]
        j = uint32(j + across)
    cuda.syncthreads()
    j = me
    while j < c and row < m:
        s = formula.k + formula.alpha * square_sum(values, place, j, reach, c)
        share = dy[uint32(start + j)] * power(s, formula.beta)
        direct[uint32(place + j)] = share
        terms[uint32(place + j)] = share * values[uint32(place + j)] / s
        j = uint32(j + across)
    cuda.syncthreads()
    j = me
    while j < c and row < m:
        total = term_sum(terms, place, j, reach, c)
        dx[uint32(start + j)] = direct[uint32(place + j)] - slope * values[uint32(place + j)] * total
        j = uint32(j + across)


@kernel(threads=THREADS)
def gradient_terms(
    dy: Reals, x: Reals, terms: Reals, dx: Reals, m: UInt, c: UInt, reach: Reach, formula: Terms
):  # fmt: skip
    row, j = my_row(), uint32(cuda.threadIdx.x)
    if row < m:
        start = uint32(row * c)
        while j < c:
            s = formula.k + formula.alpha * square_sum(x, start, j, reach, c)
            share = dy[uint32(start + j)] * power(s, formula.beta)
            dx[uint32(start + j)] = share
            terms[uint32(start + j)] = share * x[uint32(start + j)] / s
            j = uint32(j + uint32(cuda.blockDim.x))


@kernel(threads=THREADS)
def gradient_from_terms(x: Reals, terms: Reals, dx: Reals, m: UInt, c: UInt, reach: Reach, slope: Real):
    row, j = my_row(), uint32(cuda.threadIdx.x)
    if row < m:
        start = uint32(row * c)
        while j < c:
            total = term_sum(terms, start, j, reach, c)
            dx[uint32(start + j)] -= slope * x[uint32(start + j)] * total
            j = uint32(j + uint32(cuda.blockDim.x))


def tile(m, c):
    """(grid, block) of a kernel over rows; its block's rows fit into WIDEST channels if one does."""
    across = -(-c // blocks_for(c, THREADS))
    down = THREADS // across
    return blocks_for(m, down), (across, down)


def window(size, c):
    """The Reach of a window of that size."""
    return Reach(min(size // 2, c - 1), min((size - 1) // 2, c - 1))


def local_response_norm_forward(x, size, alpha, beta, k, y):
    m, c = x.shape
    if not x.size:
        return
    grid, block = tile(m, c)
    normalize[grid, block](x, y, m, c, window(size, c), Terms(alpha, beta, k))


def local_response_norm_backward(dy, x, size, alpha, beta, k, dx):
    m, c = x.shape
    if not x.size:
        return
    grid, block = tile(m, c)
    slope = 2 * alpha * beta
    if c <= WIDEST:
        gradient[grid, block](dy, x, dx, m, c, window(size, c), Terms(alpha, beta, k), slope)
        return
    terms = context.empty(x.shape, x.dtype)
    gradient_terms[grid, block](dy, x, terms, dx, m, c, window(size, c), Terms(alpha, beta, k))
    gradient_from_terms[grid, block](x, terms, dx, m, c, window(size, c), slope)
