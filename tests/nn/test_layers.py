import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


def numbers(rng, *shape, device="cpu"):
    return mg.tensor(rng.standard_normal(shape), dtype="float32", device=device)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, device, rng):
    layer = nn.Linear(5, 3, bias=bias).to(device)
    if bias:
        layer.bias.data = np.float32([1, 2, 3])
    x = numbers(rng, 2, 4, 5, device=device)
    expected = x.numpy() @ layer.weight.numpy() + (layer.bias.numpy() if bias else 0)
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_linear_starts_with_glorot_weights_and_no_bias():
    layer = nn.Linear(200, 100)
    weight = layer.weight.numpy()
    assert weight.shape == (200, 100)
    assert weight.dtype == np.float32
    assert np.abs(weight).max() <= np.sqrt(6 / 300)
    np.testing.assert_allclose(weight.std(), np.sqrt(2 / 300), rtol=0.02)
    np.testing.assert_array_equal(layer.bias.numpy(), np.zeros(100, np.float32))


def test_linear_with_an_initializer_of_ones():
    np.testing.assert_array_equal(nn.Linear(2, 3, weight_init=nn.init.ones).weight.numpy(), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 3), ValueError, "in must be at least 1, not 0"),
        ((3, -1), ValueError, "out must be at least 1, not -1"),
        ((3.0, 3), TypeError, "in must be an integer, not 3.0"),
        ((3, "3"), TypeError, "out must be an integer, not '3'"),
    ],
)
def test_linear_with_sizes_that_are_none_is_refused(sizes, error, message):
    with pytest.raises(error, match=message):
        nn.Linear(*sizes)


def test_batch_norm_normalizes_by_the_batch_in_training_and_keeps_averages(device, rng):
    layer = nn.BatchNorm(3, decay=0.75).to(device)
    x = 5 + 2 * rng.standard_normal((60, 3)).astype(np.float32)
    y = layer(mg.tensor(x, device=device)).numpy()
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.75 + 0.25 * x.var(axis=0, ddof=1), rtol=1e-5)


def test_batch_norm_evaluates_by_the_averages(device, rng):
    layer = nn.BatchNorm(3, eps=1e-3).to(device)
    layer.load_state_dict(
        {name: np.array([1, 2, 4], np.float32) for name in ("gamma", "beta", "running_mean", "running_var")}
    )
    x = rng.standard_normal((7, 3)).astype(np.float32)
    p = np.array([1, 2, 4.0])
    y = layer.eval()(mg.tensor(x, device=device)).numpy()
    np.testing.assert_allclose(y, p * (x - p) / np.sqrt(p + 1e-3) + p, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.running_mean.numpy(), [1, 2, 4])


