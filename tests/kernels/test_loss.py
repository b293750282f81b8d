import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.cpu.loss import BLOCK
from minigrad.kernels.cpu.tools.launch import GRAIN

SHAPES = [
    *[(1, 1), (3, 5), (60, 10), (7, 17)],
    *on_cpu((1, BLOCK + 1), (BLOCK // 10 + 1, 10), (500, 101), (GRAIN // 10 + 1, 10)),
    *on_cuda((7, 16), (130, 3), (9, 130), (2, 1028), (2, 1101)),
]
ROW_FUNCTIONS = ["softmax_forward", "log_softmax_forward"]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def small(target, monkeypatch):
    """On CUDA few threads in one launch and few blocks in two: some rows take more than one step of a block."""
    if target.name == "cuda":
        monkeypatch.setattr("minigrad.kernels.cuda.loss.ONE_LAUNCH", 512)
        monkeypatch.setattr("minigrad.kernels.cuda.loss.BLOCKS", 2)


def logits(rng, shape, dtype):
    return (4 * rng.standard_normal(shape)).astype(dtype)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def is_large(shape):
    return shape[0] * shape[1] >= GRAIN


@each_shape
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_forward_matches_reference(check_kernel, rng, dtype, name, shape):
    check_kernel("loss", name, logits(rng, shape, dtype), np.empty(shape, dtype), parallel=is_large(shape), ulps=4)


@each_shape
def test_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y, dy = softmax(logits(rng, shape, dtype)), rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "softmax_backward", dy, y, np.empty(shape, dtype), parallel=is_large(shape), ulps=4, scale=1)


@each_shape
def test_log_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y, dy = np.log(softmax(logits(rng, shape, dtype))), rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "log_softmax_backward", dy, y, np.empty(shape, dtype), parallel=is_large(shape), ulps=8)


@each_shape
def test_cross_entropy_matches_reference(check_kernel, rng, dtype, shape):
    x, labels = logits(rng, shape, dtype), rng.integers(0, shape[1], shape[0])
    probs, mean = np.empty(shape, dtype), np.empty(1, dtype)
    check_kernel("loss", "cross_entropy_forward", x, labels, probs, mean, parallel=is_large(shape), ulps=4)


@each_shape
def test_cross_entropy_backward_matches_reference(check_kernel, rng, dtype, shape):
    probs, labels = softmax(logits(rng, shape, dtype)), rng.integers(0, shape[1], shape[0])
    dy, dx = np.array([1.5], dtype), np.empty(shape, dtype)
    check_kernel("loss", "cross_entropy_backward", dy, probs, labels, dx, parallel=is_large(shape), ulps=4)


def test_softmax_of_huge_logits_is_exactly_one_hot(check_kernel, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -2e4]], dtype)
    _, y = check_kernel("loss", "softmax_forward", x, np.empty_like(x))
    np.testing.assert_array_equal(y, [[1, 0, 0], [0.5, 0.5, 0]])


