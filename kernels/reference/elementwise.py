"""Functions of one element or of two, and their gradients; flat arrays, float32 computed in float64.

    add, sub, mul, div   y = a + b, a - b, a b, a / b, where a and b are read through layouts (kernels/axes.py)
    equal, not_equal, less, less_equal   y = a == b, a != b, a < b, a <= b, read in the same way: y is bool, a and b are of
                         one dtype, whichever it is; to NaN nothing is equal, nor less or more than it
    exp                  dx = dy y
    log                  dx = dy / x
    sqrt                 dx = dy / (2 y)
    tanh                 dx = dy (1 - y^2)
    sigmoid              y = 1 / (1 + exp(-x)), by exp(-|x|), which cannot overflow; dx = dy y (1 - y)
    relu                 y = 0 where x <= 0, else x, so that NaN stays; dx = 0 where y <= 0, else dy
    activate             y's columns from `column` on = f(x), (m, c), f by its number in kernels/activations.py; dx by y
    power                y = x^p for a number p; dx = dy p x^(p - 1), and 0 for p = 0

Where IEEE arithmetic has an answer (exp overflows to infinity, log 0 = -infinity, log -1 = NaN), that is the result.
"""

import numpy as np

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.axes import positions

defined = np.errstate(all="ignore")


def _wide(x):
    """x in float64, which every function below computes in."""
    return x.astype(np.float64)


@defined
def add_forward(a, b, y, shape, a_strides, b_strides):
    y[:] = _wide(a)[positions(shape, a_strides)] + _wide(b)[positions(shape, b_strides)]


@defined
def sub_forward(a, b, y, shape, a_strides, b_strides):
    y[:] = _wide(a)[positions(shape, a_strides)] - _wide(b)[positions(shape, b_strides)]


@defined
def mul_forward(a, b, y, shape, a_strides, b_strides):
    y[:] = _wide(a)[positions(shape, a_strides)] * _wide(b)[positions(shape, b_strides)]


@defined
def div_forward(a, b, y, shape, a_strides, b_strides):
    y[:] = _wide(a)[positions(shape, a_strides)] / _wide(b)[positions(shape, b_strides)]


def equal(a, b, y, shape, a_strides, b_strides):
    y[:] = a[positions(shape, a_strides)] == b[positions(shape, b_strides)]


def not_equal(a, b, y, shape, a_strides, b_strides):
    y[:] = a[positions(shape, a_strides)] != b[positions(shape, b_strides)]


def less(a, b, y, shape, a_strides, b_strides):
    y[:] = a[positions(shape, a_strides)] < b[positions(shape, b_strides)]


def less_equal(a, b, y, shape, a_strides, b_strides):
    y[:] = a[positions(shape, a_strides)] <= b[positions(shape, b_strides)]


@defined
def exp_forward(x, y):
    y[:] = np.exp(_wide(x))


@defined
def exp_backward(dy, y, dx):
    dx[:] = _wide(dy) * _wide(y)


@defined
def log_forward(x, y):
    y[:] = np.log(_wide(x))


@defined
def log_backward(dy, x, dx):
    dx[:] = _wide(dy) / _wide(x)


@defined
def sqrt_forward(x, y):
    y[:] = np.sqrt(_wide(x))


@defined
def sqrt_backward(dy, y, dx):
    dx[:] = _wide(dy) / (2 * _wide(y))


@defined
def tanh_forward(x, y):
    y[:] = np.tanh(_wide(x))


@defined
def tanh_backward(dy, y, dx):
    dx[:] = _wide(dy) * (1 - _wide(y) ** 2)


@defined
def sigmoid_forward(x, y):
    e = np.exp(-np.abs(_wide(x)))
    y[:] = np.where(x < 0, e, 1) / (1 + e)


@defined
def sigmoid_backward(dy, y, dx):
    dx[:] = _wide(dy) * _wide(y) * (1 - _wide(y))


def relu_forward(x, y):
    y[:] = np.where(x <= 0, 0, x)


def relu_backward(dy, y, dx):
    dx[:] = np.where(y <= 0, 0, dy)


def activate(x, activation, y, column):
    z = x.copy()
    if activation == RELU:
        relu_forward(x, z)
    elif activation == SIGMOID:
        sigmoid_forward(x, z)
    y[:, column : column + x.shape[1]] = z


def activate_backward(dy, y, column, activation, dx):
    columns = slice(column, column + dx.shape[1])
    if activation == RELU:
        relu_backward(dy[:, columns], y[:, columns], dx)
    elif activation == SIGMOID:
        sigmoid_backward(dy[:, columns], y[:, columns], dx)
    else:
        dx[:] = dy[:, columns]


@defined
def power_forward(x, p, y):
    y[:] = _wide(x) ** p


@defined
def power_backward(dy, x, p, dx):
    dx[:] = 0 if p == 0 else _wide(dy) * p * _wide(x) ** (p - 1)
