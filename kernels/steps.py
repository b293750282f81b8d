"""What a step of an optimizer makes of one element; the formulas are in kernels/reference/optim.py.

Written once, in plain Python; every target compiles them with the flags of its kernels, which may contract a product and
a sum. Each gives the new parameter, and after it the new state.
"""

from minigrad.kernels.bits import sqrt


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


def adam(p, g, m, v, lr, root_scale, beta1, rest1, beta2, rest2, eps, weight_decay):
    """Adam, m and v being the averages; lr and root_scale hold the bias corrections, rest1 and rest2 are 1 - beta."""
    gradient = g + weight_decay * p
    mean = beta1 * m + rest1 * gradient
    square = beta2 * v + rest2 * (gradient * gradient)
    return p - lr * mean / (sqrt(square) * root_scale + eps), mean, square
