"""Optimizers: one launch updates all parameters of a list. Formulas: kernels/reference/optim.py.

A block updates one chunk of one array, a vector of 16 bytes to a thread. Which array that is it finds in a table of the
arrays' first chunks, all its threads searching at once; the table holds the addresses too. Blocks of small and of large
arrays are the same work, so a network of many small parameters keeps the GPU as busy as one large matrix. The
hyperparameters are read on the GPU, where a graph of launches that is replayed finds their latest values; the table says
where those of an array begin.

Adam, and averages, need a few numbers in every block of an array that follow from its count of updates: in a launch before
a thread for each array counts, and computes them.
"""

import functools
import itertools

import numpy as np

from minigrad.kernels.bits import sqrt
from minigrad.kernels.cuda.parts.updates import (
    update_adagrad,
    update_adam,
    update_average,
    update_centered_momentum_rmsprop,
    update_centered_rmsprop,
    update_clipped,
    update_momentum_rmsprop,
    update_momentum_sgd,
    update_rmsprop,
    update_scaled,
    update_sgd,
)
from minigrad.kernels.cuda.tools import launch
from minigrad.kernels.cuda.tools.language import (
    Choice,
    at,
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
from minigrad.kernels.cuda.tools.launch import Double, Doubles, Reals, UInt, ULongs, kernel

THREADS = 256
CHUNK = 4 * THREADS  # elements
ORDER = Choice("ORDER")  # of the norm that `grad_total` is for; 0 is the largest
UPDATE, STATES = Choice("UPDATE"), Choice("STATES")  # what is done to an element, and how many arrays of state it has
ADAM, AVERAGE, RMSPROP = 9, 2, 7  # numbers that are computed before, for each array, and for each group


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
    """`table` holds count + 1 first chunks, the sizes, where the array's numbers begin, and the addresses.

    Those are of params, of grads, and of each state.
    """
    k = chunk_owner(table, count)
    first = uint32(table[k])
    k = uint32(k + count + uint32(1))
    size = uint32(table[k])
    k = uint32(k + count)
    own = at(numbers, uint32(table[k]))
    k = uint32(k + count)
    address = table[k]
    together = address
    p = memory_at(address, real)
    k = uint32(k + count)
    address = table[k]
    together |= address
    g = memory_at(address, real)
    s, t, u = g, g, g
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
    if STATES > 2:
        k = uint32(k + count)
        address = table[k]
        together |= address
        u = memory_at(address, real)
    i = uint32(uint32(uint32(cuda.blockIdx.x) - first) * uint32(CHUNK) + uint32(cuda.threadIdx.x) * uint32(4))
    if i + uint32(4) <= size and (together & uint64(15)) == uint64(0):
        pi, gi = load4(p, i), load4(g, i)
        si, ti, ui = gi, gi, gi
        if STATES > 0:
            si = load4(s, i)
        if STATES > 1:
            ti = load4(t, i)
        if STATES > 2:
            ui = load4(u, i)
        a = UPDATE(pi[0], gi[0], si[0], ti[0], ui[0], own)
        b = UPDATE(pi[1], gi[1], si[1], ti[1], ui[1], own)
        c = UPDATE(pi[2], gi[2], si[2], ti[2], ui[2], own)
        d = UPDATE(pi[3], gi[3], si[3], ti[3], ui[3], own)
        store4(p, i, a[0], b[0], c[0], d[0])
        if STATES > 0:
            store4(s, i, a[1], b[1], c[1], d[1])
        if STATES > 1:
            store4(t, i, a[2], b[2], c[2], d[2])
        if STATES > 2:
            store4(u, i, a[3], b[3], c[3], d[3])
    else:
        stop = min(size, uint32(i + uint32(4)))
        while i < stop:
            a = UPDATE(p[i], g[i], s[i], t[i], u[i], own)
            p[i] = a[0]
            if STATES > 0:
                s[i] = a[1]
            if STATES > 1:
                t[i] = a[2]
            if STATES > 2:
                u[i] = a[3]
            i = uint32(i + uint32(1))


@device_function
def counted(table, i):
    """One more update of an array, whose count is at the address table[i]: which it is."""
    count = memory_at(table[i], float64)
    count[0] = count[0] + float64(1)
    return count[0]


@kernel(threads=THREADS, uses_float64=True)
def adam_numbers(table: ULongs, count: UInt, decoupled: UInt, hyper: Doubles, numbers: Doubles):
    """`table` holds the addresses of the counts, and where the rows of hyperparameters begin.

    Of each array: learning rate and scale of the root with the bias corrections, the betas and their rests, eps, weight
    decay, and the share of the parameter that stays.
    """
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < count:
        updates = counted(table, i)
        own = at(hyper, uint32(table[uint32(i + count)]))
        new = at(numbers, uint32(i * uint32(ADAM)))
        new[0] = own[0] / (float64(1) - own[1] ** updates)
        new[1] = float64(1) / sqrt(float64(1) - own[2] ** updates)
        new[2] = own[1]
        new[3] = float64(1) - own[1]
        new[4] = own[2]
        new[5] = float64(1) - own[2]
        new[6] = own[3]
        new[7] = own[4]
        new[8] = float64(1)
        if decoupled != uint32(0):
            new[7] = float64(0)
            new[8] = float64(1) - own[0] * own[4]


@kernel(threads=THREADS, uses_float64=True)
def average_numbers(table: ULongs, count: UInt, decay: Double, numbers: Doubles):
    """`table` holds the addresses of the counts. Of each array: the shares of the average and of the parameter."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < count:
        kept = decay if counted(table, i) > float64(1) else float64(0)
        new = at(numbers, uint32(i * uint32(AVERAGE)))
        new[0] = kept
        new[1] = float64(1) - kept


@kernel(threads=THREADS, uses_float64=True)
def rmsprop_numbers(hyper: Doubles, groups: UInt, numbers: Doubles):
    """Of each group: learning rate, alpha and its rest, eps, weight decay, momentum, centered."""
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < groups:
        own, new = at(hyper, uint32(i * uint32(6))), at(numbers, uint32(i * uint32(RMSPROP)))
        new[0] = own[0]
        new[1] = own[1]
        new[2] = float64(1) - own[1]
        new[3] = own[2]
        new[4] = own[3]
        new[5] = own[4]
        new[6] = own[5]


@device_function
def together(a, b):
    """The sum, or the larger of two that are not negative; NaN is larger than all."""
    if ORDER == 0:
        return a if b <= a or a != a else b
    return a + b


@device_function
def power(g):
    """|g|^ORDER, or |g|."""
    if ORDER == 2:
        return g * g
    return abs(g)


@kernel(threads=THREADS)
def total_of_chunk(like: Reals, table: ULongs, count: UInt, totals: Reals):
    """`table` holds count + 1 first chunks, the sizes, and the addresses."""
    shared = cuda.shared.array(THREADS, real, 16)
    k = chunk_owner(table, count)
    first = uint32(table[k])
    k = uint32(k + count + uint32(1))
    size = uint32(table[k])
    g = memory_at(table[uint32(k + count)], real)
    i = uint32(uint32(uint32(cuda.blockIdx.x) - first) * uint32(CHUNK) + uint32(cuda.threadIdx.x))
    total = real(0)
    for _ in range(4):
        if i < size:
            total = together(total, power(g[i]))
        i = uint32(i + uint32(THREADS))
    me = uint32(cuda.threadIdx.x)
    shared[me] = total
    cuda.syncthreads()
    half = uint32(THREADS // 2)
    while half > uint32(0):
        if me < half:
            shared[me] = together(shared[me], shared[uint32(me + half)])
        cuda.syncthreads()
        half = uint32(half >> uint32(1))
    if me == uint32(0):
        totals[uint32(cuda.blockIdx.x)] = shared[me]


@kernel(threads=THREADS, uses_float64=True)
def total_of_totals(totals: Reals, n: UInt, total: Doubles):
    """total = it and the chunks' totals."""
    shared = cuda.shared.array(THREADS, float64, 16)
    me = uint32(cuda.threadIdx.x)
    found = float64(0)
    i = me
    while i < n:
        found = together(found, float64(totals[i]))
        i = uint32(i + uint32(THREADS))
    shared[me] = found
    cuda.syncthreads()
    half = uint32(THREADS // 2)
    while half > uint32(0):
        if me < half:
            shared[me] = together(shared[me], shared[uint32(me + half)])
        cuda.syncthreads()
        half = uint32(half >> uint32(1))
    if me == uint32(0):
        total[0] = together(total[0], shared[me])


@kernel(threads=1, uses_float64=True)
def norm_numbers(total: Doubles, order: UInt, limit: Double, norm: Doubles, numbers: Doubles):
    """The norm, and what the gradients are multiplied by."""
    found = total[0]
    if order == uint32(2):
        found = sqrt(found)
    norm[0] = found
    kept = limit / (found + float64(1e-6))
    numbers[0] = float64(1) if kept > float64(1) else kept


@kernel(threads=1, uses_float64=True)
def put_number(value: Double, numbers: Doubles):
    numbers[0] = value


plain_sgd_kernel = update.variant(UPDATE=update_sgd, STATES=0)
momentum_sgd_kernel = update.variant(UPDATE=update_momentum_sgd, STATES=1)
adagrad_kernel = update.variant(UPDATE=update_adagrad, STATES=1)
rmsprop_kernel = update.variant(UPDATE=update_rmsprop, STATES=1)
momentum_rmsprop_kernel = update.variant(UPDATE=update_momentum_rmsprop, STATES=2)
centered_rmsprop_kernel = update.variant(UPDATE=update_centered_rmsprop, STATES=2)
centered_momentum_rmsprop_kernel = update.variant(UPDATE=update_centered_momentum_rmsprop, STATES=3)
adam_kernel = update.variant(UPDATE=update_adam, STATES=2)
average_kernel = update.variant(UPDATE=update_average, STATES=0)
scaled_kernel = update.variant(UPDATE=update_scaled, STATES=0)
clipped_kernel = update.variant(UPDATE=update_clipped, STATES=0)
total_kernels = {
    order: (total_of_chunk.variant(ORDER=order), total_of_totals.variant(ORDER=order)) for order in range(3)
}


@functools.lru_cache(maxsize=256)
def chunks(sizes):
    """The number of the first chunk of every array, and at the end the number of chunks."""
    return 0, *itertools.accumulate(-(-size // CHUNK) for size in sizes)


def beginnings(rows, width):
    """Where in a matrix of this width these rows begin."""
    return [row * width for row in rows]


def launch_update(kernel, numbers, places, *lists):
    """One launch over lists of params, grads and states; the numbers of array i begin at places[i]."""
    params = lists[0]
    for param in params:
        if param.size > launch.MOST_ELEMENTS:
            raise launch.too_large("optim", param)
    sizes = tuple([p.size for p in params])
    first = chunks(sizes)
    if first[-1]:
        table = launch.context.table(*first, *sizes, *places, *[array.pointer for arrays in lists for array in arrays])
        kernel[first[-1], THREADS](params[0], table, len(params), numbers)


def sgd(params, grads, velocities, groups, hyper):
    places = beginnings(groups, hyper.shape[1])
    if velocities:
        launch_update(momentum_sgd_kernel, hyper, places, params, grads, velocities)
    else:
        launch_update(plain_sgd_kernel, hyper, places, params, grads)


def adagrad(params, grads, sums, groups, hyper):
    launch_update(adagrad_kernel, hyper, beginnings(groups, hyper.shape[1]), params, grads, sums)


def rmsprop(params, grads, squares, means, velocities, groups, hyper):
    rows = hyper.shape[0]
    numbers = launch.context.empty((rows * RMSPROP,), np.dtype(np.float64))
    rmsprop_numbers[launch.blocks_for(rows, THREADS), THREADS](hyper, rows, numbers)
    kernels = {
        (False, False): rmsprop_kernel,
        (False, True): momentum_rmsprop_kernel,
        (True, False): centered_rmsprop_kernel,
        (True, True): centered_momentum_rmsprop_kernel,
    }
    states = [arrays for arrays in (squares, means, velocities) if arrays]
    places = beginnings(groups, RMSPROP)
    launch_update(kernels[bool(means), bool(velocities)], numbers, places, params, grads, *states)


def adam(params, grads, means, squares, counts, groups, decoupled, hyper):
    numbers = launch.context.empty((len(params) * ADAM,), np.dtype(np.float64))
    table = launch.context.table(*[count.pointer for count in counts], *beginnings(groups, hyper.shape[1]))
    blocks = launch.blocks_for(len(params), THREADS)
    adam_numbers[blocks, THREADS](table, len(params), int(decoupled), hyper, numbers)
    launch_update(adam_kernel, numbers, beginnings(range(len(params)), ADAM), params, grads, means, squares)


def average(params, averages, counts, decay):
    numbers = launch.context.empty((len(params) * AVERAGE,), np.dtype(np.float64))
    table = launch.context.table(*[count.pointer for count in counts])
    average_numbers[launch.blocks_for(len(params), THREADS), THREADS](table, len(params), decay, numbers)
    launch_update(average_kernel, numbers, beginnings(range(len(params)), AVERAGE), averages, params)


def grad_total(grads, order, total):
    sizes = tuple([g.size for g in grads])
    first = chunks(sizes)
    if first[-1]:
        of_chunk, of_totals = total_kernels[order]
        table = launch.context.table(*first, *sizes, *[g.pointer for g in grads])
        totals = launch.context.empty((first[-1],), grads[0].dtype)
        of_chunk[first[-1], THREADS](grads[0], table, len(grads), totals)
        of_totals[1, THREADS](totals, first[-1], total)


def clip_norm(grads, total, order, limit, clipped, norm):
    numbers = launch.context.empty((1,), np.dtype(np.float64))
    norm_numbers[1, 1](total, order, limit, norm, numbers)
    launch_update(scaled_kernel, numbers, [0] * len(grads), clipped, grads)


def clip_value(grads, limit, clipped):
    numbers = launch.context.empty((1,), np.dtype(np.float64))
    put_number[1, 1](limit, numbers)
    launch_update(clipped_kernel, numbers, [0] * len(grads), clipped, grads)
