"""Optimizers: one launch updates all parameters, a share of them by each thread. Formulas: kernels/reference/optim.py.

Sums and products are in the type of the parameters; Adam's bias corrections in float64. What differs from array to array,
by its group or its count of updates, is read or computed once for the array, before its loop.
"""

import numpy as np
from numba import prange

from minigrad.kernels import steps
from minigrad.kernels.cpu.tools.launch import GRAIN, SUMS, inlined, parallel_kernel, team_size
from minigrad.kernels.cpu.tools.pointers import array_at, pack

SHARED = 1 << 14  # elements of an array from which all threads work on it
LINE = 16  # elements that shares are a multiple of: of aligned arrays no two threads write to one cache line
PART = 1 << 13  # elements that are summed together, whatever the number of threads
LARGE = 2 * GRAIN  # these loops only move memory: a parallel region pays later than elsewhere

sgd_step = inlined(steps.sgd)
momentum_sgd_step = inlined(steps.momentum_sgd)
adagrad_step = inlined(steps.adagrad)
rmsprop_step = inlined(steps.rmsprop)
momentum_rmsprop_step = inlined(steps.momentum_rmsprop)
centered_rmsprop_step = inlined(steps.centered_rmsprop)
adam_step = inlined(steps.adam)
average_step = inlined(steps.average)
clip_step = inlined(steps.clip)


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


@inlined
def counted(counts, i, like):
    """One more update of array i: which it is."""
    count = array_at(counts, i, 0, 1, like)
    count[0] += 1
    return count[0]


def prepare_sgd(params, grads, velocities, groups, hyper):
    return *describe(params), pack(params), pack(grads), pack(velocities), np.array(groups, np.int64), hyper


@parallel_kernel(is_large=is_large, prepare=prepare_sgd)
def sgd(total, sizes, like, params, grads, velocities, groups, hyper):
    scalar = like.dtype.type
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        own = hyper[groups[i]]
        lr, momentum, nesterov, weight_decay = scalar(own[0]), scalar(own[1]), own[2] != 0, scalar(own[3])
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


def prepare_adagrad(params, grads, sums, groups, hyper):
    return *describe(params), pack(params), pack(grads), pack(sums), np.array(groups, np.int64), hyper


@parallel_kernel(is_large=is_large, prepare=prepare_adagrad)
def adagrad(total, sizes, like, params, grads, sums, groups, hyper):
    scalar = like.dtype.type
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        s = array_at(sums, i, start, size, like)
        own = hyper[groups[i]]
        lr, eps, weight_decay = scalar(own[0]), scalar(own[1]), scalar(own[2])
        for k in range(size):
            p[k], s[k] = adagrad_step(p[k], g[k], s[k], lr, eps, weight_decay)


def prepare_rmsprop(params, grads, squares, means, velocities, groups, hyper):
    lists = [pack(arrays) for arrays in (params, grads, squares, means, velocities)]
    return *describe(params), *lists, np.array(groups, np.int64), hyper


@parallel_kernel(is_large=is_large, prepare=prepare_rmsprop)
def rmsprop(total, sizes, like, params, grads, squares, means, velocities, groups, hyper):
    scalar = like.dtype.type
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        s = array_at(squares, i, start, size, like)
        own = hyper[groups[i]]
        lr, alpha, eps, weight_decay = scalar(own[0]), scalar(own[1]), scalar(own[2]), scalar(own[3])
        rest, momentum, centered = scalar(1 - own[1]), scalar(own[4]), scalar(own[5])
        # Without means or velocities nothing is read or written for them: a loop for each case.
        if means.size == 0 and velocities.size == 0:
            for k in range(size):
                p[k], s[k] = rmsprop_step(p[k], g[k], s[k], lr, alpha, rest, eps, weight_decay)
        elif means.size == 0:
            v = array_at(velocities, i, start, size, like)
            for k in range(size):
                p[k], s[k], v[k] = momentum_rmsprop_step(
                    p[k], g[k], s[k], v[k], lr, alpha, rest, eps, momentum, weight_decay
                )
        elif velocities.size == 0:
            m = array_at(means, i, start, size, like)
            for k in range(size):
                p[k], s[k], m[k], _ = centered_rmsprop_step(
                    p[k], g[k], s[k], m[k], scalar(0), lr, alpha, rest, eps, momentum, centered, weight_decay
                )
        else:
            m = array_at(means, i, start, size, like)
            v = array_at(velocities, i, start, size, like)
            for k in range(size):
                p[k], s[k], m[k], v[k] = centered_rmsprop_step(
                    p[k], g[k], s[k], m[k], v[k], lr, alpha, rest, eps, momentum, centered, weight_decay
                )


def prepare_adam(params, grads, means, squares, counts, groups, decoupled, hyper):
    lists = [pack(arrays) for arrays in (params, grads, means, squares, counts)]
    return *describe(params), *lists, np.array(groups, np.int64), decoupled, hyper


