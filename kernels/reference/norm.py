"""Batch normalization (Ioffe and Szegedy, 2015) over the m rows of x (m, c), and the activation after it.

    batch_norm_forward              mean, var = statistics of the rows (var with divisor m)
                                    y = f(gamma h + beta), h = (x - mean) / sqrt(var + eps)           (Algorithm 1)
                                    running_mean, running_var by running_update, or (0,) for none
    batch_norm_backward             dz = dy f'(gamma h + beta);  dgamma = sum dz h;  dbeta = sum dz
                                    dx = gamma / sqrt(var + eps) (dz - dbeta / m - h dgamma / m)      (section 3)
    batch_norm_statistics, batch_norm_normalize   the two halves of batch_norm_forward: mean and var, then y by any mean and var
    batch_norm_sums, batch_norm_gradient          those of batch_norm_backward: dgamma and dbeta, then dx by any such two
    batch_norms_forward, batch_norms_backward   the same for many x, gamma, ..., given as lists, in columns of one y and dy
    batch_norm_inference            y as above, with mean and var given                               (Algorithm 2)
    batch_norm_inference_backward   dgamma and dbeta as above; dx = dz gamma / sqrt(var + eps)
    running_update                  running = decay running + (1 - decay) statistic, in which var of m rows counts as
                                    var m / (m - 1), the unbiased estimate; m >= 2

f is given by its number in kernels/activations.py. y and dy may have more columns than x: their c columns from `column`
on are the ones meant, and of y only those are written. The other arrays are (c,), or (m, c) as x.
float32 is computed in float64, var from the differences to the mean.
"""

import numpy as np

from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.one_by_one import one_by_one
from minigrad.kernels.reference import elementwise

defined = np.errstate(all="ignore")


def _wide(x):
    """x in float64, which every function below computes in."""
    return x.astype(np.float64)


def _normalized(x, mean, var, eps):
    """(h, 1 / sqrt(var + eps))."""
    inverse_std = 1 / np.sqrt(_wide(var) + eps)
    return (_wide(x) - mean) * inverse_std, inverse_std


def _put(z, activation, y, column):
    """The columns of y = activation of z, which is rounded first, as the result of batch norm alone would be."""
    z = z.astype(y.dtype)
    if activation == RELU:
        elementwise.relu_forward(z, z)
    elif activation == SIGMOID:
        elementwise.sigmoid_forward(z, z)
    y[:, column : column + z.shape[1]] = z


def _before_activation(dy, y, column, z, activation):
    """dz, from dy in its columns."""
    columns = slice(column, column + z.shape[1])
    dz = dy[:, columns].copy()
    if activation == RELU:
        elementwise.relu_backward(dz, z.astype(dy.dtype), dz)
    elif activation == SIGMOID:
        elementwise.sigmoid_backward(dz, y[:, columns], dz)
    return _wide(dz)


def batch_norm_forward(
    x, gamma, beta, eps, activation, y, column, mean, var, decay, running_mean, running_var
):  # fmt: skip
    batch_norm_statistics(x, mean, var)
    batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column)
    if running_mean.size:
        running_update(mean, var, len(x), decay, running_mean, running_var)


@defined
def batch_norm_statistics(x, mean, var):
    mean[:] = _wide(x).mean(axis=0)
    var[:] = np.square(x - mean).mean(axis=0)


@defined
def batch_norm_normalize(x, gamma, beta, mean, var, eps, activation, y, column):
    _put(gamma * _normalized(x, mean, var, eps)[0] + beta, activation, y, column)


@defined
def batch_norm_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    h, inverse_std = _normalized(x, mean, var, eps)
    dz = _before_activation(dy, y, column, gamma * h + beta, activation)
    dx[:] = gamma * inverse_std * (dz - dz.mean(axis=0) - h * (dz * h).mean(axis=0))
    dgamma[:], dbeta[:] = (dz * h).sum(axis=0), dz.sum(axis=0)


@defined
def batch_norm_sums(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta):
    h, _ = _normalized(x, mean, var, eps)
    dz = _before_activation(dy, y, column, gamma * h + beta, activation)
    dgamma[:], dbeta[:] = (dz * h).sum(axis=0), dz.sum(axis=0)


@defined
def batch_norm_gradient(dy, x, y, column, gamma, beta, mean, var, eps, activation, dgamma, dbeta, dx):
    h, inverse_std = _normalized(x, mean, var, eps)
    dz = _before_activation(dy, y, column, gamma * h + beta, activation)
    m = len(x)
    dx[:] = gamma * inverse_std * (dz - _wide(dbeta) / m - h * (_wide(dgamma) / m))


def batch_norms_forward(
    xs, gammas, betas, eps, activations, y, columns, means, variances, decays, running_means, running_vars
):  # fmt: skip
    given = xs, gammas, betas, eps, activations, y, columns, means, variances, decays, running_means, running_vars
    one_by_one(batch_norm_forward, *given)


def batch_norms_backward(dy, xs, y, columns, gammas, betas, means, variances, eps, activations, dxs, dgammas, dbetas):
    given = gammas, betas, means, variances, eps, activations
    one_by_one(batch_norm_backward, dy, xs, y, columns, *given, dxs, dgammas, dbetas)


@defined
def batch_norm_inference(x, gamma, beta, mean, var, eps, activation, y, column):
    _put(gamma * _normalized(x, mean, var, eps)[0] + beta, activation, y, column)


@defined
def batch_norm_inference_backward(dy, x, y, column, gamma, beta, mean, var, eps, activation, dx, dgamma, dbeta):
    h, inverse_std = _normalized(x, mean, var, eps)
    dz = _before_activation(dy, y, column, gamma * h + beta, activation)
    dx[:] = dz * gamma * inverse_std
    dgamma[:], dbeta[:] = (dz * h).sum(axis=0), dz.sum(axis=0)


@defined
def running_update(mean, var, m, decay, running_mean, running_var):
    running_mean[:] = decay * _wide(running_mean) + (1 - decay) * _wide(mean)
    running_var[:] = decay * _wide(running_var) + (1 - decay) * _wide(var) * m / (m - 1)
