"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

Statistics are summed over CHUNK rows at a time in x's type, as differences from the chunk's first row. A sample of the
chunk is never so far from its mean that the variance would cancel away: (first - mean)^2 <= rows * variance. Chunks are
combined in float64, in order (Chan, Golub and LeVeque 1983), so neither their number nor the threads change the bits.
The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its precision when the mean is
large against the deviation. Where squares are too large for x's type (in float32 from deviations of 1e18 on), a column is
summed once more in float64, and what of dx is in proportion to x - mean is added in a pass of its own, since its slope is
too small for x's type.

Many x that are normalized into columns of one y are gone through together, a block of rows at a time: of a row of y, or of
dy, that is read and written piece by piece, pass after pass, memory would move much that nobody asked for.

The activation after the normalization costs no pass over memory of its own: forward applies it before storing, and
backward finds the gradient before it on the way, ReLU's from x once more, sigmoid's from y.
"""

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu.parts.panels import panel, split
from minigrad.kernels.cpu.tools.launch import GRAIN, inlined, kernel, parallel_kernel
from minigrad.kernels.cpu.tools.pointers import array_at, element_at, pack
from minigrad.kernels.cpu.vector.norm import (
    BETA,
    DEVIATION,
    HIGH,
    LOW,
    OFFSET,
    SCALE,
    SLOPE,
    column_sums,
    gradient_rows,
    normalized_rows,
)

CHUNK = 256  # rows summed in x's own type, at most
WIDE = 1e30  # the variance from where a slope, which has it in its denominator, may be too small for float32
PROPORTION = 6  # a row of the table: the slope times the deviation, of columns with a larger variance than WIDE
FEW_ROWS = 8  # of a strip of x that are written before those of the next strip
WIDTH, START, COLUMN, ACTIVATION = range(4)  # of a branch: its columns, where they start in the sums, and in y and dy


@inlined
def chunk_size(c):
    """Rows of a chunk, CHUNK or a part of it: few enough to stay in the first-level cache with the sums, at least 16."""
    chunk = CHUNK
    while chunk > 16 and chunk * c > 1 << 15:
        chunk //= 2
    return chunk


@inlined
def matrix_at(arrays, b, m, c, like):
    """Packed array b as (m, c)."""
    return array_at(arrays, b, 0, m * c, like).reshape((m, c))


@inlined
def sum_chunk(dy, x, y, column, k0, k1, activation, table, first, second):
    """first = sum of dz, second = sum of dz (x - mean), over rows k0:k1, with dz the gradient before the activation."""
    for p in range(split(x.shape[1], x.dtype)[1]):
        j, width, lanes = panel(p, x.shape[1], x.dtype)
        column_sums(
            x.dtype, width, activation, element_at(dy, k0, column + j), element_at(x, k0, j),
            element_at(y, k0, column + j), dy.strides[0], x.strides[0], k1 - k0, element_at(table, 0, j),
            table.strides[0], first[j:].ctypes.data, second[j:].ctypes.data, lanes,
        )  # fmt: skip


@inlined
def rows_at_once(k0, k1, panels):
    """How many rows of a strip come before the next strip: with several strips few, so that memory is read in order."""
    return k1 - k0 if panels == 1 else FEW_ROWS


@inlined
def normalize_chunk(x, y, column, k0, k1, activation, table):
    """y's columns from `column` on = activation of x, normalized, for rows k0:k1."""
    c = x.shape[1]
    panels = split(c, x.dtype)[1]
    rows = rows_at_once(k0, k1, panels)
    for i in range(k0, k1, rows):
        for p in range(panels):
            j, width, lanes = panel(p, c, x.dtype)
            normalized_rows(
                x.dtype, width, RELU if activation == RELU else IDENTITY, element_at(x, i, j),
                element_at(y, i, column + j), y.strides[0], x.strides[0], min(rows, k1 - i),
                element_at(table, 0, j), table.strides[0], lanes,
            )  # fmt: skip
    if activation == SIGMOID:
        for i in range(k0, k1):
            v = y[i, column : column + c]
            for j in range(c):
                v[j] = formulas.sigmoid(v[j])


@inlined
def gradient_chunk(dy, x, y, column, k0, k1, activation, table, dx):
    """dx = scale dz + slope (x - mean) + offset, for rows k0:k1."""
    panels = split(x.shape[1], x.dtype)[1]
    rows = rows_at_once(k0, k1, panels)
    for i in range(k0, k1, rows):
        for p in range(panels):
            j, width, lanes = panel(p, x.shape[1], x.dtype)
            gradient_rows(
                x.dtype, width, activation, element_at(dy, i, column + j), element_at(x, i, j),
                element_at(y, i, column + j), dy.strides[0], x.strides[0], min(rows, k1 - i),
                element_at(table, 0, j), table.strides[0], element_at(dx, i, j), lanes,
            )  # fmt: skip


def branch_table(xs, activations, columns):
    """(elements of all, what there is to know of each branch)."""
    widths = [x.shape[1] for x in xs]
    starts = [sum(widths[:b]) for b in range(len(xs))]
    return sum(x.size for x in xs), np.array([widths, starts, columns, activations], np.int64).T.copy()


