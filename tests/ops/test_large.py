"""Arrays of more than 2³¹ elements on the CPU, whose memory is never touched but where something stands."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.devices import get_device

COLUMNS = 63
ROWS = (1 << 31) // COLUMNS + 100


@pytest.fixture
def table():
    """A tensor of zeros in pages that the system has not given out yet, with a 3 and a 5 at its end."""
    try:
        array = np.zeros((ROWS, COLUMNS), np.float32)
    except MemoryError:
        pytest.skip("the system does not promise 8 GB")
    array[-1, -1], array[-2, 0] = 3, 5
    assert array.size > 1 << 31
    return mg.Tensor._wrap(array, get_device("cpu"))


@pytest.mark.slow
def test_rows_sums_and_maxima_beyond_two_billion_elements(table):
    np.testing.assert_array_equal(table[np.array([0, ROWS - 1])].numpy(), [[0] * 63, [0] * 62 + [3]])
    np.testing.assert_array_equal(table[-2:, ::62].numpy(), [[5, 0], [0, 3]])
    assert table.sum().item() == 8
    np.testing.assert_array_equal(table.sum(axis=0).numpy(), [5] + [0] * 61 + [3])
    assert table.max().item() == 5
