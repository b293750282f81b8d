"""BatchNorm and the activation after it run as one op, branches as one with their concatenation: the same bits."""

import contextlib
import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def unit(inputs, outputs, size, activation, batch_norm=True):
    norm = [nn.BatchNorm(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, size, padding="same", bias=not batch_norm), *norm, ACTIVATIONS[activation]()]


def branches(activation, batch_norm=True, inputs=4):
    """The four branches of an Inception module."""

    def of(*sizes):
        return unit(*sizes, activation, batch_norm)

    return nn.Concat(
        nn.Sequential(*of(inputs, 3, 1)),
        nn.Sequential(*of(inputs, 5, 1), *of(5, 4, 3)),
        nn.Sequential(*of(inputs, 2, 1), *of(2, 3, 5)),
        nn.Sequential(nn.MaxPool2d(3, stride=1, padding="same"), *of(inputs, 1, 1)),
    )


def network(activation, batch_norm=True):
    """Two such modules, a normalized layer and one that is not; every parameter off its starting value."""
    mg.manual_seed(0)
    norm = [nn.BatchNorm(6)] if batch_norm else []
    model = nn.Sequential(
        branches(activation, batch_norm),
        branches(activation, batch_norm, inputs=11),
        nn.Conv2d(11, 6, 1),
        *norm,
        ACTIVATIONS[activation](),
        nn.GlobalAvgPool(),
        nn.Linear(6, 3),
    )
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def ops_of(model, x):
    """Names of the ops on the tape between a model's result and x, each as often as it is there."""
    found, waiting = {}, [model(x)._op]
    while waiting:
        op = waiting.pop()
        if isinstance(op, mg.Op) and id(op) not in found:
            found[id(op)] = type(op).__name__
            waiting += op.sources
    return sorted(found.values())


def images(rng, count=3, shape=(5, 6, 6, 4)):
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


def outcome(model, how, device="cpu"):
    """Losses, all parameters, gradients and statistics after some steps, and what the model says in evaluation."""
    model.to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(x, labels):
        optimizer.zero_grad()
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    run = mg.capture(step, device=device) if how == "captured" else step
    watching = mg.inspect.trace if how == "traced" else contextlib.nullcontext
    rng = np.random.default_rng(2)
    losses = []
    for array in images(rng):
        labels = rng.integers(0, 3, len(array))
        with watching():
            losses.append(run(array if how == "captured" else mg.tensor(array, device=device), labels).item())
    model.eval()
    (array,) = images(rng, 1)
    with watching():
        x = mg.tensor(array, device=device, requires_grad=True)
        y = model(x)
        y.sum().backward()
    gradients = [p.grad.numpy() for p in model.parameters()]
    tensors = [t.numpy() for t in [*model.parameters(), *[t for _, t in model.named_buffers()]]]
    return [np.array(losses), *gradients, *tensors, y.numpy(), x.grad.numpy()]


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@each_activation
@pytest.mark.parametrize("batch_norm", [True, False], ids=["BN", "no BN"])
@pytest.mark.parametrize("how", ["traced", "captured"])
def test_fused_modules_give_the_bits_of_single_ops(activation, batch_norm, how, device):
    plain = outcome(network(activation, batch_norm), "plain", device)
    assert_same_bits(outcome(network(activation, batch_norm), how, device), plain)
    assert len(set(plain[0])) == 3


@each_activation
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_normalized_layer_gives_the_bits_of_single_ops(activation, dtype, training, device, rng):
    mg.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 17), nn.BatchNorm(17), ACTIVATIONS[activation](), nn.Linear(17, 3))
    model.to(dtype).to(device)
    given = [rng.standard_normal((65, 12)).astype(dtype) for _ in range(2)]
    model(mg.tensor(given[0], device=device))
    model.train(training)
    found = []
    state = model.state_dict()
    for watching in (contextlib.nullcontext, mg.inspect.trace):
        model.load_state_dict(state)
        model.zero_grad()
        with watching():
            y = model(mg.tensor(given[1], device=device))
            (y * y).sum().backward()
        found.append(
            [y.numpy(), *[p.grad.numpy() for p in model.parameters()], *[t.numpy() for _, t in model.named_buffers()]]
        )
    assert_same_bits(*found)


