"""What batch normalization does to a thread's four channels, and to the rows of a block; called by the kernels of `norm`.

Channels come and go as tuples of four: read by `columns`, worked on here, each kept in a register.
"""

import math
from typing import Any, NamedTuple

from minigrad.kernels import formulas
from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.bits import fma
from minigrad.kernels.cuda.parts.branches import first_row
from minigrad.kernels.cuda.parts.columns import add_down, read, write
from minigrad.kernels.cuda.parts.wide import overflowed
from minigrad.kernels.cuda.tools.language import Choice, cuda, device_function, float64, real, uint32

SMALL = 2.0**-80
ANY = -1
ACTIVATION = Choice("ACTIVATION", ANY)  # compiled in, or else whatever the kernel is given


class Coefficients(NamedTuple):
    """Of a thread's four channels."""

    high: Any  # the mean, as a float of x's type and what is missing
    low: Any
    inverse_std: Any
    scale: Any  # gamma / sqrt(var + eps)
    beta: Any
    activation: Any


@device_function
def compiled(activation):
    """The activation's number, a constant for the compiler if the kernel is made for one."""
    if ACTIVATION == ANY:
        return activation
    return uint32(ACTIVATION)


# One element


@device_function
def normalized(centered, scale, beta):
    """z, rounded as batch norm alone would round it."""
    return fma(centered, scale, beta)


@device_function
def activated(z, activation):
    if activation == uint32(RELU):
        return formulas.relu(z)
    if activation == uint32(SIGMOID):
        return formulas.sigmoid(z)
    return z


@device_function
def before_activation(dy, y, centered, scale, beta, activation):
    """dz."""
    if activation == uint32(RELU):
        return formulas.relu_grad(dy, normalized(centered, scale, beta))
    if activation == uint32(SIGMOID):
        return formulas.sigmoid_grad(dy, y)
    return dy


# Coefficients of a thread's four channels


@device_function
def mean_parts(mean):
    """The mean as a float of x's type, and what is missing."""
    high = real(mean)
    return high, real(mean - float64(high))


@device_function
def split_mean(mean, j):
    """(four first parts, four remainders) of the means."""
    a, b, c, d = mean_parts(mean[j[0]]), mean_parts(mean[j[1]]), mean_parts(mean[j[2]]), mean_parts(mean[j[3]])
    return (a[0], b[0], c[0], d[0]), (a[1], b[1], c[1], d[1])


@device_function
def each(memory, j):
    """The numbers of four channels."""
    return memory[j[0]], memory[j[1]], memory[j[2]], memory[j[3]]


@device_function
def inverse(var, eps):
    """1 / sqrt(var + eps)."""
    return real(1) / real(math.sqrt(var + eps))


@device_function
def inverse_wide(var, eps):
    """The same of a float64; one that is too large for x's type is scaled down before, beside which eps is nothing."""
    narrow = real(var)
    if overflowed(narrow) == uint32(0):
        return inverse(narrow, eps)
    return real(SMALL) / real(math.sqrt(real(var * (SMALL * SMALL))))


@device_function
def inverse_deviations(var, j, eps):
    """Of variances that were kept in float64."""
    a, b = inverse_wide(var[j[0]], eps), inverse_wide(var[j[1]], eps)
    return a, b, inverse_wide(var[j[2]], eps), inverse_wide(var[j[3]], eps)


@device_function
def inverse_deviations_given(var, j, eps):
    """Of variances in x's type."""
    return inverse(var[j[0]], eps), inverse(var[j[1]], eps), inverse(var[j[2]], eps), inverse(var[j[3]], eps)


@device_function
def product(a, b):
    return a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]


@device_function
def coefficients(channels, j):
    """The Coefficients of four channels; the mean is split, one float64 subtraction per channel and thread."""
    high, low = split_mean(channels.mean, j)
    inverse_std = inverse_deviations(channels.var, j, channels.eps)
    scale = product(each(channels.gamma, j), inverse_std)
    return Coefficients(high, low, inverse_std, scale, each(channels.beta, j), compiled(channels.activation))


