"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

How the rows of one x are gone through, and what their statistics are made of: kernels/cpu/parts/norm_rows.py.

Many x that are normalized into columns of one y are gone through together, a block of rows at a time: of a row of y, or of
dy, that is read and written piece by piece, pass after pass, memory would move much that nobody asked for.

The activation after the normalization costs no pass over memory of its own: forward applies it before storing, and
backward finds the gradient before it on the way, ReLU's from x once more, sigmoid's from y.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.norm_rows import (
    add_proportion,
    chunk_size,
    coefficients,
    gradient_chunk,
    gradient_coefficients,
    normalize_chunk,
    slope_and_offset,
    statistics,
    sum_chunk,
)
from minigrad.kernels.cpu.tools.launch import GRAIN, inlined, kernel, parallel_kernel
from minigrad.kernels.cpu.tools.pointers import array_at, pack
from minigrad.kernels.cpu.vector.norm import BETA, DEVIATION, HIGH, SCALE

WIDTH, START, COLUMN, ACTIVATION = range(4)  # of a branch: its columns, where they start in the sums, and in y and dy


@inlined
def matrix_at(arrays, b, m, c, like):
    """Packed array b as (m, c)."""
    return array_at(arrays, b, 0, m * c, like).reshape((m, c))


def branch_table(xs, activations, columns):
    """(elements of all, what there is to know of each branch)."""
    widths = [x.shape[1] for x in xs]
    starts = [sum(widths[:b]) for b in range(len(xs))]
    return sum(x.size for x in xs), np.array([widths, starts, columns, activations], np.int64).T.copy()


def prepare_forwards(
    xs, gammas, betas, eps, activations, y, columns, means, variances, decays, running_means, running_vars
):  # fmt: skip
    size, branches = branch_table(xs, activations, columns)
    packed = map(pack, (xs, gammas, betas, means, variances, running_means, running_vars))
    kept = np.array([array.size for array in running_means], np.int64)
    return size, branches, np.array(eps, np.float64), np.array(decays, np.float64), kept, y, *packed


def is_large(size, *arguments):
    """Whether there are enough elements for all threads."""
    return size >= GRAIN


@inlined
def widths(branches):
    """(least, largest, sum) of the numbers of columns."""
    least = largest = branches[0, WIDTH]
    total = 0
    for b in range(len(branches)):
        least, largest = min(least, branches[b, WIDTH]), max(largest, branches[b, WIDTH])
        total += branches[b, WIDTH]
    return least, largest, total


@inlined
def block_rows(branches):
    """Rows that one task goes through in all branches, so that whole rows of y are in the cache: whole chunks of each."""
    return chunk_size(widths(branches)[0])


