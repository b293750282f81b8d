"""Products whose factors are rounded to bfloat16: the rounding, and the CPU's kernels against the reference.

Convolutions are in test_conv.py.
"""

import itertools

import numba
import numpy as np
import pytest
from products import LENGTHS, LONG, each_transposition, flipped, guarded, is_untouched, whole

from minigrad.kernels.cpu import gemm
from minigrad.kernels.cpu.parts.products import FEW_ROWS, PART, ROW_PART
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.vector.bfloat16 import pair_rows, round_row
from minigrad.kernels.cpu.vector.target import HAS_BFLOAT16
from minigrad.kernels.precision import Products, rounded_to_bfloat16
from minigrad.kernels.reference import gemm as reference

on_the_processor = pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor does not multiply bfloat16")


@pytest.fixture(autouse=True)
def in_bfloat16(monkeypatch):
    monkeypatch.setattr(Products, "in_bfloat16", True)


def floats(*bits):
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F800000),  # 1
        (0x3F807FFF, 0x3F800000),  # just below halfway to the next
        (0x3F808000, 0x3F800000),  # halfway: to the even one, below
        (0x3F818000, 0x3F820000),  # halfway: to the even one, above
        (0xBF808001, 0xBF810000),  # just above, negative
        (0x7F7FFFFF, 0x7F800000),  # the largest float32 becomes infinite
        (0x7F7F7FFF, 0x7F7F0000),
        (0xFF800000, 0xFF800000),  # -infinity
        (0x80000000, 0x80000000),  # -0
        (0x00008000, 0x00000000),  # below 2^-126
        (0x0000C000, 0x00010000),
    ],
)
def test_rounding_is_to_the_nearest_and_of_two_to_the_even(bits, rounded):
    assert rounded_to_bfloat16(floats(bits)).view(np.uint32) == rounded


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x7F80FFFF])
def test_a_nan_stays_one(bits):
    assert np.isnan(rounded_to_bfloat16(floats(bits))).all()


def test_rounding_is_that_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = floats(*rng.integers(0, 1 << 32, 10_000))
    np.testing.assert_array_equal(rounded_to_bfloat16(x), torch.from_numpy(x).bfloat16().float().numpy())


@numba.njit(error_model="numpy")
def words_of_a_row(x, words):
    round_row(x.dtype, x.ctypes.data, x.size, words.ctypes.data)


@numba.njit(error_model="numpy")
def words_of_two(x, both, words):
    pair_rows(x.dtype, x[0].ctypes.data, x[1].ctypes.data, both, x.shape[1], words.ctypes.data)


