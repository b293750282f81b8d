"""Algorithm 2 of the Batch Normalization paper: population statistics, and folding into the layer before."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn


def network(dtype="float64", device="cpu", **options):
    """Two normalized layers and an output, with gamma and beta off their starting values."""
    mg.manual_seed(0)
    model = mg.models.MLP(6, (5, 4), 3, sigma=0.7, **options).to(dtype).to(device)
    rng = np.random.default_rng(1)
    for name, p in model.named_parameters():
        if name.endswith(("gamma", "beta")):
            p.data = 1 + 0.3 * rng.standard_normal(p.shape)
    return model


def data(rng, sizes=(8, 8, 5), dtype="float64"):
    return [(2 + 3 * rng.standard_normal((n, 6))).astype(dtype) for n in sizes]


def norms(model):
    return [module for _, module in model.modules() if isinstance(module, nn.BatchNorm)]


def statistics(model):
    """The running means and variances of all layers, end to end."""
    return np.concatenate([t.numpy() for norm in norms(model) for t in (norm.running_mean, norm.running_var)])


def expected_statistics(model, batches):
    """E[x] = average of the means, Var[x] = m / (m - 1) times the average of the biased variances, in plain NumPy."""
    sums = None
    for x in batches:
        found = []
        for layer in model:
            if isinstance(layer, nn.Linear):
                x = x @ layer.weight.numpy() + (0 if layer.bias is None else layer.bias.numpy())
            elif isinstance(layer, nn.BatchNorm):
                mean, var, m = x.mean(axis=0), x.var(axis=0), len(x)
                found += [mean, var * m / (m - 1)]
                x = layer.gamma.numpy() * (x - mean) / np.sqrt(var + layer.eps) + layer.beta.numpy()
            elif isinstance(layer, nn.Sigmoid):
                x = 1 / (1 + np.exp(-x))
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    return np.concatenate(sums) / len(batches)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_are_the_averages_over_the_batches(dtype, device, rng):
    model, batches = network(dtype, device), data(rng, dtype=dtype)
    expected = expected_statistics(model, [batch.astype(np.float64) for batch in batches])
    assert nn.recompute_statistics(model, batches) is model
    bound = {"float32": 2e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(statistics(model), expected, rtol=bound, atol=bound)
    assert norms(model)[0].running_mean.dtype == dtype


@pytest.mark.parametrize("kind", ["arrays", "tensors", "pairs with labels", "generator", "lists"])
def test_batches_may_come_in_any_of_these_forms(kind, rng):
    batches = data(rng)
    forms = {
        "arrays": batches,
        "tensors": [mg.tensor(batch) for batch in batches],
        "pairs with labels": [(batch, np.zeros(len(batch), int)) for batch in batches],
        "generator": (batch for batch in batches),
        "lists": [[batch, None] for batch in batches],
    }
    model = nn.recompute_statistics(network(), forms[kind])
    np.testing.assert_array_equal(statistics(model), statistics(nn.recompute_statistics(network(), batches)))


def test_what_the_averages_were_before_does_not_matter(rng):
    batches = data(rng)
    model = network()
    model(mg.tensor(100 * rng.standard_normal((7, 6))))
    np.testing.assert_array_equal(
        statistics(nn.recompute_statistics(model, batches)), statistics(nn.recompute_statistics(network(), batches))
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_evaluation_mode_with_all_else_as_it_was(training, rng):
    model = network().train(training)
    norms(model)[0].decay = 0.7
    parameters = [p.numpy().copy() for p in model.parameters()]
    nn.recompute_statistics(model, data(rng))
    assert not any(module.training for _, module in model.modules())
    assert [norm.decay for norm in norms(model)] == [0.7, 0.9]
    for p, before in zip(model.parameters(), parameters, strict=True):
        np.testing.assert_array_equal(p.numpy(), before)
        assert p.requires_grad
        assert p.grad is None


def test_the_model_predicts_without_a_warning_afterwards(rng):
    batches = data(rng)
    model = nn.recompute_statistics(network(), batches)
    model(mg.tensor(batches[0][:1]))  # a batch of one is no trouble any more


def test_dropout_stays_off(rng):
    norm = nn.BatchNorm(6).to("float64")
    model = nn.Sequential(nn.Dropout(0.5), norm)
    x = rng.standard_normal((50, 6))
    nn.recompute_statistics(model, [x])
    np.testing.assert_allclose(norm.running_mean.numpy(), x.mean(axis=0), rtol=1e-12)
    assert model[0].counter.numpy()[1] == 0


def failing(rng):
    yield data(rng)[0]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (lambda rng: [], ValueError, "needs at least one batch"),
        (failing, OSError, "the disk is gone"),
        (lambda rng: [data(rng)[0], data(rng)[0][:1]], ValueError, "at least 2 values per feature"),
        (lambda rng: [data(rng)[0], data(rng)[0].astype(np.float32)], TypeError, "float32"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(batches, error, message, rng):
    model = network()
    model(mg.tensor(data(rng)[0]))
    model[2].training = False
    before, modes = statistics(model), [module.training for _, module in model.modules()]
    with pytest.raises(error, match=message):
        nn.recompute_statistics(model, batches(rng))
    np.testing.assert_array_equal(statistics(model), before)
    assert [module.training for _, module in model.modules()] == modes
    assert [norm.decay for norm in norms(model)] == [0.9, 0.9]


def with_bias(model, rng):
    """The model with a bias before each BN, which fold_batch_norm has to take along."""
    for layer in model:
        if isinstance(layer, nn.Linear) and layer.bias is None:
            layer.bias = nn.Parameter(rng.standard_normal(layer.out_features), dtype=layer.weight.dtype)
    return model


def evaluated(model, x):
    return model.eval()(mg.tensor(x, device=next(iter(model.parameters())).device)).numpy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_folded_model_computes_the_same(dtype, bias, device, rng):
    model = network(dtype)
    if bias:
        with_bias(model, rng)
    nn.recompute_statistics(model.to(device), data(rng, dtype=dtype))
    folded = nn.fold_batch_norm(model)
    assert not norms(folded)
    assert folded[1].weight.dtype == dtype
    assert folded[1].weight.device == device
    x = data(rng, (33,), dtype)[0]
    bound = {"float32": 5e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(evaluated(folded, x), evaluated(model, x), rtol=bound, atol=bound)


@pytest.mark.parametrize(("gamma", "beta"), [(True, False), (False, True), (False, False)])
def test_folding_without_gamma_or_beta(gamma, beta, rng):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm(4, gamma=gamma, beta=beta, eps=1e-3)).to("float64")
    nn.recompute_statistics(model, data(rng))
    x = data(rng, (9,))[0]
    np.testing.assert_allclose(evaluated(nn.fold_batch_norm(model), x), evaluated(model, x), rtol=1e-12, atol=1e-12)


def test_folding_is_the_formula(rng):
    linear, norm = nn.Linear(6, 4), nn.BatchNorm(4)
    norm.load_state_dict({name: rng.random(4).astype(np.float32) + 0.5 for name in norm.state_dict()})
    linear.bias.data[:] = rng.standard_normal(4)
    folded = nn.fold_batch_norm(nn.Sequential(linear, norm))
    gamma, beta, mean, var = (
        np.array(t, np.float64) for t in (norm.gamma, norm.beta, norm.running_mean, norm.running_var)
    )
    s = gamma / np.sqrt(var + norm.eps)
    np.testing.assert_allclose(folded[0].weight.numpy(), linear.weight.numpy() * s, rtol=1e-6)
    np.testing.assert_allclose(folded[0].bias.numpy(), (linear.bias.numpy() - mean) * s + beta, rtol=1e-5, atol=1e-6)


def test_the_model_itself_is_left_alone(rng):
    model = nn.recompute_statistics(network(), data(rng)).train()
    before = {name: np.array(t) for name, t in model.state_dict().items()}
    folded = nn.fold_batch_norm(model)
    for p in folded.parameters():
        p.data[...] = 77
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name].numpy(), before[name], err_msg=name)
    assert all(module.training for _, module in model.modules())
    assert not any(module.training for _, module in folded.modules())
    assert type(folded) is type(model)


def test_folding_reaches_into_nested_containers(rng):
    def branch(units):
        return nn.Sequential(nn.Linear(6, units), nn.BatchNorm(units), nn.ReLU())

    model = nn.Sequential(nn.Concat(branch(2), branch(3)), nn.Linear(5, 2), nn.BatchNorm(2)).to("float64")
    nn.recompute_statistics(model, data(rng))
    folded = nn.fold_batch_norm(model)
    assert not norms(folded)
    x = data(rng, (9,))[0]
    np.testing.assert_allclose(evaluated(folded, x), evaluated(model, x), rtol=1e-12, atol=1e-12)


def test_a_batch_norm_after_no_weights_stays(rng):
    model = nn.Sequential(nn.BatchNorm(6), nn.Linear(6, 4), nn.BatchNorm(4), nn.ReLU(), nn.BatchNorm(4)).to("float64")
    nn.recompute_statistics(model, data(rng))
    folded = nn.fold_batch_norm(model)
    assert [type(layer).__name__ for layer in folded] == ["BatchNorm", "Linear", "ReLU", "BatchNorm"]
    x = data(rng, (9,))[0]
    np.testing.assert_allclose(evaluated(folded, x), evaluated(model, x), rtol=1e-12, atol=1e-12)


def test_nothing_to_fold_among_batch_norms_is_an_error():
    with pytest.raises(ValueError, match="none of the 2 BatchNorm layers follows a Linear or Conv2d"):
        nn.fold_batch_norm(nn.Sequential(nn.BatchNorm(3), nn.ReLU(), nn.BatchNorm(3)))


def test_a_model_without_batch_norm_is_copied(rng):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).to("float64")
    copy = nn.fold_batch_norm(model)
    assert copy[0].weight is not model[0].weight
    x = data(rng, (9,))[0]
    np.testing.assert_array_equal(evaluated(copy, x), evaluated(model, x))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_are_not_finite_are_replaced(value, rng):
    model, batches = network(), data(rng)
    expected = expected_statistics(model, batches)
    for norm in norms(model):
        norm.running_mean[:] = value
        norm.running_var[:] = value
    nn.recompute_statistics(model, batches)
    np.testing.assert_allclose(statistics(model), expected, rtol=1e-12)


def test_layer_used_several_times_gets_the_average_over_its_uses(rng):
    class Twice(nn.Module):
        def __init__(self):
            self.norm = nn.BatchNorm(2).to("float64")

        def forward(self, x):
            return self.norm(x) + self.norm(x + 10.0)

    model = Twice()
    x = 1 + rng.standard_normal((50, 2))
    nn.recompute_statistics(model, [x])
    np.testing.assert_allclose(model.norm.running_mean.numpy(), x.mean(0) + 5)
    np.testing.assert_allclose(model.norm.running_var.numpy(), x.var(0, ddof=1))


def test_loader_gives_a_whole_epoch_and_stays_where_it_is():
    x = np.arange(40, dtype=np.float32).reshape(40, 1)
    loader = mg.data.Loader(x, np.zeros(40, np.int64), batch_size=4, shuffle=False)
    loader.seek(8)
    norm = nn.BatchNorm(1)
    nn.recompute_statistics(nn.Sequential(norm), loader)
    assert norm.running_mean.item() == 19.5
    assert loader.position == 8


def test_forward_of_an_instance_is_used_and_stays():
    norm = nn.BatchNorm(1)
    inner = norm.forward
    norm.forward = own = lambda x: inner(x * 2.0)
    nn.recompute_statistics(nn.Sequential(norm), [np.arange(4, dtype=np.float32).reshape(4, 1)])
    assert norm.running_mean.item() == 3
    assert norm.forward is own


class LinearReLU(nn.Linear):
    """More than a Linear."""

    def forward(self, x):
        return mg.relu(super().forward(x))


class Doubled(nn.BatchNorm):
    """More than a BatchNorm."""

    def forward(self, x, activation=None):
        return super().forward(x) * 2.0


def with_forward_replaced():
    layer = nn.Linear(4, 4)
    inner = layer.forward
    layer.forward = lambda x: mg.relu(inner(x))
    return layer, nn.BatchNorm(4)


@pytest.mark.parametrize(
    "pair",
    [lambda: (LinearReLU(4, 4), nn.BatchNorm(4)), lambda: (nn.Linear(4, 4), Doubled(4)), with_forward_replaced],
    ids=["subclass of Linear", "subclass of BatchNorm", "forward replaced"],
)
def test_what_may_compute_something_else_is_not_folded(pair, rng):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4), *pair())
    for _ in range(5):
        model(mg.tensor(rng.standard_normal((16, 4)).astype(np.float32)))
    model.eval()
    folded = nn.fold_batch_norm(model)
    assert len(folded) == 3
    x = mg.tensor(rng.standard_normal((5, 4)).astype(np.float32))
    np.testing.assert_allclose(folded(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-5)


def test_folded_layers_keep_the_names_that_a_model_gives_them(rng):
    class Named(nn.Sequential):
        def __init__(self, *layers):
            self.names = ["first", "norm", "last"]
            super().__init__(*layers)

        def children(self):
            return zip(self.names, self.layers, strict=True)

    model = Named(nn.Linear(6, 5), nn.BatchNorm(5), nn.Linear(5, 2)).eval()
    folded = nn.fold_batch_norm(model)
    assert list(folded.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert [name for name, _ in model.children()] == ["first", "norm", "last"]
    x = rng.standard_normal((3, 6)).astype(np.float32)
    model[1].loaded()
    np.testing.assert_allclose(folded(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)
