import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu.lrn import BLOCK
from minigrad.kernels.cpu.tools.launch import GRAIN

SHAPES = [
    *[(1, 1), (5, 3), (7, 16)],
    *on_cpu((100, 33), (3, BLOCK + 1), (GRAIN // 30 + 1, 30)),
    *on_cuda((20, 33), (3, 255), (2, 300), (2, 1025)),  # the last is too wide for shared memory
]
CONSTANTS = {
    "paper": (5, 1e-4, 0.75, 2.0),
    "strong": (5, 0.5, 0.75, 1.0),
    "other power": (3, 0.1, 0.6, 0.5),
    "even size": (4, 0.3, 1.0, 2.0),
    "size 1": (1, 0.3, 0.75, 2.0),
    "more than there are": (99, 0.01, 0.75, 2.0),
    "power 0": (5, 0.3, 0.0, 2.0),
}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_choice = pytest.mark.parametrize("constants", CONSTANTS.values(), ids=CONSTANTS.keys())


@every_shape
@every_choice
def test_forward_matches_reference(check_kernel, rng, dtype, shape, constants):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    parallel = x.size >= GRAIN
    check_kernel("lrn", "local_response_norm_forward", x, *constants, np.zeros_like(x), parallel=parallel, ulps=8)


@every_shape
@every_choice
def test_backward_matches_reference(check_kernel, rng, dtype, shape, constants):
    x, dy = (scale * rng.standard_normal(shape).astype(dtype) for scale in (3, 1))
    arguments = dy, x, *constants, np.zeros_like(x)
    check_kernel("lrn", "local_response_norm_backward", *arguments, parallel=x.size >= GRAIN, ulps=16)


@pytest.mark.cuda
@every_choice
def test_backward_of_rows_wider_than_shared_memory(check_kernel, monkeypatch, rng, dtype, constants):
    monkeypatch.setattr("minigrad.kernels.cuda.lrn.WIDEST", 8)
    x, dy = (scale * rng.standard_normal((9, 12)).astype(dtype) for scale in (3, 1))
    check_kernel("lrn", "local_response_norm_backward", dy, x, *constants, np.zeros_like(x), ulps=16)


def test_nan_reaches_its_neighbours_and_no_other_row(check_kernel, dtype):
    x = np.ones((3, 9), dtype)
    x[1, 0] = x[1, 8] = np.nan
    *_, y = check_kernel("lrn", "local_response_norm_forward", x, 5, 0.1, 0.75, 2.0, np.zeros_like(x))
    expected = np.zeros(x.shape, bool)
    expected[1, [0, 1, 2, 6, 7, 8]] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    check_kernel("lrn", "local_response_norm_backward", np.ones_like(x), x, 5, 0.1, 0.75, 2.0, np.zeros_like(x))


def test_squares_out_of_range_give_zero_in_float32(target):
    x, dy = np.full((2, 3), 1e30, np.float32), np.ones((2, 3), np.float32)
    constants = 5, 1e-4, 0.75, 2.0
    *_, y = target.run("lrn", "local_response_norm_forward", x, *constants, np.ones_like(x))
    *_, dx = target.run("lrn", "local_response_norm_backward", dy, x, *constants, np.ones_like(x))
    assert (y == 0).all()
    assert (dx == 0).all()
