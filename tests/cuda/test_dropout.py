import numpy as np

from minigrad.kernels.cuda import dropout
from minigrad.kernels.reference.dropout import _uniform

KEY = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)


def test_sizes_of_the_comparison_with_the_reference_reach_past_a_block():
    assert 2 * dropout.GROUP * dropout.THREADS == 2048  # in tests/kernels/test_dropout.py


def test_arrays_that_do_not_begin_at_16_bytes(memory, dtype):
    y = memory.empty((30,), dtype)
    dropout.dropout(memory.put(np.ones(31, dtype)).part(1, 31), 0.5, memory.put(KEY), y)
    np.testing.assert_array_equal(memory.get(y), 2 * (_uniform(KEY, 30) >= 0.5))


def test_replayed_graph_makes_a_new_mask(memory):
    driver, state, key = memory.driver, memory.put(KEY), memory.empty((2,), np.uint64)
    x, y = memory.put(np.ones(40, np.float32)), memory.empty((40,), np.float32)
    driver.begin_graph(memory.stream)
    dropout.advance(state, key)
    dropout.dropout(x, 0.5, key, y)
    graph = driver.end_graph(memory.stream)
    for k in range(2):
        driver.launch_graph(graph, memory.stream)
        expected = 2 * (_uniform(KEY + np.array([0, k], np.uint64), 40) >= 0.5)
        np.testing.assert_array_equal(memory.get(y), expected)
