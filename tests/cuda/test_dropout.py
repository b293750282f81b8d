import numpy as np
import pytest

from minigrad.kernels.cuda import dropout
from minigrad.kernels.reference.dropout import _uniform

KEY = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)
BLOCK = 2 * dropout.GROUP * dropout.THREADS


@pytest.mark.parametrize("p", [0.3, 1 - 2.0**-40, 1.0, 0.0])
@pytest.mark.parametrize("n", [0, 1, 4, 7, 1027, BLOCK, BLOCK + 5])
def test_dropout_matches_reference(check_kernel, rng, dtype, n, p):
    x = rng.standard_normal(n).astype(dtype)
    *_, y = check_kernel("dropout", "dropout", x, p, KEY, np.full(n, np.nan, dtype), ulps=1)
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


def test_nan_survives_dropout(check_kernel, dtype):
    *_, y = check_kernel("dropout", "dropout", np.full(50, np.nan, dtype), 0.5, KEY, np.zeros(50, dtype))
    assert np.isnan(y).all()


def test_arrays_that_do_not_begin_at_16_bytes(memory, dtype):
    y = memory.empty((30,), dtype)
    dropout.dropout(memory.put(np.ones(31, dtype)).part(1, 31), 0.5, memory.put(KEY), y)
    np.testing.assert_array_equal(memory.get(y), 2 * (_uniform(KEY, 30) >= 0.5))


def test_advance_takes_the_state_and_counts_up(check_kernel):
    check_kernel("dropout", "advance", KEY, np.zeros(2, np.uint64))


def test_advance_wraps_around(check_kernel):
    state, _ = check_kernel("dropout", "advance", np.array([7, 2**64 - 1], np.uint64), np.zeros(2, np.uint64))
    np.testing.assert_array_equal(state, [7, 0])


def test_replayed_graph_makes_a_new_mask(memory):
    driver, state, key = memory.driver, memory.put(KEY), memory.empty((2,), np.uint64)
    x, y = memory.put(np.ones(40, np.float32)), memory.empty((40,), np.float32)
    driver.begin_graph(None)
    dropout.advance(state, key)
    dropout.dropout(x, 0.5, key, y)
    graph = driver.end_graph(None)
    for k in range(2):
        driver.launch_graph(graph, None)
        expected = 2 * (_uniform(KEY + np.array([0, k], np.uint64), 40) >= 0.5)
        np.testing.assert_array_equal(memory.get(y), expected)
