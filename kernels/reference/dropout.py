"""Dropout (Srivastava et al., 2014) by counter-based random numbers: which elements fall out depends on the key alone.

    dropout   y = x / (1 - p) where uniform(key, i) >= p, else 0 x (so that NaN stays NaN);
              applied to dy under the same key, it is the gradient
    advance   key = state, then state[1] += 1: a key of its own for every call

key and state are uint64 (seed, counter). uniform(key, i) is word i % 4, divided by 2^32, of Philox 4x32-10 under the
two words of the seed, for the counter (i // 4 low word, i // 4 high word, counter low word, counter high word).

Philox: J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). Each of its ten rounds multiplies two of
the four words by constants and mixes the halves of the products with the other words and the round's key.
"""

import numpy as np

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # what follows the point of the golden ratio and of sqrt(3)
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def _philox(c0, c1, c2, c3, k0, k1):
    """The four 32-bit words for a counter of four and a key of two; uint64 scalars or arrays."""
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> HALF) ^ c1 ^ k0, second & LOW, (first >> HALF) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW, (k1 + KEY_STEPS[1]) & LOW
    return c0, c1, c2, c3


def _uniform(key, n):
    """`n` numbers in [0, 1), a multiple of 2^-32 each."""
    seed, counter = key
    group = np.arange(-(-n // 4), dtype=np.uint64)
    counters = group & LOW, group >> HALF, np.full_like(group, counter & LOW), np.full_like(group, counter >> HALF)
    words = _philox(*counters, seed & LOW, seed >> HALF)
    return np.stack(words, axis=1).ravel()[:n] / 2**32


@np.errstate(all="ignore")
def dropout(x, p, key, y):
    kept = _uniform(key, x.size) >= p
    y[:] = x * np.where(kept, 1 / np.float64(1 - p), 0)


def advance(state, key):
    key[:] = state
    state[1:] += np.uint64(1)
