"""Dropout (Srivastava et al., 2014) by counter-based random numbers: which elements fall out depends on the key alone.

    dropout   y = x / (1 - p) where uniform(key, i) >= p, else 0 x (so that NaN stays NaN);
              applied to dy under the same key, it is the gradient
    uniform   y = low + (high - low) u, u the upper 24 bits of the element's word by 2^24; where rounding makes it high or more,
              the last number below high
    normal    y = mean + std z, z = r cos(2 pi v) and r sin(2 pi v) of neighbouring words, where r = sqrt(-2 log u), u is the
              upper 23 bits of the first word and one half, by 2^23, and v the upper 24 bits of the second by 2^24
              (G. Box and M. Muller, "A Note on the Generation of Random Normal Deviates", 1958): |z| < 5.77
    advance   key = state, then state[1] += 1: a key of its own for every call

key and state are uint64 (seed, counter). uniform(key, i) is word i % 4, divided by 2^32, of Philox 4x32-10 under the
two words of the seed, for the counter (i // 4 low word, i // 4 high word, counter low word, counter high word). Philox is in
kernels/philox.py.
"""

import numpy as np

from minigrad.kernels.philox import HALF, LOW, philox


def _words(key, n):
    """`n` words of 32 bits, as uint64."""
    seed, counter = key
    group = np.arange(-(-n // 4), dtype=np.uint64)
    counters = group & LOW, group >> HALF, np.full_like(group, counter & LOW), np.full_like(group, counter >> HALF)
    words = philox(*counters, seed & LOW, seed >> HALF)
    return np.stack(words, axis=1).ravel()[:n]


def _uniform(key, n):
    """`n` numbers in [0, 1), a multiple of 2^-32 each."""
    return _words(key, n) / 2**32


@np.errstate(all="ignore")
def dropout(x, p, key, y):
    kept = _uniform(key, x.size) >= p
    y[:] = x * np.where(kept, 1 / np.float64(1 - p), 0)


def uniform(low, high, key, y):
    drawn = low + (high - low) * ((_words(key, y.size) >> np.uint64(8)) / 2**24)
    first, end = y.dtype.type(low), y.dtype.type(high)
    y[:] = np.minimum(drawn.astype(y.dtype), np.nextafter(end, first))


def normal(mean, std, key, y):
    pairs = _words(key, y.size + y.size % 2).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log(((pairs[:, 0] >> np.uint64(9)) + 0.5) / 2**23))
    angle = 2 * np.pi * ((pairs[:, 1] >> np.uint64(8)) / 2**24)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    y[:] = mean + std * both.ravel()[: y.size]


def advance(state, key):
    key[:] = state
    state[1:] += np.uint64(1)
