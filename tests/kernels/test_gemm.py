"""Matrix products. Small whole numbers make the sums exact: any wrong index shows, whatever the order of adding."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from minigrad.kernels.cpu import gemm
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector import target

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
    "shape",
    [
        (1025, 3, 300),
        (3, 1025, 300),
        (520, 520, 520),
        (481, 385, 1),
        (1, 4096, 300),
        (300, 1, 5000),
        (60, 100, 784),
        (100, 700, 2050),
        (1, 4096, 1030),
    ],
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
    m, n, k = 65, 70, 2 * gemm.ROW_PART - 1
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


def test_an_element_of_one_chain_does_not_depend_on_the_others(rng, dtype):
    depth = 2 * gemm.ROW_PART - 1
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


# gemm_add


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
    parallel = m * n * k >= gemm.PARALLEL_WORK
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


# Sums in parts

PART, FEW_ROWS, ROW_PART = gemm.PART, gemm.FEW_ROWS, gemm.ROW_PART
PARTED = [  # whether A comes transposed, m, n, k and the number of parts
    (True, 1, 1, 2 * PART - 1, 1),
    (True, 1, 1, 2 * PART, 2),
    (True, 7, 5, 2 * PART + 1, 2),
    (True, 33, 17, 5003, 2),
    (True, 100, 49, 6200, 3),
    (True, 17, 100, 9001, 4),
    (True, 3, 2, 70001, 32),
    (False, 3, 5, 2 * ROW_PART - 1, 1),
    (False, 1, 1, 2 * ROW_PART, 2),
    (False, 60, 100, 784, 2),
    (False, FEW_ROWS, 33, 2 * ROW_PART, 2),
    (False, FEW_ROWS + 1, 33, 2 * ROW_PART, 1),
    (False, FEW_ROWS + 1, 5, 16 * ROW_PART, 1),
    (False, 5, 47, 4 * ROW_PART - 1, 2),
    (False, 5, 47, 4 * ROW_PART, 4),
    (False, 23, 1, 8 * ROW_PART - 1, 4),
    (False, 23, 1, 8 * ROW_PART, 8),
    (False, 1, 301, 16 * ROW_PART + 5, 8),
    (False, FEW_ROWS, 256, 2 * ROW_PART + 1, 2),
    (False, 100, 1311, 8 * ROW_PART, 4),  # with FEW_ROWS rows 6 parts would still have few enough elements
    (False, FEW_ROWS, 2049, 4 * ROW_PART, 2),  # 3 would
    (False, FEW_ROWS, 4097, 2 * ROW_PART, 1),
]
each_parted = pytest.mark.parametrize(("trans_a", "m", "n", "k", "count"), PARTED)
each_start = pytest.mark.parametrize("start", ["zero", "bias", "what is there"])
STARTS = {"zero": lambda m, n: (0,), "bias": lambda m, n: (n,), "what is there": lambda m, n: (m, n)}


def run_variants(a, b, start, trans_a, set_threads):
    """C = A B + start, guarded, by the serial and by the parallel variant, whichever the sizes would choose."""
    set_threads(min(2, threads.available_threads()))
    added = start.ndim == 2
    for variant in (gemm.gemm.serial, gemm.gemm.run_parallel):
        c, memory = guarded((a.shape[0], b.shape[1]), a.dtype)
        if added:
            c[:] = start
            given = gemm.prepare_gemm_add(flipped(a, trans_a), b, c, trans_a, False)
        else:
            given = gemm.prepare_gemm(flipped(a, trans_a), b, start, c, trans_a, False)
        variant(*given)
        assert is_untouched(memory)
        yield c


@each_parted
@each_start
def test_parts_are_exact_and_stay_inside(rng, dtype, trans_a, m, n, k, count, start, set_threads):
    a, b, start = (whole(rng, shape, dtype) for shape in ((m, k), (k, n), STARTS[start](m, n)))
    expected = a.astype(np.float64) @ b.astype(np.float64) + (start if start.size else 0)
    for c in run_variants(a, b, start, trans_a, set_threads):
        assert np.array_equal(c, expected)


@pytest.mark.parametrize(("n", "k"), [(1311, 2048), (3072, 2048), (17, 784)])
def test_a_row_has_the_same_bits_among_few_rows_as_alone(rng, dtype, n, k):
    a, b = rng.standard_normal((FEW_ROWS, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    rows = [np.empty((m, n), dtype) for m in (1, 60, FEW_ROWS)]
    for c in rows:
        gemm.gemm(a[: len(c)].copy(), b, np.empty(0, dtype), c, False, False)
    assert len({c[0].tobytes() for c in rows}) == 1


def chain(a, b, start):
    """start + A B, each element one sum in the order of the shared index: A^T B by pieces that are too short for parts."""
    c = np.array(start, order="C")
    for i in range(0, len(b), PART):
        gemm.gemm_add(a[:, i : i + PART].T.copy(), b[i : i + PART].copy(), c, True, False)
    return c


@each_parted
@each_start
def test_parts_are_chains_of_their_own_added_in_order(rng, dtype, trans_a, m, n, k, count, start, set_threads):
    a, b, start = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), STARTS[start](m, n)))
    expected = np.broadcast_to(start if start.size else dtype.type(0), (m, n))
    if count == 1:
        expected = chain(a, b, expected)
    else:
        for part in range(count):
            rows = slice(part * k // count, (part + 1) * k // count)
            expected = expected + chain(a[:, rows], b[rows], np.zeros((m, n), dtype))
    for c in run_variants(a, b, start, trans_a, set_threads):
        assert c.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("trans_a", "k", "count"), [(True, 40_000, 19), (False, 40_000, 8), (False, 2100, 8)])
def test_rounding_of_parts_is_no_more_than_that_of_one_sum(rng, dtype, trans_a, k, count):
    m, n = 9, 21
    a, b, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), n))
    c = np.empty((m, n), dtype)
    gemm.gemm(flipped(a, trans_a), b, bias, c, trans_a, False)
    wide_a, wide_b, wide_bias = (x.astype(np.longdouble) for x in (a, b, bias))
    longest = -(-k // count) + count  # chain of roundings: within a part, then over the parts
    bound = longest * np.finfo(dtype).eps / 2 * (np.abs(wide_a) @ np.abs(wide_b) + np.abs(wide_bias))
    assert (np.abs(c - (wide_a @ wide_b + wide_bias)) <= bound).all()


@pytest.mark.parametrize("trans_a", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_a_part_stay_in_their_row_and_column(rng, dtype, value, trans_a):
    a, b = np.abs(rng.standard_normal((37, 5003))).astype(dtype), np.abs(rng.standard_normal((5003, 53))).astype(dtype)
    a[20, 4000], b[1, 40] = value, value
    c = np.empty((37, 53), dtype)
    gemm.gemm(flipped(a, trans_a), b, np.empty(0, dtype), c, trans_a, False)
    reached = np.zeros(c.shape, bool)
    reached[20], reached[:, 40] = True, True
    np.testing.assert_array_equal(np.isfinite(c), ~reached)


@pytest.mark.parametrize("trans_a", [True, False])
def test_nan_and_infinity_that_are_there_stay_when_parts_are_added(dtype, trans_a):
    c, depth = np.ones((37, 53), dtype), 2 * PART
    c[3, 5], c[36, 52] = np.nan, -np.inf
    gemm.gemm_add(
        np.ones((depth, 37) if trans_a else (37, depth), dtype), np.ones((depth, 53), dtype), c, trans_a, False
    )
    expected = np.full((37, 53), depth + 1, dtype)
    expected[3, 5], expected[36, 52] = np.nan, -np.inf
    np.testing.assert_array_equal(c, expected)


TEAMS = """
import numba
import numpy as np
from minigrad.kernels.cpu import gemm

rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    for m, n, k in (1, 1, 512), (5, 47, 1024), (60, 100, 784), (128, 300, 520), (23, 65, 2049), (129, 33, 600), (7, 5, 4097):
        a, b, bias, start = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), n, (m, n)))
        for trans_a in (False, True):
            left = a.T.copy() if trans_a else a
            for shift, added in (bias, False), (bias[:0], False), (bias[:0], True):
                one = start.copy()
                gemm.gemm.serial(left, b, shift, one, trans_a, False, added)
                for team in 1, 2, 3, 4, 7, 16, 17:
                    numba.set_num_threads(team)
                    c = start.copy()
                    gemm.gemm.parallel(left, b, shift, c, trans_a, False, added)
                    assert c.tobytes() == one.tobytes(), (m, n, k, trans_a, added, team)
print("the same")
"""


@pytest.mark.slow
def test_bits_are_the_same_with_more_threads_than_parts_or_panels():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "17"}
    result = subprocess.run([sys.executable, "-c", TEAMS], capture_output=True, text=True, env=environment)
    assert result.stdout == "the same\n", result.stderr


@pytest.mark.parametrize("trans_a", [True, False])
def test_product_with_transposed_b_is_one_chain(rng, dtype, trans_a):
    a, b = rng.standard_normal((23, 5003)).astype(dtype), rng.standard_normal((5003, 70)).astype(dtype)
    c = np.empty((23, 70), dtype)
    gemm.gemm(flipped(a, trans_a), flipped(b, True), np.empty(0, dtype), c, trans_a, True)
    np.testing.assert_array_equal(c, chain(a, b, np.zeros((23, 70), dtype)))


def test_a_large_product_is_one_chain(rng):
    m, n, k = 725, 725, 2 * gemm.PART
    assert m * n > gemm.MOST_SUMS // 2
    a, b = rng.standard_normal((k, m)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    one, other = np.empty((m, n), np.float32), np.zeros((m, n), np.float32)
    gemm.gemm(a, b, np.empty(0, np.float32), one, True, False)
    for half in (slice(k // 2), slice(k // 2, k)):
        gemm.gemm_add(a[half].copy(), b[half].copy(), other, True, False)
    np.testing.assert_array_equal(one, other)


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