@parallel_kernel(is_large=is_large, prepare=prepare_adam)
def adam(total, sizes, like, params, grads, means, squares, counts, groups, decoupled, hyper):
    scalar = like.dtype.type
    corrected = np.empty((sizes.size, 2))  # learning rate and scale of the root with the bias corrections
    last = 0.0
    for i in range(sizes.size):
        count, own = counted(counts, i, hyper), hyper[groups[i]]
        if (
            i > 0 and count == last and groups[i] == groups[i - 1]
        ):  # as nearly always: powers take longer than small arrays
            corrected[i] = corrected[i - 1]
        else:
            corrected[i, 0] = own[0] / (1 - own[1] ** count)
            corrected[i, 1] = 1 / np.sqrt(1 - own[2] ** count)
        last = count
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        g = array_at(grads, i, start, size, like)
        m = array_at(means, i, start, size, like)
        v = array_at(squares, i, start, size, like)
        own = hyper[groups[i]]
        lr, root_scale = scalar(corrected[i, 0]), scalar(corrected[i, 1])
        beta1, beta2, eps = scalar(own[1]), scalar(own[2]), scalar(own[3])
        rest1, rest2 = scalar(1 - own[1]), scalar(1 - own[2])
        weight_decay = scalar(0 if decoupled else own[4])
        kept = scalar(1 - own[0] * own[4] if decoupled else 1)
        for k in range(size):
            p[k], m[k], v[k] = adam_step(
                p[k], g[k], m[k], v[k], lr, root_scale, beta1, rest1, beta2, rest2, eps, weight_decay, kept
            )


def prepare_average(params, averages, counts, decay):
    return *describe(params), pack(params), pack(averages), pack(counts), np.array([decay])


@parallel_kernel(is_large=is_large, prepare=prepare_average)
def average(total, sizes, like, params, averages, counts, decay):
    scalar = like.dtype.type
    shares = np.empty(sizes.size)
    for i in range(sizes.size):
        shares[i] = decay[0] if counted(counts, i, decay) > 1 else 0.0
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        p = array_at(params, i, start, size, like)
        a = array_at(averages, i, start, size, like)
        kept, rest = scalar(shares[i]), scalar(1 - shares[i])
        for k in range(size):
            a[k] = average_step(a[k], p[k], kept, rest)


@inlined(flags=SUMS)
def sum_of_sizes(g):
    """Sum of |g|, in float64."""
    total = 0.0
    for k in range(g.size):
        total += np.float64(abs(g[k]))
    return total


@inlined(flags=SUMS)
def sum_of_squares(g):
    """Sum of g^2, in float64."""
    total = 0.0
    for k in range(g.size):
        total += np.float64(g[k]) * np.float64(g[k])
    return total


@inlined
def largest_size(g, largest):
    """The largest |g|, or `largest`; NaN is larger than all."""
    for k in range(g.size):
        size = np.float64(abs(g[k]))
        largest = largest if size <= largest or largest != largest else size
    return largest


def prepare_grad_total(grads, order, total):
    """Of each array the first of its parts, and at the end the number of parts."""
    count, sizes, like = describe(grads)
    return count, sizes, np.append(0, np.cumsum(-(-sizes // PART))), like, pack(grads), order, total


@parallel_kernel(is_large=is_large, prepare=prepare_grad_total)
def grad_total(count, sizes, first, like, grads, order, total):
    sums = np.empty(first[sizes.size])
    for part in prange(sums.size):
        i = np.searchsorted(first, part, side="right") - 1
        start = (part - first[i]) * PART
        g = array_at(grads, i, start, min(PART, sizes[i] - start), like)
        if order == 2:
            sums[part] = sum_of_squares(g)
        elif order == 1:
            sums[part] = sum_of_sizes(g)
        else:
            sums[part] = largest_size(g, 0.0)
    result = total[0]
    for part in range(sums.size):
        if order == 0:
            result = result if sums[part] <= result or result != result else sums[part]
        else:
            result += sums[part]
    total[0] = result


def prepare_clip_norm(grads, total, order, limit, clipped, norm):
    return *describe(grads), pack(grads), total, order, np.float64(limit), pack(clipped), norm


@parallel_kernel(is_large=is_large, prepare=prepare_clip_norm)
def clip_norm(count, sizes, like, grads, total, order, limit, clipped, norm):
    norm[0] = np.sqrt(total[0]) if order == 2 else total[0]
    share_kept = limit / (norm[0] + 1e-6)
    scale = like.dtype.type(1.0 if share_kept > 1 else share_kept)
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        g = array_at(grads, i, start, size, like)
        y = array_at(clipped, i, start, size, like)
        for k in range(size):
            y[k] = g[k] * scale


def prepare_clip_value(grads, limit, clipped):
    return *describe(grads), pack(grads), np.float64(limit), pack(clipped)


@parallel_kernel(is_large=is_large, prepare=prepare_clip_value)
def clip_value(count, sizes, like, grads, limit, clipped):
    most = like.dtype.type(limit)
    threads, least = team_size(), least_shared(sizes)
    for task in prange(threads * sizes.size):
        thread, i = task // sizes.size, task % sizes.size
        start, size = share(sizes[i], thread, threads, least)
        g = array_at(grads, i, start, size, like)
        y = array_at(clipped, i, start, size, like)
        for k in range(size):
            y[k] = clip_step(g[k], most)
