"""The studies of recurrent Batch Normalization and of AdaBN, tiny: what they write, and that it is what they say."""

import importlib

import numpy as np

import minigrad as mg


def test_recurrent_batchnorm(results_of, tmp_path):
    tiny = ["--epochs", 1, "--images", 16, "--test-images", 20, "--units", 4, "--batch", 8]
    printed, record = results_of("recurrent_batchnorm", *tiny)
    assert list(record["networks"]) == ["LSTM", "BN-LSTM"]
    for (run,) in record["networks"].values():
        assert len(run["test_accuracy"]) == len(run["loss"]) == 1
        assert np.isfinite(run["loss"]).all()
    assert "test_accuracy_population_statistics" in record["networks"]["BN-LSTM"][0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["error.png", "results.json", "table.md"]
    assert "BN-LSTM" in printed


def test_the_normalized_lstm_is_its_formula(scripts, rng):
    study = importlib.import_module("recurrent_batchnorm")
    mg.manual_seed(0)
    model = study.Normalized(3, 28, 0.1).to("float64")
    assert len(model.parameters()) == 9  # W_ih, W_hh, b, three gammas, beta of the cell, and the last layer's two
    x = rng.standard_normal((5, 28, 28))
    w_ih, w_hh, bias, out, out_bias = (
        t.numpy() for t in (model.w_ih, model.w_hh, model.bias, model.out.weight, model.out.bias)
    )

    def norm(v):
        return float(np.float32(0.1)) * (v - v.mean(axis=0)) / np.sqrt(v.var(axis=0) + 1e-5)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    h = c = np.zeros((5, 3))
    for t in range(28):
        i, f, g, o = np.split(norm(x[:, t] @ w_ih) + norm(h @ w_hh) + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm(c))
    model.train()
    study_result = model(mg.tensor(x))
    np.testing.assert_allclose(study_result.numpy(), h @ out + out_bias, rtol=1e-9, atol=1e-12)


def test_adabn(results_of, tmp_path):
    tiny = ["--epochs", 1, "--images", 200, "--test-images", 30, "--unlabelled", 200, "--seeds", 1]
    printed, record = results_of("adabn", *tiny)
    study = importlib.import_module("adabn")
    assert list(record["accuracy"]) == list(study.DOMAINS)
    assert all(0 <= value <= 1 for of in record["accuracy"].values() for values in of.values() for value in values)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["accuracy.png", "results.json", "table.md"]
    assert "inverted" in printed


def test_domains_change_what_they_say(scripts, rng):
    study = importlib.import_module("adabn")
    images = rng.uniform(size=(3, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(study.rotated(images, 90), np.rot90(images, axes=(2, 1)), atol=1e-5)
    np.testing.assert_array_equal(study.DOMAINS["inverted"](images), 1 - images)
    noise = study.noisy(images, 0.5) - images
    assert 0.4 < noise.std() < 0.6
