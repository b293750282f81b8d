"""Softmax, its logarithm, cross-entropy, the loss of log-probabilities, over rows. Contracts: kernels/reference/loss.py.

How threads share a row: kernels/cuda/parts/shared_rows.py. Maximum, sum and result are three passes, of which only the first
finds its row in memory; the others have it in the cache. So the traffic is that of a copy.

The sum of a row is compensated, because a confident prediction has a loss far below the rounding of 1: with
the sum in two parts, s and what s lost, log(s + lost) = log(s) + lost / s to within rounding.

The mean of the losses: the rows of a block are added up in a tree, and the blocks' sums in a second launch; a batch of
up to ONE_LAUNCH threads needs no second. A label that is no class cannot raise an error here (the op checks labels
before it launches anything): its row has loss NaN, and gradients NaN, and nothing outside of the array is read.
"""

import math
from typing import NamedTuple

from minigrad.kernels import formulas
from minigrad.kernels.cuda.parts.columns import THREADS, by_fours, in_fours
from minigrad.kernels.cuda.parts.shared_rows import (
    add_four,
    first_of_mine,
    larger,
    my_row,
    my_step,
    nth,
    read,
    row_largest,
    row_sum,
    start_of,
    tile,
    write,
)
from minigrad.kernels.cuda.parts.sums import add, whole
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, device_function, real, uint32
from minigrad.kernels.cuda.tools.launch import Long, Longs, Real, Reals, UInt, blocks_for, kernel

SHARED = 2 * THREADS
BLOCKS = 1024  # this and the next are reckoned, not measured: blocks that give a sum of losses, at most
ONE_LAUNCH = 4 * THREADS
LOWEST, NAN = -math.inf, math.nan


@device_function
def exp_shifted(v, shift):
    return (
        formulas.exp(v[0] - shift),
        formulas.exp(v[1] - shift),
        formulas.exp(v[2] - shift),
        formulas.exp(v[3] - shift),
    )


@device_function
def shift_and_sum(x, start, n):
    """(largest element of the row, sum of exp(x - largest) in two parts)."""
    shift = real(LOWEST)
    k = first_of_mine()
    while k < n:
        v = read(x, start, k, n, real(LOWEST))
        shift = larger(larger(larger(larger(shift, v[0]), v[1]), v[2]), v[3])
        k = uint32(k + my_step())
    shift = row_largest(shift)
    total, lost = real(0), real(0)
    k = first_of_mine()
    while k < n:
        total, lost = add_four(total, lost, exp_shifted(read(x, start, k, n, real(LOWEST)), shift))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    return shift, total, lost


@device_function
def put_softmax(x, y, start, n, is_row, shift, total):
    scale = real(1) / total
    k = first_of_mine()
    while k < n:
        e = exp_shifted(read(x, start, k, n, real(LOWEST)), shift)
        write(y, start, k, n, is_row, (e[0] * scale, e[1] * scale, e[2] * scale, e[3] * scale))
        k = uint32(k + my_step())


# Kernels


def softmax(x: Reals, y: Reals, m: UInt, n: UInt):
    row = my_row()
    start = start_of(row, m, n)
    shift, total, lost = shift_and_sum(x, start, n)
    put_softmax(x, y, start, n, row < m, shift, whole(total, lost))


def softmax_gradient(dy: Reals, y: Reals, dx: Reals, m: UInt, n: UInt):
    row = my_row()
    start = start_of(row, m, n)
    total, lost = real(0), real(0)
    k = first_of_mine()
    while k < n:
        p, q = read(dy, start, k, n, real(0)), read(y, start, k, n, real(0))
        total, lost = add_four(total, lost, (p[0] * q[0], p[1] * q[1], p[2] * q[2], p[3] * q[3]))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    inner = whole(total, lost)
    k = first_of_mine()
    while k < n:
        p, q = read(dy, start, k, n, real(0)), read(y, start, k, n, real(0))
        value = q[0] * (p[0] - inner), q[1] * (p[1] - inner), q[2] * (p[2] - inner), q[3] * (p[3] - inner)
        write(dx, start, k, n, row < m, value)
        k = uint32(k + my_step())


