"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

Statistics are summed over CHUNK rows at a time in x's type, as differences from the chunk's first row. A sample of the
chunk is never so far from its mean that the variance would cancel away: (first - mean)^2 <= rows * variance. Chunks are
combined in float64, in order (Chan, Golub and LeVeque 1983), so neither their number nor the threads change the bits.
The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its precision when the mean is
large against the deviation.

The activation after the normalization costs no pass over memory of its own: forward applies it before storing, and
backward finds the gradient before it on the way, ReLU's from x once more, sigmoid's from y.
"""

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.cpu.compile import inlined, kernel, parallel_kernel
from minigrad.kernels.cpu.gemm import panel, split
from minigrad.kernels.cpu.norm_runs import BETA, HIGH, LOW, OFFSET, SCALE, SLOPE, gradient_rows, gradient_sums
from minigrad.kernels.cpu.simd import vector_lanes

CHUNK = 256  # rows summed in x's own type, at most


@inlined
def chunk_size(m, c):
    """Rows of a chunk: few enough that a chunk stays in the first-level cache while its sums do, at least 16."""
    return max(16, min(CHUNK, (1 << 15) // c))


@inlined
def deviation_sums(x, shift, first, second):
    """first = sum of x - shift, second = sum of its square, over the rows of x."""
    first[:] = 0
    second[:] = 0
    m, c = x.shape
    i = 0
    while i + 4 <= m:
        p, q, r, s = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(c):
            a, b, d, e = p[j] - shift[j], q[j] - shift[j], r[j] - shift[j], s[j] - shift[j]
            first[j] += (a + b) + (d + e)
            second[j] += (a * a + b * b) + (d * d + e * e)
        i += 4
    while i < m:
        p = x[i]
        for j in range(c):
            a = p[j] - shift[j]
            first[j] += a
            second[j] += a * a
        i += 1


@inlined
def normalized(x, high, low, scale, beta):
    """(x - high - low) scale + beta, of one element."""
    return ((x - high) - low) * scale + beta


@inlined
def normalize_rows(x, high, low, scale, beta, activation, y, column):
    """y's columns from `column` on = activation of the normalized rows of x."""
    c = x.shape[1]
    for i in range(x.shape[0]):
        u, v = x[i], y[i, column : column + c]
        if activation == RELU:
            for j in range(c):
                v[j] = formulas.relu(normalized(u[j], high[j], low[j], scale[j], beta[j]))
        elif activation == SIGMOID:
            for j in range(c):
                v[j] = formulas.sigmoid(normalized(u[j], high[j], low[j], scale[j], beta[j]))
        else:
            for j in range(c):
                v[j] = normalized(u[j], high[j], low[j], scale[j], beta[j])


@inlined
def sum_chunk(dy, x, y, column, k0, k1, activation, table, first, second):
    """first = sum of dz, second = sum of dz (x - mean), over rows k0:k1, with dz the gradient before the activation."""
    c = x.shape[1]
    item = np.intp(x.itemsize)
    lanes = vector_lanes(x.dtype)
    vectors, panels = split(c, x.dtype)
    wide_step, x_step = dy.shape[1] * item, c * item
    for p in range(panels):
        v0, width = panel(p, panels, vectors)
        shift = v0 * lanes * item
        wide = k0 * wide_step + column * item + shift
        gradient_sums(
            x.dtype, width, activation, dy.ctypes.data + wide, x.ctypes.data + k0 * x_step + shift, y.ctypes.data + wide,
            wide_step, x_step, k1 - k0, table.ctypes.data + shift, x_step, first.ctypes.data + shift,
            second.ctypes.data + shift, min(lanes, c - (v0 + width - 1) * lanes),
        )  # fmt: skip