@device_function
def coefficients_given(channels, j):
    """The same by statistics in x's type."""
    inverse_std = inverse_deviations_given(channels.var, j, channels.eps)
    scale = product(each(channels.gamma, j), inverse_std)
    activation = compiled(channels.activation)
    return Coefficients(each(channels.mean, j), zeros(), inverse_std, scale, each(channels.beta, j), activation)


@device_function
def centered(x, of):
    """x - mean."""
    return (
        (x[0] - of.high[0]) - of.low[0],
        (x[1] - of.high[1]) - of.low[1],
        (x[2] - of.high[2]) - of.low[2],
        (x[3] - of.high[3]) - of.low[3],
    )


@device_function
def zeros():
    return real(0), real(0), real(0), real(0)


# Passes over the rows start to end


@device_function
def add_rows(first, second, shift, a, b, c, d):
    """The sums of differences from `shift`, and of their squares, with four rows more; of one channel."""
    a, b, c, d = a - shift, b - shift, c - shift, d - shift
    return first + ((a + b) + (c + d)), second + ((a * a + b * b) + (c * c + d * d))


@device_function
def spread(count, shift, origin, first, second):
    """(mean as an offset from origin, sum of squared differences from it) of `count` rows."""
    per_row = real(1) / real(max(count, uint32(1)))
    mean = first * per_row
    explained = first * mean
    squares = second - explained
    if squares < real(0):
        squares = explained - explained  # 0; NaN, if all of this is more than x's type holds
    return (shift - origin) + mean, squares


@device_function
def squared(a):
    return a * a


@device_function
def block_statistics(x, c, part):
    """(means as offsets from the first row of x, sums of squared differences from them) over these rows, by the block."""
    start, end, j = part.start, part.end, part.j
    down = part.place.down
    row = first_row(part)
    step = uint32(down * c)
    shift = read(x, uint32(min(row, uint32(end - uint32(1))) * c), j)
    f0, f1, f2, f3 = zeros()
    s0, s1, s2, s3 = zeros()
    count = uint32(0)
    i = uint32(row * c)
    while row + uint32(3) * down < end:
        p, q = read(x, i, j), read(x, uint32(i + step), j)
        r, s = read(x, uint32(i + uint32(2) * step), j), read(x, uint32(i + uint32(3) * step), j)
        f0, s0 = add_rows(f0, s0, shift[0], p[0], q[0], r[0], s[0])
        f1, s1 = add_rows(f1, s1, shift[1], p[1], q[1], r[1], s[1])
        f2, s2 = add_rows(f2, s2, shift[2], p[2], q[2], r[2], s[2])
        f3, s3 = add_rows(f3, s3, shift[3], p[3], q[3], r[3], s[3])
        row = uint32(row + uint32(4) * down)
        i = uint32(i + uint32(4) * step)
        count = uint32(count + uint32(4))
    while row < end:
        p = read(x, i, j)
        a, b, d, e = p[0] - shift[0], p[1] - shift[1], p[2] - shift[2], p[3] - shift[3]
        f0, f1, f2, f3 = f0 + a, f1 + b, f2 + d, f3 + e
        s0, s1, s2, s3 = s0 + a * a, s1 + b * b, s2 + d * d, s3 + e * e
        row = uint32(row + down)
        i = uint32(i + step)
        count = uint32(count + uint32(1))
    origin = read(x, uint32(0), j)
    m0, s0 = spread(count, shift[0], origin[0], f0, s0)
    m1, s1 = spread(count, shift[1], origin[1], f1, s1)
    m2, s2 = spread(count, shift[2], origin[2], f2, s2)
    m3, s3 = spread(count, shift[3], origin[3], f3, s3)
    n = real(count)
    per_row = real(1) / real(uint32(end - start))
    t = add_down((n * m0, n * m1, n * m2, n * m3), part.place)
    mean = (t[0] * per_row, t[1] * per_row, t[2] * per_row, t[3] * per_row)
    cuda.syncthreads()  # all have read the sums
    squares = add_down(
        (
            s0 + n * squared(m0 - mean[0]),
            s1 + n * squared(m1 - mean[1]),
            s2 + n * squared(m2 - mean[2]),
            s3 + n * squared(m3 - mean[3]),
        ),
        part.place,
    )
    return mean, squares


