"""batch_norm with the activation after it: what two ops compute, to the bit."""

import re

import numpy as np
import pytest
from arrays_there import there

import minigrad as mg
from minigrad.testing import check_grads

SHAPES = [(2, 1), (60, 100), (17, 33), (4097, 9), (5, 3, 4), (2, 3, 5, 6)]
AFFINE = [(True, True), (True, False), (False, True), (False, False)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_affine = pytest.mark.parametrize(("has_gamma", "has_beta"), AFFINE)
both_activations = pytest.mark.parametrize("name", ["relu", "sigmoid"])
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])


def inputs(rng, shape, dtype=np.float64):
    """(x, gamma, beta, mean, var)."""
    c = shape[-1]
    arrays = [
        3 + 2 * rng.standard_normal(shape),
        1 + 0.3 * rng.standard_normal(c),
        rng.standard_normal(c),
        3 + rng.standard_normal(c),
        0.5 + rng.random(c),
    ]
    return [array.astype(dtype) for array in arrays]


def everything(arrays, name, fused, training, dy, device, has_gamma=True, has_beta=True):
    """The result, all gradients and the statistics, after backward."""
    x, gamma, beta = (mg.tensor(a, device=device, requires_grad=True) for a in arrays[:3])
    running = there(device, *[a.copy() for a in arrays[3:]])
    given = x, gamma if has_gamma else None, beta if has_beta else None, *running
    if fused:
        y = mg.batch_norm(*given, training=training, activation=name)
    else:
        y = getattr(mg, name)(mg.batch_norm(*given, training=training))
    y.backward(dy)
    return [y.numpy(), *[t.grad.numpy() for t in given[:3] if t is not None], *map(np.asarray, running)]


@every_shape
@both_activations
@both_modes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_op_has_the_bits_of_two(shape, name, training, dtype, device, rng):
    arrays, dy = inputs(rng, shape, dtype), rng.standard_normal(shape).astype(dtype)
    one, two = (everything(arrays, name, fused, training, dy, device) for fused in (True, False))
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, expected)


@every_affine
@both_activations
@both_modes
def test_without_gamma_or_beta(has_gamma, has_beta, name, training, device, rng):
    arrays, dy = inputs(rng, (17, 33), np.float32), rng.standard_normal((17, 33)).astype(np.float32)
    one, two = (everything(arrays, name, fused, training, dy, device, has_gamma, has_beta) for fused in (True, False))
    assert len(one) == 4 + has_gamma + has_beta
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, expected)


def normalize(arrays, tensors, has_gamma, has_beta, training, **options):
    """batch_norm of x and what there is of gamma and beta, without a change to the statistics in `arrays`."""
    x, *affine = tensors
    gamma, beta = affine.pop(0) if has_gamma else None, affine.pop(0) if has_beta else None
    running = there(x.device, *[a.copy() for a in arrays[3:]])
    return mg.batch_norm(x, gamma, beta, *running, training=training, **options)


def off_kinks(shape, has_gamma, has_beta, training):
    """(the inputs, those among them that are differentiated), such that nothing comes near 0 after the normalization."""
    for seed in range(1000):
        arrays = inputs(np.random.default_rng(seed), shape)
        given = [a for a, present in zip(arrays, (True, has_gamma, has_beta), strict=False) if present]
        z = normalize(arrays, [mg.tensor(a) for a in given], has_gamma, has_beta, training)
        if np.abs(z.numpy()).min() > 1e-4:
            return arrays, given
    raise AssertionError("no inputs off the kink of ReLU were found")


@pytest.mark.parametrize("shape", [(3, 1), (7, 5), (2, 3, 2, 2), (30, 17)], ids=str)
@every_affine
@both_activations
@both_modes
def test_gradients(shape, has_gamma, has_beta, name, training, device):
    arrays, given = off_kinks(shape, has_gamma, has_beta, training)

    def function(*tensors):
        return normalize(arrays, tensors, has_gamma, has_beta, training, activation=name)

    check_grads(function, *given, device=device, rtol=1e-5, atol=1e-6)


def test_nan_stays_a_nan_in_inference_and_its_gradient_is_that_of_two_ops(device, rng):
    arrays, dy = inputs(rng, (17, 33), np.float32), rng.standard_normal((17, 33)).astype(np.float32)
    arrays[0][3, 7] = np.nan
    one, two = (everything(arrays, "relu", fused, False, dy, device) for fused in (True, False))
    np.testing.assert_array_equal(np.isnan(one[0]), np.isnan(arrays[0]))
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, expected)


@both_activations
def test_nan_in_training_spoils_its_own_feature_and_no_other(name, device, rng):
    arrays, dy = inputs(rng, (17, 33), np.float32), rng.standard_normal((17, 33)).astype(np.float32)
    arrays[0][3, 7] = np.nan
    one, two = (everything(arrays, name, fused, True, dy, device) for fused in (True, False))
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found in one[:2]:
        np.testing.assert_array_equal(np.isnan(found).all(axis=0), np.arange(33) == 7)
        np.testing.assert_array_equal(np.isnan(found).any(axis=0), np.arange(33) == 7)


@both_modes
def test_result_is_kept_for_sigmoid_and_the_input_for_relu(training, device, rng):
    arrays = inputs(rng, (6, 3))
    for name in ("relu", "sigmoid"):
        x, gamma, beta = (mg.tensor(a, device=device, requires_grad=True) for a in arrays[:3])
        y = mg.batch_norm(x, gamma, beta, *there(device, *arrays[3:]), training=training, activation=name)
        kept = [array for array in y._op.saved if array is not None]
        assert any(array is y._data for array in kept) == (name == "sigmoid")
        assert any(array is beta._data for array in kept) == (name == "relu")


@both_modes
def test_a_result_of_sigmoid_that_changes_before_backward_is_noticed(training, device, rng):
    x, *_, mean, var = inputs(rng, (6, 3))
    x = mg.tensor(x, device=device, requires_grad=True)
    y = mg.batch_norm(x, None, None, *there(device, mean, var), training=training, activation="sigmoid")
    with mg.no_grad():
        y += 1.0
    with pytest.raises(RuntimeError, match=r"BatchNorm(Inference)? saved its result"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["tanh", "RELU", "", 1, ["relu"]], ids=str)
@both_modes
def test_activations_there_are_not_are_refused(name, training, device):
    running = there(device, np.zeros(3), np.ones(3))
    x = mg.tensor(np.arange(6.0).reshape(2, 3).astype(np.float64), device=device)
    message = re.escape(f"batch_norm: activation must be None, 'relu' or 'sigmoid', not {name!r}")
    with pytest.raises(ValueError, match=message):
        mg.batch_norm(x, None, None, *running, training=training, activation=name)
    np.testing.assert_array_equal([np.asarray(a) for a in running], (np.zeros(3), np.ones(3)))


def test_inference_of_nothing_is_nothing(device):
    x = mg.tensor(np.ones((0, 5)), device=device, requires_grad=True)
    fixed = there(device, np.zeros(5), np.ones(5))
    y = mg.batch_norm(x, None, None, *fixed, training=False, activation="relu")
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 5)
