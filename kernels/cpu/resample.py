"""Images sampled anew. Contract: kernels/reference/resample.py.

A task makes one row of the result: first the weighted sum of the rows of the image, which lie in memory side by side, then of
that sum's pixels. Sums go in the order of the tables, so the number of threads changes no bit.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.tools.launch import GRAIN, parallel_kernel


@parallel_kernel(is_large=lambda x, rows, row_weights, columns, column_weights, y: max(x.size, y.size) >= GRAIN)
def resample(x, rows, row_weights, columns, column_weights, y):
    n, _, w, c = x.shape
    _, oh, ow, _ = y.shape
    for task in prange(n * oh):
        image, i = task // oh, task % oh
        first, count, at = rows[i]
        band = np.zeros(w * c, x.dtype)
        for k in range(count):
            weight, row = row_weights[at + k], x[image, first + k].reshape(-1)
            if k == 0:
                for q in range(w * c):
                    band[q] = weight * row[q]
            else:
                for q in range(w * c):
                    band[q] += weight * row[q]
        for j in range(ow):
            first, count, at = columns[j]
            target = y[image, i, j]
            if count == 0:
                target[:] = 0
            for k in range(count):
                weight, pixel = column_weights[at + k], band[(first + k) * c : (first + k + 1) * c]
                if k == 0:
                    for q in range(c):
                        target[q] = weight * pixel[q]
                else:
                    for q in range(c):
                        target[q] += weight * pixel[q]