def log_softmax(x: Reals, y: Reals, m: UInt, n: UInt):
    row = my_row()
    start = start_of(row, m, n)
    shift, total, lost = shift_and_sum(x, start, n)
    high, low = formulas.log(total), lost / total
    k = first_of_mine()
    while k < n:
        v = read(x, start, k, n, real(0))
        value = (
            ((v[0] - shift) - high) - low,
            ((v[1] - shift) - high) - low,
            ((v[2] - shift) - high) - low,
            ((v[3] - shift) - high) - low,
        )
        write(y, start, k, n, row < m, value)
        k = uint32(k + my_step())


def log_softmax_gradient(dy: Reals, y: Reals, dx: Reals, m: UInt, n: UInt):
    row = my_row()
    start = start_of(row, m, n)
    total, lost = real(0), real(0)
    k = first_of_mine()
    while k < n:
        total, lost = add_four(total, lost, read(dy, start, k, n, real(0)))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    scale = whole(total, lost)
    k = first_of_mine()
    while k < n:
        p, e = read(dy, start, k, n, real(0)), exp_shifted(read(y, start, k, n, real(0)), real(0))
        value = p[0] - e[0] * scale, p[1] - e[1] * scale, p[2] - e[2] * scale, p[3] - e[3] * scale
        write(dx, start, k, n, row < m, value)
        k = uint32(k + my_step())


