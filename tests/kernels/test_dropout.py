import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import dropout
from minigrad.kernels.cpu.tools.launch import GRAIN
from minigrad.kernels.philox import philox
from minigrad.kernels.reference.dropout import _uniform

KEY = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)
SIZES = [*[1, 4, 7, 17], *on_cpu(dropout.BLOCK + 1, GRAIN + 3), *on_cuda(0, 1027, 2048, 2053)]  # 2048: a block of a GPU

# Known answers for philox4x32-10, published with Random123 by the authors of the generator: counter, key, words.
KNOWN = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def mask(n, p, key):
    """1 where the CPU's kernel keeps an element, scaled."""
    y = np.empty(n, np.float64)
    dropout.dropout(np.ones(n), p, key, y)
    return y


@pytest.mark.parametrize("name", KNOWN)
def test_philox_gives_the_published_words(name):
    counter, key, words = KNOWN[name]
    assert philox(*np.array(counter, np.uint64), *np.array(key, np.uint64)) == words


def test_uniform_numbers_are_words_in_order():
    words = np.array(KNOWN["zeros"][2])
    np.testing.assert_array_equal(_uniform(np.zeros(2, np.uint64), 4), words / 2**32)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1 - 2.0**-40, 1.0])
@pytest.mark.parametrize("n", SIZES)
def test_dropout_matches_reference(check_kernel, rng, dtype, n, p):
    x = rng.standard_normal(n).astype(dtype)
    *_, y = check_kernel("dropout", "dropout", x, p, KEY, np.full(n, np.nan, dtype), parallel=n >= GRAIN, ulps=1)
    np.testing.assert_array_equal(y != 0, _uniform(KEY, n) >= p)


@pytest.mark.parametrize("words", [(0, 0), (2**64 - 1, 2**64 - 1), (1 << 32, 1), (1, 1 << 32)])
def test_every_word_of_the_key_counts(check_kernel, words):
    x = np.ones(40, np.float32)
    check_kernel("dropout", "dropout", x, 0.5, np.array(words, np.uint64), np.empty_like(x), ulps=0)


def test_word_on_the_threshold_is_kept(check_kernel, dtype):
    p = float(_uniform(KEY, 1)[0])
    *_, y = check_kernel("dropout", "dropout", np.ones(1, dtype), p, KEY, np.zeros(1, dtype))
    assert y[0] > 0


def test_word_below_the_threshold_is_dropped(check_kernel, dtype):
    p = float(_uniform(KEY, 1)[0]) + 2.0**-32
    *_, y = check_kernel("dropout", "dropout", np.ones(1, dtype), p, KEY, np.full(1, np.nan, dtype))
    assert y[0] == 0


def test_mask_keeps_its_share_and_the_mean():
    y = mask(100_000, 0.3, KEY)
    assert abs(np.mean(y > 0) - 0.7) < 0.01  # 7 standard deviations
    assert abs(y.mean() - 1) < 0.015


@pytest.mark.parametrize("change", [[1, 0], [0, 1], [1 << 32, 0], [0, 1 << 32]], ids=str)
def test_every_word_of_the_key_changes_the_mask(change):
    assert (mask(1000, 0.5, KEY) != mask(1000, 0.5, KEY ^ np.array(change, np.uint64))).any()


def test_same_key_gives_the_same_mask():
    np.testing.assert_array_equal(mask(1000, 0.5, KEY), mask(1000, 0.5, KEY))


def test_nan_survives_dropout(check_kernel, dtype):
    *_, y = check_kernel("dropout", "dropout", np.full(50, np.nan, dtype), 0.5, KEY, np.zeros(50, dtype))
    assert np.isnan(y).all()


def test_advance_takes_the_state_and_counts_up(check_kernel):
    state, key = check_kernel("dropout", "advance", KEY, np.zeros(2, np.uint64))
    np.testing.assert_array_equal(key, KEY)
    np.testing.assert_array_equal(state, KEY + np.array([0, 1], np.uint64))


def test_advance_wraps_around(check_kernel):
    state, _ = check_kernel("dropout", "advance", np.array([7, 2**64 - 1], np.uint64), np.zeros(2, np.uint64))
    np.testing.assert_array_equal(state, np.array([7, 0], np.uint64))


@pytest.mark.parametrize("n", SIZES)
def test_random_numbers_match_reference(check_kernel, dtype, n):
    for name, given in (("uniform", (-2.0, 3.0)), ("normal", (0.5, 2.0))):
        *_, y = check_kernel("dropout", name, *given, KEY, np.full(n, np.nan, dtype), parallel=n >= GRAIN, ulps=8)
        assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("low", "high"), [(1e8, 1e8 + 8), (-1.0, 1e-9), (3.0, 3.0), (-16777216.0, 16777216.0), (0.1, 0.1 + 1e-7)]
)
def test_uniform_numbers_stay_below_high(check_kernel, low, high):
    """In float32, where between the two there are few numbers, and rounding leads to the upper one."""
    y = np.full(40, np.nan, np.float32)
    *_, y = check_kernel("dropout", "uniform", low, high, KEY, y)
    first, end = np.float32(low), np.float32(high)
    assert ((first <= y) & (y < end)).all() if first < end else (y == first).all()


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_random_numbers_are_distributed_as_they_should(name):
    y = np.empty(1 << 20, np.float32)
    getattr(dropout, name)(0.0, 1.0, KEY, y)
    y = y.astype(np.float64)
    mean, variance = (0.5, 1 / 12) if name == "uniform" else (0.0, 1.0)
    assert abs(y.mean() - mean) < 5 * np.sqrt(variance / y.size)
    assert abs(y.var() - variance) < 0.005
    assert abs(np.corrcoef(y[:-1], y[1:])[0, 1]) < 5e-3
    if name == "uniform":
        assert 0 <= y.min() < 1e-5
        assert 1 - 1e-5 < y.max() < 1
    else:
        assert abs((np.abs(y) < 1).mean() - 0.6827) < 0.003
        assert abs((y**3).mean()) < 0.03
        assert abs((y**4).mean() - 3) < 0.06
