"""interpolate and adaptive_avg_pool2d: against PyTorch and finite differences, their arguments and their errors."""

import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

WAYS = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear"},
    "corners": {"mode": "bilinear", "align_corners": True},
}
each_way = pytest.mark.parametrize("way", WAYS)
SIZES = [(1, 1), (3, 4), (5, 7), (6, 8), (10, 14), (11, 20), (13, 3), (64, 50)]
SCALES = [0.5, 2, 2.0, 1.3, 0.7, (3, 1.05), (1.0, 0.34), (2.7, 4), 2.15]


@each_way
@pytest.mark.parametrize("options", [{"size": (5, 3)}, {"size": 2}, {"scale": (2, 1.3)}], ids=str)
def test_gradients_of_interpolate(options, way, device, rng):
    x = rng.standard_normal((2, 4, 3, 2))
    check_grads(lambda x: mg.interpolate(x, **options, **WAYS[way]), x, device=device, full_size=8)


def both(ours, theirs, x, rng, dtype):
    """Results and gradients of ours are those of PyTorch's."""
    torch = pytest.importorskip("torch")
    image, there = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = ours(image), theirs(there.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    bound = 1e-5 if dtype == np.float32 else 1e-12
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=bound, atol=bound)
    dy = rng.standard_normal(y.shape).astype(dtype)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(image.grad.numpy(), there.grad.numpy(), rtol=bound, atol=10 * bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_way
def test_interpolate_against_torch(way, dtype, rng):
    torch = pytest.importorskip("torch")
    x, interpolate = rng.standard_normal((2, 5, 7, 3)).astype(dtype), torch.nn.functional.interpolate
    for size in SIZES:
        options = {"size": size, **WAYS[way]}
        both(lambda x: mg.interpolate(x, **options), lambda x: interpolate(x, **options), x, rng, dtype)  # noqa: B023
    for scale in SCALES:
        both(
            lambda x: mg.interpolate(x, scale=scale, **WAYS[way]),  # noqa: B023 - called at once
            lambda x: interpolate(x, scale_factor=scale, **WAYS[way]),  # noqa: B023
            x, rng, dtype,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adaptive_avg_pool2d_against_torch(dtype, rng):
    torch = pytest.importorskip("torch")
    pool = torch.nn.functional.adaptive_avg_pool2d
    x = rng.standard_normal((2, 9, 7, 3)).astype(dtype)
    for size in (1, (3, 7), (4, 5), (9, 2), (11, 20), (None, 3)):
        both(lambda x: mg.adaptive_avg_pool2d(x, size), lambda x: pool(x, size), x, rng, dtype)  # noqa: B023 - called at once


@pytest.mark.parametrize("size", [1, (2, 3), (4, 5)], ids=str)
def test_gradients_of_adaptive_avg_pool2d(size, device, rng):
    check_grads(
        lambda x: mg.adaptive_avg_pool2d(x, size), rng.standard_normal((2, 3, 4, 2)), device=device, full_size=8
    )


def test_nearest_only_repeats(rng):
    x = rng.standard_normal((1, 2, 3, 2)).astype(np.float32)
    y = mg.interpolate(mg.tensor(x), scale=2).numpy()
    np.testing.assert_array_equal(y, x.repeat(2, axis=1).repeat(2, axis=2))


X = np.zeros((2, 5, 4, 3))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X, {}, ValueError, "either size or scale must be given, not size=None and scale=None"),
        (X, {"size": 3, "scale": 2}, ValueError, "not size=3 and scale=2"),
        (X, {"size": 3, "mode": "cubic"}, ValueError, 'mode must be "nearest" or "bilinear", not .cubic.'),
        (X, {"size": 3, "align_corners": True}, ValueError, 'align_corners is for mode="bilinear"'),
        (X, {"size": 0}, ValueError, "size must be at least 1"),
        (X, {"size": 2.5}, TypeError, "size must be made of integers"),
        (X, {"scale": -1}, ValueError, "scale must be above 0 and finite, not -1"),
        (X, {"scale": float("nan")}, ValueError, "scale must be above 0 and finite"),
        (X, {"scale": "2"}, TypeError, "scale must be a number or a pair of numbers, not '2'"),
        (X, {"scale": (1, 2, 3)}, TypeError, "scale must be a number or a pair"),
        (X, {"scale": 0.1}, ValueError, "of images of 5 x 4 nothing would be left, 0 x 0 pixels"),
        (X, {"scale": 1e6}, ValueError, "up to 2147483647 pixels are possible"),
        (X[:, :0], {"size": 3}, ValueError, "images of 0 x 4 have no pixels"),
        (X[0], {"size": 3}, ValueError, r"interpolate needs images \(N, H, W, C\), not shape \(5, 4, 3\)"),
        (X.astype(int), {"size": 3}, TypeError, "not int64"),
    ],
)
def test_errors_of_interpolate(x, options, error, message):
    with pytest.raises(error, match=message):
        mg.interpolate(mg.tensor(x, device="reference"), **options)


@pytest.mark.parametrize(
    ("x", "size", "error", "message"),
    [
        (X, 0, ValueError, "size must be at least 1"),
        (X, (1, 2, 3), ValueError, "size must be an int or a pair"),
        (X, "1", TypeError, "size must be made of integers"),
        (X[:, :0], 1, ValueError, "images of 0 x 4 have no pixels"),
        (X[:, :0], (None, 1), ValueError, "images of 0 x 4 have no pixels"),
        (X[0], 1, ValueError, r"adaptive_avg_pool2d needs images"),
    ],
)
def test_errors_of_adaptive_avg_pool2d(x, size, error, message):
    with pytest.raises(error, match=message):
        mg.adaptive_avg_pool2d(mg.tensor(x, device="reference"), size)


def test_layers(rng):
    x = mg.tensor(rng.standard_normal((2, 5, 4, 3)).astype(np.float32))
    assert mg.nn.Upsample(scale=2, mode="bilinear")(x).shape == (2, 10, 8, 3)
    assert mg.nn.Upsample((7, 3))(x).shape == (2, 7, 3, 3)
    assert mg.nn.AdaptiveAvgPool2d((2, None))(x).shape == (2, 2, 4, 3)
    assert repr(mg.nn.Upsample(scale=2, mode="bilinear")) == "Upsample(scale=2, mode='bilinear')"
    assert repr(mg.nn.AdaptiveAvgPool2d(1)) == "AdaptiveAvgPool2d(1)"


def test_captured_equals_eager(rng):
    x = rng.standard_normal((3, 5, 6, 4)).astype(np.float32)
    w = mg.tensor(rng.standard_normal(4).astype(np.float32), requires_grad=True)
    captured_is_eager(
        lambda x: mg.adaptive_avg_pool2d(mg.interpolate(x * w, size=(9, 8), mode="bilinear"), (3, 5)).tanh().sum(), x, w
    )
