"""Matrix products whose sums are cut into parts, so that several threads share one, and those that are one chain."""

import os
import subprocess
import sys

import numpy as np
import pytest
from products import flipped, guarded, is_untouched, whole

from minigrad.kernels.cpu import gemm
from minigrad.kernels.cpu.parts.products import FEW_ROWS, MOST_SUMS, PART, ROW_PART
from minigrad.kernels.cpu.tools import threads

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
            given = gemm.prepare_product_add(flipped(a, trans_a), b, c, trans_a, False)
        else:
            given = gemm.prepare_product(flipped(a, trans_a), b, start, c, trans_a, False)
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
    m, n, k = 725, 725, 2 * PART
    assert m * n > MOST_SUMS // 2
    a, b = rng.standard_normal((k, m)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    one, other = np.empty((m, n), np.float32), np.zeros((m, n), np.float32)
    gemm.gemm(a, b, np.empty(0, np.float32), one, True, False)
    for half in (slice(k // 2), slice(k // 2, k)):
        gemm.gemm_add(a[half].copy(), b[half].copy(), other, True, False)
    np.testing.assert_array_equal(one, other)
