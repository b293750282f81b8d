import numpy as np
import pytest
from targets import on_cpu, on_cuda

from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.cpu import norm
from minigrad.kernels.cpu.parts.norm_rows import CHUNK
from minigrad.kernels.cpu.tools.launch import GRAIN

EPS = 1e-5
CHUNK = CHUNK
SHAPES = [
    (2, 1),
    (2, 17),
    (3, 5),
    (60, 100),
    (CHUNK - 1, 3),
    (CHUNK, 3),
    (CHUNK + 1, 3),
    (3 * CHUNK + 2, 7),
    *on_cpu((5, 4001), (17, 2048), (70, 1000), (5003, 17), (GRAIN + 1, 1)),  # the first has the shortest chunks
    *on_cuda((1025, 1)),  # more rows than one launch takes
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def data(rng, dtype):
    """A function that draws x, dy, gamma and beta for (m, c)."""

    def draw(m, c):
        x = (rng.standard_normal((m, c)) * rng.uniform(0.5, 2, c) + rng.standard_normal(c)).astype(dtype)
        dy = rng.standard_normal((m, c)).astype(dtype)
        return x, dy, rng.uniform(0.5, 2, c).astype(dtype), rng.standard_normal(c).astype(dtype)

    return draw


def empty(*shapes, dtype):
    return [np.full(shape, np.nan, dtype) for shape in shapes]


def statistics(x, dtype=np.float64):
    wide = x.astype(np.longdouble)
    return wide.mean(axis=0).astype(dtype), wide.var(axis=0).astype(dtype)


@each_shape
def test_forward_matches_reference(check_kernel, data, dtype, shape):
    x, _, gamma, beta = data(*shape)
    (y,) = empty(shape, dtype=dtype)
    mean, var = empty(shape[1], shape[1], dtype=np.float64)
    arguments = x, gamma, beta, EPS, IDENTITY, y, 0, mean, var, 0.9, *empty(0, 0, dtype=dtype)
    checked = {"parallel": x.size >= GRAIN, "ulps": 64, "precision": dtype}  # of the statistics too, which are float64
    *_, y, _, mean, var, _, _, _ = check_kernel("norm", "batch_norm_forward", *arguments, **checked)
    expected_mean, expected_var = statistics(x)
    precision = np.finfo(dtype).eps
    deviation = np.sqrt(expected_var)
    assert (np.abs(mean - expected_mean) <= 4 * precision * deviation + 1e-15 * np.abs(expected_mean)).all()
    assert (np.abs(var - expected_var) <= 64 * precision * expected_var).all()
    expected = gamma * (x - expected_mean) / np.sqrt(expected_var + EPS) + beta
    assert (np.abs(y - expected) <= 16 * precision * (np.abs(expected - beta) + np.abs(beta) + 1)).all()


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)  # of two rows alone, the gradient is next to nothing
def test_backward_matches_reference(check_kernel, data, dtype, shape):
    x, dy, gamma, beta = data(*shape)
    mean, var = statistics(x)
    dx, dgamma, dbeta = empty(shape, shape[1], shape[1], dtype=dtype)
    arguments = dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY, dx, dgamma, dbeta
    check_kernel("norm", "batch_norm_backward", *arguments, parallel=x.size >= GRAIN, ulps=64)


@each_shape
def test_inference_matches_reference(check_kernel, data, dtype, shape):
    x, _, gamma, beta = data(*shape)
    mean, var = statistics(x, dtype)
    (y,) = empty(shape, dtype=dtype)
    arguments = x, gamma, beta, mean, var, EPS, IDENTITY, y, 0
    check_kernel("norm", "batch_norm_inference", *arguments, parallel=x.size >= GRAIN, ulps=8)


@each_shape
def test_inference_backward_matches_reference(check_kernel, data, dtype, shape):
    x, dy, gamma, beta = data(*shape)
    mean, var = statistics(x, dtype)
    dx, dgamma, dbeta = empty(shape, shape[1], shape[1], dtype=dtype)
    arguments = dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY, dx, dgamma, dbeta
    check_kernel("norm", "batch_norm_inference_backward", *arguments, parallel=x.size >= GRAIN, ulps=64)


# The halves, between which statistics and sums can be combined with those of other processes


@pytest.mark.parametrize("shape", [(1, 3), *SHAPES], ids=str)
def test_statistics_match_reference(check_kernel, data, dtype, shape):
    x, *_ = data(*shape)
    mean, var = empty(shape[1], shape[1], dtype=np.float64)
    checked = {"parallel": x.size >= GRAIN, "ulps": 64, "precision": dtype}
    check_kernel("norm", "batch_norm_statistics", x, mean, var, **checked)


@each_shape
def test_normalizing_by_other_statistics_matches_reference(check_kernel, data, rng, dtype, shape):
    x, _, gamma, beta = data(*shape)
    mean, var = rng.standard_normal(shape[1]), rng.uniform(1, 2, shape[1])
    (y,) = empty(shape, dtype=dtype)
    arguments = x, gamma, beta, mean, var, EPS, RELU, y, 0
    check_kernel("norm", "batch_norm_normalize", *arguments, parallel=x.size >= GRAIN, ulps=16)


