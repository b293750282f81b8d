"""What optimizers make of one element: (param, first state, second state, third state) anew.

From the old ones, the gradient and the hyperparameters; the formulas are those of every target (kernels/steps.py).
"""

from minigrad.kernels import steps
from minigrad.kernels.cuda.tools.language import device_function, real

sgd_step = device_function(steps.sgd)
momentum_sgd_step = device_function(steps.momentum_sgd)
adagrad_step = device_function(steps.adagrad)
rmsprop_step = device_function(steps.rmsprop)
momentum_rmsprop_step = device_function(steps.momentum_rmsprop)
centered_rmsprop_step = device_function(steps.centered_rmsprop)
adam_step = device_function(steps.adam)
average_step = device_function(steps.average)
clip_step = device_function(steps.clip)


@device_function
def update_sgd(p, g, s, t, u, hyper):
    return sgd_step(p, g, real(hyper[0]), real(hyper[3])), s, t, u


@device_function
def update_momentum_sgd(p, g, v, t, u, hyper):
    nesterov = real(hyper[2]) != real(0)
    p, v = momentum_sgd_step(p, g, v, real(hyper[0]), real(hyper[1]), nesterov, real(hyper[3]))
    return p, v, t, u


@device_function
def update_adagrad(p, g, s, t, u, hyper):
    p, s = adagrad_step(p, g, s, real(hyper[0]), real(hyper[1]), real(hyper[2]))
    return p, s, t, u


@device_function
def update_rmsprop(p, g, s, t, u, numbers):
    lr, alpha, rest, eps = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    p, s = rmsprop_step(p, g, s, lr, alpha, rest, eps, real(numbers[4]))
    return p, s, t, u


@device_function
def update_momentum_rmsprop(p, g, s, v, u, numbers):
    lr, alpha, rest, eps = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    p, s, v = momentum_rmsprop_step(p, g, s, v, lr, alpha, rest, eps, real(numbers[5]), real(numbers[4]))
    return p, s, v, u


@device_function
def update_centered_rmsprop(p, g, s, m, u, numbers):
    lr, alpha, rest, eps = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    momentum, centered = real(numbers[5]), real(numbers[6])
    p, s, m, _ = centered_rmsprop_step(p, g, s, m, real(0), lr, alpha, rest, eps, momentum, centered, real(numbers[4]))
    return p, s, m, u


@device_function
def update_centered_momentum_rmsprop(p, g, s, m, v, numbers):
    lr, alpha, rest, eps = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    momentum, centered = real(numbers[5]), real(numbers[6])
    return centered_rmsprop_step(p, g, s, m, v, lr, alpha, rest, eps, momentum, centered, real(numbers[4]))


@device_function
def update_adam(p, g, m, v, u, numbers):
    lr, root_scale = real(numbers[0]), real(numbers[1])
    beta1, rest1, beta2, rest2 = real(numbers[2]), real(numbers[3]), real(numbers[4]), real(numbers[5])
    eps, weight_decay, kept = real(numbers[6]), real(numbers[7]), real(numbers[8])
    p, m, v = adam_step(p, g, m, v, lr, root_scale, beta1, rest1, beta2, rest2, eps, weight_decay, kept)
    return p, m, v, u


@device_function
def update_average(a, p, s, t, u, numbers):
    return average_step(a, p, real(numbers[0]), real(numbers[1])), s, t, u


@device_function
def update_scaled(y, g, s, t, u, numbers):
    return g * real(numbers[0]), s, t, u


@device_function
def update_clipped(y, g, s, t, u, numbers):
    return clip_step(g, real(numbers[0])), s, t, u
