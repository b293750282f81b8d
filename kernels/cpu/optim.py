"""Optimizers: one launch updates all parameters, a share of them by each thread. Formulas: kernels/reference/optim.py.

Sums and products are in the type of the parameters; Adam's bias corrections in float64.
"""

import numpy as np
from numba import prange

from minigrad.kernels import steps
from minigrad.kernels.cpu.tools.launch import GRAIN, inlined, parallel_kernel, team_size
from minigrad.kernels.cpu.tools.pointers import array_at, pack

SHARED = 1 << 14  # elements of an array from which all threads work on it
LINE = 16  # elements that shares are a multiple of: of aligned arrays no two threads write to one cache line
LARGE = 2 * GRAIN  # these loops only move memory: a parallel region pays later than elsewhere

sgd_step = inlined(steps.sgd)
momentum_sgd_step = inlined(steps.momentum_sgd)
adagrad_step = inlined(steps.adagrad)
adam_step = inlined(steps.adam)


def is_large(total, *arguments):
    """Whether there are enough elements for all threads."""
    return total >= LARGE


def describe(params):
    """(elements in all, sizes, an array of the dtype) of a list of parameters."""
    sizes = [p.size for p in params]
    return sum(sizes), np.array(sizes, np.int64), params[0].reshape(-1)


@inlined
def least_shared(sizes):
    """Elements of an array from which all threads work on it: fewer where small arrays are much of the work."""
    small = 0
    for size in sizes:
        small += size if size < SHARED else 0
    return SHARED if small < LARGE else 1


@inlined
def share(size, thread, threads, least):
    """(start, size) of a thread's part of an array: the same part of the weights that it has in products."""
    if size < least:
        return 0, size if thread == 0 else 0
    start = size // LINE * thread // threads * LINE
    end = size // LINE * (thread + 1) // threads * LINE if thread + 1 < threads else size
    return start, end - start


def prepare_sgd(params, grads, velocities, hyper):
    return *describe(params), pack(params), pack(grads), pack(velocities), hyper


@parallel_kernel(is_large=is_large, prepare=prepare_sgd)
def sgd(total, sizes, like, params, grads, velocities, hyper):
    scalar = like.dtype.type
    lr, momentum, nesterov, weight_decay = scalar(hyper[0]), scalar(hyper[1]), hyper[2] != 0, scalar(hyper[3])
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        if velocities.size == 0:
            for k in range(size):
                p[k] = sgd_step(p[k], g[k], lr, weight_decay)
        else:
            v = array_at(velocities, i, start, size, like)
            if nesterov:
                for k in range(size):
                    p[k], v[k] = momentum_sgd_step(p[k], g[k], v[k], lr, momentum, True, weight_decay)
            else:
                for k in range(size):
                    p[k], v[k] = momentum_sgd_step(p[k], g[k], v[k], lr, momentum, False, weight_decay)


def prepare_adagrad(params, grads, sums, hyper):
    return *describe(params), pack(params), pack(grads), pack(sums), hyper


@parallel_kernel(is_large=is_large, prepare=prepare_adagrad)
def adagrad(total, sizes, like, params, grads, sums, hyper):
    scalar = like.dtype.type
    lr, eps, weight_decay = scalar(hyper[0]), scalar(hyper[1]), scalar(hyper[2])
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        s = array_at(sums, i, start, size, like)
        for k in range(size):
            p[k], s[k] = adagrad_step(p[k], g[k], s[k], lr, eps, weight_decay)


def prepare_adam(params, grads, means, squares, step, hyper):
    return *describe(params), pack(params), pack(grads), pack(means), pack(squares), step, hyper


@parallel_kernel(is_large=is_large, prepare=prepare_adam)
def adam(total, sizes, like, params, grads, means, squares, step, hyper):
    scalar = like.dtype.type
    step[0] += 1
    mean_correction = 1 - hyper[1] ** step[0]
    square_correction = 1 - hyper[2] ** step[0]
    lr = scalar(hyper[0] / mean_correction)
    root_scale = scalar(1 / np.sqrt(square_correction))
    beta1, beta2, eps, weight_decay = scalar(hyper[1]), scalar(hyper[2]), scalar(hyper[3]), scalar(hyper[4])
    rest1, rest2 = scalar(1 - hyper[1]), scalar(1 - hyper[2])
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        m = array_at(means, i, start, size, like)
        v = array_at(squares, i, start, size, like)
        for k in range(size):
            p[k], m[k], v[k] = adam_step(
                p[k], g[k], m[k], v[k], lr, root_scale, beta1, rest1, beta2, rest2, eps, weight_decay
            )
