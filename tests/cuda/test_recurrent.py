from collections import Counter

import numpy as np
import pytest

from minigrad.kernels.cuda import recurrent

STEPS = 4


def launched(memory):
    """How often kernels of each family were launched, and of this one by name."""
    found = Counter()
    for name, count in memory.driver.launches.items():
        family, _, kernel = name.partition(",")[0].partition(".")
        found[kernel if family == "recurrent" else family] += count
    return found


@pytest.mark.parametrize("started", [False, True])
def test_a_product_and_a_cell_for_each_step(memory, rng, started):
    def put(*shape):
        return memory.put(rng.standard_normal(shape).astype(np.float32))

    h0, w, empty = put(2 * started, 3), put(3, 12), memory.empty((0, 3), np.float32)
    gates, y, dy = put(STEPS, 2, 12), put(STEPS, 2, 3), put(STEPS, 2, 3)
    memory.driver.launches.clear()
    recurrent.lstm_forward(h0, h0, w, False, gates, dy, y)
    assert launched(memory) == {"lstm_cell": STEPS, "gemm": STEPS - 1 + started}
    memory.driver.launches.clear()
    dh0 = put(2 * started, 3)
    recurrent.lstm_backward(y, put(2, 3), gates, h0, dy, w, False, put(STEPS, 2, 12), dh0, empty)
    assert launched(memory) == {"lstm_cell_backward": STEPS, "gemm": STEPS - 1 + started}
