"""One step of an optimizer over lists of arrays, which are changed in place; float32 computed in float64.

Every gradient is first extended by weight decay, g = grad + weight_decay p; the arrays of gradients are only read.
Hyperparameters are those of the array's group: array i has row groups[i] of `hyper`.

    sgd       hyper (lr, momentum, nesterov 0 or 1, weight_decay); velocities is [] where momentum is 0 in all groups
              v = momentum v + g;  p -= lr v, or lr (g + momentum v) for Nesterov's form
              (Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013)
    adagrad   hyper (lr, eps, weight_decay)
              s += g^2;  p -= lr g / (sqrt(s) + eps)                             (Duchi, Hazan and Singer, 2011)
    rmsprop   hyper (lr, alpha, eps, weight_decay, momentum, centered 0 or 1); means is [] where no group is centered, and
              velocities where momentum is 0 in all groups
              s = alpha s + (1 - alpha) g^2;  m = alpha m + (1 - alpha) g
              v = momentum v + g / (sqrt(s - centered m^2) + eps);  p -= lr v
              (Tieleman and Hinton, 2012; centered: Graves, "Generating sequences with recurrent neural networks", 2013);
              a variance that rounding has made negative is 0
    adam      hyper (lr, beta1, beta2, eps, weight_decay); counts, a float64 array of one element for each array, counts its
              updates: t
              m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
              p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)                   (Kingma and Ba, 2015)
              decoupled: g = grad, and p is first multiplied by 1 - lr weight_decay    (AdamW; Loshchilov and Hutter, 2019)
    grad_total   total (1,) float64 += sum of |g|^order over all elements, order 1 or 2; order 0: total = largest |g|, or
              the total itself
    clip_norm    norm (1,) float64 = total, or its root for order 2;  clipped = g min(1, limit / (norm + 1e-6))
              (Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013)
    clip_value   clipped = g, at least -limit and at most limit
    average   a = decay a + (1 - decay) p, and a = p at the first of the updates that counts counts   (Polyak and Juditsky,
              1992, with weights that fall off)
"""

import numpy as np

defined = np.errstate(all="ignore")


def _decayed(p, grad, weight_decay):
    """(p, g) in float64."""
    p = p.astype(np.float64)
    return p, grad + weight_decay * p


@defined
def sgd(params, grads, velocities, groups, hyper):
    for i, (param, grad, group) in enumerate(zip(params, grads, groups, strict=True)):
        lr, momentum, nesterov, weight_decay = hyper[group]
        p, g = _decayed(param, grad, weight_decay)
        step = g
        if velocities:
            v = momentum * velocities[i].astype(np.float64) + g
            velocities[i][...] = v
            step = g + momentum * v if nesterov else v
        param[...] = p - lr * step


@defined
def adagrad(params, grads, sums, groups, hyper):
    for param, grad, total, group in zip(params, grads, sums, groups, strict=True):
        lr, eps, weight_decay = hyper[group]
        p, g = _decayed(param, grad, weight_decay)
        s = total + g * g
        total[...] = s
        param[...] = p - lr * g / (np.sqrt(s) + eps)


@defined
def rmsprop(params, grads, squares, means, velocities, groups, hyper):
    for i, (param, grad, square, group) in enumerate(zip(params, grads, squares, groups, strict=True)):
        lr, alpha, eps, weight_decay, momentum, centered = hyper[group]
        p, g = _decayed(param, grad, weight_decay)
        variance = s = alpha * square + (1 - alpha) * g * g
        square[...] = s
        if means:
            m = alpha * means[i] + (1 - alpha) * g
            means[i][...] = m
            variance = s - centered * m * m
            variance = np.where(variance < 0, 0, variance)
        step = g / (np.sqrt(variance) + eps)
        if velocities:
            step = momentum * velocities[i] + step
            velocities[i][...] = step
        param[...] = p - lr * step


@defined
def adam(params, grads, means, squares, counts, groups, decoupled, hyper):
    for param, grad, mean, square, count, group in zip(params, grads, means, squares, counts, groups, strict=True):
        lr, beta1, beta2, eps, weight_decay = hyper[group]
        count[0] += 1
        p, g = _decayed(param, grad, 0 if decoupled else weight_decay)
        m = beta1 * mean + (1 - beta1) * g
        v = beta2 * square + (1 - beta2) * g * g
        mean[...], square[...] = m, v
        m_hat = m / (1 - beta1 ** count[0])
        v_hat = v / (1 - beta2 ** count[0])
        kept = 1 - lr * weight_decay if decoupled else 1
        param[...] = kept * p - lr * m_hat / (np.sqrt(v_hat) + eps)


@defined
def average(params, averages, counts, decay):
    for param, mean, count in zip(params, averages, counts, strict=True):
        count[0] += 1
        kept = 0 if count[0] == 1 else decay
        mean[...] = kept * mean.astype(np.float64) + (1 - kept) * param


@defined
def grad_total(grads, order, total):
    for grad in grads:
        g = np.abs(grad.astype(np.float64))
        total[0] = np.max(g, initial=total[0]) if order == 0 else total[0] + np.sum(g**order)


@defined
def clip_norm(grads, total, order, limit, clipped, norm):
    norm[0] = np.sqrt(total[0]) if order == 2 else total[0]
    scale = np.minimum(1, limit / (norm[0] + 1e-6))
    for grad, y in zip(grads, clipped, strict=True):
        y[...] = scale * grad.astype(np.float64)


@defined
def clip_value(grads, limit, clipped):
    for grad, y in zip(grads, clipped, strict=True):
        y[...] = np.clip(grad, -limit, limit)
