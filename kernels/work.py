"""The least that a call of a kernel has to do: floating-point operations, and bytes moved once.

One function for each kernel that multiplies, or that touches its arrays otherwise than reading or writing each of them once.
They take the arguments of the kernel of that name in kernels/reference, so they serve every device; a test holds them to its
signature.

A multiplication and an addition each count once; products with zeros of the padding are counted, whether the kernel makes
them or not.
"""

import math
from typing import NamedTuple

import numpy as np

from minigrad.kernels.activations import IDENTITY, SIGMOID


class Work(NamedTuple):
    """Of one call; `operations` is None where the bytes tell how long it must take."""

    operations: int | None
    bytes: int


def nbytes(*arguments):
    """Of all arrays among arguments, also of those in lists."""
    arrays = [a for a in arguments if hasattr(a, "nbytes") and not isinstance(a, np.generic)]
    return sum(a.nbytes for a in arrays) + sum(nbytes(*a) for a in arguments if isinstance(a, list))


def gemm(a, b, bias, c, trans_a, trans_b):
    return Work(2 * a.size * c.shape[1], nbytes(a, b, bias, c))


def gemm_add(a, b, c, trans_a, trans_b):
    return Work(2 * a.size * c.shape[1], nbytes(a, b, c, c))


def gemm_batched(a, b, c, trans_a, trans_b):
    return Work(2 * a.size * c.shape[2], nbytes(a, b, c))


def conv_forward(x, w, bias, window, y):
    return Work(2 * w.size * math.prod(y.shape[:3]), nbytes(x, w, bias, y))


def conv_backward_x(dy, w, window, dx):
    return Work(2 * w.size * math.prod(dy.shape[:3]), nbytes(dy, w, dx))


def conv_backward_w(x, dy, window, dw):
    return Work(2 * dw.size * math.prod(dy.shape[:3]), nbytes(x, dy, dw))


def depthwise_forward(x, w, bias, window, y):
    return conv_forward(x, w, bias, window, y)


def depthwise_backward_x(dy, w, window, dx):
    return conv_backward_x(dy, w, window, dx)


def depthwise_backward_w(x, dy, window, dw):
    return conv_backward_w(x, dy, window, dw)


def depthwise_backward(x, dy, w, window, dx, dw):
    return Work(4 * w.size * math.prod(dy.shape[:3]), nbytes(x, dy, w, dx, dw))


def attention_forward(q, k, v, mask, each, scale, causal, rate, key, y, lse):
    return Work(2 * products_of(q, k, v), nbytes(q, k, v, mask, y, lse))


def attention_backward(dy, q, k, v, mask, each, scale, causal, rate, key, y, lse, dq, dk, dv):
    (b, n, e), s = q.shape, k.shape[1]
    return Work(4 * products_of(q, k, v) + 2 * b * n * s * e, nbytes(dy, q, k, v, mask, y, lse, dq, dk, dv))


def products_of(q, k, v):
    """Multiplications of q k^T and of weights by v, those with keys that take no part counted too."""
    return q.shape[0] * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2])


# Recurrent layers: the products of all steps; what is read and written again at every step is that of one sequence in memory.


def rnn_forward(h0, w_hh, with_relu, reverse, y):
    return Work(2 * y.size * w_hh.shape[1], nbytes(h0, w_hh, y, y))


def rnn_backward(dy, y, w_hh, with_relu, reverse, dgates, dh0):
    return Work(2 * y.size * w_hh.shape[1], nbytes(dy, y, w_hh, dgates, dh0))


def lstm_forward(h0, c0, w_hh, reverse, gates, c, y):
    return Work(2 * y.size * w_hh.shape[1], nbytes(h0, c0, w_hh, gates, gates, c, y))


def lstm_backward(dy, dc, gates, c0, c, w_hh, reverse, dgates, dh0, dc0):
    return Work(2 * c.size * w_hh.shape[1], nbytes(dy, dc, gates, c0, c, w_hh, dgates, dh0, dc0))


def gru_forward(h0, w_hh, b_hh, reverse, gates, hidden, y):
    return Work(2 * y.size * w_hh.shape[1], nbytes(h0, w_hh, b_hh, gates, gates, hidden, y))


def gru_backward(dy, gates, hidden, h0, y, w_hh, reverse, dgates, dhidden, dh0):
    return Work(2 * y.size * w_hh.shape[1], nbytes(dy, gates, hidden, h0, y, w_hh, dgates, dhidden, dh0))


# Batch norm works on the columns of y and dy that its x has, and reads y only where the activation's gradient needs it.


def batch_norm_forward(
    x, gamma, beta, eps, activation, y, column, mean, var, decay, running_mean, running_var
):  # fmt: skip
    return Work(None, nbytes(x, x, gamma, beta, mean, var, running_mean, running_var))


