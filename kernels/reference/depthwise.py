"""Depthwise convolution: channel q of y (n, oh, ow, k) sees channel q // m of x (n, h, w, c) alone, m = k / c.

    depthwise_forward      y[n, i, j, q] = bias[q] + sum over a, b of
                                           x[n, i sh + a dil_h - top, j sw + b dil_w - left, q // m] w[a, b, 0, q]
    depthwise_backward_x   dx, and
    depthwise_backward_w   dw: the transposed maps
    depthwise_backward     both

Weights are w (kh, kw, 1, k). `window` is a kernels.window.Window; what lies outside the image counts as zero. bias (k,), or
(0,) for none. For each channel of x it is the convolution of conv.py, of one channel by m.

float32 is computed in float64.
"""

from minigrad.kernels.reference.conv import conv_backward_w, conv_backward_x, conv_forward


def _channels(x, y):
    """For each channel of x: where it is, and where those of y are that see it."""
    c, k = x.shape[3], y.shape[3]
    m = k // c
    return [(slice(i, i + 1), slice(i * m, (i + 1) * m)) for i in range(c)]


def depthwise_forward(x, w, bias, window, y):
    for i, q in _channels(x, y):
        conv_forward(x[..., i], w[..., q], bias[q], window, y[..., q])


def depthwise_backward_x(dy, w, window, dx):
    for i, q in _channels(dx, dy):
        conv_backward_x(dy[..., q], w[..., q], window, dx[..., i])


def depthwise_backward_w(x, dy, window, dw):
    for i, q in _channels(x, dy):
        conv_backward_w(x[..., i], dy[..., q], window, dw[..., q])


def depthwise_backward(x, dy, w, window, dx, dw):
    depthwise_backward_x(dy, w, window, dx)
    depthwise_backward_w(x, dy, window, dw)