@device_function
def put_partial(partial, c, part, first, second):
    """What a block knows of its columns, two numbers each."""
    if part.place.y == uint32(0):
        i = uint32(uint32(2) * part.chunk * c)
        write(partial, i, part.j, part.owned, first)
        write(partial, uint32(i + c), part.j, part.owned, second)


@device_function
def put_normalized(x, y, k, part, of):
    """The row of y at k from four numbers of x."""
    h = centered(x, of)
    value = (
        activated(normalized(h[0], of.scale[0], of.beta[0]), of.activation),
        activated(normalized(h[1], of.scale[1], of.beta[1]), of.activation),
        activated(normalized(h[2], of.scale[2], of.beta[2]), of.activation),
        activated(normalized(h[3], of.scale[3], of.beta[3]), of.activation),
    )
    write(y, k, part.j, part.owned, value)


@device_function
def normalize_rows(x, y, rows, part, of):
    """Columns of y from the rows of x."""
    down, end, j = part.place.down, part.end, part.j
    row = first_row(part)
    i, step = uint32(row * rows.c), uint32(down * rows.c)
    k, wide_step = uint32(row * rows.width + rows.column), uint32(down * rows.width)
    while row + uint32(3) * down < end:
        p, q = read(x, i, j), read(x, uint32(i + step), j)
        r, s = read(x, uint32(i + uint32(2) * step), j), read(x, uint32(i + uint32(3) * step), j)
        put_normalized(p, y, k, part, of)
        put_normalized(q, y, uint32(k + wide_step), part, of)
        put_normalized(r, y, uint32(k + uint32(2) * wide_step), part, of)
        put_normalized(s, y, uint32(k + uint32(3) * wide_step), part, of)
        row = uint32(row + uint32(4) * down)
        i = uint32(i + uint32(4) * step)
        k = uint32(k + uint32(4) * wide_step)
    while row < end:
        put_normalized(read(x, i, j), y, k, part, of)
        row = uint32(row + down)
        i = uint32(i + step)
        k = uint32(k + wide_step)


@device_function
def read_result(y, k, j, dy, activation):
    """Four numbers of y, where the gradient needs them."""
    if activation == uint32(SIGMOID):
        return read(y, k, j)
    return dy


@device_function
def gradients(dy, y, h, of):
    """Four dz, from four numbers of dy, of y and of x - mean."""
    return (
        before_activation(dy[0], y[0], h[0], of.scale[0], of.beta[0], of.activation),
        before_activation(dy[1], y[1], h[1], of.scale[1], of.beta[1], of.activation),
        before_activation(dy[2], y[2], h[2], of.scale[2], of.beta[2], of.activation),
        before_activation(dy[3], y[3], h[3], of.scale[3], of.beta[3], of.activation),
    )


