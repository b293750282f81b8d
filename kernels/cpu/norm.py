"""Batch normalization over the rows of x (m, c). Contracts and formulas: kernels/reference/norm.py.

Statistics are summed over CHUNK rows at a time in x's type, as differences from the chunk's first row. A sample of the
chunk is never so far from its mean that the variance would cancel away: (first - mean)^2 <= rows * variance. Chunks are
combined in float64, in order (Chan, Golub and LeVeque 1983), so neither their number nor the threads change the bits.
The mean comes apart into a float of x's type and a remainder, so that x - mean keeps its precision when the mean is
large against the deviation.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.compile import inlined, kernel, parallel_kernel

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
def gradient_sums(dy, x, shift, first, second):
    """first = sum of dy, second = sum of dy (x - shift), over the rows."""
    first[:] = 0
    second[:] = 0
    m, c = x.shape
    i = 0
    while i + 4 <= m:
        p, q, r, s = x[i], x[i + 1], x[i + 2], x[i + 3]
        dp, dq, dr, ds = dy[i], dy[i + 1], dy[i + 2], dy[i + 3]
        for j in range(c):
            first[j] += (dp[j] + dq[j]) + (dr[j] + ds[j])
            t = shift[j]
            second[j] += (dp[j] * (p[j] - t) + dq[j] * (q[j] - t)) + (dr[j] * (r[j] - t) + ds[j] * (s[j] - t))
        i += 4
    while i < m:
        p, dp = x[i], dy[i]
        for j in range(c):
            first[j] += dp[j]
            second[j] += dp[j] * (p[j] - shift[j])
        i += 1


@inlined
def normalize_rows(x, high, low, scale, beta, y):
    """y = (x - high - low) scale + beta, row by row."""
    for i in range(x.shape[0]):
        u, v = x[i], y[i]
        for j in range(u.size):
            v[j] = ((u[j] - high[j]) - low[j]) * scale[j] + beta[j]


@inlined
def gradient_rows(dy, x, high, a, b, d, dx):
    """dx = a dy + b (x - high) + d, row by row."""
    for i in range(x.shape[0]):
        du, u, dv = dy[i], x[i], dx[i]
        for j in range(u.size):
            dv[j] = a[j] * du[j] + (b[j] * (u[j] - high[j]) + d[j])


@parallel_kernel(size_of=0)
def batch_norm_forward(x, gamma, beta, eps, y, mean, var):
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
    high, low, scale = np.empty(c, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    for j in range(c):
        var[j] /= m
        high[j] = mean[j]
        low[j] = mean[j] - np.float64(high[j])
        scale[j] = gamma[j] / np.sqrt(var[j] + eps)
    for k in prange(chunks):
        normalize_rows(x[k * chunk : (k + 1) * chunk], high, low, scale, beta, y[k * chunk : (k + 1) * chunk])


@parallel_kernel(size_of=0)
def batch_norm_backward(dy, x, gamma, mean, var, eps, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(m, c)
    chunks = (m + chunk - 1) // chunk
    high = np.empty(c, x.dtype)
    for j in range(c):
        high[j] = mean[j]
    sums = np.empty((2, chunks, c), x.dtype)
    for k in prange(chunks):
        part = slice(k * chunk, (k + 1) * chunk)
        gradient_sums(dy[part], x[part], high, sums[0, k], sums[1, k])
    a, b, d = np.empty(c, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    total, moment = np.zeros(c, np.float64), np.zeros(c, np.float64)
    for k in range(chunks):
        for j in range(c):
            total[j] += sums[0, k, j]
            moment[j] += sums[1, k, j]
    for j in range(c):
        low = mean[j] - np.float64(high[j])
        inverse = 1.0 / np.sqrt(var[j] + eps)
        weighted = (moment[j] - low * total[j]) * inverse
        dgamma[j] = weighted
        dbeta[j] = total[j]
        scale = gamma[j] * inverse
        slope = -scale * inverse * weighted / m
        a[j] = scale
        b[j] = slope
        d[j] = -scale * total[j] / m - slope * low
    for k in prange(chunks):
        part = slice(k * chunk, (k + 1) * chunk)
        gradient_rows(dy[part], x[part], high, a, b, d, dx[part])


@parallel_kernel(size_of=0)
def batch_norm_inference(x, gamma, beta, mean, var, eps, y):
    m, c = x.shape
    chunk = chunk_size(m, c)
    low, scale = np.zeros(c, x.dtype), np.empty(c, x.dtype)
    for j in range(c):
        scale[j] = gamma[j] / np.sqrt(np.float64(var[j]) + eps)
    for k in prange((m + chunk - 1) // chunk):
        part = slice(k * chunk, (k + 1) * chunk)
        normalize_rows(x[part], mean, low, scale, beta, y[part])


@parallel_kernel(size_of=0)
def batch_norm_inference_backward(dy, x, gamma, mean, var, eps, dx, dgamma, dbeta):
    m, c = x.shape
    chunk = chunk_size(m, c)
    chunks = (m + chunk - 1) // chunk
    sums = np.empty((2, chunks, c), x.dtype)
    a, zero = np.empty(c, x.dtype), np.zeros(c, x.dtype)
    for j in range(c):
        a[j] = gamma[j] / np.sqrt(np.float64(var[j]) + eps)
    for k in prange(chunks):
        part = slice(k * chunk, (k + 1) * chunk)
        gradient_sums(dy[part], x[part], mean, sums[0, k], sums[1, k])
        gradient_rows(dy[part], x[part], mean, a, zero, zero, dx[part])
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
