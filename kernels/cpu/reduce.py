"""Sums and maxima over the middle axis of (outer, reduced, inner). Contracts: kernels/reference/reduce.py.

Sums are added in float64, in chunks of fixed length whose sums are added in order; float32 results are rounded once, at
the end.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.tools.launch import GRAIN, SUMS, inlined, parallel_kernel

CHUNK = 1 << 14  # elements that one task adds up
PANEL = 256  # columns whose sums stay in the first-level cache
LARGE = 4 * GRAIN  # these loops only move memory: a parallel region pays later than elsewhere


def is_large(x, *arguments):
    """Whether the first argument has enough elements for all threads."""
    return x.size >= LARGE


@inlined(flags=SUMS)
def sum_run(x):
    """Sum of a contiguous run, in float64."""
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


@inlined
def sum_down(x, rows, step, total):
    """total[j] = sum over i < rows of x[i * step + j], in float64: four rows at a time."""
    n = total.size
    for j in range(n):
        total[j] = 0
    for i in range(0, rows - 3, 4):
        a, b = x[i * step : i * step + n], x[(i + 1) * step : (i + 1) * step + n]
        c, d = x[(i + 2) * step : (i + 2) * step + n], x[(i + 3) * step : (i + 3) * step + n]
        for j in range(n):
            total[j] += (np.float64(a[j]) + np.float64(b[j])) + (np.float64(c[j]) + np.float64(d[j]))
    for i in range(rows // 4 * 4, rows):
        a = x[i * step : i * step + n]
        for j in range(n):
            total[j] += a[j]


@inlined
def argmax_run(x):
    """First position of the largest element of a contiguous run, or of the first NaN."""
    best = 0
    value = x[0]
    for i in range(x.size):
        if not x[i] <= value:
            best = i
            value = x[i]
            if value != value:
                break
    return best


@inlined
def argmax_down(x, rows, step, first, value, best):
    """best[j] = first + the first i < rows where x[i * step + j] is largest, or NaN; `value` is room to work in."""
    n = best.size
    for j in range(n):
        value[j] = x[j]
        best[j] = first
    for i in range(1, rows):
        row = x[i * step : i * step + n]
        for j in range(n):
            better = (not row[j] <= value[j]) and value[j] == value[j]
            value[j] = row[j] if better else value[j]
            best[j] = first + i if better else best[j]


@inlined
def cut(outer, reduced, inner):
    """(chunks along the reduced axis, their length, how many of them one task takes, panels along the inner axis).

    Chunk `c` of the outer index `i` is run i * chunks + c.
    """
    width = min(max(inner, 1), PANEL)
    length = max(1, min(reduced, CHUNK // width))
    chunks = max(1, -(-reduced // length))
    return chunks, length, max(1, CHUNK // (length * width)), -(-inner // PANEL)


@parallel_kernel(is_large=is_large)
def sum_forward(x, y):
    outer, reduced, inner = x.shape
    chunks, length, group, panels = cut(outer, reduced, inner)
    runs = outer * chunks
    flat, out = x.reshape(-1), y.reshape(-1)
    partial = np.empty(runs * inner, np.float64)
    for task in prange(-(-runs // group) * panels):
        first_run, column = task // panels * group, task % panels * PANEL
        width = min(PANEL, inner - column)
        for run in range(first_run, min(first_run + group, runs)):
            first_row = run % chunks * length
            rows = min(length, reduced - first_row)
            start = (run // chunks * reduced + first_row) * inner + column
            if inner == 1:
                partial[run] = sum_run(flat[start : start + rows])
            else:
                place = run * inner + column
                sum_down(flat[start:], rows, inner, partial[place : place + width])
    for block in prange(-(-out.size // CHUNK)):
        for k in range(block * CHUNK, min((block + 1) * CHUNK, out.size)):
            place = k if chunks == 1 else k // inner * chunks * inner + k % inner
            total = partial[place]
            for chunk in range(1, chunks):
                total += partial[place + chunk * inner]
            out[k] = total


@parallel_kernel(is_large=is_large)
def max_forward(x, y, index):
    outer, reduced, inner = x.shape
    chunks, length, group, panels = cut(outer, reduced, inner)
    runs = outer * chunks
    flat, out, position = x.reshape(-1), y.reshape(-1), index.reshape(-1)
    candidates = position if chunks == 1 else np.empty(runs * inner, np.int64)
    # 1. The place of the largest of each chunk: along a row if the reduced axis is the last, else down some columns at once.
    for task in prange(-(-runs // group) * panels):
        first_run, column = task // panels * group, task % panels * PANEL
        width = min(PANEL, inner - column)
        value = np.empty(width, x.dtype)
        for run in range(first_run, min(first_run + group, runs)):
            first_row = run % chunks * length
            rows = min(length, reduced - first_row)
            start = (run // chunks * reduced + first_row) * inner + column
            if inner == 1:
                candidates[run] = first_row + argmax_run(flat[start : start + rows])
            else:
                place = run * inner + column
                argmax_down(flat[start:], rows, inner, first_row, value, candidates[place : place + width])
    # 2. The first of the largest among the chunks, in their order; a NaN is larger than all, and the first NaN stays.
    for block in prange(-(-out.size // CHUNK)):
        for k in range(block * CHUNK, min((block + 1) * CHUNK, out.size)):
            i, j = k // inner, k % inner
            best = candidates[i * chunks * inner + j]
            largest = x[i, best, j]
            for chunk in range(1, chunks):
                candidate = candidates[(i * chunks + chunk) * inner + j]
                if largest == largest and not x[i, candidate, j] <= largest:
                    best = candidate
                    largest = x[i, best, j]
            out[k] = largest
            position[k] = best


@parallel_kernel(is_large=lambda dy, index, dx: dx.size >= LARGE)
def max_backward(dy, index, dx):
    outer, reduced, inner = dx.shape
    flat, dy_flat, position = dx.reshape(-1), dy.reshape(-1), index.reshape(-1)
    group = max(1, CHUNK // max(reduced * inner, 1))
    for task in prange(-(-outer // group)):
        for i in range(task * group, min((task + 1) * group, outer)):
            part = flat[i * reduced * inner : (i + 1) * reduced * inner]
            for k in range(part.size):
                part[k] = 0
            for j in range(inner):
                part[position[i * inner + j] * inner + j] = dy_flat[i * inner + j]


@parallel_kernel(is_large=is_large)
def cumsum(x, reverse, y):
    outer, n, inner = x.shape
    panels = -(-inner // PANEL)
    group = max(1, CHUNK // max(n * min(inner, PANEL), 1))  # outer indices to a task
    for task in prange(-(-outer // group) * panels):
        column = task % panels * PANEL
        width = min(PANEL, inner - column)
        total = np.empty(width, np.float64)
        for o in range(task // panels * group, min((task // panels + 1) * group, outer)):
            for j in range(width):
                total[j] = 0
            for k in range(n):
                i = n - 1 - k if reverse else k
                for j in range(width):
                    total[j] += x[o, i, column + j]
                    y[o, i, column + j] = total[j]
