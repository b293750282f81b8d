"""conv2d in groups, of one channel and of several: against PyTorch and finite differences, bad input, captured."""

import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

OPTIONS = [
    {"stride": 1, "padding": "same", "dilation": 1},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"stride": 3, "padding": ((0, 2), (1, 0)), "dilation": 1},
]
GROUPS = {"depthwise": (4, 4, 4), "depthwise, two from each": (3, 6, 3), "two groups": (4, 6, 2), "three": (6, 3, 3)}
each_kind = pytest.mark.parametrize("kind", GROUPS)


@pytest.mark.wide
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@each_kind
def test_gradients(options, kind, device, rng):
    c, k, groups = GROUPS[kind]
    x, w, b = rng.standard_normal((2, 7, 6, c)), rng.standard_normal((3, 2, c // groups, k)), rng.standard_normal(k)
    check_grads(lambda x, w, b: mg.conv2d(x, w, b, groups=groups, **options), x, w, b, device=device, full_size=8)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), (2, 3, 1), (1, (2, 1), 2), (3, 0, (1, 2))], ids=str
)
@each_kind
def test_against_torch(kind, stride, padding, dilation, dtype, rng):
    functional = pytest.importorskip("torch").nn.functional
    from torch_twins import convolves_as_torch

    c, k, groups = (5 * n for n in GROUPS[kind])
    x, b = rng.standard_normal((3, 13, 11, c)).astype(dtype), rng.standard_normal(k).astype(dtype)
    w = rng.standard_normal((3, 3, c // groups, k)).astype(dtype)
    bound = 5e-5 if dtype == np.float32 else 1e-12
    convolves_as_torch(
        lambda x, w, b: mg.conv2d(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups),
        lambda x, w, b: functional.conv2d(x, w, b, stride, padding, dilation, groups),
        x, w, b, (3, 2, 0, 1), bound, rng,
    )  # fmt: skip


@pytest.mark.wide
@each_kind
def test_a_group_is_a_convolution_of_its_own(kind, device, rng):
    c, k, groups = GROUPS[kind]
    x, w, b = rng.standard_normal((2, 5, 6, c)), rng.standard_normal((3, 3, c // groups, k)), rng.standard_normal(k)
    x, w, b = (mg.tensor(a, device=device) for a in (x, w, b))
    y = mg.conv2d(x, w, b, padding=1, groups=groups)
    i, j = c // groups, k // groups
    alone = [
        mg.conv2d(x[..., g * i : (g + 1) * i], w[..., g * j : (g + 1) * j], b[g * j : (g + 1) * j], padding=1)
        for g in range(groups)
    ]
    np.testing.assert_allclose(y.numpy(), mg.concat(alone).numpy(), rtol=1e-12, atol=1e-12)


def test_only_what_is_needed_is_computed(rng, monkeypatch):
    from minigrad.kernels.reference import conv, depthwise

    monkeypatch.setattr(depthwise, "depthwise_backward_x", lambda *arguments: pytest.fail("not needed"))
    monkeypatch.setattr(conv, "conv_backward_w", lambda *arguments: pytest.fail("not needed"))
    x = mg.tensor(rng.standard_normal((2, 5, 5, 4)), device="reference")
    w = mg.tensor(rng.standard_normal((3, 3, 1, 4)), device="reference", requires_grad=True)
    v = mg.tensor(rng.standard_normal((3, 3, 2, 6)), device="reference")
    y = mg.conv2d(mg.conv2d(x, w, groups=4, padding=1), v, groups=2)
    monkeypatch.setattr(depthwise, "depthwise_backward_w", lambda x, dy, window, dw: dw.fill(7))
    y.sum().backward()
    assert (w.grad.numpy() == 7).all()


X, W = np.zeros((2, 5, 5, 4)), np.zeros((3, 3, 2, 6))


@pytest.mark.parametrize(
    ("x", "w", "options", "error", "message"),
    [
        (
            X,
            W,
            {"groups": 3},
            ValueError,
            r"groups=3 does not divide the 4 channels on the last axis of x \(2, 5, 5, 4\)",
        ),
        (X, W[..., :5], {"groups": 2}, ValueError, r"groups=2 does not divide the 5 channels .* of w \(3, 3, 2, 5\)"),
        (X, W, {"groups": 4}, ValueError, r"groups=4 does not divide the 6 channels"),
        (X, W[:, :, :1], {"groups": 2}, ValueError, r"w must be \(kh, kw, 2, K\), but it is \(3, 3, 1, 6\)"),
        (X[0], W, {"groups": 2}, ValueError, r"w \(kh, kw, C / groups, K\) expected, got .* groups=2"),
        (X, W, {"groups": 0}, ValueError, "groups must be at least 1, not 0"),
        (X, W, {"groups": 2.0}, TypeError, r"groups must be an integer, not 2\.0"),
        (X, W.astype(np.float32), {"groups": 2}, TypeError, "x is float64, w is float32"),
    ],
)
def test_errors(x, w, options, error, message):
    with pytest.raises(error, match=message):
        mg.conv2d(mg.tensor(x, device="reference"), mg.tensor(w, device="reference"), **options)


def test_layer_and_its_shapes(rng):
    mg.manual_seed(0)
    layer = mg.nn.Conv2d(8, 16, 3, padding="same", groups=8)
    assert layer(mg.tensor(rng.standard_normal((2, 5, 5, 8)).astype(np.float32))).shape == (2, 5, 5, 16)
    assert layer.weight.shape == (3, 3, 1, 16)
    assert repr(layer) == "Conv2d(8, 16, 3, padding='same', groups=8)"
    limit = np.sqrt(6 / (9 + 9 * 2))  # of one channel to two
    assert 0.9 * limit < np.abs(layer.weight.numpy()).max() <= limit


def test_layer_refuses_channels_that_are_no_multiple():
    with pytest.raises(ValueError, match="Conv2d: groups=4 does not divide in_channels=6"):
        mg.nn.Conv2d(6, 8, 3, groups=4)
    with pytest.raises(ValueError, match="Conv2d: groups=4 does not divide out_channels=6"):
        mg.nn.Conv2d(8, 6, 3, groups=4)


@each_kind
def test_captured_equals_eager(kind, rng):
    c, k, groups = GROUPS[kind]
    x = rng.standard_normal((3, 8, 8, c)).astype(np.float32)
    w = mg.tensor(rng.standard_normal((3, 3, c // groups, k)).astype(np.float32), requires_grad=True)

    def loss(x):
        x.requires_grad = True
        return mg.conv2d(x, w, padding="same", groups=groups).tanh().sum()

    captured_is_eager(loss, x, w)
