"""The study of covariate shift, tiny: what it writes, and that its measures are what they say and leave no trace."""

import importlib
import json

import numpy as np
import pytest

import minigrad as mg

LR = 0.5


@pytest.fixture
def study(scripts):
    return importlib.import_module("covariate_shift")


@pytest.fixture
def model():
    mg.manual_seed(1)
    return mg.models.MLP(6, (5, 4), 3, batch_norm=True, sigma=0.7)


@pytest.fixture
def batch(rng):
    return rng.standard_normal((20, 6)).astype(np.float32), rng.integers(3, size=20)


def gradient(model, batch):
    """By the weights of all layers, without the study's help."""
    model.zero_grad()
    mg.cross_entropy(model(mg.tensor(batch[0])), batch[1]).backward()
    return [p.grad.numpy().copy() for name, p in model.named_parameters() if name.endswith("weight")]


def descend(model, names=None):
    """A step of plain gradient descent, of all parameters or of those of these names."""
    for name, p in model.named_parameters():
        if names is None or name in names:
            p.data = p.numpy() - np.float32(LR) * p.grad.numpy()


def test_layers_begin_with_what_has_weights(study, model):
    kinds = [[type(module).__name__ for module in layer.modules] for layer in study.layers_of(model)]
    assert kinds == [["Flatten", "Linear", "BatchNorm", "Sigmoid"], ["Linear", "BatchNorm", "Sigmoid"], ["Linear"]]
    layers = study.layers_of(model)
    assert [[w.shape for w in layer.weights.values()] for layer in layers] == [[(6, 5)], [(5, 4)], [(4, 3)]]
    assert sorted(name for layer in layers for name in layer.names) == sorted(model.state_dict())


def test_an_inception_module_is_a_layer(study):
    layers = study.layers_of(mg.models.Inception(width=0.125))
    assert [len(layer.weights) for layer in layers] == [6] * 9 + [1]


def test_gradient_shift_is_by_the_step_of_the_layers_below(study, model, batch):
    look = study.Look(model, LR, batch[0], "cpu")
    before = model.state_dict()
    old = gradient(model, batch)
    expected = []
    for layer in (1, 2):  # those below it make their step, it does not
        model.load_state_dict(before)
        gradient(model, batch)
        descend(model, [name for below in study.layers_of(model)[:layer] for name in below.names])
        expected.append(gradient(model, batch)[layer])
    model.load_state_dict(before)

    def step():
        gradient(model, batch)
        descend(model)

    found = look.gradient_shift(batch, step, look.gradients(batch)[1])
    for i, (new, was) in enumerate(zip(expected, old[1:], strict=True)):
        size = np.linalg.norm(was)
        assert found["gradient_shift"][i] == pytest.approx(np.linalg.norm(new - was) / size, rel=1e-4)
        assert found["cosine"][i] == pytest.approx(np.sum(new * was) / size / np.linalg.norm(new), rel=1e-5)
    assert min(found["gradient_shift"]) > 1e-3


def test_smoothness_is_along_the_gradient_of_all_weights(study, model, batch):
    look = study.Look(model, LR, batch[0], "cpu")
    before = model.state_dict()
    loss, gradients = look.gradients(batch)
    found = look.smoothness(batch, loss, gradients)
    losses, changes = [loss], []
    g = gradient(model, batch)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    for stride in study.STRIDES:
        model.load_state_dict(before)
        for weight, slope in zip(weights, g, strict=True):
            weight.data = weight.numpy() - np.float32(stride * LR) * slope
        there = gradient(model, batch)
        losses.append(mg.cross_entropy(model(mg.tensor(batch[0])), batch[1]).item())
        changes.append(study.joined([a - b for a, b in zip(there, g, strict=True)]))
    size = np.linalg.norm(study.joined(g))
    moved = [np.linalg.norm(change) for change in changes]
    assert found["loss_range"] == pytest.approx(np.ptp(losses), rel=1e-4)
    assert found["gradient_change"] == pytest.approx(max(moved) / size, rel=1e-4)
    strides = LR * np.array(study.STRIDES)
    assert found["gradient_change_by_length"] == pytest.approx(max(moved / strides) / size, rel=1e-4)


def test_input_shift_is_a_distance_of_distributions(study, model, batch, rng):
    look = study.Look(model, LR, batch[0], "cpu")
    assert look.input_shift() is None
    assert look.input_shift() == [0, 0]
    model.layers[2].beta.data = model.layers[2].beta.numpy() + 1  # of the first BatchNorm
    assert look.input_shift()[0] > 0.5
    a = rng.standard_normal((1_000, 3))
    assert study.wasserstein(a, a + 2 * a.std()) == pytest.approx(2, rel=0.05)  # moved by two deviations
    assert study.wasserstein(a, rng.permutation(a)) == 0  # the same distribution, whichever image gave which value


def test_a_look_leaves_no_trace(study, model, batch):
    look = study.Look(model, LR, batch[0], "cpu")
    before = {name: t.numpy() for name, t in model.state_dict().items()}
    look.step(batch, lambda: None)
    after = model.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name].numpy(), value, err_msg=name)


def test_the_study_writes_what_it_measures(study, tmp_path):
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(study.main)
    options = ["--steps", "4", "--every", "2", "--seeds", "1", "--images", "200", "--test-images", "20"]
    result = CliRunner().invoke(
        app, [*options, "--output", str(tmp_path)], env={"COLUMNS": "200", "NO_COLOR": "1"}, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "shift.png", "table.md"]
    networks = json.loads((tmp_path / "results.json").read_text())["networks"]
    assert list(networks) == ["without BN", "with BN"]
    for (history,) in networks.values():
        assert history["steps"] == [0, 2, 4]
        assert history["input_shift"][0] is None
        assert np.shape(history["input_shift"][1:]) == (2, 3)
        assert np.shape(history["gradient_shift"]) == np.shape(history["cosine"]) == (3, 3)
        for measure in ("test_accuracy", "loss", "loss_range", "gradient_change", "gradient_change_by_length"):
            assert np.isfinite(history[measure]).all()
            assert len(history[measure]) == 3
    assert "gradient shift" in result.output
