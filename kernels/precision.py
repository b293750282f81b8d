"""How exactly the CPU multiplies float32 numbers, and the reference with it: what mg.matmul_precision has set."""

import numpy as np


class Products:
    """Of matrix products and convolutions of float32; there is one for the process."""

    in_bfloat16 = False  # whether factors are rounded to bfloat16


def rounded_to_bfloat16(x):
    """float32 numbers rounded to the 8 bits of significand that bfloat16 has, to the nearest, halfway to the even one.

    NaN and infinities stay, and numbers that round to 2**128 become infinities.
    """
    bits = x.view(np.uint32)
    nearest = (bits + (0x7FFF + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, nearest.view(np.float32))


def round_factors(a, b):
    """Two factors as they are multiplied."""
    if Products.in_bfloat16 and a.dtype == np.float32:
        return rounded_to_bfloat16(a), rounded_to_bfloat16(b)
    return a, b
