"""Softmax, its logarithm, the cross-entropy and the loss of log-probabilities, over rows of (m, n); float32 in float64.

    softmax         y = exp(x - max) / sum exp(x - max)          dx = y (dy - sum dy y)
    log_softmax     y = x - max - log sum exp(x - max)           dx = dy - exp(y) sum dy
    cross_entropy   loss = mean over rows of log sum exp(x - max) - (x[label] - max), in an array of one element
                    dx = (probs - onehot(label)) dy / m, with probs = softmax(logits) and dy an array of one element

    nll             losses (m,) = -(1 - smoothing) w[label] x[label] - smoothing / n * sum over the classes of w x, of x the
                    logarithms of probabilities and w the weights of the classes (n,);  0 where the label is `ignore`
                    dx = -dy (smoothing / n w + (1 - smoothing) w[label] onehot(label)), 0 in rows that are ignored
    nll_weights     weights (m,) = w[label], 0 where the label is `ignore`

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


@defined
def nll_forward(log_probs, labels, weight, ignore, smoothing, losses):
    kept = labels != ignore
    x, w = log_probs.astype(np.float64), weight.astype(np.float64)
    label = np.where(kept, labels, 0)[:, np.newaxis]
    own = np.take_along_axis(w * x, label, axis=1)[:, 0]
    losses[:] = np.where(kept, -(1 - smoothing) * own, 0)
    if smoothing:
        losses[:] = np.where(kept, -(1 - smoothing) * own - smoothing / x.shape[1] * (w * x).sum(axis=1), 0)


@defined
def nll_backward(dy, labels, weight, ignore, smoothing, dx):
    m, n = dx.shape
    kept = labels != ignore
    target = np.full((m, n), smoothing / n)
    target[np.arange(m), np.where(kept, labels, 0)] += 1 - smoothing
    dx[:] = np.where(kept[:, np.newaxis], -dy.astype(np.float64)[:, np.newaxis] * weight * target, 0)


@defined
def nll_weights(labels, weight, ignore, weights):
    kept = labels != ignore
    weights[:] = np.where(kept, weight[np.where(kept, labels, 0)], 0)