@pytest.mark.parametrize(("activation", "joined"), [("relu", True), ("sigmoid", True), ("tanh", False)])
def test_which_ops_run(activation, joined, rng):
    x = mg.tensor(images(rng, 1)[0], requires_grad=True)
    model = branches(activation)
    inner = ["BatchNorm", "BatchNorm", "Conv2d", "Conv2d", "Conv2d", "Conv2d", "Conv2d", "Conv2d", "MaxPool"]
    name = activation.capitalize() if activation != "relu" else "ReLU"
    separate = sorted([*inner, *["BatchNorm"] * 4, *[name] * 6, "Concat"])
    assert ops_of(model, x) == (sorted([*inner, "BranchConcat"]) if joined else separate)
    with mg.inspect.trace():
        assert ops_of(model, x) == separate
    with mg.detect_anomaly():
        assert ops_of(model, x) == separate


def test_which_ops_run_without_normalization(rng):
    x = mg.tensor(images(rng, 1)[0], requires_grad=True)
    found = ops_of(branches("relu", batch_norm=False), x)
    assert found == sorted(["BranchConcat", *["Conv2d"] * 6, "MaxPool", "ReLU", "ReLU"])


def test_which_ops_run_in_evaluation(rng):
    x = mg.tensor(images(rng, 1)[0], requires_grad=True)
    model = branches("relu")
    model(x)
    found = ops_of(model.eval(), x)
    assert found == sorted(["BranchConcat", *["BatchNormInference"] * 6, *["Conv2d"] * 6, "MaxPool"])


class Half(nn.BatchNorm):
    """A norm with a forward of its own."""

    def forward(self, x):
        return 0.5 * super().forward(x)


class Leaky(nn.ReLU):
    """An activation with a forward of its own."""

    def forward(self, x):
        return mg.relu(x) - 0.1 * mg.relu(-x)


@pytest.mark.parametrize(
    "container", [nn.Sequential, lambda *layers: nn.Concat(nn.Sequential(*layers))], ids=["layers", "branch"]
)
@pytest.mark.parametrize(
    ("norm", "activation"), [(Half, nn.ReLU), (nn.BatchNorm, Leaky), (Half, Leaky)], ids=["norm", "activation", "both"]
)
def test_subclasses_keep_their_own_forward(container, norm, activation, rng):
    layers = norm(5), activation()
    x = mg.tensor(rng.standard_normal((7, 5)), dtype="float32")
    expected = mg.batch_norm(x, None, None, None, None, training=True)
    expected = 0.5 * expected if norm is Half else expected
    expected = mg.relu(expected) - 0.1 * mg.relu(-expected) if activation is Leaky else mg.relu(expected)
    np.testing.assert_array_equal(container(*layers)(x), expected)


@pytest.mark.parametrize("which", [0, 1], ids=["norm", "activation"])
@pytest.mark.parametrize(
    "container", [nn.Sequential, lambda *layers: nn.Concat(nn.Sequential(*layers))], ids=["layers", "branch"]
)
def test_a_forward_that_was_replaced_is_called(which, container, rng):
    layers = nn.BatchNorm(5), nn.ReLU()
    forward, calls = layers[which].forward, []
    layers[which].forward = lambda x: calls.append(x.shape) or forward(x)
    x = mg.tensor(rng.standard_normal((7, 5)), dtype="float32")
    found = container(*layers)(x)
    assert calls == [(7, 5)]
    np.testing.assert_array_equal(found, nn.Sequential(nn.BatchNorm(5), nn.ReLU())(x))


def test_a_branch_whose_forward_was_replaced_is_called(rng):
    branch = nn.Sequential(nn.BatchNorm(5), nn.ReLU())
    forward, calls = branch.forward, []
    branch.forward = lambda x: calls.append(x.shape) or forward(x)
    nn.Concat(branch)(mg.tensor(rng.standard_normal((7, 5)), dtype="float32"))
    assert calls == [(7, 5)]


class Twice(nn.Sequential):
    """A container with a forward of its own."""

    def forward(self, x):
        return super().forward(super().forward(x))


def test_a_branch_of_a_class_of_its_own_runs_its_forward(rng):
    x = mg.tensor(rng.standard_normal((7, 5)), dtype="float32")
    layers = nn.BatchNorm(5), nn.ReLU()
    once = nn.Sequential(*layers)
    np.testing.assert_array_equal(nn.Concat(Twice(*layers))(x), once(once(x)))


