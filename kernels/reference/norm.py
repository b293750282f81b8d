"""Batch normalization (Ioffe and Szegedy, 2015) over the m rows of x (m, c); the other arrays are (c,).

    batch_norm_forward              mean, var = statistics of the rows (var with divisor m)
                                    y = gamma h + beta, h = (x - mean) / sqrt(var + eps)              (Algorithm 1)
    batch_norm_backward             dgamma = sum dy h;  dbeta = sum dy
                                    dx = gamma / sqrt(var + eps) (dy - dbeta / m - h dgamma / m)      (section 3)
    batch_norm_inference            y as above, with mean and var given                               (Algorithm 2)
    batch_norm_inference_backward   dgamma and dbeta as above; dx = dy gamma / sqrt(var + eps)
    running_update                  running = decay running + (1 - decay) statistic, in which var of m rows counts as
                                    var m / (m - 1), the unbiased estimate; m >= 2

float32 is computed in float64, var from the differences to the mean.
"""

import numpy as np

defined = np.errstate(all="ignore")


def _wide(x):
    """x in float64, which every function below computes in."""
    return x.astype(np.float64)


def _normalized(x, mean, var, eps):
    """(h, 1 / sqrt(var + eps))."""
    inverse_std = 1 / np.sqrt(_wide(var) + eps)
    return (_wide(x) - mean) * inverse_std, inverse_std


@defined
def batch_norm_forward(x, gamma, beta, eps, y, mean, var):
    batch_mean = _wide(x).mean(axis=0)
    batch_var = np.square(x - batch_mean).mean(axis=0)
    mean[:], var[:] = batch_mean, batch_var
    y[:] = gamma * _normalized(x, batch_mean, batch_var, eps)[0] + beta


@defined
def batch_norm_backward(dy, x, gamma, mean, var, eps, dx, dgamma, dbeta):
    h, inverse_std = _normalized(x, mean, var, eps)
    dy = _wide(dy)
    dx[:] = gamma * inverse_std * (dy - dy.mean(axis=0) - h * (dy * h).mean(axis=0))
    dgamma[:], dbeta[:] = (dy * h).sum(axis=0), dy.sum(axis=0)


@defined
def batch_norm_inference(x, gamma, beta, mean, var, eps, y):
    y[:] = gamma * _normalized(x, mean, var, eps)[0] + beta


@defined
def batch_norm_inference_backward(dy, x, gamma, mean, var, eps, dx, dgamma, dbeta):
    h, inverse_std = _normalized(x, mean, var, eps)
    dy = _wide(dy)
    dx[:] = dy * gamma * inverse_std
    dgamma[:], dbeta[:] = (dy * h).sum(axis=0), dy.sum(axis=0)


@defined
def running_update(mean, var, m, decay, running_mean, running_var):
    running_mean[:] = decay * _wide(running_mean) + (1 - decay) * _wide(mean)
    running_var[:] = decay * _wide(running_var) + (1 - decay) * _wide(var) * m / (m - 1)
