"""Softmax, its logarithm and the cross-entropy, over rows of (m, n); float32 computed in float64.

    softmax         y = exp(x - max) / sum exp(x - max)          dx = y (dy - sum dy y)
    log_softmax     y = x - max - log sum exp(x - max)           dx = dy - exp(y) sum dy
    cross_entropy   loss = mean over rows of log sum exp(x - max) - (x[label] - max), in an array of one element
                    dx = (probs - onehot(label)) dy / m, with probs = softmax(logits) and dy an array of one element

Subtracting the maximum of the row keeps exp from overflowing (e.g. I. Goodfellow et al., "Deep Learning", 2016,
section 4.1). A NaN or an infinite maximum makes its whole row NaN.
"""

import numpy as np

defined = np.errstate(all="ignore")


def _shifted(x):
    """Rows minus their maximum, in float64."""
    x = x.astype(np.float64)
    return x - x.max(axis=1, keepdims=True)


def _log_sum_exp(x):
    return np.log(np.exp(x).sum(axis=1, keepdims=True))


@defined
def softmax_forward(x, y):
    e = np.exp(_shifted(x))
    y[:] = e / e.sum(axis=1, keepdims=True)


@defined
def softmax_backward(dy, y, dx):
    dy, y = dy.astype(np.float64), y.astype(np.float64)
    dx[:] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


@defined
def log_softmax_forward(x, y):
    x = _shifted(x)
    y[:] = x - _log_sum_exp(x)


@defined
def log_softmax_backward(dy, y, dx):
    dy, y = dy.astype(np.float64), y.astype(np.float64)
    dx[:] = dy - np.exp(y) * dy.sum(axis=1, keepdims=True)


@defined
def cross_entropy_forward(logits, labels, probs, loss):
    softmax_forward(logits, probs)
    x = _shifted(logits)
    loss[:] = np.mean(_log_sum_exp(x) - x[np.arange(len(x)), labels, np.newaxis])


@defined
def cross_entropy_backward(dy, probs, labels, dx):
    difference = probs.astype(np.float64)
    difference[np.arange(len(labels)), labels] -= 1
    dx[:] = difference * (dy[0].astype(np.float64) / len(labels))
