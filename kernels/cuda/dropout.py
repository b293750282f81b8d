"""Dropout by counter-based random numbers. Contract, formulas and source: kernels/reference/dropout.py.

A thread makes the four words of a Philox group for the four elements they serve, which it reads and writes as one
vector of 16 bytes; two groups at once, so that a second load and a second chain of multiplications are under way. Some
eighty integer instructions for 32 bytes (float32) should leave memory the slower side (reckoned, not measured).

The key is read on the GPU, and `advance` counts there, so a graph of launches replayed makes new masks each time.
"""

import math

import numpy as np

from minigrad.kernels import philox
from minigrad.kernels.bits import sqrt
from minigrad.kernels.cuda import movement
from minigrad.kernels.cuda.tools.language import cuda, device_function, load4, real, store4, uint32, uint64
from minigrad.kernels.cuda.tools.launch import Real, Reals, UInt, ULongs, blocks_for, kernel
from minigrad.kernels.formulas import cos_sin_of_turns, log

THREADS = 256
GROUP = 4  # elements that share a Philox counter


words_of = device_function(philox.philox)


@device_function
def group_words(group, counter, seed):
    """The four words of Philox 4x32-10 for one group of elements."""
    low, half = uint64(0xFFFFFFFF), uint64(32)
    c0, c1, c2, c3 = words_of(uint64(group), uint64(0), counter & low, counter >> half, seed & low, seed >> half)
    return uint32(c0), uint32(c1), uint32(c2), uint32(c3)


@device_function
def kept(x, word, last_dropped, scale):
    """An element, scaled or times 0."""
    return x * (scale if word > last_dropped else real(0))


@device_function
def put(y, i, x, words, last_dropped, scale):
    """Write a group of elements."""
    store4(
        y,
        i,
        kept(x[0], words[0], last_dropped, scale),
        kept(x[1], words[1], last_dropped, scale),
        kept(x[2], words[2], last_dropped, scale),
        kept(x[3], words[3], last_dropped, scale),
    )


@device_function
def put_some(x, y, start, n, words, last_dropped, scale):
    """Write those elements of a group that there are, one by one."""
    if start < n:
        y[start] = kept(x[start], words[0], last_dropped, scale)
    if start + uint32(1) < n:
        y[start + uint32(1)] = kept(x[start + uint32(1)], words[1], last_dropped, scale)
    if start + uint32(2) < n:
        y[start + uint32(2)] = kept(x[start + uint32(2)], words[2], last_dropped, scale)
    if start + uint32(3) < n:
        y[start + uint32(3)] = kept(x[start + uint32(3)], words[3], last_dropped, scale)


@kernel(threads=THREADS)
def mask(x: Reals, y: Reals, n: UInt, whole: UInt, key: ULongs, last_dropped: UInt, scale: Real):
    """The first `whole` elements may be read as vectors. Words up to last_dropped mean that the element is dropped."""
    seed, counter = key[0], key[1]
    group = uint32(uint32(cuda.blockIdx.x) * uint32(2 * THREADS) + uint32(cuda.threadIdx.x))
    i = uint32(group * uint32(GROUP))
    j = uint32(i + uint32(GROUP * THREADS))
    words, others = group_words(group, counter, seed), group_words(uint32(group + uint32(THREADS)), counter, seed)
    if j < whole:
        u, v = load4(x, i), load4(x, j)
        put(y, i, u, words, last_dropped, scale)
        put(y, j, v, others, last_dropped, scale)
    else:
        if i < whole:
            put(y, i, load4(x, i), words, last_dropped, scale)
        else:
            put_some(x, y, i, n, words, last_dropped, scale)
        put_some(x, y, j, n, others, last_dropped, scale)


@device_function
def share(word):
    """The upper 24 bits of a word, from 0 to below 1."""
    return real(word >> uint32(8)) * real(2.0**-24)


@device_function
def pair(first, second):
    """Two numbers of the standard normal distribution from two words."""
    u = (real(first >> uint32(9)) + real(0.5)) * real(2.0**-23)
    radius = sqrt(real(-2) * log(u))
    x, y = cos_sin_of_turns(share(second))
    return radius * x, radius * y


@device_function
def placed(value, shift, scale, last):
    """shift + scale value, `last` at most."""
    y = shift + scale * value
    return y if y < last else last


@device_function
def put_four(y, i, n, values, shift, scale, last):
    """Write those of four elements that there are."""
    y[i] = placed(values[0], shift, scale, last)
    if i + uint32(1) < n:
        y[i + uint32(1)] = placed(values[1], shift, scale, last)
    if i + uint32(2) < n:
        y[i + uint32(2)] = placed(values[2], shift, scale, last)
    if i + uint32(3) < n:
        y[i + uint32(3)] = placed(values[3], shift, scale, last)


@kernel(threads=THREADS)
def draw(y: Reals, n: UInt, key: ULongs, is_normal: UInt, shift: Real, scale: Real, last: Real):
    """A group of four elements to a thread, none larger than `last`."""
    group = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    i = uint32(group * uint32(GROUP))
    if i < n:
        a, b, c, d = group_words(group, key[1], key[0])
        if is_normal:
            u, v = pair(a, b)
            w, z = pair(c, d)
            put_four(y, i, n, (u, v, w, z), shift, scale, last)
        else:
            put_four(y, i, n, (share(a), share(b), share(c), share(d)), shift, scale, last)


@kernel(threads=1)
def count_up(state: ULongs, key: ULongs):
    key[0] = state[0]
    key[1] = state[1]
    state[1] = state[1] + uint64(1)


def dropout(x, p, key, y):
    n = y.size
    threshold = math.ceil(p * 2.0**32)  # the first word that keeps an element
    if threshold <= 0:
        movement.copy(x, y)
    elif n:
        whole = 0 if (x.pointer | y.pointer) % 16 else n // GROUP * GROUP
        scale = 1 / (1 - p) if p < 1 else 0.0
        mask[blocks_for(n, 2 * GROUP * THREADS), THREADS](x, y, n, whole, key, threshold - 1, scale)


def uniform(low, high, key, y):
    if y.size:
        last = np.nextafter(y.dtype.type(high), y.dtype.type(low))
        draw[blocks_for(y.size, GROUP * THREADS), THREADS](y, y.size, key, 0, low, high - low, float(last))


def normal(mean, std, key, y):
    if y.size:
        draw[blocks_for(y.size, GROUP * THREADS), THREADS](y, y.size, key, 1, mean, std, math.inf)


def advance(state, key):
    count_up[1, 1](state, key)
