import re

import numpy as np
import pytest

from minigrad.kernels.cuda import pool
from minigrad.kernels.cuda.tools import launch
from minigrad.ops.window import resolve

# images, size, stride, padding ((top, bottom), (left, right))
CASES = {
    "one pixel": ((1, 1, 1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "same 3x3": ((2, 5, 6, 3), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "same 3x3, fours": ((2, 5, 6, 8), (3, 3), (1, 1), ((1, 1), (1, 1))),
    "same 3x3 stride 2, fours": ((2, 7, 8, 12), (3, 3), (2, 2), ((1, 1), (0, 1))),
    "apart": ((3, 7, 7, 1), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "apart, fours": ((3, 7, 7, 4), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "rectangular": ((1, 6, 7, 17), (2, 3), (1, 2), ((1, 0), (2, 0))),
    "much padding, fours": ((1, 4, 5, 4), (4, 4), (1, 1), ((3, 3), (3, 3))),
    "one end padded": ((1, 5, 4, 5), (3, 2), (1, 1), ((0, 2), (1, 0))),
    "rows of several tiles": ((1, 2, 35, 2), (1, 3), (2, 1), ((0, 0), (1, 1))),
    "several tiles of channels, fours": ((1, 2, 5, 36), (2, 2), (1, 1), ((0, 0), (0, 0))),
    "whole image, fours": ((9, 4, 5, 8), (4, 5), (4, 5), ((0, 0), (0, 0))),
    "256 places, fours": ((1, 16, 16, 4), (16, 16), (1, 1), ((1, 0), (0, 0))),
    "more than 256 places": ((1, 18, 17, 4), (17, 17), (1, 1), ((0, 0), (0, 0))),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def unpacked(case):
    """(shape of x, shape of y, window) of a case."""
    (n, h, w, c), size, stride, padding = case
    window = resolve("pool", (h, w), size, stride, padding)
    return (n, h, w, c), (n, window.oh, window.ow, c), window


def max_pool(check_kernel, x, case):
    """(y, winner) of max_pool_forward, checked against the reference."""
    _, y_shape, window = unpacked(case)
    y = np.zeros(y_shape, x.dtype)
    winner = np.zeros(y_shape, np.uint8 if window.kh * window.kw <= 256 else np.int32)
    return check_kernel("pool", "max_pool_forward", x, window, y, winner, ulps=0)[-2:]


@every_case
def test_max_matches_reference(check_kernel, rng, dtype, case):
    max_pool(check_kernel, rng.standard_normal(case[0]).astype(dtype), case)


@every_case
def test_max_takes_the_first_of_equals(check_kernel, rng, case):
    max_pool(check_kernel, rng.integers(0, 2, case[0]).astype(np.float32), case)


@every_case
def test_first_nan_is_the_maximum(check_kernel, rng, case):
    x = rng.standard_normal(case[0]).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    max_pool(check_kernel, x, case)


@pytest.mark.parametrize("name", ["one end padded", "much padding, fours"])
def test_max_of_minus_infinity_is_in_the_image(check_kernel, dtype, name):
    y, _ = max_pool(check_kernel, np.full(CASES[name][0], -np.inf, dtype), CASES[name])
    assert (y == -np.inf).all()


@pytest.mark.parametrize("c", [1, 4])
def test_max_of_zeros_of_either_sign_is_the_first(check_kernel, dtype, c):
    x = np.array([-0.0, 0.0, 0.0, -0.0], dtype).reshape(1, 2, 2, 1).repeat(c, axis=3)
    y, winner = max_pool(check_kernel, x, (x.shape, (2, 2), (1, 1), ((0, 0), (0, 0))))
    assert np.signbit(y).all()
    assert not winner.any()


@every_case
def test_max_backward_matches_reference(check_kernel, rng, dtype, case):
    x_shape, y_shape, window = unpacked(case)
    _, winner = max_pool(check_kernel, rng.standard_normal(x_shape).astype(dtype), case)
    dy, dx = rng.standard_normal(y_shape).astype(dtype), np.full(x_shape, np.nan, dtype)
    check_kernel("pool", "max_pool_backward", dy, winner, window, dx, ulps=4)


@every_case
def test_avg_matches_reference(check_kernel, rng, dtype, case):
    x_shape, y_shape, window = unpacked(case)
    x, y = rng.standard_normal(x_shape).astype(dtype), np.full(y_shape, np.nan, dtype)
    check_kernel("pool", "avg_pool_forward", x, window, y, ulps=4, scale=1)


@every_case
def test_avg_backward_matches_reference(check_kernel, rng, dtype, case):
    x_shape, y_shape, window = unpacked(case)
    dy, dx = rng.standard_normal(y_shape).astype(dtype), np.full(x_shape, np.nan, dtype)
    check_kernel("pool", "avg_pool_backward", dy, window, dx, ulps=4)


@pytest.mark.parametrize("c", [3, 4])
def test_nan_reaches_the_averages_of_its_windows_only(check_kernel, dtype, c):
    x = np.ones((1, 5, 6, c), dtype)
    x[0, 1, 2, 2] = np.nan
    window = resolve("pool", (5, 6), 3, 1, 1)
    *_, y = check_kernel("pool", "avg_pool_forward", x, window, np.zeros_like(x))
    expected = np.zeros(x.shape, bool)
    expected[0, :3, 1:4, 2] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.parametrize("c", [3, 4])
def test_nan_in_a_gradient_reaches_the_winner_only(check_kernel, dtype, c):
    x = np.arange(16.0, dtype=dtype).reshape(1, 4, 4, 1).repeat(c, axis=3)
    _, winner = max_pool(check_kernel, x, (x.shape, (3, 3), (1, 1), ((0, 0), (0, 0))))
    dy = np.ones((1, 2, 2, c), dtype)
    dy[0, 0, 0] = np.nan
    window = resolve("pool", (4, 4), 3, 1, 0)
    *_, dx = check_kernel("pool", "max_pool_backward", dy, winner, window, np.zeros_like(x))
    expected = np.zeros((4, 4))
    expected[2, 2:], expected[3, 2:] = (np.nan, 1), (1, 1)
    np.testing.assert_array_equal(dx[0, :, :, 2], expected)


def test_more_rows_than_blocks_are_worked_off(check_kernel, rng, monkeypatch):
    monkeypatch.setattr(pool, "MOST_BLOCKS", 1)
    case = (20, 3, 3, 8), (3, 3), (1, 1), ((1, 1), (1, 1))
    x = rng.standard_normal(case[0]).astype(np.float32)
    _, winner = max_pool(check_kernel, x, case)
    *_, window = unpacked(case)
    check_kernel("pool", "max_pool_backward", x, winner, window, np.zeros_like(x), ulps=4)
    check_kernel("pool", "avg_pool_forward", x, window, np.zeros_like(x), ulps=4)
    check_kernel("pool", "avg_pool_backward", x, window, np.zeros_like(x), ulps=4)


def test_arrays_that_start_between_two_vectors_are_pooled_by_ones(memory, rng):
    x, y = rng.standard_normal((1, 2, 2, 4)).astype(np.float32), np.zeros((1, 1, 1, 4), np.float32)
    whole = memory.put(np.concatenate([[0], x.ravel()]).astype(np.float32))
    shifted = whole.part(1, 17).reshape(x.shape)
    result = memory.put(y)
    pool.avg_pool_forward(shifted, resolve("pool", (2, 2), 2, 1, 0), result)
    np.testing.assert_allclose(memory.get(result)[0, 0, 0], x.mean(axis=(0, 1, 2)), rtol=1e-6)
    assert dict(memory.driver.launches) == {"pool.mean_forward,WIDTH=1": 1}


def test_fours_take_the_kernels_for_fours(memory):
    x, y = memory.put(np.ones((1, 2, 2, 4), np.float32)), memory.put(np.zeros((1, 2, 2, 4), np.float32))
    winner = memory.put(np.zeros((1, 2, 2, 4), np.uint8))
    window = resolve("pool", (2, 2), 1, 1, 0)
    pool.max_pool_forward(x, window, y, winner)
    pool.max_pool_backward(y, winner, window, x)
    pool.avg_pool_forward(x, window, y)
    pool.avg_pool_backward(y, window, x)
    assert len(memory.driver.launches) == 4
    assert all(name.endswith("WIDTH=4") for name in memory.driver.launches)


def test_no_images_are_no_launch(memory):
    x, winner = memory.put(np.zeros((0, 2, 2, 4), np.float32)), memory.put(np.zeros((0, 2, 2, 4), np.uint8))
    window = resolve("pool", (2, 2), 1, 1, 0)
    pool.max_pool_forward(x, window, x, winner)
    pool.max_pool_backward(x, winner, window, x)
    pool.avg_pool_forward(x, window, x)
    pool.avg_pool_backward(x, window, x)
    assert not memory.driver.launches


@pytest.mark.parametrize(
    "kernel",
    [
        pool.MAX_FORWARD[4, 1],
        pool.MAX_BACKWARD[4, 1, False],
        pool.MAX_BACKWARD[4, 1, True],
        pool.MEAN_FORWARD[4],
        pool.MEAN_BACKWARD[4, False],
        pool.MEAN_BACKWARD[4, True],
    ],
    ids=lambda kernel: kernel.name,
)
def test_fours_are_read_and_written_in_one_instruction(kernel):
    ptx, _ = launch.compile_ptx(kernel, launch.FLOAT32, (9, 0))
    floats = set(re.findall(r"\b(?:ld|st)\.global\S*f32", ptx))
    assert floats == {"ld.global.v4.f32", "st.global.v4.f32"}
