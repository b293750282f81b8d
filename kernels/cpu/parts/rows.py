"""Sums over a row."""

import numpy as np

from minigrad.kernels.cpu.tools.launch import SUMS, inlined


@inlined(flags=SUMS)
def dot(x, y):
    """Sum of the products of two rows, in float64."""
    result = 0.0
    for i in range(x.size):
        result += np.float64(x[i]) * np.float64(y[i])
    return result
