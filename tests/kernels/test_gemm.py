"""Matrix products and batches of them; those that are added to what is there and sums in parts have files beside this."""

import itertools

import numpy as np
import pytest
from products import LENGTHS, LONG, each_transposition, flipped, guarded, is_untouched, whole
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import gemm
from minigrad.kernels.cpu.parts.panels import PARALLEL_WORK
from minigrad.kernels.cpu.parts.products import ROW_PART
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector import target


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


SHAPES = [
    (3, 5, 2),
    *on_cpu((1025, 3, 300), (3, 1025, 300), (520, 520, 520), (481, 385, 1), (1, 4096, 300), (300, 1, 5000)),
    *on_cpu((60, 100, 784), (100, 700, 2050), (1, 4096, 1030)),
    *on_cuda((1, 1, 1), (33, 31, 35), (40, 36, 64)),  # the rows of the last are whole 16 bytes
]


@each_transposition
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_matches_reference(check_kernel, rng, dtype, trans_a, trans_b, shape):
    m, n, k = shape
    a, b, bias = whole(rng, (m, k), dtype), whole(rng, (k, n), dtype), whole(rng, n, dtype)
    given, parallel = (flipped(a, trans_a), flipped(b, trans_b)), m * n * k >= PARALLEL_WORK
    for start in (bias, bias[:0]):
        c = np.full((m, n), np.nan, dtype)
        check_kernel("gemm", "gemm", *given, start, c, trans_a, trans_b, parallel=parallel, ulps=0)


@each_transposition
def test_rounding_is_that_of_one_sum(rng, dtype, trans_a, trans_b):
    m, n, k = 65, 70, 2 * ROW_PART - 1
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


def test_an_element_of_one_chain_does_not_depend_on_the_others(rng, dtype):
    depth = 2 * ROW_PART - 1
    a, b = rng.standard_normal((300, depth)).astype(dtype), rng.standard_normal((depth, 300)).astype(dtype)
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
def test_sum_over_nothing(check_kernel, dtype, trans_a, trans_b, bias):
    a, b = flipped(np.empty((4, 0), dtype), trans_a), flipped(np.empty((0, 3), dtype), trans_b)
    bias, c = np.array(bias, dtype), np.full((4, 3), np.nan, dtype)
    check_kernel("gemm", "gemm", a, b, bias, c, trans_a, trans_b, ulps=0)


@each_transposition
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(5, 6, 7), *on_cpu((37, 53, 70))], ids=str)
def test_nan_and_infinity_stay_in_their_row_and_column(target, rng, dtype, trans_a, trans_b, value, shape):
    m, n, k = shape
    a, b = np.abs(rng.standard_normal((m, k))).astype(dtype), np.abs(rng.standard_normal((k, n))).astype(dtype)
    row, column = m // 2 + 1, n - 2
    a[row, k // 2], b[k - 2, column] = value, value
    c, nothing = np.empty((m, n), dtype), np.empty(0, dtype)
    given = flipped(a, trans_a), flipped(b, trans_b)
    *_, c, _, _ = target.run("gemm", "gemm", *given, nothing, c, trans_a, trans_b)
    reached = np.zeros(c.shape, bool)
    reached[row], reached[:, column] = True, True
    np.testing.assert_array_equal(np.isfinite(c), ~reached)
    assert np.array_equal(c[reached], np.full(reached.sum(), value), equal_nan=True)


@each_transposition
@pytest.mark.parametrize("shape", [(0, 5, 5000), (5, 0, 5000), (0, 0, 5000), (0, 3, 1), (0, 0, 0)])
def test_product_without_elements(dtype, trans_a, trans_b, shape):
    m, n, k = shape
    c, memory = guarded((m, n), dtype)
    a, b = flipped(np.ones((m, k), dtype), trans_a), flipped(np.ones((k, n), dtype), trans_b)
    gemm.gemm(a, b, np.ones(n, dtype), c, trans_a, trans_b)
    gemm.gemm_add(a, b, c, trans_a, trans_b)
    assert is_untouched(memory)


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
@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 5), *on_cpu((7, 65, 66, 67), (2, 300, 70, 400), (40, 17, 130, 33))], ids=str
)
def test_batches_match_reference(check_kernel, rng, dtype, trans_a, trans_b, shape):
    batch, m, n, k = shape
    a, b = whole(rng, (batch, m, k), dtype), whole(rng, (batch, k, n), dtype)
    parallel = batch * m * n * k >= PARALLEL_WORK
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
