"""Sums and maxima over the middle axis: x is (outer, reduced, inner), y and index are (outer, inner).

sum_forward    y = sum of x over the middle axis, added in float64
max_forward    y = largest element, index = its first position (int64); the first NaN, if there is one, is the largest
max_backward   dx = dy at the position of the maximum, 0 elsewhere
cumsum         y[:, i] = sum of x[:, k] over k <= i, or with `reverse` over k >= i, added one by one in float64
"""

import numpy as np


@np.errstate(all="ignore")
def sum_forward(x, y):
    y[:] = x.sum(axis=1, dtype=np.float64)


def max_forward(x, y, index):
    index[:] = x.argmax(axis=1)
    y[:] = np.take_along_axis(x, index[:, np.newaxis, :], axis=1)[:, 0, :]


def max_backward(dy, index, dx):
    dx[:] = 0
    np.put_along_axis(dx, index[:, np.newaxis, :], dy[:, np.newaxis, :], axis=1)


@np.errstate(all="ignore")
def cumsum(x, reverse, y):
    turned = x[:, ::-1] if reverse else x
    sums = np.cumsum(turned, axis=1, dtype=np.float64)
    y[:] = sums[:, ::-1] if reverse else sums