def test_branches_of_every_kind_side_by_side(device, rng):
    linear, norm = nn.Linear(5, 3).to(device), nn.BatchNorm(5).to(device)
    model = nn.Concat(
        nn.Sequential(),
        linear,
        nn.Sequential(norm, nn.ReLU()),
        nn.Sequential(nn.Sigmoid()),
        nn.Sequential(linear, nn.Tanh()),
        nn.Sequential(nn.ReLU(), linear),
        nn.Sequential(nn.Dropout(0.5), nn.ReLU()),
        nn.ReLU(),
    ).eval()
    norm.train()
    x = mg.tensor(rng.standard_normal((7, 5)), dtype="float32", device=device)
    normalized = mg.batch_norm(x, None, None, None, None, training=True)
    parts = [
        x,
        linear(x),
        mg.relu(normalized),
        mg.sigmoid(x),
        mg.tanh(linear(x)),
        linear(mg.relu(x)),
        mg.relu(x),
        mg.relu(x),
    ]
    np.testing.assert_array_equal(model(x), np.concatenate([part.numpy() for part in parts], axis=1))


def test_integers_pass_through_branches_that_leave_them(device):
    x = mg.tensor(np.arange(12).reshape(2, 3, 2), device=device)
    np.testing.assert_array_equal(
        nn.Concat(nn.Flatten(), nn.Flatten())(x), np.arange(12).reshape(2, 6).repeat(2, 0).reshape(2, 12)
    )


def test_a_concat_of_no_branches_is_refused(rng):
    with pytest.raises(ValueError, match="at least one tensor"):
        nn.Concat()(mg.tensor(rng.standard_normal((7, 5))))


def test_running_statistics_through_branches_are_those_of_single_ops(device, rng):
    found = []
    for watching in (contextlib.nullcontext, mg.inspect.trace):
        model = network("relu").to(device)
        for array in images(np.random.default_rng(3)):
            with watching():
                model(mg.tensor(array, device=device))
        found.append([t.numpy() for _, t in model.named_buffers()])
    assert_same_bits(*found)
    assert all((mean != 0).all() for mean in found[0][::2])


def test_a_branch_evaluated_before_any_training_warns(rng):
    model = nn.Concat(nn.Sequential(nn.BatchNorm(5), nn.ReLU())).eval()
    with pytest.warns(UserWarning, match="evaluated before any training step"):
        model(mg.tensor(rng.standard_normal((7, 5)), dtype="float32"))


def test_a_branch_that_was_trained_does_not_warn(rng):
    model = nn.Concat(nn.Sequential(nn.BatchNorm(5), nn.ReLU()))
    x = mg.tensor(rng.standard_normal((7, 5)), dtype="float32")
    model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(x)


@each_activation
def test_population_statistics_are_those_of_single_ops(activation, device, rng):
    found = []
    for watching in (contextlib.nullcontext, mg.inspect.trace):
        model = network(activation).to(device)
        with watching():
            nn.recompute_statistics(model, images(np.random.default_rng(3)))
        found.append([t.numpy() for _, t in model.named_buffers()])
        assert not any(module.training for _, module in model.modules())
    assert_same_bits(*found)


@each_activation
def test_folded_model_computes_the_same(activation, device, rng):
    model = network(activation).to("float64").to(device)
    given = images(rng)
    nn.recompute_statistics(model, [array.astype(np.float64) for array in given])
    folded = nn.fold_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm) for _, module in folded.modules())
    x = mg.tensor(given[0].astype(np.float64), device=device)
    np.testing.assert_allclose(folded(x).numpy(), model(x).numpy(), rtol=1e-11, atol=1e-12)


def test_parts_in_evaluation_between_captured_calls_are_respected(device):
    """A norm inside a branch is not called on its own, and its training flag selects the recording all the same."""
    found = []
    for captured in (False, True):
        model = network("relu").to(device)
        optimizer = mg.optim.SGD(model.parameters(), lr=0.05)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model(x) ** 2.0).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = mg.capture(step, device=device) if captured else step
        norms = [module for _, module in model.modules() if isinstance(module, nn.BatchNorm)]
        losses = []
        for i, array in enumerate(images(np.random.default_rng(3), 8)):
            if i >= 2:
                norms[(2 * i) % len(norms)].training = i % 2 == 1
            losses.append(run(array if captured else mg.tensor(array, device=device)).item())
        found.append(
            [np.array(losses), *[t.numpy() for t in [*model.parameters(), *[t for _, t in model.named_buffers()]]]]
        )
    assert_same_bits(*found)


@each_activation
@pytest.mark.parametrize("batch_norm", [True, False], ids=["BN", "no BN"])
def test_inception_has_the_bits_of_single_ops(activation, batch_norm):
    def model():
        mg.manual_seed(0)
        return mg.models.Inception(3, width=0.01, batch_norm=batch_norm, activation=activation, channels=4)

    plain = outcome(model(), "plain")
    assert_same_bits(outcome(model(), "traced"), plain)
    assert_same_bits(outcome(model(), "captured"), plain)
