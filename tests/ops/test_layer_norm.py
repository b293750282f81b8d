import numpy as np
import pytest
from small_steps import captured_is_eager

import minigrad as mg
from minigrad.testing import check_grads

torch = pytest.importorskip("torch")
F = torch.nn.functional

SHAPES = [(4, 6), (2, 3, 5), (5,), (2, 3, 4, 2), (3, 1)]


def parameters(rng, shape):
    return rng.uniform(0.5, 2, shape), rng.standard_normal(shape)


def compare(ours, theirs, arrays, device, rng):
    """A function of tensors and PyTorch's: results and gradients."""
    mine = [mg.tensor(a, device=device, requires_grad=True) for a in arrays]
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, expected = ours(*mine), theirs(*others)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    for a, b in zip(mine, others, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", [1, 2])
def test_layer_norm_is_that_of_pytorch(shape, axes, device, rng):
    if axes > len(shape):
        return
    last, x = shape[len(shape) - axes :], rng.standard_normal(shape)
    compare(
        lambda x, g, b: mg.layer_norm(x, g, b, eps=1e-3),
        lambda x, g, b: F.layer_norm(x, last, g, b, eps=1e-3),
        [x, *parameters(rng, last)],
        device,
        rng,
    )
    compare(lambda x: mg.layer_norm(x, axes=axes), lambda x: F.layer_norm(x, last), [x], device, rng)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm_is_that_of_pytorch(shape, device, rng):
    last, x = shape[-1:], rng.standard_normal(shape)
    compare(mg.rms_norm, lambda x, g: F.rms_norm(x, last, g), [x, parameters(rng, last)[0]], device, rng)
    compare(lambda x: mg.rms_norm(x, eps=0.1), lambda x: F.rms_norm(x, last, eps=0.1), [x], device, rng)


@pytest.mark.parametrize("shape", [(2, 6), (3, 4, 6), (2, 3, 2, 6)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_group_norm_is_that_of_pytorch(shape, groups, device, rng):
    x = rng.standard_normal(shape)

    def theirs(x, *parameters):
        return F.group_norm(x.movedim(-1, 1), groups, *parameters).movedim(1, -1)

    compare(lambda x, g, b: mg.group_norm(x, groups, g, b), theirs, [x, *parameters(rng, 6)], device, rng)
    compare(lambda x: mg.group_norm(x, groups), theirs, [x], device, rng)


WAYS = {
    "layer_norm": lambda x, g, b: mg.layer_norm(x, g, b),
    "layer_norm without gamma": lambda x, g, b: mg.layer_norm(x, None, b) * g,
    "layer_norm without beta": lambda x, g, b: mg.layer_norm(x, g) + b,
    "rms_norm": lambda x, g, b: mg.rms_norm(x, g) + b,
    "group_norm": lambda x, g, b: mg.group_norm(x, 2, g, b),
}
each = pytest.mark.parametrize("name", WAYS)


@each
def test_gradients(name, device, rng):
    check_grads(WAYS[name], rng.standard_normal((3, 6)), *parameters(rng, 6), device=device)


@each
def test_float32_within_a_few_roundings(name, device, rng):
    arrays = rng.standard_normal((5, 6)), *parameters(rng, 6)
    y = WAYS[name](*[mg.tensor(a, dtype="float32", device=device) for a in arrays])
    expected = WAYS[name](*[mg.tensor(a.astype(np.float32).astype(np.float64), device=device) for a in arrays])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=2e-6)


@each
def test_captured_gives_the_bits_of_eager(name, rng):
    x, g, b = (a.astype(np.float32) for a in (rng.standard_normal((3, 6)), *parameters(rng, 6)))
    given = [mg.tensor(a, requires_grad=True) for a in (g, b)]
    captured_is_eager(lambda x: (WAYS[name](x, *given) * x).sum(), x, *given, scales=(1, 2, 0.5))


def test_no_samples_have_zero_gradients(device):
    x, g = (
        mg.tensor(np.zeros((0, 3)), device=device, requires_grad=True),
        mg.tensor(np.ones(3), device=device, requires_grad=True),
    )
    y = mg.layer_norm(x, g)
    y.sum().backward()
    assert (y.shape, x.grad.shape) == ((0, 3), (0, 3))
    np.testing.assert_array_equal(g.grad.numpy(), 0)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: mg.layer_norm(x, mg.tensor(np.ones(3))), ValueError, r"gamma must have shape \(6,\), .* not \(3,\)"),
        (
            lambda x: mg.layer_norm(x, mg.tensor(np.ones(6)), mg.tensor(np.ones((2, 6)))),
            ValueError,
            "beta must have shape",
        ),
        (lambda x: mg.layer_norm(x, mg.tensor(np.ones(6, "f4"))), TypeError, "x is float64, gamma is float32"),
        (lambda x: mg.layer_norm(x, np.ones(6)), TypeError, "gamma must be a Tensor or None, not ndarray"),
        (lambda x: mg.layer_norm(x, axes=4), ValueError, "there are no 4 last axes"),
        (lambda x: mg.layer_norm(x, eps=-1.0), ValueError, "eps must be from 0"),
        (lambda x: mg.layer_norm(x[:, :0]), ValueError, "axes without elements"),
        (lambda x: mg.rms_norm(mg.tensor([1])), TypeError, "rms_norm needs a float32 or float64 tensor"),
        (lambda x: mg.group_norm(x, 4), ValueError, "6 features cannot be divided into 4 groups"),
        (lambda x: mg.group_norm(x, 0), ValueError, "groups must be at least 1"),
        (lambda x: mg.group_norm(x, 2, mg.tensor(np.ones(3))), ValueError, "gamma must have shape"),
        (lambda x: mg.group_norm(x[0], 2), ValueError, "needs x"),
        (lambda x: mg.group_norm(x[:0], 2), ValueError, "nothing to normalize"),
    ],
)
def test_what_cannot_be_normalized_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(mg.tensor(np.ones((2, 6))))


def test_modules_are_pytorchs(rng):
    pairs = [
        (mg.nn.LayerNorm(6), torch.nn.LayerNorm(6), lambda x: x),
        (mg.nn.LayerNorm((4, 6), beta=False), torch.nn.LayerNorm((4, 6), bias=False), lambda x: x),
        (mg.nn.RMSNorm(6, eps=0.1), torch.nn.RMSNorm(6, eps=0.1), lambda x: x),
        (mg.nn.GroupNorm(3, 6, eps=1e-3), torch.nn.GroupNorm(3, 6, eps=1e-3), lambda x: x.movedim(-1, 1)),
    ]
    x = rng.standard_normal((3, 4, 6)).astype(np.float32)
    for ours, theirs, order in pairs:
        expected = theirs(order(torch.tensor(x))).detach()
        expected = expected.movedim(1, -1) if order(expected).shape != expected.shape else expected
        np.testing.assert_allclose(
            ours(mg.tensor(x)).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=repr(ours)
        )
    assert repr(mg.nn.LayerNorm(6, beta=False)) == "LayerNorm(6, eps=1e-05, beta=False)"
    assert repr(mg.nn.RMSNorm((2, 3))) == "RMSNorm((2, 3))"
    assert repr(mg.nn.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05)"
    with pytest.raises(ValueError, match="cannot be divided"):
        mg.nn.GroupNorm(4, 6)
