import numpy as np
import pytest

from minigrad.kernels.cuda import lrn

SHAPES = [(1, 1), (5, 3), (7, 16), (20, 33), (3, 255), (2, 300), (2, lrn.WIDEST + 1)]
CONSTANTS = {
    "paper": (5, 1e-4, 0.75, 2.0),
    "strong": (5, 0.5, 0.75, 1.0),
    "other power": (3, 0.1, 0.6, 0.5),
    "even size": (4, 0.3, 1.0, 2.0),
    "size 1": (1, 0.3, 0.75, 2.0),
    "more than there are": (99, 0.01, 0.75, 2.0),
    "power 0": (5, 0.3, 0.0, 2.0),
}

some_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_choice = pytest.mark.parametrize("constants", CONSTANTS.values(), ids=CONSTANTS.keys())


@some_shapes
def test_forward_matches_reference(check_kernel, rng, dtype, shape):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    check_kernel("lrn", "local_response_norm_forward", x, *CONSTANTS["strong"], np.zeros_like(x), ulps=4)


@some_shapes
def test_backward_matches_reference(check_kernel, rng, dtype, shape):
    x, dy = (scale * rng.standard_normal(shape).astype(dtype) for scale in (3, 1))
    check_kernel("lrn", "local_response_norm_backward", dy, x, *CONSTANTS["strong"], np.zeros_like(x), ulps=8)


@each_choice
def test_forward_with_other_constants(check_kernel, rng, dtype, constants):
    x = (3 * rng.standard_normal((9, 12))).astype(dtype)
    check_kernel("lrn", "local_response_norm_forward", x, *constants, np.zeros_like(x), ulps=8)


@pytest.mark.parametrize("widest", [lrn.WIDEST, 8], ids=["in shared memory", "two launches"])
@each_choice
def test_backward_with_other_constants(check_kernel, monkeypatch, rng, dtype, constants, widest):
    if widest < 12:
        monkeypatch.setattr(lrn, "WIDEST", widest)
    x, dy = (scale * rng.standard_normal((9, 12)).astype(dtype) for scale in (3, 1))
    check_kernel("lrn", "local_response_norm_backward", dy, x, *constants, np.zeros_like(x), ulps=16)


def test_nan_reaches_its_neighbours_and_no_other_row(check_kernel, dtype):
    x = np.ones((3, 9), dtype)
    x[1, 0] = x[1, 8] = np.nan
    check_kernel("lrn", "local_response_norm_forward", x, 5, 0.1, 0.75, 2.0, np.zeros_like(x))
    check_kernel("lrn", "local_response_norm_backward", np.ones_like(x), x, 5, 0.1, 0.75, 2.0, np.zeros_like(x))


def test_squares_out_of_range_give_zero_in_float32(memory):
    x, dy = memory.put(np.full((2, 3), 1e30, np.float32)), memory.put(np.ones((2, 3), np.float32))
    y, dx = memory.empty((2, 3), np.float32), memory.empty((2, 3), np.float32)
    lrn.local_response_norm_forward(x, 5, 1e-4, 0.75, 2.0, y)
    lrn.local_response_norm_backward(dy, x, 5, 1e-4, 0.75, 2.0, dx)
    assert (memory.get(y) == 0).all()
    assert (memory.get(dx) == 0).all()


@pytest.mark.parametrize("c", [1, 3, 64, 255, 256, 257, 511, 512, 513, 1023, 1024])
def test_rows_of_a_block_fit_into_shared_memory(c):
    grid, (across, down) = lrn.tile(1000, c)
    assert down * c <= lrn.WIDEST
    assert across * down <= lrn.THREADS
    assert grid * down >= 1000
