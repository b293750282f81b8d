"""Convolution of images x (n, h, w, c) by windows w (kh, kw, c, k), summed as the neural networks do, without a flip.

    conv_forward      y[n, i, j, :] = bias + sum over a, b of x[n, i sh + a dil_h - top, j sw + b dil_w - left, :] w[a, b]
    conv_backward_x   dx, and
    conv_backward_w   dw: the transposed maps

`window` is a kernels.window.Window; what lies outside the image counts as zero. bias (k,), or (0,) for none.

float32 is computed in float64, of factors rounded to bfloat16 where that is asked for (kernels/precision.py).
"""

import numpy as np

from minigrad.kernels.precision import round_factors


def _wide(x):
    return x.astype(np.float64)


def _views(image, window):
    """Height and width of the padded image; for each tap (a, b): the tap, and the slices of it that it meets in all outputs."""
    height = max(image[0] + window.top, (window.oh - 1) * window.sh + (window.kh - 1) * window.dil_h + 1)
    width = max(image[1] + window.left, (window.ow - 1) * window.sw + (window.kw - 1) * window.dil_w + 1)
    taps = []
    for a in range(window.kh):
        for b in range(window.kw):
            row, column = a * window.dil_h, b * window.dil_w
            rows = slice(row, row + (window.oh - 1) * window.sh + 1, window.sh)
            columns = slice(column, column + (window.ow - 1) * window.sw + 1, window.sw)
            taps.append((a, b, rows, columns))
    return height, width, taps


def _padded(x, height, width, window):
    padded = np.zeros((x.shape[0], height, width, x.shape[3]))
    padded[:, window.top : window.top + x.shape[1], window.left : window.left + x.shape[2]] = x
    return padded


def conv_forward(x, w, bias, window, y):
    x, w = round_factors(x, w)
    height, width, taps = _views(x.shape[1:3], window)
    padded = _padded(x, height, width, window)
    total = np.zeros(y.shape) + (_wide(bias) if bias.size else 0)
    for a, b, rows, columns in taps:
        total += padded[:, rows, columns] @ _wide(w[a, b])
    y[:] = total


def conv_backward_x(dy, w, window, dx):
    dy, w = round_factors(dy, w)
    height, width, taps = _views(dx.shape[1:3], window)
    padded = np.zeros((dx.shape[0], height, width, dx.shape[3]))
    for a, b, rows, columns in taps:
        padded[:, rows, columns] += _wide(dy) @ _wide(w[a, b]).T
    dx[:] = padded[:, window.top : window.top + dx.shape[1], window.left : window.left + dx.shape[2]]


def conv_backward_w(x, dy, window, dw):
    x, dy = round_factors(x, dy)
    height, width, taps = _views(x.shape[1:3], window)
    padded = _padded(x, height, width, window)
    for a, b, rows, columns in taps:
        dw[a, b] = np.tensordot(padded[:, rows, columns], _wide(dy), ((0, 1, 2), (0, 1, 2)))