@inlined
def empty_sums(blocks, branches, like):
    """Room for both sums of every chunk, (2, chunks, features of all branches)."""
    least, largest, total = widths(branches)
    chunks = blocks * (chunk_size(least) // chunk_size(largest))
    return np.empty((2, chunks, total), like.dtype)


@inlined
def coefficient_table(branches, eps, like, gammas, betas, means, variances):
    """The table of all branches, with slope and offset still to come."""
    table = np.zeros((7, widths(branches)[2]), like.dtype)
    for b in range(len(branches)):
        c, start = branches[b, WIDTH], branches[b, START]
        mean, var = array_at(means, b, 0, c, eps), array_at(variances, b, 0, c, eps)
        gamma, beta = array_at(gammas, b, 0, c, like), array_at(betas, b, 0, c, like)
        coefficients(mean, var, gamma, beta, eps[b], table[:, start : start + c])
    return table


@inlined
def follow(mean, var, m, decay, running_mean, running_var):
    """Running statistics after those of a batch, if there are any."""
    for j in range(running_mean.size):
        running_mean[j] = decay * running_mean[j] + (1 - decay) * mean[j]
        running_var[j] = decay * running_var[j] + (1 - decay) * (var[j] * (m / (m - 1)))


@parallel_kernel(is_large=is_large, prepare=prepare_forwards)
def batch_norms_forward(
    size, branches, eps, decays, kept, y, xs, gammas, betas, means, variances, running_means, running_vars
):  # fmt: skip
    m, rows = y.shape[0], block_rows(branches)
    blocks = (m + rows - 1) // rows
    # 1. The sums of every chunk, as differences from its first row.
    sums = empty_sums(blocks, branches, y)
    for block in prange(blocks):
        for b in range(len(branches)):
            c, start = branches[b, WIDTH], branches[b, START]
            end, chunk, x = start + c, chunk_size(c), matrix_at(xs, b, m, c, y)
            for i in range(block * rows, min(m, (block + 1) * rows), chunk):
                first, second = sums[0, i // chunk, start:end], sums[1, i // chunk, start:end]
                sum_chunk(x, x, x, 0, i, min(m, i + chunk), DEVIATION, x[i : i + 1], first, second)
    # 2. They are combined in order, for the mean and variance of every column.
    for b in range(len(branches)):
        c, start = branches[b, WIDTH], branches[b, START]
        mean, var = array_at(means, b, 0, c, eps), array_at(variances, b, 0, c, eps)
        statistics(matrix_at(xs, b, m, c, y), sums[:, :, start : start + c], mean, var)
        running_mean, running_var = array_at(running_means, b, 0, kept[b], y), array_at(running_vars, b, 0, kept[b], y)
        follow(mean, var, m, decays[b], running_mean, running_var)
    # 3. The rows, block by block through all branches: what they write of a row of y lies side by side.
    table = coefficient_table(branches, eps, y, gammas, betas, means, variances)
    for block in prange(blocks):
        for b in range(len(branches)):
            c, start, column, activation = branches[b]
            part, x = table[:, start : start + c], matrix_at(xs, b, m, c, y)
            normalize_chunk(x, y, column, block * rows, min(m, (block + 1) * rows), activation, part)


@parallel_kernel(sized_by=0)
def batch_norm_forward(
    x, gamma, beta, eps, activation, y, column, mean, var, decay, running_mean, running_var
):  # fmt: skip
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums, table = np.empty((2, chunks, c), x.dtype), np.zeros((7, c), x.dtype)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(x, x, x, 0, k0, k1, DEVIATION, x[k0 : k0 + 1], sums[0, k], sums[1, k])
    statistics(x, sums, mean, var)
    follow(mean, var, m, decay, running_mean, running_var)
    coefficients(mean, var, gamma, beta, eps, table)
    for k in prange(chunks):
        normalize_chunk(x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table)


@parallel_kernel(sized_by=0)
def batch_norm_statistics(x, mean, var):
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums = np.empty((2, chunks, c), x.dtype)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(x, x, x, 0, k0, k1, DEVIATION, x[k0 : k0 + 1], sums[0, k], sums[1, k])
    statistics(x, sums, mean, var)


@parallel_kernel(sized_by=0)
def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    chunk = chunk_size(c)
    table = np.zeros((7, c), x.dtype)
    coefficients(mean, var, gamma, beta, eps, table)
    for k in prange((m + chunk - 1) // chunk):
        normalize_chunk(x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table)


def prepare_backwards(dy, xs, y, columns, gammas, betas, means, variances, eps, activations, dxs, dgammas, dbetas):
    size, branches = branch_table(xs, activations, columns)
    packed = map(pack, (xs, gammas, betas, means, variances, dxs, dgammas, dbetas))
    return size, branches, np.array(eps, np.float64), dy, y, *packed


@parallel_kernel(is_large=is_large, prepare=prepare_backwards)
def batch_norms_backward(
    size, branches, eps, dy, y, xs, gammas, betas, means, variances, dxs, dgammas, dbetas
):  # fmt: skip
    m, rows = y.shape[0], block_rows(branches)
    blocks = (m + rows - 1) // rows
    # 1. The sums of dz and of dz (x - mean) in every chunk; dz, the gradient before the activation, is found on the way.
    sums = empty_sums(blocks, branches, y)
    table = coefficient_table(branches, eps, y, gammas, betas, means, variances)
    for block in prange(blocks):
        for b in range(len(branches)):
            c, start, column, activation = branches[b]
            end, chunk, x = start + c, chunk_size(c), matrix_at(xs, b, m, c, y)
            for i in range(block * rows, min(m, (block + 1) * rows), chunk):
                first, second = sums[0, i // chunk, start:end], sums[1, i // chunk, start:end]
                sum_chunk(dy, x, y, column, i, min(m, i + chunk), activation, table[:, start:end], first, second)
    # 2. In order, they add up to the gradients of gamma and beta, and those say what dx is made of.
    for b in range(len(branches)):
        c, start = branches[b, WIDTH], branches[b, START]
        chunks = (m + chunk_size(c) - 1) // chunk_size(c)
        mean, var = array_at(means, b, 0, c, eps), array_at(variances, b, 0, c, eps)
        gamma = array_at(gammas, b, 0, c, y)
        dgamma, dbeta = array_at(dgammas, b, 0, c, y), array_at(dbetas, b, 0, c, y)
        own, part = sums[:, :chunks, start : start + c], table[:, start : start + c]
        gradient_coefficients(own, m, mean, var, gamma, eps[b], part, dgamma, dbeta)
    # 3. dx, block by block through all branches: dz is found once more, not kept in memory.
    for block in prange(blocks):
        for b in range(len(branches)):
            c, start, column, activation = branches[b]
            part, x, dx = table[:, start : start + c], matrix_at(xs, b, m, c, y), matrix_at(dxs, b, m, c, y)
            gradient_chunk(dy, x, y, column, block * rows, min(m, (block + 1) * rows), activation, part, dx)
    # 4. What is left of columns so wide that their slope is none.
    for b in range(len(branches)):
        c, start = branches[b, WIDTH], branches[b, START]
        mean, var = array_at(means, b, 0, c, eps), array_at(variances, b, 0, c, eps)
        x, dx = matrix_at(xs, b, m, c, y), matrix_at(dxs, b, m, c, y)
        add_proportion(x, mean, var, eps[b], table[:, start : start + c], dx)


@parallel_kernel(sized_by=1)
def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums, table = np.empty((2, chunks, c), x.dtype), np.zeros((7, c), x.dtype)
    coefficients(mean, var, gamma, beta, eps, table)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(dy, x, y, column, k0, k1, activation, table, sums[0, k], sums[1, k])
    gradient_coefficients(sums, m, mean, var, gamma, eps, table, dgamma, dbeta)
    for k in prange(chunks):
        gradient_chunk(dy, x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table, dx)
    add_proportion(x, mean, var, eps, table, dx)


@parallel_kernel(sized_by=1)
def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums, table = np.empty((2, chunks, c), x.dtype), np.zeros((7, c), x.dtype)
    coefficients(mean, var, gamma, beta, eps, table)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(dy, x, y, column, k0, k1, activation, table, sums[0, k], sums[1, k])
    gradient_coefficients(sums, m, mean, var, gamma, eps, table, dgamma, dbeta)


@parallel_kernel(sized_by=1)
def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    m, c = x.shape
    chunk = chunk_size(c)
    table = np.zeros((7, c), x.dtype)
    coefficients(mean, var, gamma, beta, eps, table)
    for j in range(c):
        slope_and_offset(j, m, mean, var, gamma, eps, table, np.float64(dgamma[j]), np.float64(dbeta[j]))
    for k in prange((m + chunk - 1) // chunk):
        gradient_chunk(dy, x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table, dx)
    add_proportion(x, mean, var, eps, table, dx)


@parallel_kernel(sized_by=0)
def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    chunk = chunk_size(c)
    table = np.zeros((7, c), x.dtype)
    for j in range(c):
        table[HIGH, j], table[BETA, j] = mean[j], beta[j]
        table[SCALE, j] = gamma[j] / np.sqrt(np.float64(var[j]) + eps)
    for k in prange((m + chunk - 1) // chunk):
        normalize_chunk(x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table)


@parallel_kernel(sized_by=1)
def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums = np.empty((2, chunks, c), x.dtype)
    table = np.zeros((7, c), x.dtype)
    for j in range(c):
        table[HIGH, j], table[BETA, j] = mean[j], beta[j]
        table[SCALE, j] = gamma[j] / np.sqrt(np.float64(var[j]) + eps)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(dy, x, y, column, k0, k1, activation, table, sums[0, k], sums[1, k])
        gradient_chunk(dy, x, y, column, k0, k1, activation, table, dx)
    for j in range(c):
        total, moment = 0.0, 0.0
        for k in range(chunks):
            total += sums[0, k, j]
            moment += sums[1, k, j]
        dgamma[j] = moment / np.sqrt(np.float64(var[j]) + eps)
        dbeta[j] = total


@kernel
def running_update(mean, var, m, decay, running_mean, running_var):
    follow(mean, var, m, decay, running_mean, running_var)