def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    from_y = x.nbytes if activation == SIGMOID else 0
    return Work(None, nbytes(x, x, dx, gamma, beta, mean, var, dgamma, dbeta) + from_y)


def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    return batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta)


def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    from_y = x.nbytes if activation == SIGMOID else 0
    return Work(None, nbytes(x, x, gamma, beta, mean, var, dgamma, dbeta) + from_y)


def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    return Work(None, nbytes(x, x, gamma, beta, mean, var))


def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    return Work(None, nbytes(x, x, gamma, beta, mean, var))


def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    return batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta)


def batch_norms_forward(
    xs, gammas, betas, eps, activations, y, columns, means, variances, decays, running_means, running_vars
):  # fmt: skip
    return Work(None, nbytes(xs, xs, gammas, betas, means, variances, running_means, running_vars))


def batch_norms_backward(dy, xs, y, columns, gammas, betas, means, variances, eps, activations, dxs, dgammas, dbetas):
    from_y = [x for x, activation in zip(xs, activations, strict=True) if activation == SIGMOID]
    return Work(None, nbytes(xs, xs, dxs, from_y, gammas, betas, means, variances, dgammas, dbetas))


def activate(x, activation, y, column):
    return Work(None, nbytes(x, x))


def activate_backward(dy, y, column, activation, dx):
    return Work(None, nbytes(dx, dx) + (0 if activation == IDENTITY else dx.nbytes))


def strided_read(x, shape, strides, offset, y):
    return Work(None, nbytes(y, y))


def strided_write(x, shape, strides, offset, y):
    return Work(None, nbytes(x, x))


def resample(x, rows, row_weights, columns, column_weights, y):
    return Work(None, nbytes(x, y))


# Optimizers read and write parameters and state.


def sgd(params, grads, velocities, groups, hyper):
    return Work(None, nbytes(params, params, grads, velocities, velocities))


def adagrad(params, grads, sums, groups, hyper):
    return Work(None, nbytes(params, params, grads, sums, sums))


def rmsprop(params, grads, squares, means, velocities, groups, hyper):
    states = [*squares, *means, *velocities]
    return Work(None, nbytes(params, params, grads, states, states))


def adam(params, grads, means, squares, counts, groups, decoupled, hyper):
    return Work(None, nbytes(params, params, grads, means, means, squares, squares))


def average(params, averages, counts, decay):
    return Work(None, nbytes(params, averages, averages))


FUNCTIONS = {
    "gemm.gemm": gemm,
    "gemm.gemm_add": gemm_add,
    "gemm.gemm_batched": gemm_batched,
    "attention.attention_forward": attention_forward,
    "attention.attention_backward": attention_backward,
    "conv.conv_forward": conv_forward,
    "conv.conv_backward_x": conv_backward_x,
    "conv.conv_backward_w": conv_backward_w,
    "depthwise.depthwise_forward": depthwise_forward,
    "depthwise.depthwise_backward_x": depthwise_backward_x,
    "depthwise.depthwise_backward_w": depthwise_backward_w,
    "depthwise.depthwise_backward": depthwise_backward,
    "recurrent.rnn_forward": rnn_forward,
    "recurrent.rnn_backward": rnn_backward,
    "recurrent.lstm_forward": lstm_forward,
    "recurrent.lstm_backward": lstm_backward,
    "recurrent.gru_forward": gru_forward,
    "recurrent.gru_backward": gru_backward,
    "norm.batch_norm_forward": batch_norm_forward,
    "norm.batch_norm_backward": batch_norm_backward,
    "norm.batch_norm_gradient": batch_norm_gradient,
    "norm.batch_norm_inference": batch_norm_inference,
    "norm.batch_norm_inference_backward": batch_norm_inference_backward,
    "norm.batch_norms_forward": batch_norms_forward,
    "norm.batch_norm_normalize": batch_norm_normalize,
    "norm.batch_norm_sums": batch_norm_sums,
    "norm.batch_norms_backward": batch_norms_backward,
    "elementwise.activate": activate,
    "elementwise.activate_backward": activate_backward,
    "movement.strided_read": strided_read,
    "movement.strided_write": strided_write,
    "resample.resample": resample,
    "optim.sgd": sgd,
    "optim.adagrad": adagrad,
    "optim.rmsprop": rmsprop,
    "optim.adam": adam,
    "optim.average": average,
}


def work_of(kernel, arguments):
    """Of a call of the kernel "family.name" with these arguments; any other kernel moves each of its arrays once."""
    function = FUNCTIONS.get(kernel)
    return function(*arguments) if function else Work(None, nbytes(*arguments))
