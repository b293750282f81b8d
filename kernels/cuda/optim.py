"""Optimizers: one launch updates all parameters of a list. Formulas: kernels/reference/optim.py.

A block updates one chunk of one array, a vector of 16 bytes to a thread. Which array that is it finds in a table of the
arrays' first chunks, all its threads searching at once; the table holds the addresses too. Blocks of small and of large
arrays are the same work, so a network of many small parameters keeps the GPU as busy as one large matrix. The
hyperparameters are read on the GPU, where a graph of launches that is replayed finds their latest values.

Adam needs the same two numbers of this step in every block: one thread computes them in a launch before.
"""

import functools
import itertools

import numpy as np

from minigrad.kernels import steps
from minigrad.kernels.bits import sqrt
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.language import (
    cuda,
    device_function,
    float64,
    load4,
    memory_at,
    real,
    store4,
    uint32,
    uint64,
)
from minigrad.kernels.cuda.tools.launch import Doubles, Reals, UInt, ULongs, kernel

THREADS = 256
CHUNK = 4 * THREADS  # elements
UPDATE, STATES = None, 0  # what is done to an element, and how many arrays of state it has; put in by the variants


@device_function
def chunk_owner(first, count):
    """The array whose chunks begin at or before this block's number, and the next array's after it."""
    found = cuda.shared.array(1, uint32)
    block = uint64(cuda.blockIdx.x)
    k = uint32(cuda.threadIdx.x)
    while k < count:
        if (first[k] <= block) & (block < first[uint32(k + uint32(1))]):  # & reads both at once
            found[0] = k
        k = uint32(k + uint32(THREADS))
    cuda.syncthreads()
    return found[0]


@kernel(threads=THREADS)
def update(like: Reals, table: ULongs, count: UInt, numbers: Doubles):
    """`table` holds count + 1 first chunks, the sizes, the addresses of params, of grads, and of each state."""
    k = chunk_owner(table, count)
    first = uint32(table[k])
    k = uint32(k + count + uint32(1))
    size = uint32(table[k])
    k = uint32(k + count)
    address = table[k]
    together = address
    p = memory_at(address, real)
    k = uint32(k + count)
    address = table[k]
    together |= address
    g = memory_at(address, real)
    s, t = g, g
    if STATES > 0:
        k = uint32(k + count)
        address = table[k]
        together |= address
        s = memory_at(address, real)
    if STATES > 1:
        k = uint32(k + count)
        address = table[k]
        together |= address
        t = memory_at(address, real)
    i = uint32(uint32(uint32(cuda.blockIdx.x) - first) * uint32(CHUNK) + uint32(cuda.threadIdx.x) * uint32(4))
    if i + uint32(4) <= size and (together & uint64(15)) == uint64(0):
        pi, gi = load4(p, i), load4(g, i)
        si, ti = gi, gi
        if STATES > 0:
            si = load4(s, i)
        if STATES > 1:
            ti = load4(t, i)
        a = UPDATE(pi[0], gi[0], si[0], ti[0], numbers)
        b = UPDATE(pi[1], gi[1], si[1], ti[1], numbers)
        c = UPDATE(pi[2], gi[2], si[2], ti[2], numbers)
        d = UPDATE(pi[3], gi[3], si[3], ti[3], numbers)
        store4(p, i, a[0], b[0], c[0], d[0])
        if STATES > 0:
            store4(s, i, a[1], b[1], c[1], d[1])
        if STATES > 1:
            store4(t, i, a[2], b[2], c[2], d[2])
    else:
        stop = min(size, uint32(i + uint32(4)))
        while i < stop:
            a = UPDATE(p[i], g[i], s[i], t[i], numbers)
            p[i] = a[0]
            if STATES > 0:
                s[i] = a[1]
            if STATES > 1:
                t[i] = a[2]
            i = uint32(i + uint32(1))


sgd_step = device_function(steps.sgd)
momentum_sgd_step = device_function(steps.momentum_sgd)
adagrad_step = device_function(steps.adagrad)
adam_step = device_function(steps.adam)


# New values of (param, first state, second state), from the old ones, the gradient and the hyperparameters


@device_function
def update_sgd(p, g, s, t, hyper):
    return sgd_step(p, g, real(hyper[0]), real(hyper[3])), s, t


@device_function
def update_momentum_sgd(p, g, v, t, hyper):
    nesterov = real(hyper[2]) != real(0)
    p, v = momentum_sgd_step(p, g, v, real(hyper[0]), real(hyper[1]), nesterov, real(hyper[3]))
    return p, v, t


@device_function
def update_adagrad(p, g, s, t, hyper):
    p, s = adagrad_step(p, g, s, real(hyper[0]), real(hyper[1]), real(hyper[2]))
    return p, s, t


@device_function
def update_adam(p, g, m, v, numbers):
    lr, root_scale = real(numbers[0]), real(numbers[1])
    beta1, rest1, beta2, rest2 = real(numbers[2]), real(numbers[3]), real(numbers[4]), real(numbers[5])
    return adam_step(p, g, m, v, lr, root_scale, beta1, rest1, beta2, rest2, real(numbers[6]), real(numbers[7]))


@kernel(threads=1, uses_float64=True)
def adam_numbers(step: Doubles, hyper: Doubles, numbers: Doubles):
    """Count the step; learning rate and scale of the root with the bias corrections, the betas and their rests, ..."""
    count = step[0] + float64(1)
    step[0] = count
    numbers[0] = hyper[0] / (float64(1) - hyper[1] ** count)
    numbers[1] = float64(1) / sqrt(float64(1) - hyper[2] ** count)
    numbers[2] = hyper[1]
    numbers[3] = float64(1) - hyper[1]
    numbers[4] = hyper[2]
    numbers[5] = float64(1) - hyper[2]
    numbers[6] = hyper[3]
    numbers[7] = hyper[4]


plain_sgd_kernel = update.variant(UPDATE=update_sgd, STATES=0)
momentum_sgd_kernel = update.variant(UPDATE=update_momentum_sgd, STATES=1)
adagrad_kernel = update.variant(UPDATE=update_adagrad, STATES=1)
adam_kernel = update.variant(UPDATE=update_adam, STATES=2)


@functools.lru_cache(maxsize=256)
def chunks(sizes):
    """The number of the first chunk of every array, and at the end the number of chunks."""
    return 0, *itertools.accumulate(-(-size // CHUNK) for size in sizes)


def launch_update(kernel, numbers, *lists):
    """One launch over lists of params, grads and states."""
    params = lists[0]
    sizes = tuple([p.size for p in params])
    first = chunks(sizes)
    if first[-1]:
        table = launch.context.table(*first, *sizes, *[array.pointer for arrays in lists for array in arrays])
        kernel[first[-1], THREADS](params[0], table, len(params), numbers)


def sgd(params, grads, velocities, hyper):
    if velocities:
        launch_update(momentum_sgd_kernel, hyper, params, grads, velocities)
    else:
        launch_update(plain_sgd_kernel, hyper, params, grads)


def adagrad(params, grads, sums, hyper):
    launch_update(adagrad_kernel, hyper, params, grads, sums)


def adam(params, grads, means, squares, step, hyper):
    numbers = launch.context.empty((8,), np.dtype(np.float64))
    adam_numbers[1, 1](step, hyper, numbers)
    launch_update(adam_kernel, numbers, params, grads, means, squares)
