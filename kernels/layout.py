"""How a kernel is told where the elements of a strided array lie.

A layout is a shape and strides, each a tuple of exactly DIMS Python ints, the innermost axis last; strides count
elements, not bytes. Axes an array lacks stand first, with length 1 and stride 0. A broadcast axis has stride 0.

The number of axes is fixed so that a kernel is compiled once, not once for every rank.
"""

import numpy as np

DIMS = 6


def positions(shape, strides, offset=0):
    """Where a layout's elements lie in a flat array: offset + sum(idx[d] * strides[d]) for every idx, in C order."""
    position = np.array(offset, np.int64)
    for length, stride in zip(shape, strides, strict=True):
        position = position[..., np.newaxis] + np.arange(length, dtype=np.int64) * stride
    return position.ravel()
