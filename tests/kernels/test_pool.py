import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu import pool
from minigrad.kernels.cpu.tools.launch import GRAIN
from minigrad.ops.window import resolve

# images, size, stride, padding ((top, bottom), (left, right))
CASES = {
    "one pixel": ((1, 1, 1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "same 3x3": ((2, 5, 6, 3), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "rectangular": ((1, 9, 7, 17), (2, 3), (1, 2), ((1, 0), (2, 0))),
    "one end padded": ((2, 6, 7, 5), (3, 2), (1, 1), ((0, 2), (1, 0))),
}
SMALL = {
    "same 3x3 stride 2": ((2, 7, 8, 24), (3, 3), (2, 2), ((1, 1), (0, 1))),
    "apart": ((3, 9, 10, 1), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "rectangular, 70 channels": ((1, 9, 7, 70), (2, 3), (1, 2), ((1, 0), (2, 0))),
    "much padding": ((1, 4, 5, 17), (4, 4), (1, 1), ((3, 3), (3, 3))),
    "one end padded, 33 channels": ((2, 6, 7, 33), (3, 2), (1, 1), ((0, 2), (1, 0))),
    "three columns of one row": ((2, 3, 20, 16), (1, 3), (2, 1), ((0, 0), (1, 1))),
    "whole image": ((2, 4, 5, 65), (4, 5), (4, 5), ((0, 0), (0, 0))),
    "more than 256 places": ((1, 20, 19, 5), (17, 17), (1, 1), ((8, 8), (8, 8))),
}
LARGE = {
    "large, same 3x3": ((3, 16, 15, 60), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "large, stride 2": ((2, 32, 31, 33), (3, 3), (2, 2), ((0, 1), (1, 1))),
    "large, few channels": ((3, 64, 64, 3), (2, 2), (2, 2), ((0, 0), (0, 0))),
}
CUDA = {
    "same 3x3, fours": ((2, 5, 6, 8), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "same 3x3 stride 2, fours": ((2, 7, 8, 12), (3, 3), (2, 2), ((1, 1), (0, 1))),
    "apart, ones": ((3, 7, 7, 1), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "apart, fours": ((3, 7, 7, 4), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "much padding, fours": ((1, 4, 5, 4), (4, 4), (1, 1), ((3, 3), (3, 3))),
    "rows of several tiles": ((1, 2, 35, 2), (1, 3), (2, 1), ((0, 0), (1, 1))),
    "several tiles of channels, fours": ((1, 2, 5, 36), (2, 2), (1, 1), ((0, 0), (0, 0))),
    "whole image, fours": ((9, 4, 5, 8), (4, 5), (4, 5), ((0, 0), (0, 0))),
    "256 places, fours": ((1, 16, 16, 4), (16, 16), (1, 1), ((1, 0), (0, 0))),
    "257 places and more, fours": ((1, 18, 17, 4), (17, 17), (1, 1), ((0, 0), (0, 0))),
}
ALL = {**CASES, **SMALL, **LARGE, **CUDA}

each_case = pytest.mark.parametrize("name", [*CASES, *on_cpu(*SMALL, *LARGE), *on_cuda(*CUDA)])
each_small_case = pytest.mark.parametrize("name", [*CASES, *on_cpu(*SMALL), *on_cuda(*CUDA)])


def unpacked(case):
    """(shape of x, shape of y, window) of a case."""
    (n, h, w, c), size, stride, padding = case
    window = resolve("pool", (h, w), size, stride, padding)
    return (n, h, w, c), (n, window.oh, window.ow, c), window


def place_dtype(window):
    return np.uint8 if window.kh * window.kw <= 256 else np.int32


def is_parallel(x):
    return x.size >= GRAIN


def sample(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def max_pool(check_kernel, x, case):
    """(y, winner) of max_pool_forward, checked against the reference."""
    _, y_shape, window = unpacked(case)
    y, winner = np.zeros(y_shape, x.dtype), np.zeros(y_shape, place_dtype(window))
    arguments = x, window, y, winner
    return check_kernel("pool", "max_pool_forward", *arguments, parallel=is_parallel(x), ulps=0)[-2:]


@each_case
def test_max_matches_reference(check_kernel, rng, dtype, name):
    max_pool(check_kernel, sample(rng, ALL[name][0], dtype), ALL[name])


@each_small_case
def test_max_takes_the_first_of_equals(check_kernel, rng, dtype, name):
    max_pool(check_kernel, rng.integers(0, 2, ALL[name][0]).astype(dtype), ALL[name])


@each_small_case
def test_first_nan_is_the_maximum(check_kernel, rng, dtype, name):
    x = sample(rng, ALL[name][0], dtype)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    max_pool(check_kernel, x, ALL[name])


@each_small_case
def test_max_of_minus_infinity_is_in_the_image(check_kernel, dtype, name):
    y, _ = max_pool(check_kernel, np.full(ALL[name][0], -np.inf, dtype), ALL[name])
    assert (y == -np.inf).all()


@pytest.mark.parametrize("c", [1, 4])
def test_max_of_zeros_of_either_sign_is_the_first(check_kernel, dtype, c):
    x = np.array([-0.0, 0.0, 0.0, -0.0], dtype).reshape(1, 2, 2, 1).repeat(c, axis=3)
    y, winner = max_pool(check_kernel, x, (x.shape, (2, 2), (1, 1), ((0, 0), (0, 0))))
    assert np.signbit(y).all()
    assert not winner.any()


def test_winner_counts_places_with_the_padding(check_kernel, dtype):
    x = -np.arange(1.0, 5.0, dtype=dtype).reshape(1, 2, 2, 1)
    y, winner = max_pool(check_kernel, x, (x.shape, (3, 3), (1, 1), ((1, 1), (1, 1))))
    np.testing.assert_array_equal(y.ravel(), [-1, -1, -1, -1])
    np.testing.assert_array_equal(winner.ravel(), [4, 3, 1, 0])


@each_case
def test_max_backward_matches_reference(check_kernel, rng, dtype, name):
    x_shape, y_shape, window = unpacked(ALL[name])
    _, winner = max_pool(check_kernel, sample(rng, x_shape, dtype), ALL[name])
    dy, dx = sample(rng, y_shape, dtype), np.full(x_shape, np.nan, dtype)
    arguments = dy, winner, window, dx
    check_kernel("pool", "max_pool_backward", *arguments, parallel=is_parallel(dx), ulps=4)


@each_case
def test_max_take_matches_reference(check_kernel, rng, dtype, name):
    x_shape, y_shape, window = unpacked(ALL[name])
    y, winner = max_pool(check_kernel, x := sample(rng, x_shape, dtype), ALL[name])
    arguments = x, winner, window, np.full(y_shape, np.nan, dtype)
    *_, taken = check_kernel("pool", "max_pool_take", *arguments, parallel=is_parallel(y), ulps=0)
    np.testing.assert_array_equal(taken, y)


@each_case
def test_avg_matches_reference(check_kernel, rng, dtype, name):
    x_shape, y_shape, window = unpacked(ALL[name])
    x, y = sample(rng, x_shape, dtype), np.full(y_shape, np.nan, dtype)
    check_kernel("pool", "avg_pool_forward", x, window, y, parallel=is_parallel(x), ulps=4, scale=1)


@each_case
def test_avg_backward_matches_reference(check_kernel, rng, dtype, name):
    x_shape, y_shape, window = unpacked(ALL[name])
    dy, dx = sample(rng, y_shape, dtype), np.full(x_shape, np.nan, dtype)
    ulps = 20 if name == "more than 256 places" else 4  # a sum of 289 terms
    check_kernel("pool", "avg_pool_backward", dy, window, dx, parallel=is_parallel(dx), ulps=ulps)


@pytest.mark.parametrize("c", [3, 4, *on_cpu(20)])
def test_nan_reaches_the_averages_of_its_windows_only(check_kernel, dtype, c):
    x = np.ones((1, 5, 6, c), dtype)
    x[0, 1, 2, 2] = np.nan
    window = resolve("pool", (5, 6), 3, 1, 1)
    *_, y = check_kernel("pool", "avg_pool_forward", x, window, np.zeros_like(x))
    expected = np.zeros(x.shape, bool)
    expected[0, :3, 1:4, 2] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.parametrize("c", [3, 4, *on_cpu(20)])
def test_nan_in_a_gradient_reaches_the_winner_only(check_kernel, dtype, c):
    x = np.arange(16.0, dtype=dtype).reshape(1, 4, 4, 1).repeat(c, axis=3)
    case = x.shape, (3, 3), (1, 1), ((0, 0), (0, 0))
    _, winner = max_pool(check_kernel, x, case)
    dy = np.ones((1, 2, 2, c), dtype)
    dy[0, 0, 0] = np.nan
    window = resolve("pool", (4, 4), 3, 1, 0)
    *_, dx = check_kernel("pool", "max_pool_backward", dy, winner, window, np.zeros_like(x))
    expected = np.zeros((4, 4))
    expected[2, 2:], expected[3, 2:] = (np.nan, 1), (1, 1)
    np.testing.assert_array_equal(dx[0, :, :, 2], expected)


@pytest.mark.cuda
def test_more_rows_than_blocks_are_worked_off(check_kernel, rng, monkeypatch):
    monkeypatch.setattr("minigrad.kernels.cuda.pool.MOST_BLOCKS", 1)
    case = (20, 3, 3, 8), (3, 3), (1, 1), ((1, 1), (1, 1))
    x = rng.standard_normal(case[0]).astype(np.float32)
    _, winner = max_pool(check_kernel, x, case)
    *_, window = unpacked(case)
    check_kernel("pool", "max_pool_backward", x, winner, window, np.zeros_like(x), ulps=4)
    check_kernel("pool", "avg_pool_forward", x, window, np.zeros_like(x), ulps=4)
    check_kernel("pool", "avg_pool_backward", x, window, np.zeros_like(x), ulps=4)


def fenced(array, fill):
    """(a copy of the array in the midst of a buffer of `fill`, the buffer)."""
    around = 40
    buffer = np.full(array.size + 2 * around, fill, array.dtype)
    inside = buffer[around:-around].reshape(array.shape)
    inside[...] = array
    return inside, buffer


def assert_fence(buffer, fill):
    np.testing.assert_array_equal(buffer[[*range(40), *range(-40, 0)]], fill)


@pytest.mark.parametrize("name", [*CASES, *SMALL])
def test_no_element_outside_the_arrays_is_used(rng, dtype, name):
    x_shape, y_shape, window = unpacked(ALL[name])
    x, _ = fenced(sample(rng, x_shape, dtype), np.nan)
    y, y_buffer = fenced(np.zeros(y_shape, dtype), 5)
    winner, winner_buffer = fenced(np.zeros(y_shape, place_dtype(window)), 255)
    pool.max_pool_forward(x, window, y, winner)
    assert np.isfinite(y).all()
    pool.avg_pool_forward(x, window, y)
    assert np.isfinite(y).all()
    assert_fence(y_buffer, 5)
    assert_fence(winner_buffer, 255)

    dy, _ = fenced(sample(rng, y_shape, dtype), np.nan)
    dx, dx_buffer = fenced(np.zeros(x_shape, dtype), 5)
    pool.max_pool_backward(dy, winner, window, dx)
    assert np.isfinite(dx).all()
    pool.max_pool_take(x, winner, window, y)
    assert np.isfinite(y).all()
    assert_fence(y_buffer, 5)
    pool.avg_pool_backward(dy, window, dx)
    assert np.isfinite(dx).all()
    assert_fence(dx_buffer, 5)