@each_shape
def test_sums_by_other_statistics_match_reference(check_kernel, data, rng, dtype, shape):
    x, dy, gamma, beta = data(*shape)
    mean, var = rng.standard_normal(shape[1]), rng.uniform(1, 2, shape[1])
    dgamma, dbeta = empty(shape[1], shape[1], dtype=dtype)
    arguments = dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY, dgamma, dbeta
    check_kernel("norm", "batch_norm_sums", *arguments, parallel=x.size >= GRAIN, ulps=64)


@each_shape
def test_gradient_by_other_sums_matches_reference(check_kernel, data, rng, dtype, shape):
    x, dy, gamma, beta = data(*shape)
    mean, var = rng.standard_normal(shape[1]), rng.uniform(1, 2, shape[1])
    dgamma, dbeta = (shape[0] * rng.standard_normal((2, shape[1]))).astype(dtype)
    (dx,) = empty(shape, dtype=dtype)
    arguments = dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY, dgamma, dbeta, dx
    check_kernel("norm", "batch_norm_gradient", *arguments, parallel=x.size >= GRAIN, ulps=64)


@pytest.mark.parametrize("activation", [IDENTITY, RELU, SIGMOID])
@pytest.mark.parametrize("shape", [(60, 100), (5003, 17)], ids=str)
def test_two_halves_give_the_bits_of_the_whole(data, dtype, shape, activation):
    x, dy, gamma, beta = data(*shape)
    y, dx, y2, dx2 = empty(shape, shape, shape, shape, dtype=dtype)
    dgamma, dbeta, dgamma2, dbeta2 = empty(*[shape[1]] * 4, dtype=dtype)
    mean, var, mean2, var2 = empty(*[shape[1]] * 4, dtype=np.float64)
    running_mean, running_var = np.full(shape[1], 7, dtype), np.full(shape[1], 8, dtype)
    running_mean2, running_var2 = running_mean.copy(), running_var.copy()
    norm.batch_norm_forward(x, gamma, beta, EPS, activation, y, 0, mean, var, 0.9, running_mean, running_var)
    norm.batch_norm_statistics(x, mean2, var2)
    norm.running_update(mean2, var2, len(x), 0.9, running_mean2, running_var2)
    norm.batch_norm_normalize(x, gamma, beta, mean2, var2, EPS, activation, y2, 0)
    given = dy, x, y, 0, gamma, beta, mean, var, EPS, activation
    norm.batch_norm_backward(*given, dx, dgamma, dbeta)
    norm.batch_norm_sums(*given, dgamma2, dbeta2)
    norm.batch_norm_gradient(*given, dgamma2, dbeta2, dx2)
    wholes = mean, var, running_mean, running_var, y, dgamma, dbeta
    for whole, halves in zip(wholes, (mean2, var2, running_mean2, running_var2, y2, dgamma2, dbeta2), strict=True):
        np.testing.assert_array_equal(whole, halves)
    # the sums are rounded to x's type between the halves of backward
    np.testing.assert_allclose(dx2, dx, rtol=0, atol=8 * np.finfo(dtype).eps * np.abs(dx).max())


@pytest.mark.parametrize("m", [2, 3, 60, 100_000])
def test_running_update_matches_reference(check_kernel, rng, dtype, m):
    mean, var = rng.standard_normal(7), rng.uniform(1, 2, 7)
    running_mean, running_var = rng.standard_normal(7).astype(dtype), rng.uniform(1, 2, 7).astype(dtype)
    check_kernel("norm", "running_update", mean, var, m, 0.9, running_mean, running_var, ulps=2)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_running_update_at_the_ends_of_decay(dtype, decay):
    running_mean, running_var = np.array([7], dtype), np.array([8], dtype)
    norm.running_update(np.array([1.0]), np.array([2.0]), 3, decay, running_mean, running_var)
    assert (running_mean[0], running_var[0]) == ((7, 8) if decay else (1, 3))


# Numbers that are hard on a variance


def forward(x, gamma=None, beta=None):
    c = x.shape[1]
    gamma, beta = np.ones(c, x.dtype) if gamma is None else gamma, np.zeros(c, x.dtype) if beta is None else beta
    y, mean, var = np.empty_like(x), np.empty(c), np.empty(c)
    norm.batch_norm_forward(x, gamma, beta, EPS, IDENTITY, y, 0, mean, var, 0.9, *np.empty((2, 0), x.dtype))
    return y, mean, var


def backward(dy, x, gamma, mean, var):
    c = x.shape[1]
    dx, dgamma, dbeta = np.empty_like(x), np.empty(c, x.dtype), np.empty(c, x.dtype)
    beta = np.zeros(c, x.dtype)
    norm.batch_norm_backward(dy, x, dy, 0, gamma, beta, mean, var, EPS, IDENTITY, dx, dgamma, dbeta)
    return dx, dgamma, dbeta


