"""Depthwise convolution on the micro-kernels of vector/depthwise.py: the contracts are in kernels/reference/depthwise.py.

Forward and the gradient of the image are one loop: each pixel of the target gathers, over the taps of the window that meet
the source, source times weight. A row of the target is cut into runs of pixels that meet the same taps at the same
distances: the inside, and what lies at the edges; with strides, each remainder. So nothing is tested within a run, and
padding is never multiplied.

Both gradients together go block by block of rows, so that dy comes from memory once.

The gradient of the weights runs over the same rows and runs. Rows are summed up by TASKS threads' worth of work at most,
each into sums of its own, which are added in order: the number of threads changes no bit.

Where a channel of x gives several of y, rows of x are repeated to as many channels, in a part of memory that stays in the
cache, before they are worked on; and those of its gradient are summed up after.
"""

import functools

import numpy as np
from numba import prange

from minigrad.kernels.cpu.parts.gather import axis_groups, backward_axis, forward_axis
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined
from minigrad.kernels.cpu.vector.depthwise import correlated_run, weighted_run

ROWS = 8  # of the target, which a task works on
PARALLEL_WORK = 1 << 19  # multiply-adds from which a second thread pays
TASKS = 64  # sums of the gradient of the weights, at most


def step_of(numbers):
    """From one number to the next, where they are as far apart as the first two; 1 where there is but one."""
    return numbers[1] - numbers[0] if len(numbers) > 1 else 1


def runs_of(meetings):
    """The runs of targets on one axis, in rows of

    (first target, step, how many; first source, step; first tap, step, how many; step of their sources).
    """
    runs = []
    for taps, distances, positions in axis_groups(meetings):
        while positions:
            count, steps = 1, [1, 1]
            if len(positions) > 1:
                steps = [b - a for a, b in zip(*positions[:2], strict=True)]
            while count < len(positions) and all(
                b - a == step for a, b, step in zip(positions[count - 1], positions[count], steps, strict=True)
            ):
                count += 1
            (target, source), positions = positions[0], positions[count:]
            first_tap = taps[0] if taps else 0
            runs.append(
                [target, steps[0], count, source, steps[1], first_tap, step_of(taps), len(taps), step_of(distances)]
            )
    return runs


@functools.lru_cache(maxsize=1024)
def plan(axis, image, window):
    """(rows of the target as runs of one, in order; runs of its columns), as arrays; `axis` as for conv.gather_plan."""
    down = axis(image[0], window.oh, window.kh, window.sh, window.top, window.dil_h)
    across = axis(image[1], window.ow, window.kw, window.sw, window.left, window.dil_w)
    if axis is backward_axis:  # whose taps are counted from the last
        down, across = (
            [[(taps - 1 - a, source) for a, source in pairs] for pairs in meetings]
            for meetings, taps in ((down, window.kh), (across, window.kw))
        )
    rows = [[i, *run[1:]] for i, pairs in enumerate(down) for run in runs_of([pairs])]
    return tuple(np.array(runs, np.int64).reshape(-1, 9) for runs in (rows, runs_of(across)))


def prepare_forward(x, w, bias, window, y):
    return x, w, bias, y, *plan(forward_axis, x.shape[1:3], window)


def prepare_backward_x(dy, w, window, dx):
    return dy, w, np.empty(0, dy.dtype), dx, *plan(backward_axis, dx.shape[1:3], window)


def prepare_backward_w(x, dy, window, dw):
    return x, dy, dw, *plan(forward_axis, x.shape[1:3], window)


def prepare_backward(x, dy, w, window, dx, dw):
    return x, dy, w, dx, dw, *plan(forward_axis, x.shape[1:3], window), *plan(backward_axis, x.shape[1:3], window)


@inlined
def rows_met(rows, i0, i1):
    """(first, last + 1) of the rows of the source that rows i0:i1 of the target meet."""
    first, last = rows[i0, 3], rows[i0, 3]
    for i in range(i0, i1):
        first = min(first, rows[i, 3])
        last = max(last, rows[i, 3] + rows[i, 7] * rows[i, 8] - rows[i, 8] + 1 if rows[i, 7] else last)
    return first, last


