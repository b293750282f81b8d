"""Matrix products. Small whole numbers make the sums exact: any wrong index shows, whatever the order of adding."""

import itertools

import numpy as np
import pytest

from minigrad.kernels.cpu import gemm, target, threads

TRANSPOSED = list(itertools.product([False, True], repeat=2))
each_transposition = pytest.mark.parametrize(("trans_a", "trans_b"), TRANSPOSED)

# Around the widths of registers and tiles, the depths and heights of blocks, and where copying begins to pay.
LENGTHS = (
    1,
    2,
    5,
    8,
    15,
    16,
    17,
    24,
    31,
    33,
    47,
    48,
    49,
    63,
    64,
    65,
    95,
    96,
    97,
    127,
    128,
    129,
    191,
    192,
    193,
    200,
    255,
)
LONG = (256, 257, 300, 383, 384, 385, 479, 480, 481, 511, 512, 513, 577, 700, 961, 1024, 1025)
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


def check_exact(a, b, bias, trans_a, trans_b):
    """gemm on whole numbers: right to the bit, on any number of threads, and nothing written outside."""
    c, memory = guarded((a.shape[0], b.shape[1]), a.dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64) + (bias if bias.size else 0)
    gemm.gemm(flipped(a, trans_a), flipped(b, trans_b), bias, c, trans_a, trans_b)
    assert np.array_equal(c, expected), f"{a.shape} @ {b.shape}"
    assert is_untouched(memory), f"{a.shape} @ {b.shape}"


@pytest.mark.slow
@each_transposition
def test_every_small_size(rng, dtype, trans_a, trans_b):
    numbers_a, numbers_b, numbers = (whole(rng, 21 * 21, dtype) for _ in range(3))
    for m, n, k in itertools.product(range(1, 21), range(1, 21), (0, 1, 2, 3, 4, 7, 8, 9, 16, 20)):
        a, b = numbers_a[: m * k].reshape(m, k), numbers_b[: k * n].reshape(k, n)
        check_exact(a, b, numbers[: n if (m + n + k) % 2 else 0], trans_a, trans_b)


@each_transposition
@pytest.mark.parametrize("longest", ["m", "n", "k", "none"])
def test_sizes_around_tiles_and_blocks(rng, dtype, trans_a, trans_b, longest, set_threads):
    for trial in range(40):
        set_threads(1 + trial % min(2, threads.available_threads()))
        m, n, k = (int(rng.choice(LONG if name == longest else LENGTHS)) for name in "mnk")
        bias = whole(rng, n if trial % 3 else 0, dtype)
        check_exact(whole(rng, (m, k), dtype), whole(rng, (k, n), dtype), bias, trans_a, trans_b)


@each_transposition
@pytest.mark.parametrize(
    "shape", [(1025, 3, 300), (3, 1025, 300), (520, 520, 520), (481, 385, 1), (1, 4096, 300), (300, 1, 5000)]
)
def test_large_products(check_kernel, rng, dtype, trans_a, trans_b, shape):
    m, n, k = shape
    a, b, bias = whole(rng, (m, k), dtype), whole(rng, (k, n), dtype), whole(rng, n, dtype)
    parallel = m * n * k >= gemm.PARALLEL_WORK
    given = flipped(a, trans_a), flipped(b, trans_b)
    for start in (bias, bias[:0]):
        check_kernel(
            "gemm", "gemm", *given, start, np.full((m, n), np.nan, dtype), trans_a, trans_b, parallel=parallel, ulps=0
        )


@each_transposition
def test_rounding_is_that_of_one_sum(rng, dtype, trans_a, trans_b):
    m, n, k = 65, 70, 1000
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    c = np.empty((m, n), dtype)
    gemm.gemm(flipped(a, trans_a), flipped(b, trans_b), np.empty(0, dtype), c, trans_a, trans_b)
    wide_a, wide_b = a.astype(np.longdouble), b.astype(np.longdouble)
    bound = k * np.finfo(dtype).eps / 2 * (np.abs(wide_a) @ np.abs(wide_b))  # Higham 2002, section 3.1
    assert (np.abs(c - wide_a @ wide_b) <= bound).all()


@pytest.mark.skipif(not target.HAS_FMA, reason="without fused multiply-add, products are rounded as well")
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here")
@pytest.mark.parametrize("bias", [True, False])
@each_transposition
def test_each_element_is_one_chain_of_fused_multiply_adds(rng, trans_a, trans_b, bias):
    m, n, k = 23, 70, 400
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    start = rng.standard_normal(n if bias else 0).astype(np.float32)
    expected = np.broadcast_to(start if bias else np.float32(0), (m, n))
    for i in range(k):
        product = a[:, i, np.newaxis].astype(np.longdouble) * b[i].astype(np.longdouble)
        expected = (expected.astype(np.longdouble) + product).astype(np.float32)
    c = np.empty((m, n), np.float32)
    gemm.gemm(flipped(a, trans_a), flipped(b, trans_b), start, c, trans_a, trans_b)
    np.testing.assert_array_equal(c, expected)


