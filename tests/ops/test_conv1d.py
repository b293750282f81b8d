"""conv1d, of images one pixel high: against PyTorch and finite differences, its arguments and its errors."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_grads

OPTIONS = [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}, {"padding": (4, 0), "dilation": 2}]


@pytest.mark.wide
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients(options, groups, device, rng):
    x, w, b = rng.standard_normal((2, 9, 4)), rng.standard_normal((3, 4 // groups, 8)), rng.standard_normal(8)
    check_grads(lambda x, w, b: mg.conv1d(x, w, b, groups=groups, **options), x, w, b, device=device, full_size=8)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_against_torch(options, groups, rng):
    torch = pytest.importorskip("torch")
    x, w, b = rng.standard_normal((2, 9, 4)), rng.standard_normal((3, 4 // groups, 8)), rng.standard_normal(8)
    y = mg.conv1d(*[mg.tensor(a, device="reference") for a in (x, w, b)], groups=groups, **options)
    series, weight = torch.tensor(x).permute(0, 2, 1), torch.tensor(w).permute(2, 1, 0)
    expected = torch.nn.functional.conv1d(series, weight, torch.tensor(b), groups=groups, **options)
    np.testing.assert_allclose(y.numpy(), expected.permute(0, 2, 1).numpy(), rtol=1e-12, atol=1e-12)


def test_padding_before_alone_looks_at_nothing_that_comes_after(rng):
    x, w = rng.standard_normal((1, 9, 2)).astype(np.float32), mg.tensor(rng.standard_normal((3, 2, 2)), dtype="float32")
    y = mg.conv1d(mg.tensor(x), w, padding=(2, 0)).numpy()
    x[:, 5:] = 100
    changed = mg.conv1d(mg.tensor(x), w, padding=(2, 0)).numpy()
    assert y.shape == (1, 9, 2)
    np.testing.assert_array_equal(y[:, :5], changed[:, :5])
    assert (y[:, 5:] != changed[:, 5:]).all()


X, W = np.zeros((2, 5, 4)), np.zeros((3, 4, 6))


@pytest.mark.parametrize(
    ("x", "w", "options", "error", "message"),
    [
        (X[0], W, {}, ValueError, r"conv1d: x \(N, L, C\) .* got \(5, 4\) and \(3, 4, 6\)"),
        (
            X,
            W[:, :3],
            {},
            ValueError,
            r"conv1d: x \(N, L, C\) and w \(size, C, K\) expected, got \(2, 5, 4\) and \(3, 3, 6\)",
        ),
        (X, W, {"groups": 3}, ValueError, "conv1d: groups=3 does not divide the 4 channels"),
        (X[:, :2], W, {}, ValueError, "conv1d: the window 1 x 3 is larger than the image, which is 1 x 2"),
        (X, W, {"stride": (1, 2)}, TypeError, r"conv1d: stride must be an integer, not \(1, 2\)"),
        (X, W, {"padding": "valid"}, ValueError, "conv1d: padding must be"),
        (X, W.astype(np.float32), {}, TypeError, "conv1d.*x is float64, w is float32"),
    ],
)
def test_errors(x, w, options, error, message):
    with pytest.raises(error, match=message):
        mg.conv1d(mg.tensor(x, device="reference"), mg.tensor(w, device="reference"), **options)


def test_layer_and_its_shapes(rng):
    layer = mg.nn.Conv1d(8, 16, 3, padding="same", groups=8)
    assert layer(mg.tensor(rng.standard_normal((2, 5, 8)).astype(np.float32))).shape == (2, 5, 16)
    assert layer.weight.shape == (3, 1, 16)
    assert repr(layer) == "Conv1d(8, 16, 3, padding='same', groups=8)"