@inlined
def repeat_channels(images, image, first, last, k):
    """Rows of an image with each channel repeated, to k: (1, last - first, width, k)."""
    _, _, width, c = images.shape
    m = k // c
    rows = np.empty((1, last - first, width, k), images.dtype)
    for i in range(last - first):
        for j in range(width):
            pixel, repeated = images[image, first + i, j], rows[0, i, j]
            for p in range(c):
                for q in range(m):
                    repeated[p * m + q] = pixel[p]
    return rows


@inlined
def sum_channels(rows, images, image, first, count):
    """The other way: neighbouring channels summed up, into rows of an image."""
    _, _, width, c = images.shape
    m = rows.shape[3] // c
    for i in range(count):
        for j in range(width):
            pixel, repeated = images[image, first + i, j], rows[0, i, j]
            for p in range(c):
                total = repeated[p * m]
                for q in range(1, m):
                    total += repeated[p * m + q]
                pixel[p] = total


@inlined
def slide_over(seen, seen_row, w, start, made, made_row, i0, i1, rows, runs):
    """Rows i0:i1, of which row 0 would be row made_row of all images of `made`; row 0 of the source is seen_row of `seen`.

    Both are arguments, not addresses, so that they are there until all is done.
    """
    _, _, seen_width, k = seen.shape
    width, kw = made.shape[2], w.shape[1]
    size = k * np.intp(w.itemsize)  # of a pixel
    for i in range(i0, i1):
        _, _, _, row, _, a, a_step, a_count, down = rows[i]
        for r in range(runs.shape[0]):
            j, j_step, count, column, column_step, b, b_step, b_count, right = runs[r]
            weighted_run(
                w.dtype, seen.ctypes.data + ((seen_row + row) * seen_width + column) * size, column_step * size,
                down * seen_width * size, a_count, right * size, b_count, w.ctypes.data + (a * kw + b) * size,
                a_step * kw * size, b_step * size, start.ctypes.data,
                made.ctypes.data + ((made_row + i) * width + j) * size, j_step * size, width * size, count, k,
            )  # fmt: skip


@inlined
def slide_rows(source, w, start, target, image, i0, i1, rows, runs):
    """target[pixel] = start + sum over the taps of source[pixel, tap] w[tap], for rows i0:i1 of an image."""
    k = w.shape[3]
    seen, seen_row = source, image * source.shape[1]
    made, made_row = target, image * target.shape[1]
    if source.shape[3] < k:
        first, last = rows_met(rows, i0, i1)
        seen, seen_row = repeat_channels(source, image, first, last, k), -first
    if target.shape[3] < k:
        made, made_row = np.empty((1, i1 - i0, target.shape[2], k), w.dtype), -i0
    slide_over(seen, seen_row, w, start, made, made_row, i0, i1, rows, runs)
    if target.shape[3] < k:
        sum_channels(made, target, image, i0, i1 - i0)


