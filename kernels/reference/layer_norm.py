"""Normalization of each row of x (m, n) by itself; float32 computed in float64.

    forward     mean = average of the row, or 0 where `centered` is False;  scale = 1 / sqrt(average of (x - mean)^2 + eps)
                y = gamma h + beta, with h = (x - mean) scale                   (Ba, Kiros and Hinton, "Layer normalization",
                2016; not centered: Zhang and Sennrich, "Root mean square layer normalization", 2019)
    backward    g = gamma dy;  dx = scale (g - average of g - h average of g h), without the second term if not centered
                dgamma = sum over the rows of dy h;  dbeta = sum of dy

gamma and beta are (n,), and so are dgamma and dbeta; or all four are (0,), for none. mean and scale are float64 (m,).
"""

import numpy as np

defined = np.errstate(all="ignore")


@defined
def layer_norm_forward(x, gamma, beta, eps, centered, y, mean, scale):
    x = x.astype(np.float64)
    mean[:] = x.mean(axis=1) if centered else 0
    h = x - mean[:, np.newaxis]
    scale[:] = 1 / np.sqrt((h * h).mean(axis=1) + eps)
    h *= scale[:, np.newaxis]
    y[:] = gamma.astype(np.float64) * h + beta if gamma.size else h


@defined
def layer_norm_backward(dy, x, gamma, mean, scale, centered, dx, dgamma, dbeta):
    dy = dy.astype(np.float64)
    h = (x - mean[:, np.newaxis]) * scale[:, np.newaxis]
    g = dy
    if gamma.size:
        dgamma[:], dbeta[:] = (dy * h).sum(axis=0), dy.sum(axis=0)
        g = gamma * dy
    slope = g - h * (g * h).mean(axis=1, keepdims=True)
    if centered:
        slope -= g.mean(axis=1, keepdims=True)
    dx[:] = scale[:, np.newaxis] * slope
