"""Pooling over windows of images. Contracts: kernels/reference/pool.py.

Every element of a result is computed by itself, in registers: forward passes run over the pixels of a window, backward
passes over the windows of a pixel, in a fixed order. Nothing is added to memory, so overlapping windows need no atomics,
and the number of threads changes no bit.

The work is handed to the micro-kernels in runs of elements that lie one behind the other: the channels of a pixel; or,
where windows are one pixel apart, the channels of all pixels between the edges, which have windows of the same shape.
"""

import numpy as np
from numba import prange

from minigrad.kernels import window as windows
from minigrad.kernels.cpu.tools.launch import inlined, parallel_kernel
from minigrad.kernels.cpu.tools.pointers import element_at, pixel_at, row_at
from minigrad.kernels.cpu.vector.copies import touch
from minigrad.kernels.cpu.vector.pool import max_run, mean_run, share_run, won_run

TOUCHED = 8  # rows whose windows' pixels are read in order, before they are worked on

covered = inlined(windows.covered)
covering = inlined(windows.covering)


@inlined
def has_nan(x):
    """Whether there is a NaN among the elements of a flat array."""
    found = False
    for i in range(x.size):
        found |= x[i] != x[i]
    return found


@inlined
def whole_windows(place, size, stride, padding, length, windows):
    """How many windows from this one on are one pixel apart and wholly in the image, on one axis; at least 1, itself."""
    start = place * stride - padding
    if stride > 1 or start < 0 or start + size > length:
        return 1
    return min(length - size - start + 1, windows - place)


@inlined
def touch_rows(x, row, count):
    """Have rows of pixels in the cache, counted through all images."""
    n, h, w, c = x.shape
    count = min(count, n * h - row)
    if count > 0:
        touch(row_at(x, row * w), count * w * c * x.itemsize)


@parallel_kernel(sized_by=0)
def max_pool_forward(x, window, y, winner):
    n, h, w, c = x.shape
    oh, ow = window.oh, window.ow
    for task in prange(n * oh):
        image, i = task // oh, task % oh
        rows_before, top, bottom = covered(i, window.kh, window.sh, window.top, h, np.int64)
        row_place = rows_before * window.kw
        if i % TOUCHED == 0:
            touch_rows(x, image * h + top, TOUCHED * window.sh + window.kh)
        nan = has_nan(x[image, top:bottom].reshape(-1))
        j = 0
        while j < ow:
            count = whole_windows(j, window.kw, window.sw, window.left, w, ow)
            columns_before, left, right = covered(j, window.kw, window.sw, window.left, w, np.int64)
            place = row_place + columns_before
            max_run(
                x.dtype, winner.dtype, nan, pixel_at(x, image, top, left), w * c, bottom - top, c, right - left,
                place, window.kw, count * c, pixel_at(y, image, i, j), pixel_at(winner, image, i, j),
            )  # fmt: skip
            j += count


@parallel_kernel()
def max_pool_backward(dy, winner, window, dx):
    n, h, w, c = dx.shape
    oh, ow = window.oh, window.ow
    for task in prange(n * h):
        image, i = task // h, task % h
        top, bottom = covering(i, window.kh, window.sh, window.top, oh, np.int64)
        row_place = (i + window.top - top * window.sh) * window.kw
        if i % TOUCHED == 0:
            rows = TOUCHED // window.sh + window.kh
            touch_rows(dy, image * oh + top, rows)
            touch_rows(winner, image * oh + top, rows)
        j = 0
        while j < w:
            left, right = covering(j, window.kw, window.sw, window.left, ow, np.int64)
            count = 1
            if window.sw == 1 and right - left == window.kw:  # as many for all pixels up to the one in the last window
                count = min(ow - right + 1, w - j)
            if top < bottom and left < right:
                place = row_place + j + window.left - left * window.sw
                won_run(
                    dy.dtype, winner.dtype, pixel_at(dy, image, top, left), pixel_at(winner, image, top, left),
                    ow * c, bottom - top, c, right - left, place, window.sh * window.kw, window.sw, count * c,
                    pixel_at(dx, image, i, j),
                )  # fmt: skip
            else:
                dx[image, i, j : j + count] = 0
            j += count


@parallel_kernel()
def max_pool_take(x, winner, window, y):
    n, oh, ow, c = y.shape
    for task in prange(n * oh):
        image, i = task // oh, task % oh
        top = i * window.sh - window.top
        for j in range(ow):
            left = j * window.sw - window.left
            for k in range(c):
                place = np.int64(winner[image, i, j, k])
                row = place // window.kw
                y[image, i, j, k] = x[image, top + row, left + place - row * window.kw, k]


@parallel_kernel(sized_by=0)
def avg_pool_forward(x, window, y):
    n, h, w, c = x.shape
    oh, ow = window.oh, window.ow
    for task in prange(n * oh):
        image, i = task // oh, task % oh
        _, top, bottom = covered(i, window.kh, window.sh, window.top, h, np.int64)
        j = 0
        while j < ow:
            count = whole_windows(j, window.kw, window.sw, window.left, w, ow)
            _, left, right = covered(j, window.kw, window.sw, window.left, w, np.int64)
            mean_run(
                x.dtype, pixel_at(x, image, top, left), w * c, bottom - top, c, right - left, count * c,
                pixel_at(y, image, i, j),
            )  # fmt: skip
            j += count


@parallel_kernel()
def avg_pool_backward(dy, window, dx):
    n, h, w, c = dx.shape
    oh, ow = window.oh, window.ow
    weights = np.empty((oh, ow), dx.dtype)  # what a pixel gets of the gradient of a window
    for i in range(oh):
        _, top, bottom = covered(i, window.kh, window.sh, window.top, h, np.int64)
        for j in range(ow):
            _, left, right = covered(j, window.kw, window.sw, window.left, w, np.int64)
            weights[i, j] = 1 / ((bottom - top) * (right - left))
    for task in prange(n * h):
        image, i = task // h, task % h
        top, bottom = covering(i, window.kh, window.sh, window.top, oh, np.int64)
        j = 0
        while j < w:
            left, right = covering(j, window.kw, window.sw, window.left, ow, np.int64)
            count = 1
            if right - left == window.kw:  # a run, as far as all its windows are whole and so weigh the same
                whole = whole_windows(left, window.kw, window.sw, window.left, w, ow)
                count = max(1, min(whole - window.kw + 1, w - j))
            if top < bottom and left < right:
                share_run(
                    dy.dtype, pixel_at(dy, image, top, left), ow * c, bottom - top, c, right - left,
                    element_at(weights, top, left), ow, count * c, pixel_at(dx, image, i, j),
                )  # fmt: skip
            else:
                dx[image, i, j : j + count] = 0
            j += count