def slide(source, w, bias, target, rows, runs):
    """target[pixel] = bias + sum over the taps of source[pixel, tap] w[tap]."""
    n, h, _, _ = target.shape
    start = np.zeros(w.shape[3], w.dtype)
    if bias.size:
        start[:] = bias
    blocks = -(-h // ROWS)
    for task in prange(n * blocks):
        image, i0 = task // blocks, task % blocks * ROWS
        slide_rows(source, w, start, target, image, i0, min(h, i0 + ROWS), rows, runs)


def is_large(source, w, bias, target, rows, runs):
    """Whether there is work for all threads."""
    return max(source.size, target.size) * w.shape[0] * w.shape[1] >= PARALLEL_WORK


depthwise_forward = CpuKernel(slide, FLAGS, is_large=is_large, prepare=prepare_forward)
depthwise_backward_x = CpuKernel(slide, FLAGS, is_large=is_large, prepare=prepare_backward_x, shares=depthwise_forward)


@inlined
def correlate_over(seen, seen_row, dy, dy_row, sums, i0, i1, kw, rows, runs):
    """Rows i0:i1, of which row 0 would be row dy_row of all images of dy; row 0 of x is row seen_row of `seen`."""
    width, k = seen.shape[2], dy.shape[3]
    ow = dy.shape[2]
    size = k * np.intp(dy.itemsize)  # of a pixel
    i = i0
    while i < i1:
        # Two rows that meet the same taps, one row apart, share what they meet.
        pair = i + 1 < i1 and rows[i, 7] == 3 and rows[i + 1, 7] == 3 and rows[i + 1, 3] - rows[i, 3] == rows[i, 8]
        for r in range(runs.shape[0]):
            j, j_step, count, column, column_step, b, b_step, b_count, right = runs[r]
            together = 2 if pair and b_count == 3 and column_step == right else 1
            for q in range(i, i + 1 + pair, together):
                _, _, _, row, _, a, a_step, a_count, down = rows[q]
                correlated_run(
                    dy.dtype, seen.ctypes.data + ((seen_row + row) * width + column) * size, column_step * size,
                    down * width * size, a_count, right * size, b_count,
                    dy.ctypes.data + ((dy_row + q) * ow + j) * size, j_step * size, ow * size, together,
                    sums.ctypes.data + (a * kw + b) * size, a_step * kw * size, b_step * size, count, k,
                )  # fmt: skip
        i += 1 + pair


@inlined
def correlate_rows(x, dy, sums, image, i0, i1, kw, rows, runs):
    """sums[tap] += sum over the pixels of rows i0:i1 of an image of dy of x[pixel, tap] dy[pixel]."""
    k = dy.shape[3]
    seen, seen_row = x, image * x.shape[1]
    if x.shape[3] < k:
        first, last = rows_met(rows, i0, i1)
        seen, seen_row = repeat_channels(x, image, first, last, k), -first
    correlate_over(seen, seen_row, dy, image * dy.shape[1], sums, i0, i1, kw, rows, runs)


@inlined
def add_sums(sums, dw):
    """dw = the sums of all tasks, in order."""
    tasks, taps, k = sums.shape
    flat = dw.reshape(taps, k)
    for tap in range(taps):
        flat[tap] = 0
        for t in range(tasks):
            for q in range(k):
                flat[tap, q] += sums[t, tap, q]


def correlate(x, dy, dw, rows, runs):
    """dw[tap] = sum over the pixels of x[pixel, tap] dy[pixel]."""
    n, oh, _, k = dy.shape
    kh, kw, _, _ = dw.shape
    blocks = -(-oh // ROWS)
    units = n * blocks
    tasks = min(units, TASKS)
    sums = np.zeros((tasks, kh * kw, k), dy.dtype)
    for t in prange(tasks):
        for u in range(t * units // tasks, (t + 1) * units // tasks):
            i0 = u % blocks * ROWS
            correlate_rows(x, dy, sums[t], u // blocks, i0, min(oh, i0 + ROWS), kw, rows, runs)
    add_sums(sums, dw)


def gradients(x, dy, w, dx, dw, rows, runs, rows_back, runs_back):
    """dx and dw together, block by block of rows: what both read of dy comes from memory once."""
    n, oh, _, k = dy.shape
    h = dx.shape[1]
    kh, kw, _, _ = w.shape
    start = np.zeros(k, w.dtype)
    blocks = -(-oh // ROWS)
    units = n * blocks
    tasks = min(units, TASKS)
    sums = np.zeros((tasks, kh * kw, k), dy.dtype)
    for t in prange(tasks):
        for u in range(t * units // tasks, (t + 1) * units // tasks):
            image, block = u // blocks, u % blocks
            i0 = block * ROWS
            correlate_rows(x, dy, sums[t], image, i0, min(oh, i0 + ROWS), kw, rows, runs)
            slide_rows(dy, w, start, dx, image, block * h // blocks, (block + 1) * h // blocks, rows_back, runs_back)
    add_sums(sums, dw)


depthwise_backward_w = CpuKernel(
    correlate,
    FLAGS,
    is_large=lambda x, dy, dw, *rest: max(x.size, dy.size) * dw.shape[0] * dw.shape[1] >= PARALLEL_WORK,
    prepare=prepare_backward_w,
)


depthwise_backward = CpuKernel(
    gradients,
    FLAGS,
    is_large=lambda x, dy, w, *rest: max(x.size, dy.size) * w.shape[0] * w.shape[1] >= PARALLEL_WORK,
    prepare=prepare_backward,
)
