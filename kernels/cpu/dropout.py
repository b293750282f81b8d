"""Dropout by counter-based random numbers. Contract, formulas and source: kernels/reference/dropout.py.

The four words of a Philox group serve four neighbouring elements. Words are compared as integers: uniform >= p, where
uniform is word / 2^32, holds for just the words from ceil(p 2^32) on.
"""

import math

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.cpu.tools.launch import inlined, kernel, parallel_kernel
from minigrad.kernels.philox import HALF, LOW, philox

BLOCK = 1 << 12  # elements, a multiple of four
GROUP = 4  # elements that share a Philox counter

words_of = inlined(philox)


@inlined
def fill_words(first, seed, counter, words):
    """Words of Philox 4x32-10 for the groups from `first` on, one for every element; a multiple of four."""
    for i in range(words.size // GROUP):
        group = first + np.uint64(i)
        given = group & LOW, group >> HALF, counter & LOW, counter >> HALF, seed & LOW, seed >> HALF
        c0, c1, c2, c3 = words_of(*given)
        words[i * GROUP] = c0
        words[i * GROUP + 1] = c1
        words[i * GROUP + 2] = c2
        words[i * GROUP + 3] = c3


@parallel_kernel()
def dropout(x, p, key, y):
    threshold = np.uint64(math.ceil(p * 2.0**32))
    kept, dropped = y.dtype.type(1 / (1 - p)), y.dtype.type(0)
    for block in prange(-(-y.size // BLOCK)):
        start = block * BLOCK
        source, target = x[start : start + BLOCK], y[start : start + BLOCK]
        words = np.empty(-(-target.size // GROUP) * GROUP, np.uint32)
        fill_words(np.uint64(start // GROUP), key[0], key[1], words)
        for i in range(target.size):
            target[i] = source[i] * (kept if words[i] >= threshold else dropped)


@parallel_kernel()
def uniform(low, high, key, y):
    first, width, step = y.dtype.type(low), y.dtype.type(high - low), y.dtype.type(2.0**-24)
    last = y.dtype.type(np.nextafter(y.dtype.type(high), first))
    for block in prange(-(-y.size // BLOCK)):
        start = block * BLOCK
        target = y[start : start + BLOCK]
        words = np.empty(-(-target.size // GROUP) * GROUP, np.uint32)
        fill_words(np.uint64(start // GROUP), key[0], key[1], words)
        for i in range(target.size):
            drawn = first + width * (y.dtype.type(words[i] >> np.uint32(8)) * step)
            target[i] = drawn if drawn < last else last


@parallel_kernel()
def normal(mean, std, key, y):
    real = y.dtype.type
    half, fine, coarse, minus_two = real(0.5), real(2.0**-23), real(2.0**-24), real(-2)
    middle, spread = real(mean), real(std)
    for block in prange(-(-y.size // BLOCK)):
        start = block * BLOCK
        target = y[start : start + BLOCK]
        words = np.empty(-(-target.size // GROUP) * GROUP, np.uint32)
        fill_words(np.uint64(start // GROUP), key[0], key[1], words)
        for i in range(0, target.size, 2):
            u = (y.dtype.type(words[i] >> np.uint32(9)) + half) * fine
            radius = spread * np.sqrt(minus_two * formulas.log(u))
            x, z = formulas.cos_sin_of_turns(y.dtype.type(words[i + 1] >> np.uint32(8)) * coarse)
            target[i] = middle + radius * x
            if i + 1 < target.size:
                target[i + 1] = middle + radius * z


@kernel
def advance(state, key):
    key[0] = state[0]
    key[1] = state[1]
    state[1] += np.uint64(1)
