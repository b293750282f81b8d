"""What a step of an optimizer makes of one element; the formulas are in kernels/reference/optim.py.

Written once, in plain Python; every target compiles them with the flags of its kernels, which may contract a product and
a sum. Each gives the new parameter, and after it the new state.
"""

import numpy as np

from minigrad.kernels.bits import select, sqrt

ZERO = np.int8(0)  # takes on the type of what it meets


def sgd(p, g, lr, weight_decay):
    """Gradient descent."""
    return p - lr * (g + weight_decay * p)


def momentum_sgd(p, g, v, lr, momentum, nesterov, weight_decay):
    """Gradient descent with a velocity v, by Nesterov's form if `nesterov`."""
    gradient = g + weight_decay * p
    velocity = momentum * v + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return p - lr * step, velocity


def adagrad(p, g, s, lr, eps, weight_decay):
    """AdaGrad, s being the sum of the squares."""
    gradient = g + weight_decay * p
    total = s + gradient * gradient
    return p - lr * gradient / (sqrt(total) + eps), total


def rmsprop(p, g, s, lr, alpha, rest, eps, weight_decay):
    """RMSprop, s being the average of the squares; rest is 1 - alpha."""
    gradient = g + weight_decay * p
    square = alpha * s + rest * (gradient * gradient)
    return p - lr * (gradient / (sqrt(square) + eps)), square


def momentum_rmsprop(p, g, s, v, lr, alpha, rest, eps, momentum, weight_decay):
    """RMSprop with a velocity v."""
    gradient = g + weight_decay * p
    square = alpha * s + rest * (gradient * gradient)
    velocity = momentum * v + gradient / (sqrt(square) + eps)
    return p - lr * velocity, square, velocity


def centered_rmsprop(p, g, s, m, v, lr, alpha, rest, eps, momentum, centered, weight_decay):
    """RMSprop by the variance, of which rounding may leave less than nothing; m is the average, `centered` 0 or 1."""
    gradient = g + weight_decay * p
    square = alpha * s + rest * (gradient * gradient)
    mean = alpha * m + rest * gradient
    variance = square - centered * (mean * mean)
    root = sqrt(select(variance < ZERO, ZERO, variance))
    velocity = momentum * v + gradient / (root + eps)
    return p - lr * velocity, square, mean, velocity


def adam(p, g, m, v, lr, root_scale, beta1, rest1, beta2, rest2, eps, weight_decay, kept):
    """Adam, m and v being the averages; lr and root_scale hold the bias corrections, rest1 and rest2 are 1 - beta.

    AdamW's decay is in `kept`, the share of the parameter that stays, 1 for Adam.
    """
    gradient = g + weight_decay * p
    mean = beta1 * m + rest1 * gradient
    square = beta2 * v + rest2 * (gradient * gradient)
    return kept * p - lr * mean / (sqrt(square) * root_scale + eps), mean, square


def average(a, p, kept, rest):
    """A running average a of p; rest is 1 - kept."""
    return kept * a + rest * p


def clip(g, limit):
    """At least -limit and at most limit; NaN stays."""
    return select(g > limit, limit, select(g < -limit, -limit, g))
