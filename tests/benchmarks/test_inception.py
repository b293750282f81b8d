"""The comparison of Inception's training step: that contenders train the same network, and what is made of their times."""

import numpy as np
import pytest

import minigrad as mg
from benchmarks.sections import inception
from benchmarks.tools import networks, sides
from benchmarks.tools.networks import Network
from minigrad.models import inception as model

MODULES = {"PyTorch": "torch", "JAX": "jax"}


def test_modules_are_those_of_the_model():
    assert {n: None if shape == "pool" else shape for n, shape in model.MODULES.items()} == networks.MODULES


@pytest.mark.parametrize(("batch_norm", "parameters"), [(False, 5_813_114), (True, 5_827_034)])
def test_arrays_are_as_many_numbers_as_the_study_says_and_gamma(batch_norm, parameters):
    arrays = networks.initial_arrays(Network(1.0, 1, batch_norm))
    assert sum(a.size for name, a in arrays.items() if not networks.is_statistic(name)) == parameters


def test_minigrads_model_has_as_many_parameters():
    for network in (Network(0.25, 1, True), Network(1.0, 1, False)):
        made = networks.minigrad_step(network, networks.initial_arrays(network), captured=False)
        assert made.parameters == sum(
            p.size for p in mg.models.Inception(10, network.width, network.batch_norm).parameters()
        )


@pytest.fixture
def few_modules(monkeypatch):
    """A pool and a module, which have all kinds of layers that nine have."""
    few = {name: networks.MODULES[name] for name in ("pool3", "5b")}
    monkeypatch.setattr(networks, "MODULES", few)
    monkeypatch.setattr(model, "MODULES", {name: shape or "pool" for name, shape in few.items()})


@pytest.fixture
def in_float64(request):
    """Of a contender's framework."""
    module = pytest.importorskip(MODULES[request.param.split()[0]])
    if module.__name__ == "torch":
        before = module.get_default_dtype()
        module.set_default_dtype(module.float64)
        yield request.param
        module.set_default_dtype(before)
    else:
        module.config.update("jax_enable_x64", True)
        yield request.param
        module.config.update("jax_enable_x64", False)


def trained(contender, network, device, steps=3):
    """Losses, and the state after a few steps in float64."""
    arrays = {name: array.astype(float) for name, array in networks.initial_arrays(network).items()}
    made = networks.CONTENDERS[contender](network, arrays, device)
    data = networks.batches(network, steps)
    losses = [made.loss(made.step(images.astype(float), labels)) for images, labels in data]
    return losses, {name: made.value(name).copy() for name in arrays}


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("in_float64", ["PyTorch channels_last", "PyTorch NCHW", "JAX jit"], indirect=True)
def test_contenders_train_what_minigrad_trains_by_its_reference_kernels(in_float64, batch_norm, few_modules):
    network = Network(0.05, 6, batch_norm, side=8)
    losses, state = trained(in_float64, network, "cpu")
    expected_losses, expected = trained("minigrad eager", network, "reference")
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
    [("parameters", 10), ("first loss", 0.03), ("later losses", 0.03), ("changes", 0.3), ("changes", np.nan)],
)
def test_contenders_that_differ_are_dropped(what, difference):
    same = {"parameters": 0, "first loss": 1e-6, "later losses": 1e-4, "changes": 0.01}
    party = sides.Party({"JAX jit": None, "other": None}, {}, [])
    inception.check(party, "other", same, inception.LIMITS["cpu"])
    assert "other" in party.workers
    inception.check(party, "JAX jit", {**same, what: difference}, inception.LIMITS["cpu"])
    assert list(party.workers) == ["other"]
    assert f"JAX jit: it does not compute the same: its {what} differ" in party.failed[0]


def result(**changes):
    seconds = {inception.OURS: 0.2, "minigrad eager": 0.25, inception.BASE: 0.5, "PyTorch torch.compile": 0.4}
    samples = {name: [value] * 3 for name, value in seconds.items()} | {"JAX jit": [2.0, None, None]}
    peaks = {inception.OURS: 300, inception.BASE: 500, "PyTorch torch.compile": 400, "JAX jit": 100}
    about = {"images_per_second": 10.0, "first_step": 1.0, "differences": {"changes": 0.1}}
    contenders = {name: {**about, "peak_memory": peaks.get(name, 250)} for name in samples}
    network = Network(1.0, 50, True)._asdict()
    found = {**network, "device": "cpu", "threads": 2, "samples": samples, "contenders": contenders, "left_out": {}}
    return {**found, **changes}


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
    assert inception.base(result(samples=samples)) == inception.BASE
    assert inception.base(result(samples={inception.OURS: [1.0]})) is None


def test_report_lists_every_contender():
    lines = inception.report(result()).splitlines()
    assert "width 1, batch 50, with BN, 2 threads" in lines[0]
    assert [line.split()[-4] for line in lines[3:8]] == ["2.00", "1.60", "0.80", "1.00", "0.20"]


def on_gpu(ours, theirs):
    samples = {"minigrad captured, tf32": [ours], "PyTorch channels_last, tf32": [theirs]}
    about = {"images_per_second": 5000.0, "differences": {"changes": 0.1}, "first_step": 1.0, "peak_memory": 0}
    network = {**inception.ON_GPU._asdict(), "device": "cuda"}
    return {**network, "samples": samples, "contenders": dict.fromkeys(samples, about), "left_out": {}}


def test_thirty_epochs_on_a_gpu_are_six_thousand_steps():
    found = on_gpu(0.05, 0.04)
    speed, whole = inception.targets(found)
    assert (speed["measured"], speed["target"], speed["reached"]) == (pytest.approx(0.8), 0.7, True)
    assert (whole["measured"], whole["reached"]) == (pytest.approx(30 * 200 * 0.05 / 60), True)
    assert inception.report(found).splitlines()[3].split()[-5:] == ["0%", "5000", "0.80", "5.0", "0.100"]
