"""The residual network and the autoencoder, tiny: what they compute, what they write, and that it is what they say."""

import importlib

import numpy as np
import pytest

import minigrad as mg


@pytest.fixture
def resnet(scripts):
    return importlib.import_module("cifar10_resnet")


@pytest.fixture
def autoencoder(scripts):
    return importlib.import_module("mnist_autoencoder")


def test_the_resnet_of_the_paper(resnet):
    """Table 6 of He et al. 2016: 20 layers have 0.27 million parameters, 56 layers 0.85 million."""
    for blocks, millions in ((3, 0.27), (9, 0.85)):
        model = resnet.network(blocks, 1.0)
        assert sum(p.size for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
        convolutions = [m for _, m in model.modules() if isinstance(m, mg.nn.Conv2d)]
        assert len(convolutions) + 1 == 6 * blocks + 2


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_that_computes_nothing_passes_its_input_on(resnet, rng, stride):
    block = resnet.ResidualBlock(2, 2 * stride, stride, shortcut=True)
    block.norm2.gamma = mg.nn.Parameter(np.zeros(2 * stride, np.float32))
    x = rng.uniform(size=(2, 4, 4, 2)).astype(np.float32)
    y = block(mg.tensor(x)).numpy()
    np.testing.assert_array_equal(y[..., :2], x[:, ::stride, ::stride])
    np.testing.assert_array_equal(y[..., 2:], 0)
    block.shortcut = False
    np.testing.assert_array_equal(block(mg.tensor(x)).numpy(), 0)


def test_both_networks_of_the_resnet_begin_alike_and_are_trained(results_of, cifar10, tmp_path):
    tiny = ["--blocks", 1, "--width", 0.1, "--images", 60, "--test-images", 20, "--epochs", 2, "--batch", 20]
    printed, record = results_of("cifar10_resnet", "--data", cifar10, *tiny)
    assert list(record["networks"]) == ["residual", "plain"]
    for run in record["networks"].values():
        assert len(run["validation_accuracy"]) == 2
        assert np.isfinite(run["loss"]).all()
    assert record["configuration"]["layers"] == 8
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["accuracy.png", "results.json", "table.md"]
    assert "residual" in printed


def test_the_autoencoder_passes_all_by_its_code_unless_it_skips(autoencoder, rng):
    x = mg.tensor(rng.uniform(size=(3, 28, 28, 1)).astype(np.float32))
    for skips in (False, True):
        mg.manual_seed(0)
        model = autoencoder.Autoencoder(4, skips, channels=2)
        model(x)
        model.eval()
        model.encode.weight = mg.nn.Parameter(np.zeros(model.encode.weight.shape, np.float32))
        first, *others = model(x).numpy()
        assert first.shape == (28, 28, 1)
        assert all(np.array_equal(first, other) for other in others) == (not skips)


def test_noise_turns_so_many_pixels_round_and_others_each_time(autoencoder):
    mg.manual_seed(0)
    images = mg.tensor(np.broadcast_to(np.float32([0, 1]), (5_000, 2)).copy())
    first, second = (autoencoder.noisy(images, 0.2).numpy() for _ in range(2))
    for noisy in (first, second):
        np.testing.assert_allclose(np.abs(noisy - images.numpy()).mean(axis=0), 0.2, atol=0.03)
    assert (first != second).any()


def test_both_autoencoders_are_trained(results_of, tmp_path):
    tiny = ["--epochs", 2, "--images", 200, "--test-images", 20, "--code", 4]
    printed, record = results_of("mnist_autoencoder", *tiny)
    assert list(record["networks"]) == ["no skips", "skips"]
    for run in record["networks"].values():
        assert len(run["loss"]) == len(run["test_loss"]) == 2
        assert run["loss"][-1] < run["loss"][0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["images.png", "results.json", "table.md"]
    assert "by codes of 4 numbers" in printed
