"""Philox 4x32-10, the counter-based random numbers of dropout, written once in plain Python for every target.

J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). Each of the ten rounds multiplies two of the four
words by constants and mixes the halves of the products with the other words and the round's key.
"""

import numpy as np

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEP_0, KEY_STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # after the point of golden ratio and sqrt(3)
ROUNDS = 10
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(c0, c1, c2, c3, k0, k1):
    """The four 32-bit words for a counter of four and a key of two; uint64 numbers or, in NumPy, arrays."""
    for _ in range(ROUNDS):
        a, b = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ k0, b & LOW, (a >> HALF) ^ c3 ^ k1, a & LOW
        k0, k1 = (k0 + KEY_STEP_0) & LOW, (k1 + KEY_STEP_1) & LOW
    return c0, c1, c2, c3
