"""conv2d: against PyTorch and finite differences, its arguments and its errors."""

import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

CASES = [
    {"stride": 1, "padding": 0, "dilation": 1},
    {"stride": 1, "padding": "same", "dilation": 1},
    {"stride": 2, "padding": "same", "dilation": 1},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"stride": 3, "padding": ((0, 2), (1, 0)), "dilation": 1},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 3)], ids=str)
def test_gradients(options, window, device, rng):
    x, w, b = rng.standard_normal((2, 7, 6, 3)), rng.standard_normal((*window, 3, 5)), rng.standard_normal(5)
    check_grads(lambda x, w, b: mg.conv2d(x, w, b, **options), x, w, b, device=device, full_size=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), (2, 3, 1), (1, (2, 1), 2), (3, 0, (1, 2))], ids=str
)
@pytest.mark.parametrize("window", [1, 3, 5])
def test_against_torch(window, stride, padding, dilation, dtype, rng):
    functional = pytest.importorskip("torch").nn.functional
    from torch_twins import convolves_as_torch

    x, w = rng.standard_normal((3, 13, 11, 6)).astype(dtype), rng.standard_normal((window, window, 6, 20)).astype(dtype)
    b = rng.standard_normal(20).astype(dtype)
    bound = 2e-4 if dtype == np.float32 else 1e-11
    convolves_as_torch(
        lambda x, w, b: mg.conv2d(x, w, b, stride=stride, padding=padding, dilation=dilation),
        lambda x, w, b: functional.conv2d(x, w, b, stride, padding, dilation),
        x, w, b, (3, 2, 0, 1), bound, rng,
    )  # fmt: skip


def test_first_layer_computes_no_gradient_of_its_input(rng, monkeypatch):
    from minigrad.kernels.reference import conv

    monkeypatch.setattr(conv, "conv_backward_x", lambda *arguments: pytest.fail("the image needs no gradient"))
    x = mg.tensor(rng.standard_normal((2, 5, 5, 3)), device="reference")
    w = mg.tensor(rng.standard_normal((3, 3, 3, 4)), device="reference", requires_grad=True)
    mg.conv2d(x, w).sum().backward()
    assert w.grad.shape == w.shape


def test_empty_batch(device):
    x = mg.tensor(np.empty((0, 5, 5, 3)), device=device)
    w = mg.tensor(np.ones((3, 3, 3, 4)), device=device, requires_grad=True)
    y = mg.conv2d(x, w, padding="same")
    assert y.shape == (0, 5, 5, 4)
    y.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), np.zeros(w.shape))


X, W, B = np.zeros((2, 5, 5, 3)), np.zeros((3, 3, 3, 4)), np.zeros(4)


@pytest.mark.parametrize(
    ("x", "w", "b", "options", "error", "message"),
    [
        (X[0], W, None, {}, ValueError, r"got \(5, 5, 3\) and \(3, 3, 3, 4\)"),
        (X, W[:, :, :2], None, {}, ValueError, r"got \(2, 5, 5, 3\) and \(3, 3, 2, 4\)"),
        (X, W, B[:3], {}, ValueError, r"b must have shape \(4,\)"),
        (X, W.astype(np.float32), None, {}, TypeError, "x is float64, w is float32"),
        (X.astype(int), W, None, {}, TypeError, "not int64"),
        (X[:, :2, :2], W, None, {}, ValueError, "the window 3 x 3 is larger than the image, which is 2 x 2"),
        (X, W, None, {"stride": 0}, ValueError, "stride must be at least 1"),
        (X, W, None, {"padding": -1}, ValueError, "padding must not be negative"),
        (X, W, None, {"padding": "valid"}, ValueError, "not 'valid'"),
        (X, W, None, {"dilation": 1.5}, TypeError, "dilation must be made of integers"),
    ],
)
def test_errors(x, w, b, options, error, message):
    tensors = [None if a is None else mg.tensor(a, device="reference") for a in (x, w, b)]
    with pytest.raises(error, match=message):
        mg.conv2d(*tensors, **options)


def test_layer_and_its_shapes(rng):
    mg.manual_seed(0)
    layer = mg.nn.Conv2d(3, 8, (3, 5), stride=2, padding="same")
    assert layer(mg.tensor(rng.standard_normal((2, 9, 9, 3)).astype(np.float32))).shape == (2, 5, 5, 8)
    assert layer.weight.shape == (3, 5, 3, 8)
    limit = np.sqrt(6 / (15 * 3 + 15 * 8))
    assert 0.9 * limit < np.abs(layer.weight.numpy()).max() <= limit
    assert repr(layer) == "Conv2d(3, 8, (3, 5), stride=2, padding='same')"


def test_captured_equals_eager(rng):
    x = rng.standard_normal((3, 8, 8, 4)).astype(np.float32)
    w = mg.tensor(rng.standard_normal((3, 3, 4, 6)).astype(np.float32), requires_grad=True)
    captured_is_eager(lambda x: mg.conv2d(x, w, padding="same").tanh().sum(), x, w)
