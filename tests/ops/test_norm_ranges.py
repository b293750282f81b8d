"""Batch normalization of very large values in float32, of NaN beside them, and statistics that change before backward."""

import numpy as np
import pytest

import minigrad as mg

EPS = 1e-5


def formulas(dy, x, gamma=1.0, beta=0.0, relu=False):
    """(y, dx, dgamma, dbeta), in float64."""
    c = x.shape[-1]
    rows, dz = x.reshape(-1, c).astype(np.float64), dy.reshape(-1, c).astype(np.float64)
    m = len(rows)
    inverse = 1 / np.sqrt(rows.var(axis=0) + EPS)
    h = (rows - rows.mean(axis=0)) * inverse
    y = gamma * h + beta
    if relu:
        dz, y = dz * (y > 0), np.maximum(y, 0)
    dbeta, dgamma = dz.sum(axis=0), (dz * h).sum(axis=0)
    dx = gamma * inverse / m * (m * dz - dbeta - h * dgamma)
    return y.reshape(x.shape), dx.reshape(x.shape), dgamma, dbeta


@pytest.mark.parametrize("size", [1e17, 1e19, 3e22, 1e30, 1e35])
@pytest.mark.parametrize("shape", [(8, 3), (700, 5), (3, 4, 5, 40)])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_values_whose_squares_float32_does_not_hold(size, shape, activation, device, rng):
    x = (3 + 2 * rng.standard_normal(shape)).astype(np.float32)
    gamma, beta = (rng.standard_normal((2, shape[-1])) + np.array([[2.0], [0.0]])).astype(np.float32)
    x *= np.float32(size)
    x[..., 0] /= np.float32(size)  # beside them a feature of the usual size
    dy = rng.standard_normal(shape).astype(np.float32)
    tensors = [mg.tensor(array, device=device, requires_grad=True) for array in (x, gamma, beta)]
    y = mg.batch_norm(*tensors, None, None, training=True, activation=activation)
    y.backward(dy)
    expected, dx, dgamma, dbeta = formulas(dy, x, gamma, beta, activation == "relu")
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5)
    scale = np.abs(dx).max(axis=tuple(range(dx.ndim - 1)))
    scale[scale == 0] = 1  # where relu lets nothing through
    np.testing.assert_allclose(tensors[0].grad.numpy() / scale, dx / scale, atol=1e-5)
    np.testing.assert_allclose(tensors[1].grad.numpy(), dgamma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tensors[2].grad.numpy(), dbeta, rtol=1e-4, atol=1e-4)


def test_several_branches_with_values_whose_squares_float32_does_not_hold(device, rng):
    arrays = [(rng.standard_normal((40, c)) * size).astype(np.float32) for c, size in ((3, 1.0), (5, 1e22), (4, 1e30))]
    dy = rng.standard_normal((40, 12)).astype(np.float32)
    results = []
    for together in (True, False):
        branches = [mg.nn.Sequential(mg.nn.BatchNorm(x.shape[1]), mg.nn.ReLU()) for x in arrays]
        xs = [mg.tensor(x, device=device, requires_grad=True) for x in arrays]
        if together:
            made = [mg.ops.Branch(x, b[0].to(device).for_training(), "relu") for x, b in zip(xs, branches, strict=True)]
            y = mg.ops.concat_branches(made)
        else:
            y = mg.concat([b.to(device)(x) for x, b in zip(xs, branches, strict=True)])
        y.backward(dy)
        results.append([y.numpy(), *[x.grad.numpy() for x in xs]])
    for one, other in zip(*results, strict=True):
        assert (one != 0).any(axis=0).all()
        np.testing.assert_array_equal(one, other)


def test_a_nan_or_an_infinity_stays_in_its_feature(device, rng):
    x = rng.standard_normal((300, 3)).astype(np.float32)
    expected = formulas(x, x)[0]
    for bad in (np.nan, np.inf, -np.inf):
        x[7, 1] = bad
        y = mg.batch_norm(mg.tensor(x, device=device), None, None, None, None, training=True).numpy()
        assert np.isnan(y[:, 1]).all()
        np.testing.assert_allclose(y[:, [0, 2]], expected[:, [0, 2]], rtol=1e-5, atol=1e-5)


def test_statistics_that_change_before_backward(rng):
    """Of arrays the op keeps copies; a change of tensors is noticed."""
    x = mg.tensor(rng.standard_normal((6, 3)), requires_grad=True)
    mean, var = np.zeros(3), np.ones(3)
    y = mg.batch_norm(x, None, None, mean, var, training=False)
    mean += 5
    var *= 100
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((6, 3), 1 / np.sqrt(1 + EPS)))
    mean, var = mg.tensor(np.zeros(3)), mg.tensor(np.ones(3))
    y = mg.batch_norm(x, None, None, mean, var, training=False)
    var *= 100.0
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_arrays_of_statistics_are_read_anew_by_every_replay(rng):
    x = rng.standard_normal((6, 3))
    mean, var = np.zeros(3), np.ones(3)
    step = mg.capture(lambda x: mg.batch_norm(x, None, None, mean, var, training=False))
    for offset in (0, 1, 2):
        mean[:] = offset
        np.testing.assert_allclose(step(x).numpy(), (x - offset) / np.sqrt(1 + EPS), rtol=1e-12, atol=1e-12)
