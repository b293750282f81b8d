"""What the Batch Normalization paper (Ioffe & Szegedy 2015) says of the transform, in section 2 and section 3.3."""

import numpy as np
import pytest

import minigrad as mg

ROWS, INPUTS, UNITS = 60, 20, 12


def normalize(x, gamma=None, beta=None, eps=0.0):
    return mg.batch_norm(x, gamma, beta, None, None, training=True, eps=eps)


@pytest.fixture
def layer(device, rng):
    """u, W and what weighs the outputs of BN(W u)."""
    u, w, weights = rng.standard_normal((ROWS, INPUTS)), rng.standard_normal((INPUTS, UNITS)), rng.random((ROWS, UNITS))
    return u, w, mg.tensor(weights, device=device)


def run(u, w, weights, function=normalize):
    """(output, gradient of u, gradient of W) of BN(u W)."""
    tu, tw = (mg.tensor(a, device=weights.device, requires_grad=True) for a in (u, w))
    y = function(tu @ tw)
    (y * weights).sum().backward()
    return y.numpy(), tu.grad.numpy(), tw.grad.numpy()


scales = pytest.mark.parametrize("a", [0.25, 3.0, 100.0])


@scales
def test_scaling_the_weights_does_not_change_the_output(a, layer):
    u, w, weights = layer
    np.testing.assert_allclose(run(u, a * w, weights)[0], run(u, w, weights)[0], rtol=1e-10, atol=1e-11)


@scales
def test_scaling_the_weights_does_not_change_the_gradient_of_the_input(a, layer):
    u, w, weights = layer
    np.testing.assert_allclose(run(u, a * w, weights)[1], run(u, w, weights)[1], rtol=1e-9, atol=1e-11)


@scales
def test_larger_weights_get_smaller_gradients(a, layer):
    u, w, weights = layer
    np.testing.assert_allclose(a * run(u, a * w, weights)[2], run(u, w, weights)[2], rtol=1e-9, atol=1e-10)


def test_each_unit_may_be_scaled_by_itself(layer, rng):
    u, w, weights = layer
    a = 0.1 + 10 * rng.random(UNITS)
    for changed, same, factor in zip(run(u, a * w, weights), run(u, w, weights), (1, 1, a), strict=True):
        np.testing.assert_allclose(factor * changed, same, rtol=1e-9, atol=1e-10)


def test_a_bias_before_it_is_cancelled_and_gets_no_gradient(layer, device, rng):
    u, w, weights = layer
    b = mg.tensor(rng.standard_normal(UNITS), device=device, requires_grad=True)
    y, _, _ = run(u, w, weights, lambda x: normalize(x + b))
    np.testing.assert_allclose(y, run(u, w, weights)[0], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(b.grad.numpy(), 0, atol=1e-12)


def test_the_gradient_is_orthogonal_to_ones_and_to_the_output(layer, device, rng):
    # Moving all inputs by the same amount, or scaling them, changes nothing: no gradient points there.
    _, _, weights = layer
    x = mg.tensor(rng.standard_normal((ROWS, UNITS)), device=device, requires_grad=True)
    y = normalize(x)
    (y * weights).sum().backward()
    dx = x.grad.numpy()
    np.testing.assert_allclose(dx.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((dx * y.numpy()).sum(axis=0), 0, atol=1e-11)


def test_gamma_and_beta_can_undo_it(device, rng):
    x = 3 + 2 * rng.standard_normal((ROWS, UNITS))
    gamma, beta = (mg.tensor(a, device=device) for a in (x.std(axis=0), x.mean(axis=0)))
    np.testing.assert_allclose(normalize(mg.tensor(x, device=device), gamma, beta).numpy(), x, rtol=1e-10, atol=1e-11)


class SubtractMeanTakenAsConstant(mg.Op):
    """Section 2's mistake: x - mean(x) whose backward forgets that the mean depends on x."""

    def forward(self, x):
        x = self.device.to_host(x)
        return self.device.from_host(x - x.mean(axis=0))

    def backward(self, dy):
        return (dy,)


def subtract_mean(x):
    """x - mean(x) with the whole gradient."""
    return x - x.mean(axis=0)


def train_bias(center, device, steps=50):
    """Losses, and the bias, while gradient descent fits center(u + b) to targets that no centered output can reach."""
    rng = np.random.default_rng(0)
    u = mg.tensor(rng.standard_normal((ROWS, 1)), device=device)
    target = mg.tensor(u.numpy() - u.numpy().mean() + 1.0, device=device)
    b = mg.tensor(np.zeros(1), device=device, requires_grad=True)
    optimizer = mg.optim.SGD([b], lr=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((center(u + b) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, b.item()


def test_a_mean_taken_as_constant_lets_the_bias_grow_while_the_loss_stays(device):
    losses, b = train_bias(SubtractMeanTakenAsConstant.apply, device)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    assert losses[0] > 0.9
    # every step adds lr * 2, without end: the update b <- b + Δb leaves u + b - E[u + b] as it was
    np.testing.assert_allclose(b, 50 * 0.1 * 2.0, rtol=1e-10)


def test_the_whole_gradient_leaves_the_useless_bias_alone(device):
    losses, b = train_bias(subtract_mean, device)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    assert abs(b) < 1e-12


def test_check_grads_finds_the_mistake(device, rng):
    x = rng.standard_normal((5, 3))
    mg.testing.check_grads(subtract_mean, x, device=device)
    with pytest.raises(AssertionError, match="gradient of input 0"):
        mg.testing.check_grads(SubtractMeanTakenAsConstant.apply, x, device=device)
