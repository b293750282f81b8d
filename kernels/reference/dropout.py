"""Dropout (Srivastava et al., 2014) by counter-based random numbers: which elements fall out depends on the key alone.

    dropout   y = x / (1 - p) where uniform(key, i) >= p, else 0 x (so that NaN stays NaN);
              applied to dy under the same key, it is the gradient
    advance   key = state, then state[1] += 1: a key of its own for every call

key and state are uint64 (seed, counter). uniform(key, i) is word i % 4, divided by 2^32, of Philox 4x32-10 under the
two words of the seed, for the counter (i // 4 low word, i // 4 high word, counter low word, counter high word). Philox is in
kernels/philox.py.
"""

import numpy as np

from minigrad.kernels.philox import HALF, LOW, philox


def _uniform(key, n):
    """`n` numbers in [0, 1), a multiple of 2^-32 each."""
    seed, counter = key
    group = np.arange(-(-n // 4), dtype=np.uint64)
    counters = group & LOW, group >> HALF, np.full_like(group, counter & LOW), np.full_like(group, counter >> HALF)
    words = philox(*counters, seed & LOW, seed >> HALF)
    return np.stack(words, axis=1).ravel()[:n] / 2**32


@np.errstate(all="ignore")
def dropout(x, p, key, y):
    kept = _uniform(key, x.size) >= p
    y[:] = x * np.where(kept, 1 / np.float64(1 - p), 0)


def advance(state, key):
    key[:] = state
    state[1:] += np.uint64(1)
