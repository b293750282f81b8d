import numpy as np
import pytest

from minigrad.kernels.cpu import reduce

CHUNK, PANEL, LARGE = reduce.CHUNK, reduce.PANEL, reduce.LARGE
SHAPES = [
    (1, 1, 1),
    (1, 60, 100),
    (60, 10, 1),
    (5, 7, 3),
    (2, 17, 17),
    (1, CHUNK + 1, 1),
    (3, 5, PANEL + 1),
    (2, CHUNK // PANEL + 1, PANEL + 1),
    (2, CHUNK // 3 + 1, 3),
    (CHUNK + 1, 2, 1),
]
LARGE_SHAPES = [(1, LARGE + 1, 1), (500, 263, 1), (1, 263, 500), (70, 31, 67), (LARGE // 6 + 1, 2, 3)]
ALL_SHAPES = SHAPES + LARGE_SHAPES


def sample(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def maximum(check_kernel, x):
    """(y, index) of max_forward, checked against the reference."""
    y = np.empty((x.shape[0], x.shape[2]), x.dtype)
    _, y, index = check_kernel(
        "reduce", "max_forward", x, y, np.zeros(y.shape, np.int64), parallel=x.size >= LARGE, ulps=0
    )
    return y, index


@pytest.mark.parametrize("shape", [*ALL_SHAPES, (3, 0, 4), (3, 0, 1), (0, 3, 2)], ids=str)
def test_sum_matches_reference(check_kernel, rng, dtype, shape):
    x = sample(rng, shape, dtype)
    y = np.full((shape[0], shape[2]), np.nan, dtype)
    check_kernel("reduce", "sum_forward", x, y, parallel=x.size >= LARGE, ulps=2 if dtype == np.float32 else 1000)


@pytest.mark.parametrize("shape", [(1, 1_000_000, 1), (1, 1_000_000, 2)], ids=str)
def test_sum_of_float32_is_rounded_once(shape):
    x = np.full(shape, 0.1, np.float32)
    y = np.empty((1, shape[2]), np.float32)
    reduce.sum_forward(x, y)
    np.testing.assert_array_equal(y, np.float32(1_000_000 * np.float64(np.float32(0.1))))


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
def test_max_matches_reference(check_kernel, rng, dtype, shape):
    maximum(check_kernel, sample(rng, shape, dtype))


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
def test_max_takes_the_first_of_equals(check_kernel, rng, dtype, shape):
    maximum(check_kernel, rng.integers(0, 2, shape).astype(dtype))


@pytest.mark.parametrize(
    "shape", [(3, 7, 1), (3, 7, 20), (1, 2 * CHUNK + 3, 1), (1, 3 * CHUNK // PANEL, PANEL)], ids=str
)
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


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
def test_max_backward_matches_reference(check_kernel, rng, dtype, shape):
    dy = sample(rng, (shape[0], shape[2]), dtype)
    index = rng.integers(0, shape[1], dy.shape)
    dx = np.full(shape, np.nan, dtype)
    check_kernel("reduce", "max_backward", dy, index, dx, parallel=dx.size >= LARGE, ulps=0)


@pytest.mark.parametrize("shape", [(2, 50, 1), (2, 50, 20)], ids=str)
def test_nan_survives_a_sum(check_kernel, rng, dtype, shape):
    x = sample(rng, shape, dtype)
    x[1, 20] = np.nan
    _, y = check_kernel("reduce", "sum_forward", x, np.zeros((shape[0], shape[2]), dtype), ulps=100)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[0]).all()
