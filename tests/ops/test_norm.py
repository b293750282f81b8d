"""Batch normalization as an op, held against the formulas of Ioffe & Szegedy 2015 written out in NumPy."""

import re

import numpy as np
import pytest
from arrays_there import there
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing import check_grads

SHAPES = [(2, 1), (60, 100), (17, 33), (257, 3), (4097, 2), (5, 3, 4), (2, 3, 5, 6), (1, 3, 2, 2)]
AFFINE = [(True, True), (True, False), (False, True), (False, False)]
EPS = 1e-5

every_shape = pytest.mark.parametrize("shape", SHAPES)
every_affine = pytest.mark.parametrize(("has_gamma", "has_beta"), AFFINE)


def statistics(x):
    """(mean, biased variance) over all axes but the last, in float64."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean = rows.mean(axis=0)
    return mean, ((rows - mean) ** 2).mean(axis=0)


def np_batch_norm(x, gamma=1.0, beta=0.0, eps=EPS):
    mean, var = statistics(x)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


def np_batch_norm_backward(dy, x, gamma=1.0, eps=EPS):
    """(dx, dgamma, dbeta)."""
    shape, c = x.shape, x.shape[-1]
    mean, var = statistics(x)
    dy, x = dy.reshape(-1, c).astype(np.float64), x.reshape(-1, c).astype(np.float64)
    m = len(x)
    inv = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * inv
    dbeta, dgamma = dy.sum(axis=0), (dy * xhat).sum(axis=0)
    dx = gamma * inv / m * (m * dy - dbeta - xhat * dgamma)
    return dx.reshape(shape), dgamma, dbeta


def train(x, gamma=None, beta=None, running_mean=None, running_var=None, **options):
    return mg.batch_norm(x, gamma, beta, running_mean, running_var, training=True, **options)


def evaluate(x, gamma, beta, running_mean, running_var, **options):
    return mg.batch_norm(x, gamma, beta, running_mean, running_var, training=False, **options)


def inputs(rng, shape, dtype=np.float64):
    """(x, gamma, beta) away from mean 0 and variance 1."""
    c = shape[-1]
    arrays = 3 + 2 * rng.standard_normal(shape), 1 + 0.3 * rng.standard_normal(c), rng.standard_normal(c)
    return tuple(array.astype(dtype) for array in arrays)


@every_shape
@every_affine
def test_training_forward_and_backward_are_the_formulas(shape, has_gamma, has_beta, device, rng):
    x, gamma, beta = inputs(rng, shape)
    dy = rng.standard_normal(shape)
    tx, tgamma, tbeta = (mg.tensor(array, device=device, requires_grad=True) for array in (x, gamma, beta))
    y = train(tx, tgamma if has_gamma else None, tbeta if has_beta else None)
    y.backward(dy)

    gamma, beta = gamma if has_gamma else 1.0, beta if has_beta else 0.0
    dx, dgamma, dbeta = np_batch_norm_backward(dy, x, gamma)
    close = {"rtol": 1e-10, "atol": 1e-11}
    np.testing.assert_allclose(y.numpy(), np_batch_norm(x, gamma, beta), **close)
    np.testing.assert_allclose(tx.grad.numpy(), dx, **close)
    if has_gamma:
        np.testing.assert_allclose(tgamma.grad.numpy(), dgamma, **close)
    if has_beta:
        np.testing.assert_allclose(tbeta.grad.numpy(), dbeta, **close)


@pytest.mark.parametrize("shape", [(3, 1), (7, 5), (2, 3, 4), (2, 3, 2, 2), (60, 17)])
@every_affine
def test_training_gradients(shape, has_gamma, has_beta, device, rng):
    x, gamma, beta = inputs(rng, shape)
    given_arrays = [array for array, present in ((gamma, has_gamma), (beta, has_beta)) if present]

    def function(x, *affine):
        affine = list(affine)
        return train(x, affine.pop(0) if has_gamma else None, affine.pop(0) if has_beta else None)

    check_grads(function, x, *given_arrays, device=device, rtol=1e-5, atol=1e-6)


@every_affine
def test_inference_is_linear_with_the_given_statistics(has_gamma, has_beta, device, rng):
    x, gamma, beta = inputs(rng, (4, 3, 5))
    mean, var = rng.standard_normal(5), rng.random(5) + 0.1
    tensors = [mg.tensor(array, device=device) for array in (x, gamma, beta)]
    affine = tensors[1] if has_gamma else None, tensors[2] if has_beta else None
    y = evaluate(tensors[0], *affine, *there(device, mean, var))
    expected = (gamma if has_gamma else 1) * (x - mean) / np.sqrt(var + EPS) + (beta if has_beta else 0)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-13, atol=1e-13)


def test_inference_gradients(device, rng):
    x, gamma, beta = inputs(rng, (7, 5))
    mean, var = there(device, rng.standard_normal(5), rng.random(5) + 0.1)
    check_grads(lambda x, g, b: evaluate(x, g, b, mean, var), x, gamma, beta, device=device)
    check_grads(lambda x: evaluate(x, None, None, mean, var), x, device=device)


@every_shape
def test_float32_is_close_to_float64(shape, device, rng):
    x, gamma, beta = inputs(rng, shape, np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    tensors = [mg.tensor(array, device=device, requires_grad=True) for array in (x, gamma, beta)]
    y = train(*tensors)
    y.backward(dy)
    dx, dgamma, dbeta = np_batch_norm_backward(dy, x, gamma)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), np_batch_norm(x, gamma, beta), rtol=2e-6, atol=2e-6)
    # dx is what is left of gamma dy / sqrt(var + eps), for m = 2 next to nothing: the error is relative to that
    size = np.abs(gamma * dy / np.sqrt(statistics(x)[1] + EPS)).max(axis=tuple(range(x.ndim - 1)))
    assert (np.abs(tensors[0].grad.numpy() - dx) <= 2e-6 * size).all()
    # and sums of m terms of size one have an error that grows like sqrt(m) roundings
    m = x.size // shape[-1]
    for t, expected in zip(tensors[1:], (dgamma, dbeta), strict=True):
        np.testing.assert_allclose(t.grad.numpy(), expected, rtol=2e-6, atol=1e-6 * np.sqrt(m))


@settings(deadline=None, max_examples=30)
@given(m=st.integers(2, 70), c=st.integers(1, 40), seed=st.integers(0, 99))
def test_output_has_mean_beta_and_variance_gamma_squared(m, c, seed, device):
    rng = np.random.default_rng(seed)
    x, gamma, beta = inputs(rng, (m, c))
    y = train(*(mg.tensor(array, device=device) for array in (x, gamma, beta))).numpy()
    mean, var = statistics(y)
    shrink = statistics(x)[1] / (statistics(x)[1] + EPS)
    np.testing.assert_allclose(mean, beta, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(var, gamma**2 * shrink, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_are_updated_in_place(kind, dtype, device, rng):
    mean, var = rng.standard_normal(5).astype(dtype), (rng.random(5) + 0.5).astype(dtype)
    expected_mean, expected_var = mean.astype(np.float64), var.astype(np.float64)
    running = there(device, mean, var) if kind == "arrays" else [mg.tensor(a, device=device) for a in (mean, var)]
    for _ in range(3):
        x = inputs(rng, (4, 2, 5), dtype)[0]
        train(mg.tensor(x, device=device), None, None, *running, decay=0.7)
        batch_mean, batch_var = statistics(x)
        expected_mean = 0.7 * expected_mean + 0.3 * batch_mean
        expected_var = 0.7 * expected_var + 0.3 * batch_var * 8 / 7  # 8 values per feature: the unbiased estimate
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(np.asarray(running[0]), expected_mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(np.asarray(running[1]), expected_var, rtol=rtol)
    assert np.asarray(running[0]).dtype == dtype


@pytest.mark.parametrize(("decay", "share"), [(0.0, 1.0), (1.0, 0.0), (0.9, 0.1), (0.99, 0.01)])
def test_decay_is_the_kept_share(decay, share, device):
    running = there(device, np.zeros(1), np.zeros(1))
    x = mg.tensor(np.array([[1.0], [3.0]]), device=device)
    train(x, None, None, *running, decay=decay)
    for statistic in running:  # the unbiased variance is 2
        np.testing.assert_allclose(np.asarray(statistic), [2 * share], rtol=1e-12)


def test_decay_is_nine_tenths_and_eps_1e_5_by_default(device):
    running = there(device, np.zeros(1), np.zeros(1))
    y = train(mg.tensor(np.array([[1.0], [3.0]]), device=device), None, None, *running)
    for statistic in running:
        np.testing.assert_allclose(np.asarray(statistic), [0.2], rtol=1e-12)
    np.testing.assert_allclose(y.numpy()[1, 0], 1 / np.sqrt(1 + 1e-5), rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 0.5, 0.0])
def test_eps_is_added_to_the_variance(eps, device, rng):
    x, gamma, beta = inputs(rng, (6, 3))
    y = train(*(mg.tensor(a, device=device) for a in (x, gamma, beta)), eps=eps)
    np.testing.assert_allclose(y.numpy(), np_batch_norm(x, gamma, beta, eps), rtol=1e-12, atol=1e-12)
    fixed = there(device, *statistics(x))
    y = evaluate(*(mg.tensor(a, device=device) for a in (x, gamma, beta)), *fixed, eps=eps)
    np.testing.assert_allclose(y.numpy(), np_batch_norm(x, gamma, beta, eps), rtol=1e-12, atol=1e-12)


def test_inference_leaves_the_running_statistics_alone(device, rng):
    mean, var = rng.standard_normal(5), rng.random(5)
    fixed = there(device, mean.copy(), var.copy())
    evaluate(mg.tensor(rng.standard_normal((4, 5)), device=device), None, None, *fixed)
    np.testing.assert_array_equal([np.asarray(a) for a in fixed], (mean, var))


def test_inference_needs_no_second_value(device):
    fixed = there(device, np.array([1.0]), np.array([4.0]))
    y = evaluate(mg.tensor(np.array([[3.0]]), device=device), None, None, *fixed, eps=0)
    assert y.numpy() == [[1.0]]


def test_running_statistics_that_change_before_backward_are_noticed(device, rng):
    x = mg.tensor(rng.standard_normal((4, 5)), device=device, requires_grad=True)
    mean, var = mg.tensor(np.zeros(5), device=device), mg.tensor(np.ones(5), device=device)
    y = evaluate(x, None, None, mean, var)
    train(x, None, None, mean, var)
    with pytest.raises(RuntimeError, match="BatchNormInference saved its input"):
        y.sum().backward()


@pytest.mark.parametrize("shape", [(60, 3), (1000, 3), (4097, 3), (6, 7, 8, 3)])
def test_mean_1e4_with_deviation_a_tenth_in_float32(shape, device, rng):
    x = (1e4 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    mean, var = there(device, np.zeros(3, np.float32), np.zeros(3, np.float32))
    t = mg.tensor(x, device=device, requires_grad=True)
    y = train(t, None, None, mean, var, decay=0.0)
    dy = rng.standard_normal(shape).astype(np.float32)
    y.backward(dy)

    m = x.size // 3
    exact_mean, exact_var = statistics(x)  # of what float32 holds of it
    np.testing.assert_allclose(np.asarray(mean), exact_mean, rtol=1e-7)
    np.testing.assert_allclose(np.asarray(var), exact_var * m / (m - 1), rtol=1e-3)
    np.testing.assert_allclose(y.numpy(), np_batch_norm(x), rtol=1e-3, atol=1e-3)
    dx = np_batch_norm_backward(dy, x)[0]
    np.testing.assert_allclose(t.grad.numpy(), dx, rtol=1e-3, atol=1e-3 * np.abs(dx).max())


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e4, -123.456])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [2, 60, 257])
def test_a_constant_channel_becomes_beta(value, dtype, m, device, rng):
    x = rng.standard_normal((m, 3)).astype(dtype)
    x[:, 1] = value
    gamma, beta = np.array([1, 2, 3], dtype), np.array([4, 5, 6], dtype)
    mean, var = there(device, np.zeros(3, dtype), np.ones(3, dtype))
    tensors = [mg.tensor(array, device=device, requires_grad=True) for array in (x, gamma, beta)]
    y = train(*tensors, mean, var, decay=0.0)
    y.backward(rng.standard_normal((m, 3)).astype(dtype))
    assert 0 <= np.asarray(var)[1] < 1e-20
    np.testing.assert_allclose(y.numpy()[:, 1], 5, atol=1e-6)
    for t in tensors:
        assert np.isfinite(t.grad.numpy()).all()


def test_nan_spoils_its_own_feature_and_no_other(device, rng):
    x = rng.standard_normal((17, 33)).astype(np.float32)
    x[3, 7] = np.nan
    y = train(mg.tensor(x, device=device)).numpy()
    np.testing.assert_array_equal(np.isnan(y).all(axis=0), np.arange(33) == 7)
    np.testing.assert_array_equal(np.isnan(y).any(axis=0), np.arange(33) == 7)


def test_nan_in_inference_stays_one_element(device):
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = np.nan
    fixed = there(device, np.zeros(4, np.float32), np.ones(4, np.float32))
    y = evaluate(mg.tensor(x, device=device), None, None, *fixed).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 1, 3), (0, 5), (3, 0, 5), (4, 0)])
def test_training_with_less_than_two_values_per_feature_is_refused(shape, device):
    running = there(device, np.zeros(shape[-1]), np.ones(shape[-1]))
    with pytest.raises(
        ValueError, match=rf"at least 2 values .* {re.escape(str(shape))}; use a larger batch, or drop_last"
    ):
        train(mg.tensor(np.ones(shape), device=device), None, None, *running)
    np.testing.assert_array_equal([np.asarray(a) for a in running], (np.zeros(shape[-1]), np.ones(shape[-1])))


def test_one_row_of_several_places_has_a_variance(device, rng):
    x = rng.standard_normal((1, 4, 4, 3))
    np.testing.assert_allclose(train(mg.tensor(x, device=device)).numpy(), np_batch_norm(x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 3, 5)])
def test_inference_of_nothing_is_nothing(shape, device):
    c = shape[-1]
    tensors = [mg.tensor(np.ones(s), device=device, requires_grad=True) for s in (shape, (c,), (c,))]
    y = evaluate(*tensors, *there(device, np.zeros(c), np.ones(c)))
    assert y.shape == shape
    y.sum().backward()
    for t in tensors:
        np.testing.assert_array_equal(t.grad.numpy(), np.zeros(t.shape))


F32, F64 = np.float32, np.float64


@pytest.mark.parametrize(
    ("x", "gamma", "beta", "mean", "var", "error", "message"),
    [
        (np.ones(5), None, None, None, None, ValueError, r"batch axis and features on the last axis, not shape \(5,\)"),
        (np.ones((4, 5)), np.ones(4), None, None, None, ValueError, r"gamma must have shape \(5,\) .* not \(4,\)"),
        (np.ones((4, 5)), None, np.ones((1, 5)), None, None, ValueError, r"beta must have shape \(5,\) .* not \(1, 5\)"),
        (np.ones((4, 5)), np.ones(5, F32), None, None, None, TypeError, "gamma is float32, x is float64"),
        (np.ones((4, 5), F32), None, np.ones(5), None, None, TypeError, "beta is float64, x is float32"),
        (np.ones((4, 5), int), None, None, None, None, TypeError, "not int64"),
        (np.ones((4, 5)), np.ones(5, int), None, None, None, TypeError, "not int64"),
        (np.ones((4, 5)), None, None, np.zeros(4), np.ones(5), ValueError, r"running_mean must have shape \(5,\) .* not \(4,\)"),
        (np.ones((4, 5)), None, None, np.zeros(5), np.ones(5, F32), TypeError, "running_var must be an array of float64, not float32"),
        (np.ones((4, 5)), None, None, [0.0] * 5, np.ones(5), TypeError, "running_mean must be an array of float64, not list"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused(x, gamma, beta, mean, var, error, message, device):
    x, gamma, beta = (None if a is None else mg.tensor(a, device=device) for a in (x, gamma, beta))
    mean, var = (there(device, a)[0] if isinstance(a, np.ndarray) else a for a in (mean, var))
    with pytest.raises(error, match=message):
        train(x, gamma, beta, mean, var)


@pytest.mark.parametrize("call", [train, evaluate])
@pytest.mark.parametrize("missing", [0, 1])
def test_one_running_statistic_without_the_other_is_refused(call, missing, device):
    running = there(device, np.zeros(5), np.ones(5))
    running[missing] = None
    with pytest.raises(ValueError, match="both running_mean and running_var, or neither"):
        call(mg.tensor(np.ones((4, 5)), device=device), None, None, *running)


def test_inference_needs_statistics(device):
    with pytest.raises(ValueError, match="without training, running_mean and running_var are needed"):
        evaluate(mg.tensor(np.ones((4, 5)), device=device), None, None, None, None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decay": 1.5}, ValueError, "decay must be from 0 to 1, not 1.5"),
        ({"decay": -0.1}, ValueError, "decay must be from 0 to 1"),
        ({"decay": "x"}, TypeError, "decay must be a number, not 'x'"),
        ({"eps": -1e-5}, ValueError, "eps must be from 0"),
        ({"eps": np.nan}, ValueError, "eps must be from 0"),
        ({"eps": None}, TypeError, "eps must be a number, not None"),
    ],
)
def test_decay_and_eps_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        train(mg.tensor(np.ones((4, 5))), **options)


def test_statistics_on_another_device_are_refused():
    with pytest.raises(RuntimeError, match="running_mean is on 'reference', x on 'cpu'"):
        train(mg.tensor(np.ones((4, 5))), None, None, mg.tensor(np.ones(5), device="reference"), np.ones(5))


@pytest.mark.parametrize("mean", [np.frombuffer(bytes(40)), np.zeros(10)[::2]], ids=["read-only", "not contiguous"])
def test_statistics_that_cannot_be_updated_in_place_are_refused(mean):
    with pytest.raises(ValueError, match="running_mean must be contiguous and writable"):
        train(mg.tensor(np.ones((4, 5))), None, None, mean, np.ones(5))
