"""Matrix products that are added to what is there."""

import numpy as np
import pytest
from products import LENGTHS, LONG, each_transposition, flipped, guarded, is_untouched, whole

from minigrad.kernels.cpu import gemm
from minigrad.kernels.cpu.parts.panels import PARALLEL_WORK
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector import target

pytestmark = pytest.mark.cpu


@each_transposition
@pytest.mark.parametrize("longest", ["m", "n", "k", "none"])
def test_adding_at_sizes_around_tiles_and_blocks(rng, dtype, trans_a, trans_b, longest, set_threads):
    for trial in range(20):
        set_threads(1 + trial % min(2, threads.available_threads()))
        m, n, k = (int(rng.choice(LONG if name == longest else LENGTHS)) for name in "mnk")
        a, b, start = whole(rng, (m, k), dtype), whole(rng, (k, n), dtype), whole(rng, (m, n), dtype)
        c, memory = guarded((m, n), dtype)
        c[:] = start
        gemm.gemm_add(flipped(a, trans_a), flipped(b, trans_b), c, trans_a, trans_b)
        assert np.array_equal(c, start + a.astype(np.float64) @ b.astype(np.float64)), (m, n, k)
        assert is_untouched(memory), (m, n, k)


@each_transposition
@pytest.mark.parametrize(
    "shape", [(1025, 3, 300), (3, 1025, 300), (520, 520, 520), (5003, 33, 17), (33, 17, 5003), (100, 700, 2050)]
)
def test_adding_large_products(check_kernel, rng, dtype, trans_a, trans_b, shape):
    m, n, k = shape
    a, b, start = whole(rng, (m, k), dtype), whole(rng, (k, n), dtype), whole(rng, (m, n), dtype)
    parallel = m * n * k >= PARALLEL_WORK
    given = flipped(a, trans_a), flipped(b, trans_b), start, trans_a, trans_b
    check_kernel("gemm", "gemm_add", *given, parallel=parallel, ulps=0)


@each_transposition
def test_adding_a_sum_over_nothing_leaves_what_is_there(rng, dtype, trans_a, trans_b):
    start = whole(rng, (4, 3), dtype)
    c = start.copy()
    a, b = flipped(np.empty((4, 0), dtype), trans_a), flipped(np.empty((0, 3), dtype), trans_b)
    gemm.gemm_add(a, b, c, trans_a, trans_b)
    np.testing.assert_array_equal(c, start)


def test_nan_and_infinity_that_are_there_stay(rng, dtype):
    c = np.ones((37, 53), dtype)
    c[3, 5], c[36, 52] = np.nan, np.inf
    gemm.gemm_add(np.ones((37, 70), dtype), np.ones((70, 53), dtype), c, False, False)
    expected = np.full((37, 53), 71, dtype)
    expected[3, 5], expected[36, 52] = np.nan, np.inf
    np.testing.assert_array_equal(c, expected)


@pytest.mark.skipif(not target.HAS_FMA, reason="without fused multiply-add, products are rounded as well")
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here")
@each_transposition
def test_chain_of_gemm_add_starts_from_what_is_there(rng, trans_a, trans_b):
    m, n, k = 23, 70, 400
    a, b, start = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
    expected = start
    for i in range(k):
        product = a[:, i, np.newaxis].astype(np.longdouble) * b[i].astype(np.longdouble)
        expected = (expected.astype(np.longdouble) + product).astype(np.float32)
    c = start.copy()
    gemm.gemm_add(flipped(a, trans_a), flipped(b, trans_b), c, trans_a, trans_b)
    np.testing.assert_array_equal(c, expected)