def test_an_element_does_not_depend_on_the_others(rng, dtype):
    a, b = rng.standard_normal((300, 500)).astype(dtype), rng.standard_normal((500, 300)).astype(dtype)
    whole_c = np.empty((300, 300), dtype)
    gemm.gemm(a, b, np.empty(0, dtype), whole_c, False, False)
    for rows, columns in (
        (slice(7, 8), slice(0, 300)),
        (slice(0, 300), slice(299, 300)),
        (slice(11, 40), slice(5, 91)),
    ):
        part = np.empty(whole_c[rows, columns].shape, dtype)
        gemm.gemm(a[rows].copy(), b[:, columns].copy(), np.empty(0, dtype), part, False, False)
        np.testing.assert_array_equal(part, whole_c[rows, columns])


@pytest.mark.parametrize("bias", [[], [1.0, 2.0, 3.0]], ids=["zero", "bias"])
@each_transposition
def test_sum_over_nothing(dtype, trans_a, trans_b, bias):
    bias, c = np.array(bias, dtype), np.full((4, 3), np.nan, dtype)
    gemm.gemm(
        flipped(np.empty((4, 0), dtype), trans_a), flipped(np.empty((0, 3), dtype), trans_b), bias, c, trans_a, trans_b
    )
    np.testing.assert_array_equal(c, np.broadcast_to(bias if bias.size else 0, (4, 3)))


@each_transposition
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row_and_column(rng, dtype, trans_a, trans_b, value):
    a, b = np.abs(rng.standard_normal((37, 70))).astype(dtype), np.abs(rng.standard_normal((70, 53))).astype(dtype)
    a[20, 33] = value
    b[50, 40] = value
    c = np.empty((37, 53), dtype)
    gemm.gemm(flipped(a, trans_a), flipped(b, trans_b), np.empty(0, dtype), c, trans_a, trans_b)
    reached = np.zeros(c.shape, bool)
    reached[20], reached[:, 40] = True, True
    np.testing.assert_array_equal(np.isfinite(c), ~reached)
    assert np.array_equal(c[reached], np.full(reached.sum(), value), equal_nan=True)


def test_zero_times_infinity_is_nan(dtype):
    c = np.empty((2, 20), dtype)
    gemm.gemm(np.zeros((2, 3), dtype), np.full((3, 20), np.inf, dtype), np.empty(0, dtype), c, False, False)
    assert np.isnan(c).all()


# gemm_batched


@each_transposition
def test_batches_of_small_sizes(rng, dtype, trans_a, trans_b):
    for m, n, k in itertools.product((1, 3, 8, 13, 25), (1, 7, 16, 17, 50), (0, 1, 5, 33)):
        a, b = whole(rng, (3, m, k), dtype), whole(rng, (3, k, n), dtype)
        c, memory = guarded((3, m, n), dtype)
        gemm.gemm_batched(flipped(a, trans_a), flipped(b, trans_b), c, trans_a, trans_b)
        assert np.array_equal(c, a.astype(np.float64) @ b.astype(np.float64)), (m, n, k)
        assert is_untouched(memory), (m, n, k)


@each_transposition
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (7, 65, 66, 67), (2, 300, 70, 400), (40, 17, 130, 33)])
def test_batches_match_reference(check_kernel, rng, dtype, trans_a, trans_b, shape):
    batch, m, n, k = shape
    a, b = whole(rng, (batch, m, k), dtype), whole(rng, (batch, k, n), dtype)
    parallel = batch * m * n * k >= gemm.PARALLEL_WORK
    given = flipped(a, trans_a), flipped(b, trans_b)
    check_kernel(
        "gemm",
        "gemm_batched",
        *given,
        np.full((batch, m, n), np.nan, dtype),
        trans_a,
        trans_b,
        parallel=parallel,
        ulps=0,
    )


def test_batch_of_one_is_a_product(rng, dtype):
    a, b = rng.standard_normal((1, 90, 300)).astype(dtype), rng.standard_normal((1, 300, 80)).astype(dtype)
    one, many = np.empty((90, 80), dtype), np.empty((1, 90, 80), dtype)
    gemm.gemm(a[0], b[0], np.empty(0, dtype), one, False, False)
    gemm.gemm_batched(a, b, many, False, False)
    np.testing.assert_array_equal(many[0], one)