@device_function
def block_sum(total, lost):
    """The sum over the THREADS threads of the block; right in the first."""
    shared = cuda.shared.array(SHARED, real, 16)
    me = uint32(uint32(cuda.threadIdx.y) * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x))
    shared[me] = total
    shared[uint32(me + uint32(THREADS))] = lost
    half = uint32(THREADS // 2)
    while half > uint32(0):
        cuda.syncthreads()
        if me < half:
            other = uint32(me + half)
            both = shared[uint32(me + uint32(THREADS))] + shared[uint32(other + uint32(THREADS))]
            shared[me], shared[uint32(me + uint32(THREADS))] = add(shared[me], both, shared[other])
        half = uint32(half >> uint32(1))
    return whole(shared[me], shared[uint32(me + uint32(THREADS))])


def cross_entropy(logits: Reals, labels: Longs, probs: Reals, sums: Reals, m: UInt, n: UInt, divisor: Real):
    loss_sum, loss_lost = real(0), real(0)
    first = uint32(uint32(cuda.blockIdx.x) * uint32(cuda.blockDim.y))
    while first < m:
        row = uint32(first + uint32(cuda.threadIdx.y))
        start = start_of(row, m, n)
        shift, total, lost = shift_and_sum(logits, start, n)
        put_softmax(logits, probs, start, n, row < m, shift, whole(total, lost))
        if uint32(cuda.threadIdx.x) == uint32(0) and row < m:
            label = labels[row]
            loss = real(NAN)
            if label >= 0 and label < n:
                loss = (formulas.log(total) - (logits[uint32(start + uint32(label))] - shift)) + lost / total
            loss_sum, loss_lost = add(loss_sum, loss_lost, loss)
        first = uint32(first + uint32(cuda.gridDim.x) * uint32(cuda.blockDim.y))
    loss_sum = block_sum(loss_sum, loss_lost)
    if uint32(cuda.threadIdx.x) == uint32(0) and uint32(cuda.threadIdx.y) == uint32(0):
        sums[uint32(cuda.blockIdx.x)] = loss_sum / divisor


@kernel(threads=THREADS)
def mean(sums: Reals, loss: Reals, n: UInt, divisor: Real):
    total, lost = real(0), real(0)
    i = uint32(cuda.threadIdx.x)
    while i < n:
        total, lost = add(total, lost, sums[i])
        i = uint32(i + uint32(THREADS))
    total = block_sum(total, lost)
    if uint32(cuda.threadIdx.x) == uint32(0):
        loss[uint32(0)] = total / divisor


@device_function
def logit_gradient(p, k, label, scale):
    return (p - real(1)) * scale if k == label else p * scale


def cross_entropy_gradient(dy: Reals, probs: Reals, labels: Longs, dx: Reals, m: UInt, n: UInt, divisor: Real):
    row = my_row()
    start = start_of(row, m, n)
    given = labels[min(row, uint32(m - uint32(1)))]
    label, scale = uint32(0), real(NAN)
    if given >= 0 and given < n:
        label, scale = uint32(given), dy[uint32(0)] / divisor
    k = first_of_mine()
    while k < n:
        p = read(probs, start, k, n, real(0))
        value = (
            logit_gradient(p[0], k, label, scale),
            logit_gradient(p[1], nth(k, uint32(1)), label, scale),
            logit_gradient(p[2], nth(k, uint32(2)), label, scale),
            logit_gradient(p[3], nth(k, uint32(3)), label, scale),
        )
        write(dx, start, k, n, row < m, value)
        k = uint32(k + my_step())


# The loss of log-probabilities, with weights, labels that are ignored, and a share spread over all classes


@kernel(threads=THREADS)
def nll_of_labels(log_probs: Reals, labels: Longs, weight: Reals, losses: Reals, m: UInt, n: UInt, ignore: Long):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < m:
        label = labels[i]
        loss = real(0)
        if label != ignore:
            loss = real(NAN)
            if label >= 0 and label < n:
                k = uint32(label)
                loss = real(0) - weight[k] * log_probs[uint32(i * n + k)]
        losses[i] = loss


class Shares(NamedTuple):
    """Of the loss of a row: the label for which there is none, the weight of its label, and that of every class."""

    ignore: Long
    kept: Real
    spread: Real


def nll_smoothed(
    log_probs: Reals, labels: Longs, weight: Reals, losses: Reals, m: UInt, n: UInt, shares: Shares
):  # fmt: skip
    ignore, kept, spread = shares.ignore, shares.kept, shares.spread
    row = my_row()
    start = start_of(row, m, n)
    total, lost = real(0), real(0)
    k = first_of_mine()
    while k < n:
        p, w = read(log_probs, start, k, n, real(0)), read(weight, uint32(0), k, n, real(0))
        total, lost = add_four(total, lost, (p[0] * w[0], p[1] * w[1], p[2] * w[2], p[3] * w[3]))
        k = uint32(k + my_step())
    total, lost = row_sum(total, lost)
    if uint32(cuda.threadIdx.x) == uint32(0) and row < m:
        label = labels[row]
        loss = real(0)
        if label != ignore:
            loss = real(NAN)
            if label >= 0 and label < n:
                k = uint32(label)
                own = kept * weight[k] * log_probs[uint32(start + k)]
                loss = real(0) - (own + spread * whole(total, lost))
        losses[row] = loss


@device_function
def nll_slope(w, k, label, own, each):
    return (real(0) - own * w) - each * w if k == label else real(0) - each * w


def nll_gradient(dy: Reals, labels: Longs, weight: Reals, dx: Reals, m: UInt, n: UInt, shares: Shares):
    ignore, kept, spread = shares.ignore, shares.kept, shares.spread
    row = my_row()
    start = start_of(row, m, n)
    inside = min(row, uint32(m - uint32(1)))
    given, scale = labels[inside], dy[inside]
    label, own, each = uint32(0), real(0), real(0)
    if given != ignore:
        own, each = real(NAN), real(NAN)
        if given >= 0 and given < n:
            label, own = uint32(given), scale * kept
            each = real(0) if spread == real(0) else scale * spread
    k = first_of_mine()
    while k < n:
        w = read(weight, uint32(0), k, n, real(0))
        value = (
            nll_slope(w[0], k, label, own, each),
            nll_slope(w[1], nth(k, uint32(1)), label, own, each),
            nll_slope(w[2], nth(k, uint32(2)), label, own, each),
            nll_slope(w[3], nth(k, uint32(3)), label, own, each),
        )
        write(dx, start, k, n, row < m, value)
        k = uint32(k + my_step())


@kernel(threads=THREADS)
def weights_of_labels(labels: Longs, weight: Reals, weights: Reals, m: UInt, n: UInt, ignore: Long):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < m:
        label = labels[i]
        found = real(0)
        if label != ignore:
            found = real(NAN)
            if label >= 0 and label < n:
                found = weight[uint32(label)]
        weights[i] = found


# Which kernel for which rows


softmax_kernels = by_fours(softmax)
softmax_gradient_kernels = by_fours(softmax_gradient)
log_softmax_kernels = by_fours(log_softmax)
log_softmax_gradient_kernels = by_fours(log_softmax_gradient)
cross_entropy_kernels = by_fours(cross_entropy)
cross_entropy_gradient_kernels = by_fours(cross_entropy_gradient)
nll_smoothed_kernels = by_fours(nll_smoothed)
nll_gradient_kernels = by_fours(nll_gradient)


def launch_rows(kernels, *arrays):
    """Launch a kernel over the rows of the first array."""
    m, n = arrays[0].shape
    if not m * n:
        return
    block = tile(n)
    kernels[in_fours(n, 0, 0, *arrays)][blocks_for(m, block[1]), block](*arrays, m, n)


def softmax_forward(x, y):
    launch_rows(softmax_kernels, x, y)


def softmax_backward(dy, y, dx):
    launch_rows(softmax_gradient_kernels, dy, y, dx)


def log_softmax_forward(x, y):
    launch_rows(log_softmax_kernels, x, y)


def log_softmax_backward(dy, y, dx):
    launch_rows(log_softmax_gradient_kernels, dy, y, dx)


def cross_entropy_forward(logits, labels, probs, loss):
    m, n = logits.shape
    forward = cross_entropy_kernels[in_fours(n, 0, 0, logits, probs)]
    block = tile(n)
    if m * block[0] <= ONE_LAUNCH:
        forward[1, block](logits, labels, probs, loss, m, n, m)
        return
    blocks = blocks_for(m, block[1], BLOCKS)
    sums = context.empty((blocks,), logits.dtype)
    forward[blocks, block](logits, labels, probs, sums, m, n, 1)
    mean[1, THREADS](sums, loss, blocks, m)


def cross_entropy_backward(dy, probs, labels, dx):
    m, n = probs.shape
    block = tile(n)
    backward = cross_entropy_gradient_kernels[in_fours(n, 0, 0, probs, dx)]
    backward[blocks_for(m, block[1]), block](dy, probs, labels, dx, m, n, m)


def nll_forward(log_probs, labels, weight, ignore, smoothing, losses):
    m, n = log_probs.shape
    if not smoothing:
        nll_of_labels[blocks_for(m, THREADS), THREADS](log_probs, labels, weight, losses, m, n, ignore)
        return
    block = tile(n)
    smoothed = nll_smoothed_kernels[in_fours(n, 0, 0, log_probs, weight)]
    shares = Shares(ignore, 1 - smoothing, smoothing / n)
    smoothed[blocks_for(m, block[1]), block](log_probs, labels, weight, losses, m, n, shares)


def nll_backward(dy, labels, weight, ignore, smoothing, dx):
    m, n = dx.shape
    block = tile(n)
    backward = nll_gradient_kernels[in_fours(n, 0, 0, dx, weight)]
    shares = Shares(ignore, 1 - smoothing, smoothing / n)
    backward[blocks_for(m, block[1]), block](dy, labels, weight, dx, m, n, shares)


def nll_weights(labels, weight, ignore, weights):
    m, n = labels.size, weight.size
    weights_of_labels[blocks_for(m, THREADS), THREADS](labels, weight, weights, m, n, ignore)
