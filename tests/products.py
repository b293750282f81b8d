"""Matrix products in tests. Small whole numbers make the sums exact: a wrong index shows, whatever the order of adding."""

import itertools

import numpy as np
import pytest

TRANSPOSED = list(itertools.product([False, True], repeat=2))
each_transposition = pytest.mark.parametrize(("trans_a", "trans_b"), TRANSPOSED)

# Around the widths of registers and tiles, the depths and heights of blocks, and where copying begins to pay.
LENGTHS = [
    *[1, 2, 5, 8, 15, 16, 17, 24, 31, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97],
    *[127, 128, 129, 191, 192, 193, 200, 255],
]
LONG = [256, 257, 300, 383, 384, 385, 479, 480, 481, 511, 512, 513, 577, 700, 961, 1024, 1025]
GUARD = 64  # elements on either side of a result
SENTINEL = -12345


def whole(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def flipped(x, transposed):
    return np.ascontiguousarray(x.swapaxes(-1, -2)) if transposed else x


def guarded(shape, dtype):
    """An array full of NaN, and the larger one around it."""
    size = int(np.prod(shape))
    memory = np.full(size + 2 * GUARD, SENTINEL, dtype)
    inside = memory[GUARD : GUARD + size]
    inside[:] = np.nan
    return inside.reshape(shape), memory


def is_untouched(memory):
    return (memory[:GUARD] == SENTINEL).all() and (memory[-GUARD:] == SENTINEL).all()