def special(rng, count):
    """Numbers of all sizes and signs, and those that are none."""
    x = floats(*rng.integers(0, 1 << 32, count))
    x[np.abs(x) < 2.0**-126] = 0  # which the instruction takes for zero
    x[:: max(1, count // 3)] = np.resize(
        np.array([np.nan, np.inf, -np.inf, -0.0], np.float32), x[:: max(1, count // 3)].size
    )
    return rng.permutation(x)


def upper_halves(words):
    """The two numbers of each word, as float32."""
    return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@on_the_processor
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 32, 33, 64, 100])
def test_words_of_neighbours(rng, count):
    x = special(rng, count)
    words = np.full((count + 1) // 2 + 3, 7, np.uint32)
    words_of_a_row(x, words)
    found = upper_halves(words[:-3])
    np.testing.assert_array_equal(found[:count], rounded_to_bfloat16(x))
    assert not found[count:].any()
    assert (words[-3:] == 7).all()


@on_the_processor
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 48])
def test_words_of_two_rows(rng, count, both):
    x = special(rng, 2 * count).reshape(2, count)
    words = np.full(-(-count // 16) * 16, 7, np.uint32)
    words_of_two(x, both, words)
    low, high = upper_halves(words).reshape(-1, 2).T
    np.testing.assert_array_equal(low[:count], rounded_to_bfloat16(x[0]))
    np.testing.assert_array_equal(high[:count], rounded_to_bfloat16(x[1]) if both else np.zeros(count))
    assert not low[count:].any()
    assert not high[count:].any()


def ways(a, b, start, trans_a, trans_b, set_threads):
    """A B + start, where start is of no, of one or of two axes, guarded, on one thread and on two."""
    found = []
    for count in range(1, min(2, threads.available_threads()) + 1):
        set_threads(count)
        c, memory = guarded((a.shape[0], b.shape[1]), np.float32)
        given = flipped(a, trans_a), flipped(b, trans_b)
        if start.ndim == 2:
            c[:] = start
            gemm.gemm_add(*given, c, trans_a, trans_b)
        else:
            gemm.gemm(*given, start, c, trans_a, trans_b)
        assert is_untouched(memory)
        found.append(c)
    assert found[0].tobytes() == found[-1].tobytes()
    return found[0]


def starts(rng, m, n, trial):
    return rng.integers(-4, 5, [(0,), (n,), (m, n)][trial % 3]).astype(np.float32)


def check_exact(rng, m, n, k, trans_a, trans_b, trial, set_threads):
    """Small whole numbers are bfloat16 numbers, and their sums exact."""
    a, b, start = whole(rng, (m, k), np.float32), whole(rng, (k, n), np.float32), starts(rng, m, n, trial)
    c = ways(a, b, start, trans_a, trans_b, set_threads)
    expected = a.astype(float) @ b + (start if start.size else 0)
    assert np.array_equal(c, expected), f"{a.shape} @ {b.shape}"


@on_the_processor
@each_transposition
def test_small_sizes(rng, trans_a, trans_b, set_threads):
    for trial, (m, n, k) in enumerate(
        itertools.product((1, 7, 8, 9, 25), (1, 15, 17, 33, 48, 49), (0, 1, 2, 3, 31, 33))
    ):
        check_exact(rng, m, n, k, trans_a, trans_b, trial, set_threads)


@on_the_processor
@each_transposition
@pytest.mark.parametrize("longest", ["m", "n", "k", "none"])
def test_sizes_around_tiles_and_blocks(rng, trans_a, trans_b, longest, set_threads):
    for trial in range(24):
        m, n, k = (int(rng.choice(LONG if name == longest else LENGTHS)) for name in "mnk")
        check_exact(rng, m, n, k, trans_a, trans_b, trial, set_threads)


@on_the_processor
@pytest.mark.parametrize(
    ("trans_a", "m", "n", "k"),
    [
        (True, 7, 5, 2 * PART + 1),
        (True, 33, 17, 5003),
        (True, 3, 2, 70001),
        (False, 60, 100, 784),
        (False, FEW_ROWS, 33, 2 * ROW_PART),
        (False, FEW_ROWS + 1, 5, 16 * ROW_PART + 1),
        (False, 1, 301, 16 * ROW_PART + 5),
    ],
)
@pytest.mark.parametrize("trial", range(3))
def test_sums_in_parts(rng, trans_a, m, n, k, trial, set_threads):
    check_exact(rng, m, n, k, trans_a, False, trial, set_threads)


@on_the_processor
@each_transposition
@pytest.mark.parametrize("shape", [(65, 70, 511), (300, 200, 1027), (60, 100, 784), (30, 40, 5003)], ids=str)
def test_error_is_that_of_sums_of_rounded_factors(rng, trans_a, trans_b, shape, set_threads):
    m, n, k = shape
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    c = ways(a, b, np.empty(0, np.float32), trans_a, trans_b, set_threads)
    exact = np.empty((m, n))
    reference.gemm(flipped(a, trans_a), flipped(b, trans_b), np.empty(0), exact, trans_a, trans_b)
    rounded_a, rounded_b = (np.abs(rounded_to_bfloat16(x)).astype(float) for x in (a, b))
    # Of each term, at most the roundings of its own sum and of all that follow it, and as many of its product.
    bound = (k + 1) * np.finfo(np.float32).eps * (rounded_a @ rounded_b)
    assert (np.abs(c - exact) <= bound).all()


@on_the_processor
def test_an_element_does_not_depend_on_the_others(rng):
    a, b = rng.standard_normal((300, 511)).astype(np.float32), rng.standard_normal((511, 300)).astype(np.float32)
    whole_c = np.empty((300, 300), np.float32)
    gemm.gemm(a, b, np.empty(0, np.float32), whole_c, False, False)
    for rows, columns in (
        (slice(7, 8), slice(0, 300)),
        (slice(0, 300), slice(299, 300)),
        (slice(11, 40), slice(5, 91)),
    ):
        part = np.empty(whole_c[rows, columns].shape, np.float32)
        gemm.gemm(a[rows].copy(), b[:, columns].copy(), np.empty(0, np.float32), part, False, False)
        np.testing.assert_array_equal(part, whole_c[rows, columns])


@on_the_processor
@each_transposition
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(5, 6, 7), (37, 53, 5001)], ids=str)
def test_nan_and_infinity_stay_in_their_row_and_column(rng, trans_a, trans_b, value, shape):
    m, n, k = shape
    a, b = (
        np.abs(rng.standard_normal((m, k))).astype(np.float32),
        np.abs(rng.standard_normal((k, n))).astype(np.float32),
    )
    a[m // 2, k // 2], b[k - 1, n - 2] = value, value
    c = np.empty((m, n), np.float32)
    gemm.gemm(flipped(a, trans_a), flipped(b, trans_b), np.empty(0, np.float32), c, trans_a, trans_b)
    reached = np.zeros(c.shape, bool)
    reached[m // 2], reached[:, n - 2] = True, True
    np.testing.assert_array_equal(np.isfinite(c), ~reached)
    assert np.array_equal(c[reached], np.full(reached.sum(), value), equal_nan=True)


@on_the_processor
def test_numbers_below_the_normal_ones_count_as_zero():
    a, b = np.full((1, 3), 2.0**-127, np.float32), np.full((3, 1), 2.0**100, np.float32)
    c = np.empty((1, 1), np.float32)
    gemm.gemm(a, b, np.empty(0, np.float32), c, False, False)
    assert c == 0


@on_the_processor
@each_transposition
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 201, 70, 403), (40, 17, 130, 0), (7, 65, 66, 67)], ids=str)
def test_batches(rng, trans_a, trans_b, shape, set_threads):
    batch, m, n, k = shape
    a, b = whole(rng, (batch, m, k), np.float32), whole(rng, (batch, k, n), np.float32)
    for count in range(1, min(2, threads.available_threads()) + 1):
        set_threads(count)
        c, memory = guarded((batch, m, n), np.float32)
        gemm.gemm_batched(flipped(a, trans_a), flipped(b, trans_b), c, trans_a, trans_b)
        assert np.array_equal(c, a.astype(float) @ b)
        assert is_untouched(memory)


@pytest.mark.parametrize("kernels", [gemm, reference])
def test_float64_is_not_rounded(rng, kernels):
    a, b, c = rng.standard_normal((5, 7)), rng.standard_normal((7, 3)), np.empty((5, 3))
    kernels.gemm(a, b, np.empty(0), c, False, False)
    np.testing.assert_allclose(c, a @ b, rtol=1e-13)


def test_reference_multiplies_rounded_factors(rng):
    a, b = rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal((7, 3)).astype(np.float32)
    c = np.empty((5, 3), np.float32)
    reference.gemm(a, b, np.empty(0, np.float32), c, False, False)
    np.testing.assert_allclose(c, rounded_to_bfloat16(a).astype(float) @ rounded_to_bfloat16(b), rtol=1e-6)
    assert np.abs(c - a @ b).max() > 1e-4