@inlined
def gradient_chunk(dy, x, y, column, k0, k1, activation, table, dx):
    """dx = scale dz + slope (x - mean) + offset, for rows k0:k1."""
    c = x.shape[1]
    item = np.intp(x.itemsize)
    lanes = vector_lanes(x.dtype)
    vectors, panels = split(c, x.dtype)
    wide_step, x_step = dy.shape[1] * item, c * item
    for p in range(panels):
        v0, width = panel(p, panels, vectors)
        shift = v0 * lanes * item
        wide = k0 * wide_step + column * item + shift
        narrow = k0 * x_step + shift
        gradient_rows(
            x.dtype, width, activation, dy.ctypes.data + wide, x.ctypes.data + narrow, y.ctypes.data + wide, wide_step,
            x_step, k1 - k0, table.ctypes.data + shift, x_step, dx.ctypes.data + narrow, 0,
            min(lanes, c - (v0 + width - 1) * lanes),
        )  # fmt: skip


@parallel_kernel(size_of=0)
def batch_norm_forward(x, gamma, beta, eps, activation, y, column, mean, var):
    m, c = x.shape
    chunk = chunk_size(m, c)
    chunks = (m + chunk - 1) // chunk
    sums = np.empty((2, chunks, c), x.dtype)
    for k in prange(chunks):
        rows = x[k * chunk : (k + 1) * chunk]
        deviation_sums(rows, rows[0], sums[0, k], sums[1, k])
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
    high, low, scale = np.empty(c, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    coefficients(mean, var, gamma, eps, high, low, scale)
    for k in prange(chunks):
        part = slice(k * chunk, (k + 1) * chunk)
        normalize_rows(x[part], high, low, scale, beta, activation, y[part], column)


@inlined
def coefficients(mean, var, gamma, eps, high, low, scale):
    """The mean in two parts, and gamma / sqrt(var + eps)."""
    for j in range(mean.size):
        high[j] = mean[j]
        low[j] = mean[j] - np.float64(high[j])
        scale[j] = gamma[j] / np.sqrt(var[j] + eps)


@parallel_kernel(size_of=1)
def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(m, c)
    chunks = (m + chunk - 1) // chunk
    table = np.zeros((6, c), x.dtype)
    coefficients(mean, var, gamma, eps, table[HIGH], table[LOW], table[SCALE])
    table[BETA] = beta
    sums = np.empty((2, chunks, c), x.dtype)
    for k in prange(chunks):
        k0, k1 = k * chunk, min(m, (k + 1) * chunk)
        sum_chunk(dy, x, y, column, k0, k1, activation, table, sums[0, k], sums[1, k])
    total, moment = np.zeros(c, np.float64), np.zeros(c, np.float64)
    for k in range(chunks):
        for j in range(c):
            total[j] += sums[0, k, j]
            moment[j] += sums[1, k, j]
    for j in range(c):
        low = mean[j] - np.float64(table[HIGH, j])
        inverse = 1.0 / np.sqrt(var[j] + eps)
        weighted = (moment[j] - low * total[j]) * inverse
        dgamma[j] = weighted
        dbeta[j] = total[j]
        scale = gamma[j] * inverse
        slope = -scale * inverse * weighted / m
        table[SLOPE, j] = slope
        table[OFFSET, j] = -scale * total[j] / m - slope * low
    for k in prange(chunks):
        gradient_chunk(dy, x, y, column, k * chunk, min(m, (k + 1) * chunk), activation, table, dx)


@parallel_kernel(size_of=0)
def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    m, c = x.shape
    chunk = chunk_size(m, c)
    low, scale = np.zeros(c, x.dtype), np.empty(c, x.dtype)
    for j in range(c):
        scale[j] = gamma[j] / np.sqrt(np.float64(var[j]) + eps)
    for k in prange((m + chunk - 1) // chunk):
        part = slice(k * chunk, (k + 1) * chunk)
        normalize_rows(x[part], mean, low, scale, beta, activation, y[part], column)


@parallel_kernel(size_of=1)
def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(m, c)
    chunks = (m + chunk - 1) // chunk
    sums = np.empty((2, chunks, c), x.dtype)
    table = np.zeros((6, c), x.dtype)
    table[HIGH], table[BETA] = mean, beta
    for j in range(c):
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