@pytest.mark.parametrize("rows", [60, 5000])
@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 0.1), (-1e4, 0.1), (1e4, 1.0), (1e-4, 1e-6), (0.0, 1e3)])
def test_variance_far_from_zero(rng, rows, mean, deviation):
    x = (mean + deviation * rng.standard_normal((rows, 33))).astype(np.float32)
    y, found_mean, found_var = forward(x)
    expected_mean, expected_var = statistics(x)
    assert (np.abs(found_mean - expected_mean) <= 1e-6 * deviation + 1e-14 * abs(mean)).all()
    np.testing.assert_allclose(found_var, expected_var, rtol=1e-5)
    expected = (x - expected_mean) / np.sqrt(expected_var + EPS)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [60, 5000])
def test_gradient_far_from_zero(rng, rows):
    x, dy = (
        (1e4 + 0.1 * rng.standard_normal((rows, 33))).astype(np.float32),
        rng.standard_normal((rows, 33)).astype(np.float32),
    )
    mean, var = statistics(x)
    dx, dgamma, _ = backward(dy, x, np.ones(33, np.float32), mean, var)
    h = (x - mean) / np.sqrt(var + EPS)
    wide = dy.astype(np.float64)
    np.testing.assert_allclose(dgamma, (wide * h).sum(axis=0), atol=1e-5 * rows**0.5 * 10)
    expected = (wide - wide.mean(axis=0) - h * (wide * h).mean(axis=0)) / np.sqrt(var + EPS)
    np.testing.assert_allclose(dx, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e4, 1e-30, 1e30])
@pytest.mark.parametrize("rows", [2, 60, 5000])
def test_constant_feature_is_exact_in_float32(value, rows):
    x = np.full((rows, 3), value, np.float32)
    beta = np.array([1, 2, 3], np.float32)
    y, mean, var = forward(x, beta=beta)
    np.testing.assert_array_equal(mean, x[0])
    np.testing.assert_array_equal(var, np.zeros(3))
    np.testing.assert_array_equal(y, np.broadcast_to(beta, x.shape))


@pytest.mark.wide
@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e4, 1e-30])
@pytest.mark.parametrize("rows", [2, 60, 5000])
def test_constant_feature_in_float64(value, rows):
    x = np.full((rows, 3), value)
    y, mean, var = forward(x)
    np.testing.assert_allclose(mean, x[0], rtol=1e-14)
    assert ((var >= 0) & (var <= (1e-14 * value) ** 2)).all()
    assert (np.abs(y) <= 1e-14 * abs(value) / EPS**0.5).all()


@pytest.mark.parametrize("rows", [7, 60, 3000])
def test_variance_is_not_negative(rng, dtype, rows):
    x = (1 + np.finfo(dtype).eps * rng.integers(0, 2, (rows, 200))).astype(dtype)
    _, _, var = forward(x)
    assert (var >= 0).all()


@pytest.mark.parametrize("rows", [5, 1000])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_feature_only(rng, dtype, rows, value):
    x = rng.standard_normal((rows, 40)).astype(dtype)
    x[rows // 2, 21] = value
    y, mean, var = forward(x)
    others = np.arange(40) != 21
    assert np.isnan(y[:, 21]).all()
    assert np.isnan(var[21])
    assert not np.isfinite(mean[21])
    for array in (y[:, others], mean[others], var[others]):
        assert np.isfinite(array).all()

    dx, *_ = backward(np.ones_like(x), x, np.ones(40, dtype), mean, var)
    assert np.isnan(dx[:, 21]).all()
    assert np.isfinite(dx[:, others]).all()


@pytest.mark.wide
def test_gradient_is_that_of_the_formulas(rng):
    x, dy, gamma = rng.standard_normal((6, 2)), rng.standard_normal((6, 2)), np.array([0.5, 2.0])
    mean, var = statistics(x)
    dx, dgamma, dbeta = backward(dy, x, gamma, mean, var)
    # section 3 of Ioffe and Szegedy, line by line
    m, deviation = 6, np.sqrt(var + EPS)
    dh = dy * gamma
    dvar = (dh * (x - mean)).sum(axis=0) * -0.5 * (var + EPS) ** -1.5
    dmean = (-dh / deviation).sum(axis=0) + dvar * (-2 * (x - mean)).mean(axis=0)
    np.testing.assert_allclose(dx, dh / deviation + dvar * 2 * (x - mean) / m + dmean / m, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dgamma, (dy * (x - mean) / deviation).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dbeta, dy.sum(axis=0), rtol=1e-12)


def test_rows_in_another_order_give_the_same_statistics(rng):
    x = rng.standard_normal((1000, 9)).astype(np.float32)
    _, mean, var = forward(x)
    _, other_mean, other_var = forward(x[rng.permutation(1000)])
    np.testing.assert_allclose(mean, other_mean, atol=3e-7)
    np.testing.assert_allclose(var, other_var, rtol=1e-6)
