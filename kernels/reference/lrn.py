"""Local response normalization (Krizhevsky, Sutskever and Hinton 2012, section 3.3) along the rows of x (m, c).

    local_response_norm_forward     y = x s^-beta,  s[j] = k + alpha * sum of x[i]^2 over the window of j
    local_response_norm_backward    dx[i] = dy[i] s[i]^-beta - 2 alpha beta x[i] * sum of dy[j] x[j] s[j]^(-beta - 1) over
                                    the j in whose windows i lies

The window of j goes from j - size // 2 to j + (size - 1) // 2, as far as there are channels. k > 0. float32 is computed
in float64.
"""

import numpy as np


def _window_sums(x, before, after):
    """Sum of x[:, j - before : j + after + 1] for every column j."""
    c = x.shape[1]
    sums = np.zeros_like(x)
    for j in range(c):
        sums[:, j] = x[:, max(j - before, 0) : j + after + 1].sum(axis=1)
    return sums


@np.errstate(all="ignore")
def local_response_norm_forward(x, size, alpha, beta, k, y):
    x = x.astype(np.float64)
    s = k + alpha * _window_sums(x * x, size // 2, (size - 1) // 2)
    y[:] = x * s**-beta


@np.errstate(all="ignore")
def local_response_norm_backward(dy, x, size, alpha, beta, k, dx):
    dy, x = dy.astype(np.float64), x.astype(np.float64)
    s = k + alpha * _window_sums(x * x, size // 2, (size - 1) // 2)
    shares = _window_sums(dy * x * s ** (-beta - 1), (size - 1) // 2, size // 2)
    dx[:] = dy * s**-beta - 2 * alpha * beta * x * shares
