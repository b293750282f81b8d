"""Chunks of rows of x (m, c) that batch normalization sums up and writes, and what follows from the sums for each column.

Statistics are summed over CHUNK rows at a time in x's type, as differences from the chunk's first row. A sample of the
chunk is never so far from its mean that the variance would cancel away: (first - mean)^2 <= rows * variance. Chunks are
combined in float64, in order (Chan, Golub and LeVeque 1983), so neither their number nor the threads change the bits.
The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its precision when the mean is
large against the deviation. Where squares are too large for x's type (in float32 from deviations of 1e18 on), a column is
summed once more in float64, and what of dx is in proportion to x - mean is added in a pass of its own, since its slope is
too small for x's type.

`table` (7, c) has a row for each number that a column needs: those of the micro-kernels, and PROPORTION.
"""

import numpy as np

from minigrad.kernels import formulas
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu.parts.panels import panel, split
from minigrad.kernels.cpu.tools.launch import inlined
from minigrad.kernels.cpu.tools.pointers import element_at
from minigrad.kernels.cpu.vector.norm import (
    BETA,
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


@inlined
def chunk_size(c):
    """Rows of a chunk, CHUNK or a part of it: few enough to stay in the first-level cache with the sums, at least 16."""
    chunk = CHUNK
    while chunk > 16 and chunk * c > 1 << 15:
        chunk //= 2
    return chunk


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
