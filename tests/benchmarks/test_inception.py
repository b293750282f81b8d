"""The comparison of Inception's training step: that all contenders train the same network, and what is made of their times."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks.comparison import inception
from benchmarks.comparison import inception_networks as networks
from benchmarks.comparison.inception_networks import Network
from minigrad.models import inception as model

CONTENDERS = ["minigrad eager", "PyTorch channels_last", "PyTorch NCHW", "JAX jit"]


def framework(contender):
    return pytest.importorskip({"minigrad": "minigrad", "PyTorch": "torch", "JAX": "jax"}[contender.split()[0]])


def test_modules_are_those_of_the_model():
    assert {n: None if shape == "pool" else shape for n, shape in model.MODULES.items()} == networks.MODULES


@pytest.mark.parametrize(("batch_norm", "parameters"), [(False, 5_813_114), (True, 5_827_034)])
def test_arrays_are_as_many_numbers_as_the_study_says_and_gamma(batch_norm, parameters):
    arrays = networks.initial_arrays(Network(1.0, 1, batch_norm))
    assert sum(a.size for name, a in arrays.items() if not networks.is_statistic(name)) == parameters


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("contender", CONTENDERS)
def test_contenders_train_as_many_parameters_as_minigrads_model(contender, width, batch_norm):
    framework(contender)
    network = Network(width, 1, batch_norm)
    expected = sum(p.size for p in mg.models.Inception(width=width, batch_norm=batch_norm).parameters())
    made = networks.CONTENDERS[contender](network, networks.initial_arrays(network), mg.get_num_threads())
    assert made.parameters == expected


def trained(contender, network, steps=3):
    """Losses, and the state after a few steps in float64."""
    arrays = {name: array.astype(float) for name, array in networks.initial_arrays(network).items()}
    made = networks.CONTENDERS[contender](network, arrays, mg.get_num_threads())
    data = networks.batches(network, steps)
    losses = [made.loss(made.step(images.astype(float), labels)) for images, labels in data]
    return losses, {name: made.value(name).copy() for name in arrays}


@pytest.fixture
def in_float64():
    def prepare(contender):
        module = framework(contender)
        if module.__name__ == "torch":
            before = module.get_default_dtype()
            module.set_default_dtype(module.float64)
            undo.append(lambda: module.set_default_dtype(before))
        elif module.__name__ == "jax":
            module.config.update("jax_enable_x64", True)
            undo.append(lambda: module.config.update("jax_enable_x64", False))

    undo = []
    yield prepare
    for restore in undo:
        restore()


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("contender", ["minigrad captured", *CONTENDERS[1:]])
def test_contenders_train_the_same_network(contender, batch_norm, in_float64, monkeypatch):
    in_float64(contender)
    if contender == "JAX jit":  # which takes long to compile all of it
        few = {name: networks.MODULES[name] for name in ("3a", "pool3", "5b")}
        monkeypatch.setattr(networks, "MODULES", few)
        monkeypatch.setattr(model, "MODULES", {name: shape or "pool" for name, shape in few.items()})
    network = Network(0.05, 6, batch_norm, side=8)
    losses, state = trained(contender, network)
    expected_losses, expected = trained("minigrad eager", network)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    start = networks.initial_arrays(network)
    for name, array in expected.items():
        assert np.any(array != start[name]), name
        np.testing.assert_allclose(state[name], array, rtol=1e-6, atol=1e-9, err_msg=name)


def test_changes_tell_a_tensor_that_went_another_way():
    initial = {"a": np.zeros((4, 5), np.float32), "b": np.zeros(7, np.float32)}

    def changed(**after):
        return inception.changes(networks.Contender(None, None, after.get, 0), initial)

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 5)), rng.standard_normal(7)
    expected = changed(a=a, b=b)
    assert expected["b"][1] == pytest.approx(np.linalg.norm(b))
    assert inception.change_difference(changed(a=a, b=b), expected) == 0
    assert inception.change_difference(changed(a=a, b=1.01 * b), expected) < 0.1
    for wrong in (-b, 0 * b, 2 * b, b[::-1]):
        assert inception.change_difference(changed(a=a, b=wrong), expected) > 0.2
    assert inception.change_difference(changed(a=a, b=np.nan * b), expected) == np.inf


@pytest.mark.parametrize(
    ("what", "difference"),
    [("parameters", -10), ("losses", 0.03), ("changes", 0.3), ("losses", np.nan)],
)
def test_contenders_that_differ_end_the_run(what, difference):
    same = {"parameters": 0, "losses": 1e-4, "changes": 0.01}
    inception.check({"JAX jit": same})
    with pytest.raises(RuntimeError, match=f"JAX jit and minigrad captured .* their {what} differ"):
        inception.check({"JAX jit": {**same, what: difference}})


def result(**changes):
    seconds = {inception.OURS: 0.2, "minigrad eager": 0.25, inception.BASE: 0.5, "PyTorch torch.compile": 0.4}
    samples = {name: [value] * 3 for name, value in seconds.items()} | {"JAX jit": [2.0, None, None]}
    peaks = {inception.OURS: 300, inception.BASE: 500, "PyTorch torch.compile": 400, "JAX jit": 100}
    contenders = {
        name: {"images_per_second": 10.0, "first_step": 1.0, "peak_memory": peaks.get(name, 250)} for name in samples
    }
    network = Network(1.0, 50, True)._asdict()
    return {**network, "threads": 2, "samples": samples, "contenders": contenders, "left_out": {}, **changes}


def test_targets_are_against_the_fastest_and_the_leanest_mode_of_pytorch():
    speed, memory = inception.targets(result())
    assert speed["what"].endswith("against PyTorch torch.compile")
    assert (speed["measured"], speed["target"], speed["reached"]) == (pytest.approx(2.0), 1.3, True)
    assert (memory["measured"], memory["reached"]) == (pytest.approx(0.75), True)


def test_cost_of_batch_norm_is_taken_from_the_rounds_without():
    samples = {inception.OURS: [1.0, 2.0, 1.0], inception.with_batch_norm(inception.OURS): [1.2, 2.4, 1.2]}
    (cost,) = inception.targets(result(batch_norm=False, samples=samples))
    assert (cost["measured"], cost["reached"]) == (pytest.approx(1.2), False)


def test_rows_with_batch_norm_are_no_mode_of_pytorch_without():
    samples = {inception.OURS: [1.0], inception.BASE: [3.0], inception.with_batch_norm(inception.BASE): [2.0]}
    assert inception.fastest(samples) == inception.BASE
    assert inception.fastest({inception.OURS: [1.0]}) is None


def test_report_lists_every_contender():
    lines = inception.report(result()).splitlines()
    assert "width 1, batch 50, with BN, 2 threads" in lines[0]
    assert [line.split()[-3] for line in lines[3:8]] == ["2.00", "1.60", "0.80", "1.00", "0.20"]
