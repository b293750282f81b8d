"""Images on their way to the network. Contracts and formulas: kernels/reference/augment.py.

Tasks are whole images, so threads change no bit. The number of channels comes into the compiled code as the length of a
tuple: loops over a pixel's channels are unrolled, which doubles the speed for three of them.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.tools.launch import GRAIN, inlined, parallel_kernel


@inlined
def widened(image, scale, copy):
    """Copy the image, scaled and in floats, to rows of w + 1 pixels, of which the last is repeated; likewise the last row.

    So the pixels to the right and below are there for every pixel of the image.
    """
    h, w, c = image.shape
    kind = copy.dtype.type
    step = (w + 1) * c
    for r in range(h + 1):
        source, target = image[min(r, h - 1)].reshape(w * c), copy[r * step : (r + 1) * step]
        for j in range(w * c):
            target[j] = kind(source[j]) * scale
        for k in range(c):
            target[w * c + k] = target[(w - 1) * c + k]


@inlined
def source_points(matrix, r, h, step, c, at, down, across):
    """For the pixels of output row r: the index of the source's upper left pixel, and the way from there in [0, 1)."""
    kind = down.dtype.type
    row_0, column_0 = matrix[0, 0] * r + matrix[0, 2], matrix[1, 0] * r + matrix[1, 2]
    row_step, column_step = matrix[0, 1], matrix[1, 1]
    last_row, last_column = h - 1.0, at.size - 1.0
    for q in range(at.size):
        row = min(max(row_0 + row_step * q, 0.0), last_row)
        column = min(max(column_0 + column_step * q, 0.0), last_column)
        top, left = np.intp(row), np.intp(column)
        at[q] = top * step + left * c
        down[q] = kind(row - top)
        across[q] = kind(column - left)


def affine_arguments(images, matrices, scale, y):
    return images, matrices, scale, y, (0,) * images.shape[3]


@parallel_kernel(is_large=lambda images, matrices, scale, y, channels: y.size >= GRAIN, prepare=affine_arguments)
def affine(images, matrices, scale, y, channels):
    n, h, w, _ = images.shape
    c = len(channels)
    step = (w + 1) * c
    for i in prange(n):
        source = np.empty((h + 1) * step, y.dtype)
        widened(images[i], y.dtype.type(scale), source)
        at, down, across = np.empty(w, np.intp), np.empty(w, y.dtype), np.empty(w, y.dtype)
        for r in range(h):
            source_points(matrices[i], r, h, step, c, at, down, across)
            row = y[i, r].reshape(w * c)
            for q in range(w):
                s, t = down[q], across[q]
                top, bottom = source[at[q] : at[q] + 2 * c], source[at[q] + step : at[q] + step + 2 * c]
                target = row[q * c : (q + 1) * c]
                for k in range(c):
                    above = top[k] + t * (top[k + c] - top[k])
                    below = bottom[k] + t * (bottom[k + c] - bottom[k])
                    target[k] = above + s * (below - above)


@inlined
def shift_row(source, shift, repeat, target):
    """One row of pixels (w, c), shifted and filled up."""
    w, c = source.shape
    first, last = min(max(0, -shift), w), max(min(w, w - shift), 0)  # the pixels of the target that the source covers
    values = source.reshape(w * c)[(first + shift) * c : (last + shift) * c]
    shifted = target.reshape(w * c)[first * c : last * c]
    for j in range(values.size):
        shifted[j] = values[j]
    for q in range(first):
        for k in range(c):
            target[q, k] = source[0, k] if repeat else 0
    for q in range(last, w):
        for k in range(c):
            target[q, k] = source[w - 1, k] if repeat else 0


@inlined
def reverse(row):
    """The pixels of a row from right to left, in place."""
    w, c = row.shape
    for q in range(w // 2):
        for k in range(c):
            row[q, k], row[w - 1 - q, k] = row[w - 1 - q, k], row[q, k]


@parallel_kernel()
def shift_crop(images, shifts, flips, repeat, y):
    n, h, _, _ = images.shape
    for i in prange(n):
        for r in range(h):
            row = r + shifts[i, 0]
            if repeat or 0 <= row < h:
                shift_row(images[i, min(max(row, 0), h - 1)], shifts[i, 1], repeat, y[i, r])
                if flips[i]:
                    reverse(y[i, r])
            else:
                y[i, r] = 0


@inlined
def image_mean(image):
    """The mean of all values. Rows are added up first, in vectors; that order is fixed, so the bits are."""
    h, w, c = image.shape
    sums = np.zeros(w * c, np.float64)
    for r in range(h):
        row = image[r].reshape(w * c)
        for j in range(row.size):
            sums[j] += np.float64(row[j])
    total = 0.0
    for j in range(sums.size):
        total += sums[j]
    return total / image.size


@parallel_kernel()
def brightness_contrast(images, brightness, contrast, scale, y):
    kind = y.dtype.type
    for i in prange(images.shape[0]):
        mean = image_mean(images[i])
        source, target = images[i].reshape(images[i].size), y[i].reshape(y[i].size)
        middle, gain, base = kind(mean), kind(scale * contrast[i]), kind(scale * mean + brightness[i])
        for j in range(source.size):
            target[j] = (kind(source[j]) - middle) * gain + base


@parallel_kernel()
def normalize(images, shift, gain, y):
    n, h, w, c = images.shape
    kind = y.dtype.type
    shifts, gains = np.empty(w * c, y.dtype), np.empty(w * c, y.dtype)  # of a whole row: a loop long enough for vectors
    for j in range(w * c):
        shifts[j], gains[j] = shift[j % c], gain[j % c]
    for i in prange(n):
        for r in range(h):
            source, target = images[i, r].reshape(w * c), y[i, r].reshape(w * c)
            for j in range(w * c):
                target[j] = (kind(source[j]) - shifts[j]) * gains[j]