def test_cross_entropy_of_huge_logits_is_finite(check_kernel, dtype):
    x, labels = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], dtype), np.array([1, 1, 0])
    *_, mean = check_kernel("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    np.testing.assert_allclose(mean, 2e4 / 3, rtol=1e-6)


@pytest.mark.parametrize("rest", [-14.0, *on_cuda(-18.0, -40.0)])
def test_small_loss_keeps_its_precision(target, rest):
    x = np.array([[12, 12 + rest, -200]], np.float32)
    *_, mean = target.run("loss", "cross_entropy_forward", x, np.array([0]), np.empty_like(x), np.empty(1, np.float32))
    np.testing.assert_allclose(mean, np.log1p(np.exp(rest)), rtol=1e-6)


@pytest.mark.parametrize("m", [5, *on_cpu(BLOCK // 10), *on_cuda(200)])
def test_product_of_row_sums_does_not_overflow(check_kernel, dtype, m):
    x, labels = np.zeros((m, 10), dtype), np.zeros(m, np.int64)
    *_, mean = check_kernel("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    np.testing.assert_allclose(mean, np.log(10), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf], ids=["nan", "negative nan", "inf"])
@pytest.mark.parametrize("n", [3, 100, *on_cuda(1030)])
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_nan_and_infinity_make_their_row_nan_and_no_other(check_kernel, rng, dtype, name, n, bad):
    x = logits(rng, (3, n), dtype)
    x[1, n // 2] = bad
    _, y = check_kernel("loss", name, x, np.empty_like(x))
    np.testing.assert_array_equal(np.isnan(y), [[False] * n, [True] * n, [False] * n])


@pytest.mark.parametrize("row", [[0, -np.inf, 0], [-np.inf, -np.inf, -np.inf], [np.nan, np.nan, np.nan]], ids=str)
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_rows_of_infinities_and_nan(check_kernel, dtype, name, row):
    x = np.array([row], dtype)
    check_kernel("loss", name, x, np.empty_like(x))


def test_minus_infinity_has_probability_zero(check_kernel, dtype):
    x = np.array([[0, -np.inf, 0]], dtype)
    _, y = check_kernel("loss", "softmax_forward", x, np.empty_like(x))
    np.testing.assert_array_equal(y, [[0.5, 0, 0.5]])


@pytest.mark.parametrize("m", [3, 40, *on_cuda(300)])
def test_nan_reaches_the_loss(check_kernel, rng, dtype, m):
    x = logits(rng, (m, 10), dtype)
    x[1, 2] = np.nan
    labels = np.zeros(m, np.int64)
    *_, mean = check_kernel("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    assert np.isnan(mean[0])


@pytest.mark.cuda
@pytest.mark.parametrize("label", [-1, 10, 1 << 32, -(1 << 62)])
def test_label_that_is_no_class_gives_nan(target, rng, dtype, label):
    x, labels, one = logits(rng, (5, 10), dtype), np.array([1, 2, label, 3, 4]), np.ones(1, dtype)
    *_, probs, mean = target.run("loss", "cross_entropy_forward", x, labels, np.empty_like(x), np.empty(1, dtype))
    assert np.isnan(mean).all()
    np.testing.assert_allclose(probs, softmax(x), rtol=1e-5)
    *_, dx = target.run("loss", "cross_entropy_backward", one, probs, labels, np.empty_like(x))
    np.testing.assert_array_equal(np.isnan(dx).all(axis=1), [False, False, True, False, False])
    assert np.isfinite(dx[[0, 1, 3, 4]]).all()


IGNORED = -100


def some_labels(rng, shape, ignored):
    """Labels, of which every third is ignored if any shall be."""
    labels = rng.integers(0, shape[1], shape[0])
    if ignored:
        labels[::3] = IGNORED
    return labels


@each_shape
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_loss_of_log_probabilities_matches_reference(check_kernel, rng, dtype, shape, smoothing, ignored):
    x, labels = np.log(softmax(logits(rng, shape, dtype))), some_labels(rng, shape, ignored)
    weight = rng.random(shape[1]).astype(dtype)
    parallel = is_large(shape) if smoothing else shape[0] >= GRAIN
    check_kernel(
        "loss", "nll_forward", x, labels, weight, IGNORED, smoothing, np.empty(shape[0], dtype), parallel=parallel
    )


@each_shape
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_its_gradient_matches_reference(check_kernel, rng, dtype, shape, smoothing, ignored):
    dy, labels = rng.standard_normal(shape[0]).astype(dtype), some_labels(rng, shape, ignored)
    weight, dx = rng.random(shape[1]).astype(dtype), np.empty(shape, dtype)
    check_kernel("loss", "nll_backward", dy, labels, weight, IGNORED, smoothing, dx, parallel=is_large(shape))


@pytest.mark.parametrize("rows", [1, 5, 300, *on_cpu(GRAIN + 1)])
def test_weights_of_labels_match_reference(check_kernel, rng, dtype, rows):
    labels, weight = some_labels(rng, (rows, 7), True), rng.random(7).astype(dtype)
    weights = np.empty(rows, dtype)
    check_kernel("loss", "nll_weights", labels, weight, IGNORED, weights, parallel=rows >= GRAIN)


def test_nan_stays_in_its_row(check_kernel, dtype):
    x = np.zeros((3, 4), dtype)
    x[1, 2] = np.nan
    for smoothing in (0.0, 0.1):
        labels, weight = np.array([0, 2, 3]), np.ones(4, dtype)
        *_, losses = check_kernel("loss", "nll_forward", x, labels, weight, -1, smoothing, np.empty(3, dtype))
        np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