def test_one_batch_norm_serves_every_rank(device, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    flat = nn.BatchNorm(5).to(device)(mg.tensor(x.reshape(-1, 5), device=device)).numpy()
    np.testing.assert_array_equal(nn.BatchNorm(5).to(device)(mg.tensor(x, device=device)).numpy().reshape(-1, 5), flat)


@pytest.mark.parametrize(("gamma", "beta"), [(True, True), (True, False), (False, True), (False, False)])
def test_batch_norm_without_gamma_or_beta(gamma, beta, rng):
    layer = nn.BatchNorm(3, gamma=gamma, beta=beta)
    assert [name for name, _ in layer.named_parameters()] == ["gamma"] * gamma + ["beta"] * beta
    x = mg.tensor(rng.standard_normal((5, 3)), dtype="float32", requires_grad=True)
    layer(x).sum().backward()
    assert all(t.grad is not None for t in [x, *layer.parameters()])


def test_batch_norm_evaluated_before_any_training_warns_once(rng):
    layer = nn.BatchNorm(3).eval()
    x = numbers(rng, 5, 3)
    with pytest.warns(UserWarning, match="evaluated before any training step"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


@pytest.mark.parametrize("how", ["training", "loading"])
def test_batch_norm_with_statistics_does_not_warn(how, rng):
    layer = nn.BatchNorm(3)
    if how == "training":
        layer(numbers(rng, 5, 3))
    else:
        layer.load_state_dict(nn.BatchNorm(3).state_dict())
    layer.eval()(numbers(rng, 5, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": 0}, ValueError, "features must be at least 1, not 0"),
        ({"features": 2.5}, TypeError, "features must be an integer, not 2.5"),
        ({"features": 3, "decay": 1.1}, ValueError, "kept share .* not 1.1"),
        ({"features": 3, "decay": "x"}, TypeError, "kept share .* must be a number, not 'x'"),
        ({"features": 3, "eps": -1.0}, ValueError, "eps must be from 0 .*, not -1.0"),
        ({"features": 3, "eps": "x"}, TypeError, "eps must be a number, not 'x'"),
    ],
)
def test_batch_norm_with_settings_out_of_range_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.BatchNorm(**arguments)


def test_batch_norm_of_another_number_of_features_is_refused(rng):
    with pytest.raises(ValueError, match=r"must have shape \(4,\) to match x \(5, 4\), not \(3,\)"):
        nn.BatchNorm(3)(numbers(rng, 5, 4))


@pytest.mark.parametrize(("layer", "function"), [(nn.ReLU, mg.relu), (nn.Sigmoid, mg.sigmoid), (nn.Tanh, mg.tanh)])
def test_activations(layer, function, device, rng):
    x = numbers(rng, 3, 5, device=device)
    np.testing.assert_array_equal(layer()(x).numpy(), function(x).numpy())


@pytest.mark.parametrize(
    ("shape", "flat"), [((4, 3, 5), (4, 15)), ((4, 7), (4, 7)), ((4,), (4, 1)), ((0, 3, 5), (0, 15))]
)
def test_flatten_keeps_the_batch(shape, flat):
    assert nn.Flatten()(mg.tensor(np.zeros(shape))).shape == flat


def test_dropout_only_drops_in_training(device, rng):
    layer = nn.Dropout(0.5).to(device)
    x = numbers(rng, 1000, device=device)
    assert 400 < np.sum(layer(x).numpy() == 0) < 600
    assert layer.eval()(x) is x


def test_dropout_draws_a_new_mask_each_time_and_resumes_from_its_state(device):
    mg.manual_seed(5)
    layer = nn.Dropout(0.5).to(device)
    x = mg.tensor(np.ones(1000, np.float32), device=device)
    layer(x)
    state = layer.state_dict()
    masks = [layer(x).numpy() for _ in range(3)]
    assert not np.array_equal(masks[0], masks[1])
    resumed = nn.Dropout(0.5).to(device)
    resumed.load_state_dict(state)
    for mask in masks:
        np.testing.assert_array_equal(resumed(x).numpy(), mask)


def test_dropout_layers_do_not_share_masks():
    mg.manual_seed(5)
    x = mg.tensor(np.ones(1000, np.float32))
    assert not np.array_equal(nn.Dropout()(x).numpy(), nn.Dropout()(x).numpy())


def test_dropout_survives_a_change_of_dtype():
    layer = nn.Dropout(0.5).to("float64")
    assert layer.counter.dtype == np.uint64
    layer(mg.tensor(np.ones(10)))
    assert layer.counter.numpy()[1] == 1


@pytest.mark.parametrize("p", [1.0, -0.1, np.nan, 10**400])
def test_dropout_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match="p must be from 0 to below 1"):
        nn.Dropout(p)


@pytest.mark.parametrize("p", ["half", None, True])
def test_dropout_probability_that_is_no_number_is_refused(p):
    with pytest.raises(TypeError, match=f"p must be a number, not {p!r}"):
        nn.Dropout(p)


def test_sequential_is_its_layers_one_after_another(device, rng):
    first, second = nn.Linear(5, 4).to(device), nn.Linear(4, 3).to(device)
    model = nn.Sequential(first, nn.Tanh(), second)
    x = numbers(rng, 2, 5, device=device)
    np.testing.assert_array_equal(model(x).numpy(), second(mg.tanh(first(x))).numpy())
    assert len(model) == 3
    assert model[2] is second
    assert next(iter(model)) is first
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_slice_of_a_sequential_is_one_of_the_same_layers(device, rng):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm(4), nn.ReLU(), nn.Linear(4, 3)).to(device).eval()
    part = model[:3]
    assert type(part) is nn.Sequential
    assert list(part) == list(model)[:3]
    assert part.training is False
    assert part.parameters()[0] is model[0].weight
    x = numbers(rng, 2, 5, device=device)
    model.train()
    np.testing.assert_array_equal(model[3:](model[:3](x)).numpy(), model(x).numpy())
    assert [type(layer) for layer in model[::-2]] == [nn.Linear, nn.BatchNorm]


def test_concat_is_its_branches_side_by_side(device, rng):
    branches = [nn.Linear(5, n).to(device) for n in (1, 2, 3)]
    model = nn.Concat(*branches)
    x = numbers(rng, 2, 5, device=device)
    np.testing.assert_array_equal(model(x).numpy(), np.concatenate([b(x).numpy() for b in branches], axis=1))
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [name for name, _ in model.named_parameters()][:2] == ["0.weight", "0.bias"]


@pytest.mark.parametrize("container", [nn.Sequential, nn.Concat])
def test_containers_take_modules_only(container):
    with pytest.raises(TypeError, match=f"{container.__name__} holds Modules, not function"):
        container(nn.ReLU(), mg.relu)
