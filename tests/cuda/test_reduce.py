import math

import numpy as np
import pytest

from minigrad.kernels.cuda import reduce


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of few elements, and long rows that are not."""
    monkeypatch.setattr(reduce, "LEAST", 4)
    monkeypatch.setattr(reduce, "LONG_ROW", 1000)


@pytest.mark.parametrize("shape", [(1, 1300, 1), (1, 1300, 4)], ids=str)
def test_sum_does_not_depend_on_the_order_of_threads(memory, rng, shape):
    x = memory.put(rng.standard_normal(shape).astype(np.float32))
    results = []
    for order in (None, np.random.default_rng(2)):
        memory.driver.order = order
        y = memory.empty((1, shape[2]), np.float32)
        reduce.sum_forward(x, y)
        results.append(memory.get(y).tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("shape", [(1, 4096, 1), (1, 4099, 1), (2, 3000, 4), (1, 1500, 3)], ids=str)
def test_sum_is_rounded_once_whatever_cancels(memory, rng, shape):
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(np.float32)
    y = memory.empty((shape[0], shape[2]), np.float32)
    reduce.sum_forward(memory.put(x), y)
    exact = np.array([[math.fsum(x[i, :, j]) for j in range(shape[2])] for i in range(shape[0])])
    assert (np.abs(memory.get(y) - exact) <= 0.51 * np.spacing(np.abs(exact).astype(np.float32))).all()
    assert len(memory.driver.launches) > 1  # of parts, and of what they gave


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_sum_of_parts_keeps_infinities(memory, value):
    x = np.ones((1, 4096, 1), np.float32)
    x[0, 100] = value
    y = memory.empty((1, 1), np.float32)
    reduce.sum_forward(memory.put(x), y)
    np.testing.assert_array_equal(memory.get(y), [[value]])


def test_few_columns_take_one_launch(memory, rng):
    x = memory.put(rng.standard_normal((1, 30, 10)).astype(np.float32))
    reduce.sum_forward(x, memory.empty((1, 10), np.float32))
    assert sum(memory.driver.launches.values()) == 1


@pytest.mark.parametrize(
    "shape",
    [(1, 256_000, 24), (1, 1 << 30, 1), (250, 49, 256), (3_000_000, 2, 3), (60, 10, 1), (1, 2, 1 << 20)],
    ids=str,
)
def test_tiles_are_what_a_gpu_takes(shape):
    blocks, panels, (across, down, deep), chunk, chunks = reduce.tile(*shape)
    assert across * panels >= shape[2]
    assert across * down * deep <= reduce.THREADS
    assert deep <= 64
    assert blocks // panels * deep >= shape[0]
    assert blocks < 1 << 31
    assert chunks < 1 << 16
    assert (chunks - 1) * chunk < shape[1] <= chunks * chunk