@device_function
def gradient_totals(dy, x, y, rows, part, of):
    """(sums of dz, sums of dz h) over these rows, by the block."""
    down, end, j = part.place.down, part.end, part.j
    row = first_row(part)
    i, step = uint32(row * rows.c), uint32(down * rows.c)
    k, wide_step = uint32(row * rows.width + rows.column), uint32(down * rows.width)
    t0, t1, t2, t3 = zeros()
    m0, m1, m2, m3 = zeros()
    while row + down < end:
        p, q = read(dy, k, j), read(dy, uint32(k + wide_step), j)
        r, s = read(x, i, j), read(x, uint32(i + step), j)
        u, v = read_result(y, k, j, p, of.activation), read_result(y, uint32(k + wide_step), j, q, of.activation)
        f, g = centered(r, of), centered(s, of)
        a, b = gradients(p, u, f, of), gradients(q, v, g, of)
        t0, t1, t2, t3 = t0 + (a[0] + b[0]), t1 + (a[1] + b[1]), t2 + (a[2] + b[2]), t3 + (a[3] + b[3])
        f, g = product(f, of.inverse_std), product(g, of.inverse_std)
        m0, m1 = m0 + (a[0] * f[0] + b[0] * g[0]), m1 + (a[1] * f[1] + b[1] * g[1])
        m2, m3 = m2 + (a[2] * f[2] + b[2] * g[2]), m3 + (a[3] * f[3] + b[3] * g[3])
        row = uint32(row + uint32(2) * down)
        i = uint32(i + uint32(2) * step)
        k = uint32(k + uint32(2) * wide_step)
    if row < end:
        p = read(dy, k, j)
        f = centered(read(x, i, j), of)
        a = gradients(p, read_result(y, k, j, p, of.activation), f, of)
        t0, t1, t2, t3 = t0 + a[0], t1 + a[1], t2 + a[2], t3 + a[3]
        f = product(f, of.inverse_std)
        m0, m1, m2, m3 = m0 + a[0] * f[0], m1 + a[1] * f[1], m2 + a[2] * f[2], m3 + a[3] * f[3]
    total = add_down((t0, t1, t2, t3), part.place)
    cuda.syncthreads()  # all have read the sums
    moment = add_down((m0, m1, m2, m3), part.place)
    return total, moment


@device_function
def put_gradient(dy, y, h, dx, i, part, of, slope, offset):
    """The row of dx at i from four numbers of dy, y and x - mean."""
    dz = gradients(dy, y, h, of)
    value = (
        of.scale[0] * (dz[0] + fma(slope[0], h[0], offset[0])),
        of.scale[1] * (dz[1] + fma(slope[1], h[1], offset[1])),
        of.scale[2] * (dz[2] + fma(slope[2], h[2], offset[2])),
        of.scale[3] * (dz[3] + fma(slope[3], h[3], offset[3])),
    )
    write(dx, i, part.j, part.owned, value)


@device_function
def gradient_rows(dy, x, y, dx, rows, part, of, slope, offset):
    """Rows of dx = scale (dz + slope (x - mean) + offset)."""
    down, end, j = part.place.down, part.end, part.j
    row = first_row(part)
    i, step = uint32(row * rows.c), uint32(down * rows.c)
    k, wide_step = uint32(row * rows.width + rows.column), uint32(down * rows.width)
    while row + down < end:
        p, q = read(dy, k, j), read(dy, uint32(k + wide_step), j)
        r, s = read(x, i, j), read(x, uint32(i + step), j)
        u, v = read_result(y, k, j, p, of.activation), read_result(y, uint32(k + wide_step), j, q, of.activation)
        put_gradient(p, u, centered(r, of), dx, i, part, of, slope, offset)
        put_gradient(q, v, centered(s, of), dx, uint32(i + step), part, of, slope, offset)
        row = uint32(row + uint32(2) * down)
        i = uint32(i + uint32(2) * step)
        k = uint32(k + uint32(2) * wide_step)
    if row < end:
        p = read(dy, k, j)
        h = centered(read(x, i, j), of)
        put_gradient(p, read_result(y, k, j, p, of.activation), h, dx, i, part, of, slope, offset)


@device_function
def slopes(inverse_std, dgamma, dbeta, m):
    """(slope, offset) with which dx = scale (dz + slope (x - mean) + offset)."""
    per_row = real(1) / real(m)
    return -inverse_std * (dgamma * per_row), -(dbeta * per_row)


@device_function
def all_slopes(inverse_std, dgamma, dbeta, j, m):
    a = slopes(inverse_std[0], dgamma[j[0]], dbeta[j[0]], m)
    b = slopes(inverse_std[1], dgamma[j[1]], dbeta[j[1]], m)
    d = slopes(inverse_std[2], dgamma[j[2]], dbeta[j[2]], m)
    e = slopes(inverse_std[3], dgamma[j[3]], dbeta[j[3]], m)
    return (a[0], b[0], d[0], e[0]), (a[1], b[1], d[1], e[1])
