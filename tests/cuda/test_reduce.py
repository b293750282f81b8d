import numpy as np
import pytest

from minigrad.kernels.cuda import reduce

SHAPES = [
    (1, 1, 1),
    (60, 10, 1),
    (3, 257, 1),
    (300, 2, 1),
    (5, 7, 3),
    (2, 17, 20),
    (1, 60, 100),
    (3, 5, 257),
    (2, 3, 260),
    (70, 2, 3),
]
CUT = [(1, 1300, 1), (2, 530, 3), (1, 400, 8), (1, 70, 260)]  # along the reduced axis, if little is enough
each_shape = pytest.mark.parametrize("shape", SHAPES + CUT, ids=str)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of few elements, and long rows that are not."""
    monkeypatch.setattr(reduce, "LEAST", 4)
    monkeypatch.setattr(reduce, "LONG_ROW", 1000)


def maximum(check_kernel, x):
    """(y, index) of max_forward, checked against the reference."""
    y = np.empty((x.shape[0], x.shape[2]), x.dtype)
    _, y, index = check_kernel("reduce", "max_forward", x, y, np.zeros(y.shape, np.int64), ulps=0)
    return y, index


@pytest.mark.parametrize("shape", [*SHAPES, *CUT, (3, 0, 4), (3, 0, 1), (0, 3, 2)], ids=str)
def test_sum_matches_reference(check_kernel, rng, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    y = np.full((shape[0], shape[2]), np.nan, dtype)
    check_kernel("reduce", "sum_forward", x, y, ulps=1 if dtype == np.float32 else 100)


@pytest.mark.parametrize("shape", [(1, 6000, 1), (1, 6001, 1), (1, 3000, 2), (1, 1500, 4)], ids=str)
def test_long_sum_of_float32_loses_nothing(check_kernel, shape):
    x = np.full(shape, 0.1, np.float32)
    check_kernel("reduce", "sum_forward", x, np.empty((1, shape[2]), np.float32), ulps=1)


def test_sum_keeps_what_is_small_beside_what_cancels(check_kernel):
    x = np.array([1e8, 1, -1e8, 1e-3], np.float32).reshape(1, 4, 1)
    check_kernel("reduce", "sum_forward", x, np.empty((1, 1), np.float32), ulps=1)


@pytest.mark.parametrize("shape", [(2, 50, 1), (2, 50, 20)], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_survive_a_sum(check_kernel, rng, dtype, shape, value):
    x = rng.standard_normal(shape).astype(dtype)
    x[1, 20] = value
    check_kernel("reduce", "sum_forward", x, np.empty((2, shape[2]), dtype), ulps=100)


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


def test_few_columns_take_one_launch(memory, rng):
    x = memory.put(rng.standard_normal((1, 30, 10)).astype(np.float32))
    reduce.sum_forward(x, memory.empty((1, 10), np.float32))
    assert sum(memory.driver.launches.values()) == 1


@each_shape
def test_max_matches_reference(check_kernel, rng, dtype, shape):
    maximum(check_kernel, rng.standard_normal(shape).astype(dtype))


@each_shape
def test_max_takes_the_first_of_equals(check_kernel, rng, shape):
    maximum(check_kernel, rng.integers(0, 2, shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(3, 7, 1), (3, 7, 20), (1, 1300, 1), (1, 300, 3)], ids=str)
def test_first_nan_is_the_maximum(check_kernel, rng, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    x[:, shape[1] // 2] = np.nan
    x[:, -1] = np.nan
    y, index = maximum(check_kernel, x)
    assert np.isnan(y).all()
    assert (index == shape[1] // 2).all()


@pytest.mark.parametrize("inner", [1, 20])
@pytest.mark.parametrize("values", [[-0.0, 0.0, -0.0], [-np.inf, -np.inf, np.inf, 5, np.inf], [-np.inf, -np.inf]])
def test_maximum_of_zeros_and_infinities(check_kernel, dtype, inner, values):
    maximum(check_kernel, np.array(values, dtype).reshape(1, -1, 1).repeat(inner, axis=2))


@each_shape
def test_max_backward_matches_reference(check_kernel, rng, dtype, shape):
    dy = rng.standard_normal((shape[0], shape[2])).astype(dtype)
    index = rng.integers(0, shape[1], dy.shape)
    check_kernel("reduce", "max_backward", dy, index, np.full(shape, np.nan, dtype), ulps=0)


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
