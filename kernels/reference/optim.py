"""One step of an optimizer over lists of arrays, which are changed in place; float32 computed in float64.

Every gradient is first extended by weight decay, g = grad + weight_decay p; the arrays of gradients are only read.

    sgd       hyper (lr, momentum, nesterov 0 or 1, weight_decay); velocities is [] where momentum is 0
              v = momentum v + g;  p -= lr v, or lr (g + momentum v) for Nesterov's form
              (Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013)
    adagrad   hyper (lr, eps, weight_decay)
              s += g^2;  p -= lr g / (sqrt(s) + eps)                             (Duchi, Hazan and Singer, 2011)
    adam      hyper (lr, beta1, beta2, eps, weight_decay); step, a float64 array of one element, counts the calls: t
              m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
              p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)                   (Kingma and Ba, 2015)
"""

import numpy as np

defined = np.errstate(all="ignore")


def _decayed(p, grad, weight_decay):
    """(p, g) in float64."""
    p = p.astype(np.float64)
    return p, grad + weight_decay * p


@defined
def sgd(params, grads, velocities, hyper):
    lr, momentum, nesterov, weight_decay = hyper
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        p, g = _decayed(param, grad, weight_decay)
        step = g
        if velocities:
            v = momentum * velocities[i].astype(np.float64) + g
            velocities[i][...] = v
            step = g + momentum * v if nesterov else v
        param[...] = p - lr * step


@defined
def adagrad(params, grads, sums, hyper):
    lr, eps, weight_decay = hyper
    for param, grad, total in zip(params, grads, sums, strict=True):
        p, g = _decayed(param, grad, weight_decay)
        s = total + g * g
        total[...] = s
        param[...] = p - lr * g / (np.sqrt(s) + eps)


@defined
def adam(params, grads, means, squares, step, hyper):
    lr, beta1, beta2, eps, weight_decay = hyper
    step[0] += 1
    for param, grad, mean, square in zip(params, grads, means, squares, strict=True):
        p, g = _decayed(param, grad, weight_decay)
        m = beta1 * mean + (1 - beta1) * g
        v = beta2 * square + (1 - beta2) * g * g
        mean[...], square[...] = m, v
        m_hat = m / (1 - beta1 ** step[0])
        v_hat = v / (1 - beta2 ** step[0])
        param[...] = p - lr * m_hat / (np.sqrt(v_hat) + eps)
