import numpy as np
import pytest

from minigrad.kernels.cuda import loss

SHAPES = [(1, 1), (3, 5), (60, 10), (7, 16), (130, 3), (9, 130), (2, 1028), (2, 1101)]
ROW_FUNCTIONS = ["softmax_forward", "log_softmax_forward"]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few threads in one launch and few blocks in two: some rows take more than one step of a block."""
    monkeypatch.setattr(loss, "ONE_LAUNCH", 2 * loss.THREADS)
    monkeypatch.setattr(loss, "BLOCKS", 2)


def logits(rng, shape, dtype):
    return (4 * rng.standard_normal(shape)).astype(dtype)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@each_shape
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_forward_matches_reference(check_kernel, rng, dtype, name, shape):
    check_kernel("loss", name, logits(rng, shape, dtype), np.empty(shape, dtype), ulps=4)


@each_shape
def test_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y, dy = softmax(logits(rng, shape, dtype)), rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "softmax_backward", dy, y, np.empty(shape, dtype), ulps=4, scale=1)


@each_shape
def test_log_softmax_backward_matches_reference(check_kernel, rng, dtype, shape):
    y, dy = np.log(softmax(logits(rng, shape, dtype))), rng.standard_normal(shape).astype(dtype)
    check_kernel("loss", "log_softmax_backward", dy, y, np.empty(shape, dtype), ulps=8)


@each_shape
def test_cross_entropy_matches_reference(check_kernel, rng, dtype, shape):
    x, labels = logits(rng, shape, dtype), rng.integers(0, shape[1], shape[0])
    check_kernel("loss", "cross_entropy_forward", x, labels, np.empty(shape, dtype), np.empty(1, dtype), ulps=4)


@each_shape
def test_cross_entropy_backward_matches_reference(check_kernel, rng, dtype, shape):
    probs, labels = softmax(logits(rng, shape, dtype)), rng.integers(0, shape[1], shape[0])
    dx = np.empty(shape, dtype)
    check_kernel("loss", "cross_entropy_backward", np.array([1.5], dtype), probs, labels, dx, ulps=4)


def test_huge_logits_are_exactly_one_hot(check_kernel, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -2e4]], dtype)
    _, y = check_kernel("loss", "softmax_forward", x, np.empty_like(x))
    np.testing.assert_array_equal(y, [[1, 0, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize("rest", [-14.0, -18.0, -40.0])
def test_small_loss_keeps_its_precision(memory, rest):
    x, labels = memory.put(np.array([[12, 12 + rest, -200]], np.float32)), memory.put(np.array([0]))
    probs, mean = memory.empty((1, 3), np.float32), memory.empty((1,), np.float32)
    loss.cross_entropy_forward(x, labels, probs, mean)
    np.testing.assert_allclose(memory.get(mean), np.log1p(np.exp(rest)), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf], ids=["nan", "negative nan", "inf"])
@pytest.mark.parametrize("n", [3, 100, 1030])
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_nan_and_infinity_make_their_row_nan_and_no_other(check_kernel, rng, name, n, bad):
    x = logits(rng, (3, n), np.float32)
    x[1, n // 2] = bad
    check_kernel("loss", name, x, np.empty_like(x))


@pytest.mark.parametrize("row", [[0, -np.inf, 0], [-np.inf, -np.inf, -np.inf], [np.nan, np.nan, np.nan]])
@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_rows_of_infinities_and_nan(check_kernel, dtype, name, row):
    x = np.array([row], dtype)
    check_kernel("loss", name, x, np.empty_like(x))


@pytest.mark.parametrize("m", [3, 300])
def test_nan_reaches_the_loss(check_kernel, rng, m):
    x = logits(rng, (m, 10), np.float32)
    x[1, 2] = np.nan
    check_kernel("loss", "cross_entropy_forward", x, np.zeros(m, np.int64), np.empty_like(x), np.empty(1, np.float32))


@pytest.mark.parametrize("label", [-1, 10, 1 << 32, -(1 << 62)])
def test_label_that_is_no_class_gives_nan(memory, rng, dtype, label):
    x = logits(rng, (5, 10), dtype)
    labels = np.array([1, 2, label, 3, 4])
    probs, mean, dx = (memory.empty(shape, dtype) for shape in ((5, 10), (1,), (5, 10)))
    loss.cross_entropy_forward(memory.put(x), memory.put(labels), probs, mean)
    assert np.isnan(memory.get(mean)).all()
    np.testing.assert_allclose(memory.get(probs), softmax(x), rtol=1e-5)
    loss.cross_entropy_backward(memory.put(np.ones(1, dtype)), probs, memory.put(labels), dx)
    np.testing.assert_array_equal(np.isnan(memory.get(dx)).all(axis=1), [False, False, True, False, False])
    assert np.isfinite(memory.get(dx)[[0, 1, 3, 4]]).all()


def test_batch_of_mnist_takes_one_launch(memory, rng):
    x, labels = memory.put(logits(rng, (60, 10), np.float32)), memory.put(np.zeros(60, np.int64))
    loss.cross_entropy_forward(x, labels, memory.empty((60, 10), np.float32), memory.empty((1,), np.float32))
    assert sum(memory.driver.launches.values()) == 1
