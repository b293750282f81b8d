"""Pooling over windows of images x (n, h, w, c), to y (n, oh, ow, c).

`size`, `stride` and `padding` are pairs (vertical, horizontal). Window (i, j) covers the rows from i stride - padding on,
`size` of them, and the columns likewise, as far as they lie in the image. Every window covers a pixel, at least; padding
at the bottom and on the right follows from the shape of y.

    max_pool_forward     y = largest element of the window, winner = its place in the window, in row-major order (place
                         row * width + column, counted with the padding); the first of equals, or the first NaN
    max_pool_backward    dx = sum of dy over the windows that the pixel won
    avg_pool_forward     y = mean of the elements of the window, which padding has no part in
    avg_pool_backward    dx = sum over the windows that cover the pixel of dy / number of their elements

winner is uint8 if the window has at most 256 places, else int32. float32 means and sums are added in float64 here.
"""

import numpy as np


def _windows(h, w, size, stride, padding, oh, ow):
    """(i, j, rows, columns, first row, first column) of every window: what it covers, and where it starts."""
    for i in range(oh):
        for j in range(ow):
            top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
            rows = slice(max(top, 0), min(top + size[0], h))
            columns = slice(max(left, 0), min(left + size[1], w))
            yield i, j, rows, columns, top, left


def max_pool_forward(x, size, stride, padding, y, winner):
    n, h, w, c = x.shape
    for i, j, rows, columns, top, left in _windows(h, w, size, stride, padding, *y.shape[1:3]):
        covered = x[:, rows, columns]
        place = covered.reshape(n, -1, c).argmax(axis=1)
        row, column = np.divmod(place, covered.shape[2])
        winner[:, i, j] = (rows.start - top + row) * size[1] + columns.start - left + column
        y[:, i, j] = np.take_along_axis(covered.reshape(n, -1, c), place[:, np.newaxis], axis=1)[:, 0]


@np.errstate(all="ignore")
def max_pool_backward(dy, winner, size, stride, padding, dx):
    total = np.zeros(dx.shape, np.float64)
    for i, j, rows, columns, top, left in _windows(*dx.shape[1:3], size, stride, padding, *dy.shape[1:3]):
        for row in range(rows.start, rows.stop):
            for column in range(columns.start, columns.stop):
                won = winner[:, i, j] == (row - top) * size[1] + column - left
                total[:, row, column] += np.where(won, dy[:, i, j], 0)
    dx[:] = total


@np.errstate(all="ignore")
def avg_pool_forward(x, size, stride, padding, y):
    for i, j, rows, columns, _, _ in _windows(*x.shape[1:3], size, stride, padding, *y.shape[1:3]):
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2), dtype=np.float64)


@np.errstate(all="ignore")
def avg_pool_backward(dy, size, stride, padding, dx):
    total = np.zeros(dx.shape, np.float64)
    for i, j, rows, columns, _, _ in _windows(*dx.shape[1:3], size, stride, padding, *dy.shape[1:3]):
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        total[:, rows, columns] += dy[:, i, j].astype(np.float64)[:, np.newaxis, np.newaxis] / count
    dx[:] = total
