import numpy as np
import pytest

from minigrad.kernels.cpu import loss
from minigrad.kernels.cpu.tools.launch import GRAIN

BLOCK = loss.BLOCK
SHAPES = [(1, 1), (3, 5), (60, 10), (7, 17), (1, BLOCK + 1), (BLOCK // 10 + 1, 10), (500, 101), (GRAIN // 10 + 1, 10)]
ROW_FUNCTIONS = ["softmax_forward", "log_softmax_forward"]


def logits(rng, shape, dtype):
    return (4 * rng.standard_normal(shape)).astype(dtype)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def is_large(shape):
    return shape[0] * shape[1] >= GRAIN


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_forward_matches_reference(check_kernel, rng, dtype, name, shape):
    check_kernel("loss", name, logits(rng, shape, dtype), np.empty(shape, dtype), parallel=is_large(shape), ulps=16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y = softmax(logits(rng, shape, dtype))
    dy = rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "softmax_backward", dy, y, np.empty(shape, dtype), parallel=is_large(shape), ulps=16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_log_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y = np.log(softmax(logits(rng, shape, dtype)))
    dy = rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "log_softmax_backward", dy, y, np.empty(shape, dtype), parallel=is_large(shape), ulps=16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_matches_reference(check_kernel, rng, dtype, shape):
    x, labels = logits(rng, shape, dtype), rng.integers(0, shape[1], shape[0])
    probs, mean = np.empty(shape, dtype), np.empty(1, dtype)
    check_kernel("loss", "cross_entropy_forward", x, labels, probs, mean, parallel=is_large(shape), ulps=16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_backward_matches_reference(check_kernel, rng, dtype, shape):
    probs, labels = softmax(logits(rng, shape, dtype)), rng.integers(0, shape[1], shape[0])
    dx = np.empty(shape, dtype)
    check_kernel(
        "loss", "cross_entropy_backward", np.array([1.5], dtype), probs, labels, dx, parallel=is_large(shape), ulps=16
    )


def test_softmax_of_huge_logits_is_exactly_one_hot(check_kernel, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -2e4]], dtype)
    _, y = check_kernel("loss", "softmax_forward", x, np.empty_like(x))
    np.testing.assert_array_equal(y, [[1, 0, 0], [0.5, 0.5, 0]])


def test_cross_entropy_of_huge_logits_is_finite(check_kernel, dtype):
    x = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], dtype)
    *_, mean = check_kernel(
        "loss", "cross_entropy_forward", x, np.array([1, 1, 0]), np.empty_like(x), np.empty(1, dtype)
    )
    np.testing.assert_allclose(mean, 2e4 / 3, rtol=1e-6)


def test_small_loss_keeps_its_precision(check_kernel):
    x = np.array([[12.0, -2.0]], np.float32)
    *_, mean = check_kernel(
        "loss", "cross_entropy_forward", x, np.array([0]), np.empty_like(x), np.empty(1, np.float32)
    )
    np.testing.assert_allclose(mean, np.log1p(np.exp(-14.0)), rtol=1e-6)


def test_product_of_row_sums_does_not_overflow(check_kernel, dtype):
    x = np.zeros((BLOCK // 10, 10), dtype)
    labels = np.zeros(len(x), np.int64)
    *_, mean = check_kernel("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    np.testing.assert_allclose(mean, np.log(10), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf], ids=["nan", "negative nan", "inf"])
@pytest.mark.parametrize("n", [3, 100])
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_nan_and_infinity_make_their_row_nan_and_no_other(check_kernel, rng, dtype, name, n, bad):
    x = logits(rng, (3, n), dtype)
    x[1, n // 2] = bad
    _, y = check_kernel("loss", name, x, np.empty_like(x))
    np.testing.assert_array_equal(np.isnan(y), [[False] * n, [True] * n, [False] * n])


def test_minus_infinity_has_probability_zero(check_kernel, dtype):
    x = np.array([[0, -np.inf, 0]], dtype)
    _, y = check_kernel("loss", "softmax_forward", x, np.empty_like(x))
    np.testing.assert_array_equal(y, [[0.5, 0, 0.5]])


@pytest.mark.parametrize("m", [3, 40])
def test_nan_reaches_the_loss(check_kernel, rng, dtype, m):
    x = logits(rng, (m, 10), dtype)
    x[1, 2] = np.nan
    labels = np.zeros(m, np.int64)
    *_, mean = check_kernel("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    assert np.isnan(mean[0])
