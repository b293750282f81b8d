"""Convolution of images x (n, h, w, c) by windows w (kh, kw, c, k), summed as the neural networks do, without a flip.

    conv_forward      y[n, i, j, :] = bias + sum over a, b of x[n, i sh + a dh - top, j sw + b dw - left, :] w[a, b]
    conv_backward_x   dx, and
    conv_backward_w   dw: the transposed maps

`window` is (sh, sw, top, left, dh, dw): strides, rows and columns of zeros before the image, dilations. What lies outside
the image counts as zero, before and after it; the shapes of y and x say how far that goes. bias (k,), or (0,) for none.

float32 is computed in float64.
"""

import numpy as np


def _wide(x):
    return x.astype(np.float64)


def _views(shape, window, out, kernel):
    """For each tap (a, b): the tap, and the slices of the padded image that it meets in all outputs."""
    sh, sw, top, left, dh, dw = window
    (kh, kw), (oh, ow) = kernel, out
    height = max(shape[0] + top, (oh - 1) * sh + (kh - 1) * dh + 1)
    width = max(shape[1] + left, (ow - 1) * sw + (kw - 1) * dw + 1)
    taps = [
        (a, b, slice(a * dh, a * dh + (oh - 1) * sh + 1, sh), slice(b * dw, b * dw + (ow - 1) * sw + 1, sw))
        for a in range(kh)
        for b in range(kw)
    ]
    return height, width, taps


def _padded(x, height, width, window):
    _, _, top, left, _, _ = window
    padded = np.zeros((x.shape[0], height, width, x.shape[3]))
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    return padded


def conv_forward(x, w, bias, window, y):
    height, width, taps = _views(x.shape[1:3], window, y.shape[1:3], w.shape[:2])
    padded = _padded(x, height, width, window)
    total = np.zeros(y.shape) + (_wide(bias) if bias.size else 0)
    for a, b, rows, columns in taps:
        total += padded[:, rows, columns] @ _wide(w[a, b])
    y[:] = total


def conv_backward_x(dy, w, window, dx):
    _, _, top, left, _, _ = window
    height, width, taps = _views(dx.shape[1:3], window, dy.shape[1:3], w.shape[:2])
    padded = np.zeros((dx.shape[0], height, width, dx.shape[3]))
    for a, b, rows, columns in taps:
        padded[:, rows, columns] += _wide(dy) @ _wide(w[a, b]).T
    dx[:] = padded[:, top : top + dx.shape[1], left : left + dx.shape[2]]


def conv_backward_w(x, dy, window, dw):
    height, width, taps = _views(x.shape[1:3], window, dy.shape[1:3], dw.shape[:2])
    padded = _padded(x, height, width, window)
    for a, b, rows, columns in taps:
        dw[a, b] = np.tensordot(padded[:, rows, columns], _wide(dy), ((0, 1, 2), (0, 1, 2)))
