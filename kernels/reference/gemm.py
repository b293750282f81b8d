"""Matrix products; float32 computed in float64, of factors rounded to bfloat16 where that is asked for (kernels/precision.py).

    gemm           C = A B + bias, (m, k) (k, n) (n,) -> (m, n); bias of size 0 for none
    gemm_add       C += A B
    gemm_batched   C[i] = A[i] B[i], (batch, m, k) (batch, k, n) -> (batch, m, n)

With trans_a, A comes as (k, m); with trans_b, B comes as (n, k).
"""

import numpy as np

from minigrad.kernels.precision import round_factors


def _as_factor(x, transposed):
    """x in float64, its last two axes exchanged if it comes transposed."""
    x = x.astype(np.float64)
    return x.swapaxes(-1, -2) if transposed else x


@np.errstate(all="ignore")
def gemm(a, b, bias, c, trans_a, trans_b):
    a, b = round_factors(a, b)
    c[:] = _as_factor(a, trans_a) @ _as_factor(b, trans_b) + (bias if bias.size else 0)


@np.errstate(all="ignore")
def gemm_add(a, b, c, trans_a, trans_b):
    a, b = round_factors(a, b)
    c[:] = c + _as_factor(a, trans_a) @ _as_factor(b, trans_b)


@np.errstate(all="ignore")
def gemm_batched(a, b, c, trans_a, trans_b):
    a, b = round_factors(a, b)
    c[:] = _as_factor(a, trans_a) @ _as_factor(b, trans_b)
