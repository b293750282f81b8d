"""conv_transpose2d: against PyTorch and finite differences, as the gradient of conv2d, its arguments and its errors."""

import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

OPTIONS = [
    {"stride": 1, "padding": 0},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": (3, 2), "padding": (2, 0), "output_padding": (2, 1), "dilation": (1, 2)},
    {"stride": 1, "padding": 1, "dilation": 2, "output_padding": (1, 0)},
]
GROUPS = {"one": (3, 5, 1), "two": (4, 6, 2), "depthwise": (4, 4, 4), "depthwise, two from each": (3, 6, 3)}
each_kind = pytest.mark.parametrize("kind", GROUPS)
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each_option
@each_kind
def test_gradients(options, kind, device, rng):
    c, k, groups = GROUPS[kind]
    x, w, b = rng.standard_normal((2, 3, 4, c)), rng.standard_normal((3, 2, c, k // groups)), rng.standard_normal(k)
    function = lambda x, w, b: mg.conv_transpose2d(x, w, b, groups=groups, **options)  # noqa: E731 - its arguments are the point
    check_grads(function, x, w, b, device=device, full_size=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_option
@each_kind
def test_against_torch(kind, options, dtype, rng):
    functional = pytest.importorskip("torch").nn.functional
    from torch_twins import convolves_as_torch

    c, k, groups = GROUPS[kind]
    x, b = rng.standard_normal((2, 5, 6, c)).astype(dtype), rng.standard_normal(k).astype(dtype)
    w = rng.standard_normal((4, 3, c, k // groups)).astype(dtype)
    bound = 2e-5 if dtype == np.float32 else 1e-12
    convolves_as_torch(
        lambda x, w, b: mg.conv_transpose2d(x, w, b, groups=groups, **options),
        lambda x, w, b: functional.conv_transpose2d(x, w, b, groups=groups, **options),
        x, w, b, (2, 3, 0, 1), bound, rng,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 4])
def test_it_is_the_gradient_of_conv2d(groups, rng, device):
    w = mg.tensor(rng.standard_normal((3, 3, 4 // groups, 4)), device=device)
    image = mg.tensor(rng.standard_normal((2, 7, 6, 4)), device=device, requires_grad=True)
    y = mg.conv2d(image, w, stride=2, padding=1, groups=groups)
    dy = mg.tensor(rng.standard_normal(y.shape), device=device)
    y.backward(dy)
    turned = w.transpose(0, 1, 3, 2)
    there = mg.conv_transpose2d(dy, turned, stride=2, padding=1, output_padding=(0, 1), groups=groups)
    np.testing.assert_array_equal(there.numpy(), image.grad.numpy())


X, W = np.zeros((2, 5, 5, 4)), np.zeros((3, 3, 4, 3))


@pytest.mark.parametrize(
    ("x", "w", "options", "error", "message"),
    [
        (X, W[:, :, :3], {}, ValueError, r"got \(2, 5, 5, 4\) and \(3, 3, 3, 3\)"),
        (X, W, {"groups": 3}, ValueError, r"groups=3 does not divide the 4 channels of x"),
        (X, W, {"padding": "same"}, ValueError, "padding must be an int, a pair or a pair of pairs, not 'same'"),
        (X, W, {"output_padding": 1}, ValueError, r"output_padding must be from 0 to below the stride or the dilation"),
        (X, W, {"output_padding": -1, "stride": 2}, ValueError, r"output_padding must be from 0"),
        (X, W, {"padding": 4}, ValueError, r"the result would be -1 x -1: the padding 4 cuts off all"),
        (X, W.astype(np.float32), {}, TypeError, "x is float64, w is float32"),
        (X, W, {"stride": 0}, ValueError, "stride must be at least 1"),
    ],
)
def test_errors(x, w, options, error, message):
    with pytest.raises(error, match=message):
        mg.conv_transpose2d(mg.tensor(x, device="reference"), mg.tensor(w, device="reference"), **options)


def test_bias_of_another_length_is_refused():
    x, w, b = (mg.tensor(a, device="reference") for a in (X, W, np.zeros(3)))
    with pytest.raises(ValueError, match=r"b must have shape \(6,\) to match w \(3, 3, 4, 3\) in 2 groups, not \(3,\)"):
        mg.conv_transpose2d(x, w, b, groups=2)


def test_layer_and_its_shapes(rng):
    layer = mg.nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2)
    assert layer(mg.tensor(rng.standard_normal((2, 5, 4, 8)).astype(np.float32))).shape == (2, 10, 8, 6)
    assert layer.weight.shape == (4, 4, 8, 3)
    assert repr(layer) == "ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2)"


@each_kind
def test_captured_equals_eager(kind, rng):
    c, k, groups = GROUPS[kind]
    x = rng.standard_normal((3, 5, 5, c)).astype(np.float32)
    w = mg.tensor(rng.standard_normal((3, 3, c, k // groups)).astype(np.float32), requires_grad=True)
    captured_is_eager(lambda x: mg.conv_transpose2d(x, w, stride=2, groups=groups).tanh().sum(), x, w)
