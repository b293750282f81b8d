"""Pooling over windows of images x (n, h, w, c), to y (n, oh, ow, c).

`window` is a kernels.window.Window without dilation. It covers the pixels that lie in the image, one at least.

    max_pool_forward     y = largest element of the window, winner = its place in the window, in row-major order (place
                         row * width + column, counted with the padding); the first of equals, or the first NaN
    max_pool_backward    dx = sum of dy over the windows that the pixel won
    max_pool_take        y = x where the window's winner is
    avg_pool_forward     y = mean of the elements of the window, which padding has no part in
    avg_pool_backward    dx = sum over the windows that cover the pixel of dy / number of their elements

winner is uint8 if the window has at most 256 places, else int32. float32 means and sums are added in float64 here.
"""

import numpy as np


def _windows(h, w, window):
    """(i, j, rows, columns, first row, first column) of every window: what it covers, and where it starts."""
    for i in range(window.oh):
        for j in range(window.ow):
            top, left = i * window.sh - window.top, j * window.sw - window.left
            rows = slice(max(top, 0), min(top + window.kh, h))
            columns = slice(max(left, 0), min(left + window.kw, w))
            yield i, j, rows, columns, top, left


def max_pool_forward(x, window, y, winner):
    n, h, w, c = x.shape
    for i, j, rows, columns, top, left in _windows(h, w, window):
        covered = x[:, rows, columns]
        place = covered.reshape(n, -1, c).argmax(axis=1)
        row, column = np.divmod(place, covered.shape[2])
        winner[:, i, j] = (rows.start - top + row) * window.kw + columns.start - left + column
        y[:, i, j] = np.take_along_axis(covered.reshape(n, -1, c), place[:, np.newaxis], axis=1)[:, 0]


@np.errstate(all="ignore")
def max_pool_backward(dy, winner, window, dx):
    total = np.zeros(dx.shape, np.float64)
    for i, j, rows, columns, top, left in _windows(*dx.shape[1:3], window):
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                won = winner[:, i, j] == (row - top) * window.kw + column - left
                total[:, row, column] += np.where(won, dy[:, i, j], 0)
    dx[:] = total


def max_pool_take(x, winner, window, y):
    n, _, _, c = x.shape
    image, channel = np.ogrid[:n, :c]
    for i, j, _, _, top, left in _windows(*x.shape[1:3], window):
        row, column = np.divmod(winner[:, i, j].astype(np.int64), window.kw)
        y[:, i, j] = x[image, top + row, left + column, channel]


@np.errstate(all="ignore")
def avg_pool_forward(x, window, y):
    for i, j, rows, columns, _, _ in _windows(*x.shape[1:3], window):
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2), dtype=np.float64)


@np.errstate(all="ignore")
def avg_pool_backward(dy, window, dx):
    total = np.zeros(dx.shape, np.float64)
    for i, j, rows, columns, _, _ in _windows(*dx.shape[1:3], window):
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        total[:, rows, columns] += dy[:, i, j].astype(np.float64)[:, np.newaxis, np.newaxis] / count
    dx[:] = total