def prepare_forwards(xs, gammas, betas, eps, activations, y, columns, means, variances):
    size, branches = branch_table(xs, activations, columns)
    return size, branches, np.array(eps, np.float64), y, *map(pack, (xs, gammas, betas, means, variances))


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


@parallel_kernel(is_large=is_large, prepare=prepare_forwards)
def batch_norms_forward(size, branches, eps, y, xs, gammas, betas, means, variances):
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
    # 3. The rows, block by block through all branches: what they write of a row of y lies side by side.
    table = coefficient_table(branches, eps, y, gammas, betas, means, variances)
    for block in prange(blocks):
        for b in range(len(branches)):
            c, start, column, activation = branches[b]
            part, x = table[:, start : start + c], matrix_at(xs, b, m, c, y)
            normalize_chunk(x, y, column, block * rows, min(m, (block + 1) * rows), activation, part)


@parallel_kernel(sized_by=0)
def batch_norm_forward(x, gamma, beta, eps, activation, y, column, mean, var):
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    sums, table = np.empty((2, chunks, c), x.dtype), np.zeros((7, c), x.dtype)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(x, x, x, 0, k0, k1, DEVIATION, x[k0 : k0 + 1], sums[0, k], sums[1, k])
    statistics(x, sums, mean, var)
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


@inlined
def statistics(x, sums, mean, var):
    """The mean and variance of x's columns from the sums of its chunks."""
    m, c = x.shape
    chunk = chunk_size(c)
    chunks = (m + chunk - 1) // chunk
    mean[:] = 0
    for k in range(chunks):
        n = min(chunk, m - k * chunk)
        for j in range(c):
            mean[j] += n * np.float64(x[k * chunk, j]) + sums[0, k, j]
    for j in range(c):
        mean[j] /= m
    var[:] = 0
    for k in range(chunks):
        n = min(chunk, m - k * chunk)
        for j in range(c):
            first = np.float64(sums[0, k, j])
            gap = np.float64(x[k * chunk, j]) + first / n - mean[j]
            var[j] += max(np.float64(sums[1, k, j]) - first * first / n, 0.0) + n * gap * gap
    for j in range(c):
        var[j] /= m
        if not np.isfinite(var[j]):
            wide_statistics(x, j, mean, var)


@inlined
def wide_statistics(x, j, mean, var):
    """The mean and variance of column j in float64."""
    m = x.shape[0]
    total, squares = 0.0, 0.0
    for i in range(m):
        total += np.float64(x[i, j])
    mean[j] = total / m
    for i in range(m):
        gap = np.float64(x[i, j]) - mean[j]
        squares += gap * gap
    var[j] = squares / m


@inlined
def coefficients(mean, var, gamma, beta, eps, table):
    """The table's mean in two parts, scale gamma / sqrt(var + eps), and beta."""
    for j in range(mean.size):
        table[HIGH, j] = mean[j]
        table[LOW, j] = mean[j] - np.float64(table[HIGH, j])
        table[SCALE, j] = gamma[j] / np.sqrt(var[j] + eps)
        table[BETA, j] = beta[j]


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


@inlined
def gradient_coefficients(sums, m, mean, var, gamma, eps, table, dgamma, dbeta):
    """dgamma, dbeta, and the table's slope and offset, from the sums of the chunks."""
    c = gamma.size
    total, moment = np.zeros(c, np.float64), np.zeros(c, np.float64)
    for k in range(sums.shape[1]):
        for j in range(c):
            total[j] += sums[0, k, j]
            moment[j] += sums[1, k, j]
    for j in range(c):
        low = mean[j] - np.float64(table[HIGH, j])
        weighted = (moment[j] - low * total[j]) * (1.0 / np.sqrt(var[j] + eps))
        dgamma[j] = weighted
        dbeta[j] = total[j]
        slope_and_offset(j, m, mean, var, gamma, eps, table, weighted, total[j])


@inlined
def slope_and_offset(j, m, mean, var, gamma, eps, table, weighted, total):
    """The table's slope and offset of column j, from the sums of dz h and of dz."""
    low = mean[j] - np.float64(table[HIGH, j])
    inverse = 1.0 / np.sqrt(var[j] + eps)
    scale = gamma[j] * inverse
    slope = -scale * inverse * weighted / m
    if var[j] > WIDE:
        table[PROPORTION, j] = -scale * weighted / m
        slope = 0.0
    table[SLOPE, j] = slope
    table[OFFSET, j] = -scale * total / m - slope * low


@inlined
def add_proportion(x, mean, var, eps, table, dx):
    """What the slope of wide columns would have added to dx."""
    for j in range(mean.size):
        if var[j] > WIDE:
            proportion = np.float64(table[PROPORTION, j]) / np.sqrt(var[j] + eps)
            for i in range(x.shape[0]):
                dx[i, j] += proportion * (np.float64(x[i, j]) - mean[j])


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
    unbiased = m / (m - 1)
    for j in range(mean.size):
        running_mean[j] = decay * running_mean[j] + (1 - decay) * mean[j]
        running_var[j] = decay * running_var[j] + (1 - decay) * (var[j] * unbiased)
