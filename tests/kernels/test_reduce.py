import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import reduce

CHUNK, PANEL, LARGE = reduce.CHUNK, reduce.PANEL, reduce.LARGE
SHAPES = [
    *[(1, 1, 1), (1, 60, 100), (60, 10, 1), (5, 7, 3), (2, 17, 17)],
    *on_cpu((1, CHUNK + 1, 1), (3, 5, PANEL + 1), (2, CHUNK // PANEL + 1, PANEL + 1)),
    *on_cpu((2, CHUNK // 3 + 1, 3), (CHUNK + 1, 2, 1)),
    *on_cpu((1, LARGE + 1, 1), (500, 263, 1), (1, 263, 500), (70, 31, 67), (LARGE // 6 + 1, 2, 3)),
    *on_cuda((3, 257, 1), (300, 2, 1), (2, 17, 20), (3, 5, 257), (2, 3, 260), (70, 2, 3)),
    *on_cuda((1, 1300, 1), (2, 530, 3), (1, 400, 8), (1, 70, 260)),  # cut along the reduced axis, see below
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def small(target, monkeypatch):
    """On CUDA chunks of few elements, and long rows that are not."""
    if target.name == "cuda":
        monkeypatch.setattr("minigrad.kernels.cuda.reduce.LEAST", 4)
        monkeypatch.setattr("minigrad.kernels.cuda.reduce.LONG_ROW", 1000)


def sample(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def maximum(check_kernel, x):
    """(y, index) of max_forward, checked against the reference."""
    y = np.empty((x.shape[0], x.shape[2]), x.dtype)
    _, y, index = check_kernel(
        "reduce", "max_forward", x, y, np.zeros(y.shape, np.int64), parallel=x.size >= LARGE, ulps=0
    )
    return y, index


@pytest.mark.parametrize("shape", [*SHAPES, (3, 0, 4), (3, 0, 1), (0, 3, 2)], ids=str)
def test_sum_matches_reference(check_kernel, rng, dtype, shape):
    x = sample(rng, shape, dtype)
    y = np.full((shape[0], shape[2]), np.nan, dtype)
    check_kernel("reduce", "sum_forward", x, y, parallel=x.size >= LARGE, ulps=1 if dtype == np.float32 else 100)


LONG = [*on_cpu((1, 1_000_000, 1), (1, 1_000_000, 2)), *on_cuda((1, 6000, 1), (1, 6001, 1), (1, 3000, 2), (1, 1500, 4))]


@pytest.mark.parametrize("shape", LONG, ids=str)
def test_long_sum_of_float32_loses_nothing(target, check_kernel, shape):
    x, y = np.full(shape, 0.1, np.float32), np.empty((1, shape[2]), np.float32)
    _, y = check_kernel("reduce", "sum_forward", x, y, parallel=x.size >= LARGE, ulps=1)
    if target.name == "cpu":  # which adds up in float64 and rounds once
        np.testing.assert_array_equal(y, np.float32(shape[1] * np.float64(np.float32(0.1))))


def test_sum_keeps_what_is_small_beside_what_cancels(check_kernel):
    x = np.array([1e8, 1, -1e8, 1e-3], np.float32).reshape(1, 4, 1)
    check_kernel("reduce", "sum_forward", x, np.empty((1, 1), np.float32), ulps=1)


@each_shape
def test_max_matches_reference(check_kernel, rng, dtype, shape):
    maximum(check_kernel, sample(rng, shape, dtype))


@each_shape
def test_max_takes_the_first_of_equals(check_kernel, rng, dtype, shape):
    maximum(check_kernel, rng.integers(0, 2, shape).astype(dtype))


MIDDLES = [
    *[(3, 7, 1), (3, 7, 20)],
    *on_cpu((1, 2 * CHUNK + 3, 1), (1, 3 * CHUNK // PANEL, PANEL)),
    *on_cuda((1, 1300, 1), (1, 300, 3)),
]


@pytest.mark.parametrize("shape", MIDDLES, ids=str)
def test_first_nan_is_the_maximum(check_kernel, rng, dtype, shape):
    x = sample(rng, shape, dtype)
    x[:, shape[1] // 2] = np.nan
    x[:, -1] = np.nan
    y, index = maximum(check_kernel, x)
    assert np.isnan(y).all()
    assert (index == shape[1] // 2).all()


@pytest.mark.parametrize("inner", [1, 20])
def test_zeros_of_either_sign_are_equal(check_kernel, dtype, inner):
    x = np.array([-0.0, 0.0, -0.0], dtype).reshape(1, 3, 1).repeat(inner, axis=2)
    assert (maximum(check_kernel, x)[1] == 0).all()


@pytest.mark.parametrize("inner", [1, 20])
def test_maximum_of_infinities(check_kernel, dtype, inner):
    x = np.array([-np.inf, -np.inf, np.inf, 5, np.inf], dtype).reshape(1, 5, 1).repeat(inner, axis=2)
    y, index = maximum(check_kernel, x)
    assert (y == np.inf).all()
    assert (index == 2).all()
    maximum(check_kernel, x[:, :2].copy())


@each_shape
def test_max_backward_matches_reference(check_kernel, rng, dtype, shape):
    dy = sample(rng, (shape[0], shape[2]), dtype)
    index = rng.integers(0, shape[1], dy.shape)
    dx = np.full(shape, np.nan, dtype)
    check_kernel("reduce", "max_backward", dy, index, dx, parallel=dx.size >= LARGE, ulps=0)


@pytest.mark.parametrize("shape", [(2, 50, 1), (2, 50, 20)], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_survive_a_sum(check_kernel, rng, dtype, shape, value):
    x = sample(rng, shape, dtype)
    x[1, 20] = value
    _, y = check_kernel("reduce", "sum_forward", x, np.zeros((shape[0], shape[2]), dtype), ulps=100)
    np.testing.assert_array_equal(y[1], value)
    assert np.isfinite(y[0]).all()


@pytest.mark.parametrize("reverse", [False, True])
@each_shape
def test_running_sums(check_kernel, rng, dtype, shape, reverse):
    x = sample(rng, shape, dtype)
    ulps = (
        8 if dtype == np.float32 else 64
    )  # in float64 the reference's own sums, one after another, are rounded as well
    check_kernel("reduce", "cumsum", x, reverse, np.empty_like(x), parallel=x.size >= LARGE, ulps=ulps)


def test_running_sums_beside_infinity_and_nan(check_kernel):
    x = np.array([1, np.inf, 2, 3, np.nan, 1], np.float32).reshape(1, 6, 1)
    *_, y = check_kernel("reduce", "cumsum", x, False, np.empty_like(x))
    np.testing.assert_array_equal(y.ravel(), [1, np.inf, np.inf, np.inf, np.nan, np.nan])
