import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu.layer_norm import BLOCK, MOST_BLOCKS
from minigrad.kernels.cpu.tools.launch import GRAIN

SHAPES = [
    *[(1, 1), (3, 5), (60, 10), (7, 17)],
    *on_cpu((2, BLOCK + 1), (BLOCK // 10 + 1, 10), (MOST_BLOCKS * 50 + 3, 8), (GRAIN // 10 + 1, 10)),
    *on_cuda((7, 16), (130, 3), (9, 130), (2, 1028), (2, 1101)),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_way = pytest.mark.parametrize("centered", [True, False])
with_and_without = pytest.mark.parametrize("affine", [True, False])


def arrays(rng, shape, dtype, affine, mean=2.0):
    """x, gamma and beta."""
    n = shape[1] if affine else 0
    x = mean + rng.standard_normal(shape)
    return [a.astype(dtype) for a in (x, rng.uniform(0.5, 2, n), rng.standard_normal(n))]


def statistics(x, centered):
    """Mean and scale of the rows, as forward leaves them."""
    x = x.astype(np.float64)
    mean = x.mean(axis=1) * centered
    return mean, 1 / np.sqrt(((x - mean[:, np.newaxis]) ** 2).mean(axis=1) + 1e-3)


@each_shape
@each_way
@with_and_without
def test_forward_matches_reference(check_kernel, rng, dtype, shape, centered, affine):
    x, gamma, beta = arrays(rng, shape, dtype, affine)
    out = np.empty(shape, dtype), np.empty(shape[0]), np.empty(shape[0])
    large = x.size >= GRAIN
    check_kernel(
        "layer_norm",
        "layer_norm_forward",
        x,
        gamma,
        beta,
        1e-3,
        centered,
        *out,
        parallel=large,
        ulps=32,
        precision=dtype,
    )


@each_shape
@each_way
@with_and_without
def test_backward_matches_reference(check_kernel, rng, dtype, shape, centered, affine):
    x, gamma, _ = arrays(rng, shape, dtype, affine)
    mean, scale = statistics(x, centered)
    dy, out = (
        rng.standard_normal(shape).astype(dtype),
        (np.empty(shape, dtype), np.empty_like(gamma), np.empty_like(gamma)),
    )
    large, bound = x.size >= GRAIN, max(4.0, float(scale.max()))
    check_kernel(
        "layer_norm", "layer_norm_backward", dy, x, gamma, mean, scale, centered, *out,
        parallel=large, ulps=16, scale=4 * bound * np.sqrt(shape[0]),
    )  # fmt: skip


def test_large_mean_against_the_deviation(check_kernel, rng, dtype):
    x = (1e4 + 0.1 * rng.standard_normal((4, 50))).astype(dtype)
    out = np.empty_like(x), np.empty(4), np.empty(4)
    gamma = np.empty(0, dtype)
    ulps = 64 if dtype == np.float32 else 1e6  # the reference's own mean is rounded, to 1e-12
    y = check_kernel("layer_norm", "layer_norm_forward", x, gamma, gamma, 0.0, True, *out, precision=dtype, ulps=ulps)[
        5
    ]
    np.testing.assert_allclose(y.astype(np.float64).std(axis=1), 1, rtol=1e-3)


@each_way
def test_constant_row_and_nan_stay_in_their_rows(check_kernel, dtype, centered):
    x = np.ones((3, 9), dtype)
    x[1, 4] = np.nan
    gamma = np.empty(0, dtype)
    out = np.empty_like(x), np.empty(3), np.empty(3)
    y = check_kernel("layer_norm", "layer_norm_forward", x, gamma, gamma, 1e-3, centered, *out, precision=dtype)[5]
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, False])
    np.testing.assert_allclose(y[0], 0 if centered else 1, atol=1e-3)
