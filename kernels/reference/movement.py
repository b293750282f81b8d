"""Filling, copying and gathering elements. Layouts (shape, strides, offset) are those of kernels/axes.py.

fill                 y[i] = value
copy                 y[i] = x[i]
strided_read         y[i] = x[position(i)]
strided_write        y[position(i)] = x[i]; the rest of y is left alone
take_rows            y[i] = x[index[i]]
take_rows_backward   dx = 0, then dx[index[i]] += dy[i] for i = 0, 1, ... in the type of dx
take_along           y[o, i, j] = x[o, index[o, i, j], j]
take_along_backward  dx = 0, then dx[o, index[o, i, j], j] += dy[o, i, j] for i = 0, 1, ... in the type of dx
"""

import numpy as np

from minigrad.kernels.axes import positions


def fill(value, y):
    y[:] = value


def copy(x, y):
    y[:] = x


def strided_read(x, shape, strides, offset, y):
    y[:] = x[positions(shape, strides, offset)]


def strided_write(x, shape, strides, offset, y):
    y[positions(shape, strides, offset)] = x


def take_rows(x, index, y):
    y[:] = x[index]


@np.errstate(all="ignore")
def take_rows_backward(dy, index, dx):
    dx[:] = 0
    for i, row in enumerate(index):
        dx[row] += dy[i]


def take_along(x, index, y):
    y[:] = np.take_along_axis(x, index, axis=1)


@np.errstate(all="ignore")
def take_along_backward(dy, index, dx):
    dx[:] = 0
    outer, inner = np.ogrid[: dx.shape[0], : dx.shape[2]]
    for i in range(index.shape[1]):
        dx[outer, index[:, i], inner] += dy[:, i]
