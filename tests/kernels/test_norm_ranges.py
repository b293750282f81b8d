"""Batch normalization of float32 whose squares float32 does not hold, on each target, in one launch and in chunks."""

import numpy as np
import pytest
from targets import on_cuda

from minigrad.kernels.activations import IDENTITY, RELU
from minigrad.kernels.reference import norm

EPS = 1e-5
SIZES = [1e17, 1e18, 1e19, 3e22, 1e30, 1e35]
# of CUDA's paths: all in one launch, with less than a thread's four rows and with more columns than a block has; chunks
SHAPES = [(8, 3), (700, 5), (21, 11), (1100, 6), *on_cuda((1030, 4))]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def forward(target, x, gamma, beta, activation=IDENTITY):
    """(y, mean, var) of a target's kernel."""
    m, c = x.shape
    room = np.zeros((m, c), np.float32), 0, np.zeros(c), np.zeros(c), 0.9, *np.empty((2, 0), np.float32)
    *_, y, _, mean, var, _, _, _ = target.run("norm", "batch_norm_forward", x, gamma, beta, EPS, activation, *room)
    return y, mean, var


def backward(run, dy, x, y, gamma, beta, mean, var, activation=IDENTITY):
    """(dx, dgamma, dbeta) of a kernel."""
    c = x.shape[1]
    room = np.zeros_like(x), np.zeros(c, np.float32), np.zeros(c, np.float32)
    return run(dy, x, y, 0, gamma, beta, mean, var, EPS, activation, *room)[-3:]


def reference_backward(*arguments):
    norm.batch_norm_backward(*arguments)
    return arguments


def drawn(rng, shape, size):
    """x with a column of the usual size before large ones, gamma, beta, dy."""
    x = ((3 + 2 * rng.standard_normal(shape)) * size).astype(np.float32)
    x[:, 0] /= np.float32(size)
    c = shape[1]
    gamma, beta = rng.uniform(1, 2, c).astype(np.float32), rng.standard_normal(c).astype(np.float32)
    return x, gamma, beta, rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@each_shape
def test_statistics_and_result(target, rng, shape, size):
    x, gamma, beta, _ = drawn(rng, shape, size)
    y, mean, var = forward(target, x, gamma, beta)
    wide = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, wide.mean(axis=0).astype(float), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var(axis=0).astype(float), rtol=1e-5)
    expected = gamma * (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + EPS) + beta
    np.testing.assert_allclose(y, expected.astype(float), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [1e17, 3e22, 1e35])
@each_shape
def test_statistics_and_sums_apart(target, rng, shape, size):
    """What a batch shared by several processes takes instead."""
    x, gamma, beta, dy = drawn(rng, shape, size)
    c = shape[1]
    *_, mean, var = target.run("norm", "batch_norm_statistics", x, np.zeros(c), np.zeros(c))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(var, wide.var(axis=0), rtol=1e-5)
    room = np.zeros(c, np.float32), np.zeros(c, np.float32)
    given = dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY
    *_, dgamma, dbeta = target.run("norm", "batch_norm_sums", *given, *room)
    h = (wide - mean) / np.sqrt(var + EPS)
    np.testing.assert_allclose(dgamma, (dy * h).sum(axis=0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dbeta, dy.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", [IDENTITY, RELU], ids=["identity", "relu"])
@each_shape
def test_gradients(target, rng, shape, activation, size):
    x, gamma, beta, dy = drawn(rng, shape, size)
    y, mean, var = forward(target, x, gamma, beta, activation)
    z = gamma * (x.astype(np.float64) - mean) / np.sqrt(var + EPS) + beta
    dy[np.abs(z) < 1e-4] = 0  # next to relu's kink rounding decides
    given = dy, x, y, gamma, beta, mean, var, activation
    found = backward(lambda *arguments: target.run("norm", "batch_norm_backward", *arguments), *given)
    wanted = backward(reference_backward, *given)
    inverse = gamma / np.sqrt(var + EPS)  # the size of dx for dy of size 1
    np.testing.assert_allclose(found[0] / inverse, wanted[0] / inverse, rtol=0, atol=3e-5)
    for one, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@each_shape
def test_deviations_whose_sum_has_too_large_a_square(target, rng, shape):
    """Squares that float32 holds, of the first row's distance from all others: only the square of the sum it does not."""
    m = shape[0]
    x = rng.standard_normal(shape).astype(np.float32) * np.float32(1e15)
    x[0] = np.sqrt(1e38 / m)
    _, mean, var = forward(target, x, np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32))
    wide = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, wide.mean(axis=0).astype(float), rtol=1e-5, atol=1e13)
    np.testing.assert_allclose(var, wide.var(axis=0).astype(float), rtol=3e-4)  # differences are from the first row


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@each_shape
def test_a_column_does_not_change_the_bits_of_others(target, rng, shape, bad):
    x, gamma, beta, _ = drawn(rng, shape, 1)
    plain = forward(target, x, gamma, beta)
    x[:, 1] *= np.float32(1e25)
    x[-1, -1] = bad
    others = forward(target, x, gamma, beta)
    assert np.isnan(others[0][:, -1]).all()
    assert np.isnan(others[2][-1])
    assert np.isfinite(others[0][:, :-1]).all()
    untouched = [0, *range(2, shape[1] - 1)]
    for one, other in zip(plain, others, strict=True):
        np.testing.assert_array_equal(one[..., untouched], other[..., untouched])
