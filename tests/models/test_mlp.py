import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels.cpu.tools.threads import available_threads
from minigrad.models import MLP


def kinds(model):
    return [type(layer).__name__ for layer in model]


def test_the_network_of_section_4_1_with_batch_norm():
    model = MLP()
    assert kinds(model) == ["Flatten", *["Linear", "BatchNorm", "Sigmoid"] * 3, "Linear"]
    assert [p.shape for p in model.parameters()] == [
        *[(784, 100), (100,), (100,)],
        *[(100, 100), (100,), (100,)] * 2,
        *[(100, 10), (10,)],
    ]
    assert [layer.bias is None for layer in model if hasattr(layer, "bias")] == [True, True, True, False]


def test_the_network_of_section_4_1_without_batch_norm():
    model = MLP(batch_norm=False)
    assert kinds(model) == ["Flatten", *["Linear", "Sigmoid"] * 3, "Linear"]
    assert all(layer.bias is not None for layer in model if hasattr(layer, "bias"))
    assert sum(p.size for p in model.parameters()) == 784 * 100 + 2 * 100 * 100 + 100 * 10 + 310


def test_weights_are_gaussian_of_standard_deviation_sigma():
    weights = [p.numpy() for p in MLP(sigma=0.3).parameters() if p.ndim == 2]
    for w in weights:
        np.testing.assert_allclose(w.std(), 0.3, rtol=5 / np.sqrt(2 * w.size))


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_another_shape_and_activation(activation, device, rng):
    model = MLP(12, (7, 5), 3, activation=activation).to(device)
    assert [name.lower() for name in kinds(model)[3::3]] == [activation] * 2
    y = model(mg.tensor(rng.standard_normal((4, 2, 3, 2)), dtype="float32", device=device))
    assert y.shape == (4, 3)


def test_no_hidden_layer_is_a_linear_model(rng):
    model = MLP(4, (), 2)
    x = mg.tensor(rng.standard_normal((5, 4)), dtype="float32")
    np.testing.assert_array_equal(model(x).numpy(), mg.linear(x, model[1].weight, model[1].bias).numpy())


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be one of relu, sigmoid, tanh, not 'swish'"):
        MLP(activation="swish")


def test_it_computes_what_its_formula_says(device, rng):
    model = MLP(6, (5,), 3, batch_norm=False, sigma=1.0).to("float64").to(device)
    w1, b1, w2, b2 = (p.numpy() for p in model.parameters())
    x = rng.standard_normal((4, 6))
    expected = 1 / (1 + np.exp(-(x @ w1 + b1))) @ w2 + b2
    np.testing.assert_allclose(model(mg.tensor(x, device=device)).numpy(), expected, rtol=1e-12)


def trained(seed, device="cpu", steps=20, **options):
    """Every byte of a network after some steps on random images."""
    mg.manual_seed(seed)
    model = MLP(**options).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x = (rng.random((60, 28, 28)) > 0.5).astype(np.float32)
        optimizer.zero_grad()
        mg.cross_entropy(model(mg.tensor(x, device=device)), rng.integers(0, 10, 60)).backward()
        optimizer.step()
    return b"".join(t.numpy().tobytes() for t in model.state_dict().values())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_same_seed_gives_the_same_bits_after_training(batch_norm, device):
    assert trained(3, device, 3, batch_norm=batch_norm) == trained(3, device, 3, batch_norm=batch_norm)


def test_another_seed_gives_another_network(device):
    assert trained(3, device, 1) != trained(4, device, 1)


@pytest.mark.skipif(available_threads() < 2, reason="needs two cores")
@pytest.mark.parametrize("batch_norm", [True, False])
def test_one_and_two_threads_give_the_same_bits_after_training(batch_norm, set_threads):
    set_threads(1)
    one = trained(3, batch_norm=batch_norm)
    set_threads(2)
    assert trained(3, batch_norm=batch_norm) == one


def test_devices_agree_after_training():
    runs = [np.frombuffer(trained(3, device, 5), np.float32) for device in ("cpu", "reference")]
    np.testing.assert_allclose(*runs, rtol=1e-4, atol=1e-5)


def test_it_learns_to_tell_classes_apart(device, rng):
    mg.manual_seed(0)
    model = MLP(20, (16,), 4, sigma=0.3).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.5)
    prototypes = rng.standard_normal((4, 20))
    labels = rng.integers(0, 4, 200)
    x = mg.tensor(prototypes[labels] + 0.3 * rng.standard_normal((200, 20)), dtype="float32", device=device)
    for _ in range(60):
        optimizer.zero_grad()
        mg.cross_entropy(model(x), labels).backward()
        optimizer.step()
    predicted = model.eval()(x).numpy().argmax(axis=1)
    assert np.mean(predicted == labels) == 1
