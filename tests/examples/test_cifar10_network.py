"""What a network of the CIFAR-10 experiments is trained by, and what is told of it."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

import minigrad as mg


def test_quick_changes_defaults_alone(cifar10, monkeypatch):
    import typer
    from typer.testing import CliRunner

    script = importlib.import_module("cifar10_inception")
    asked = []
    monkeypatch.setattr(script.study, "train_all", lambda networks, *_: sys.exit(asked.append(networks["BN"])))
    app = typer.Typer()
    app.command()(script.main)
    for options in ((), ("--quick",), ("--epochs", "7", "--quick")):
        arguments = ["--data", cifar10, "--test-images", 30, "--images", 80, *options]
        CliRunner().invoke(app, list(map(str, arguments)))
    full, quick, changed = asked
    assert (full.width, full.epochs, full.batch, full.lr, full.gamma) == (1.0, 30, 250, 0.01, False)
    assert quick.epochs < 30
    assert quick.width < 1
    assert changed == replace(quick, epochs=7)


def test_networks_begin_with_the_same_weights_with_and_without_bn_and_dropout(cifar10_network):
    base = cifar10_network.Network(width=0.01, seed=3)
    others = [replace(base, batch_norm=False), replace(base, dropout=0.5), replace(base, dropout=0.1, gamma=True)]
    expected = [p.numpy() for p in cifar10_network.build(base).parameters() if p.ndim >= 2]
    for other in others:
        weights = [p.numpy() for p in cifar10_network.build(other).parameters() if p.ndim >= 2]
        assert len(weights) == len(expected) == 9 * 6 + 1
        assert all(np.array_equal(a, b) for a, b in zip(weights, expected, strict=True))


def test_initial_weights_are_glorot_uniform_and_those_of_convolutions_scaled(cifar10_network):
    plain = cifar10_network.build(cifar10_network.Network(width=0.5)).parameters()
    scaled = cifar10_network.build(cifar10_network.Network(width=0.5, weight_scale=2.0)).parameters()
    for one, other in zip(plain, scaled, strict=True):
        if one.ndim >= 2:
            fans = np.prod(one.shape[:-2]) * (one.shape[-2] + one.shape[-1])
            limit = np.sqrt(6 / fans)
            assert 0.9 * limit < np.abs(one.numpy()).max() <= limit * (1 + 1e-6)
        factor = 2 if one.ndim == 4 else 1
        assert np.array_equal(other.numpy(), factor * one.numpy())


def test_learning_rate_drops_as_in_the_study(cifar10_network):
    network = cifar10_network.Network()
    optimizer = mg.optim.SGD([mg.tensor(np.zeros(1, np.float32), requires_grad=True)], network.lr)
    schedule, by = cifar10_network.schedule_of(network, optimizer, 200)
    rates = []
    for _ in range(30):
        rates.append(optimizer.lr)
        schedule.step()
    assert by == "epoch"
    np.testing.assert_allclose(rates, [1e-2] * 9 + [1e-3] * 10 + [1e-4] * 10 + [1e-5])


def test_exponential_schedule_leaves_the_share_asked_for(cifar10_network):
    network = cifar10_network.Network(lr_left=0.2, epochs=3, lr=0.5)
    optimizer = mg.optim.SGD([mg.tensor(np.zeros(1, np.float32), requires_grad=True)], network.lr)
    schedule, by = cifar10_network.schedule_of(network, optimizer, 10)
    for _ in range(30):
        schedule.step()
    assert by == "step"
    assert optimizer.lr == pytest.approx(0.1)


def test_training_images_are_augmented_and_test_images_scaled_alone(study, cifar10_network, cifar10):
    data = study.load_data(cifar10, 80, 30)
    network = cifar10_network.Network(images=80, test_images=30, batch=80)
    plain, _ = cifar10_network.training_loader(replace(network, augment=False), data).batch(0)
    augmented, labels = cifar10_network.training_loader(network, data).batch(0)
    distorted, _ = cifar10_network.training_loader(replace(network, distortion=0.2), data).batch(0)
    assert np.abs(augmented - plain).max() > 0.01
    assert np.abs(distorted - augmented).max() > 0.01
    assert sorted(labels) == sorted(data.train_labels)
    images, labels = cifar10_network.test_loader(data).batch(0)
    np.testing.assert_allclose(images, data.test_images / 255, atol=1e-6)
    assert np.array_equal(labels, data.test_labels)


def test_precision_is_that_of_the_network_while_it_trains(cifar10_network, monkeypatch):
    seen = []
    monkeypatch.setattr(cifar10_network, "trained", lambda *_: seen.append(mg.matmul_precision.current))
    for precision in ("tf32", "float32"):
        cifar10_network.train(cifar10_network.Network(precision=precision), None, None)
    assert seen == ["tf32", "float32"]
    assert mg.matmul_precision.current == "float32"


def test_training_seconds_are_those_of_the_steps(cifar10_network):
    rows = [{"images_per_second": 50.0}, {"images_per_second": 100.0}]
    assert cifar10_network.training_seconds(rows, 200) == 4 + 2
    assert cifar10_network.training_seconds([{"images_per_second": None}, *rows], 200) == 3 + 4 + 2
    assert cifar10_network.training_seconds([{"images_per_second": None}], 200) is None


def test_final_accuracy_does_not_wait_for_running_averages(study, cifar10_network, cifar10):
    data = study.load_data(cifar10, 80, 30)
    network = cifar10_network.Network(width=0.01, images=80, test_images=30, batch=20, bn_decay=0.999999)
    model = cifar10_network.build(network)
    same = cifar10_network.build(replace(network, bn_decay=0.5))
    for norms in (model, same):
        assert 0 < cifar10_network.population_accuracy(norms, network, data) < 1
    kept, expected = model.state_dict(), same.state_dict()
    assert all(np.array_equal(kept[name], expected[name]) for name in expected)


def test_more_seeds_are_added_to_those_that_are_trained(study):
    networks = {"BN": study.Network(seed=5), "no BN": study.Network(batch_norm=False, seed=5)}
    first, more = study.seeded(networks, 1), study.seeded(networks, 2)
    assert first == networks
    assert list(more) == ["BN", "no BN", "BN, seed + 1", "no BN, seed + 1"]
    assert [network.seed for network in more.values()] == [5, 5, 6, 6]


def test_networks_of_several_seeds_are_told_by_those_that_did_not_diverge(study):
    def told(*accuracies):
        results = [{"a": a, "diverged": {"step": 1} if a is None else None} for a in accuracies]
        return study.mean_percent(results, "a", 66)

    assert told(0.5) == "50.0 (66)"
    assert told(0.5, 0.52) == "51.0 ± 1.4 (66)"
    assert told(0.5, None, 0.52) == "51.0 ± 1.4 (1 of 3 diverged) (66)"
    assert told(None, None) == "diverged (66)"
