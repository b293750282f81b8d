"""What is found over axes, against NumPy and PyTorch: values, gradients, edges, captured steps."""

import numpy as np
import pytest
from scipy import special

import minigrad as mg
from minigrad.testing import check_forward, check_grads

AXES = [None, 0, -1, (0, 2), (0, 1, 2)]
OVER_AXES = {  # name: (ours, NumPy's, PyTorch's), of x, axis and keepdims
    "min": (mg.min, lambda x, a, k: x.min(axis=a, keepdims=k)),
    "var": (
        lambda x, a, k: mg.var(x, a, keepdims=k), lambda x, a, k: x.var(axis=a, keepdims=k),
    ),
    "var, correction 1": (lambda x, a, k: mg.var(x, a, 1, k), lambda x, a, k: x.var(axis=a, keepdims=k, ddof=1)),
    "std": (lambda x, a, k: x.std(a, 1, k), lambda x, a, k: x.std(axis=a, keepdims=k, ddof=1)),
    "prod": (mg.prod, lambda x, a, k: x.prod(axis=a, keepdims=k)),
    "logsumexp": (mg.logsumexp, lambda x, a, k: special.logsumexp(x, axis=a, keepdims=k)),
    "norm": (lambda x, a, k: mg.norm(x, 2, a, k), lambda x, a, k: np.sqrt((x * x).sum(axis=a, keepdims=k))),
    "norm 1": (lambda x, a, k: mg.norm(x, 1, a, k), lambda x, a, k: np.abs(x).sum(axis=a, keepdims=k)),
    "norm inf": (lambda x, a, k: mg.norm(x, np.inf, a, k), lambda x, a, k: np.abs(x).max(axis=a, keepdims=k)),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", OVER_AXES)


@every_function
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_values_and_gradients(name, axis, keepdims, device, rng):
    ours, numpys = OVER_AXES[name]
    x = rng.permutation(60).reshape(3, 4, 5) / 20 - 1.413  # no two alike, nor but for the sign, none 0
    check_forward(lambda t: ours(t, axis, keepdims), lambda a: numpys(a, axis, keepdims), x, device=device, rtol=1e-12)
    check_grads(lambda t: ours(t, axis, keepdims), x, device=device, rtol=1e-5)


@every_function
def test_captured_steps(name, rng):
    ours, _ = OVER_AXES[name]
    step = mg.capture(lambda x: ours(x, 1, False))
    for _ in range(3):
        x = rng.standard_normal((3, 4)).astype(np.float32)
        np.testing.assert_array_equal(step(x).numpy(), ours(mg.tensor(x), 1, False).numpy())


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_cumsum(axis, device, rng):
    x = rng.standard_normal((3, 4, 5))
    check_forward(lambda t: t.cumsum(axis), lambda a: np.cumsum(a, axis), x, device=device)
    check_grads(lambda t: t.cumsum(axis), x, device=device)


def test_cumsum_in_float32_adds_in_float64(rng):
    x = rng.random(100_000).astype(np.float32)
    expected = np.cumsum(x, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(mg.cumsum(mg.tensor(x)).numpy(), expected)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_places(axis, keepdims, device, rng):
    x = rng.integers(0, 3, (3, 4, 5)).astype(np.float32)
    t = mg.tensor(x, device=device, requires_grad=True)
    for ours, numpys in ((mg.argmax, np.argmax), (mg.argmin, np.argmin)):
        y = ours(t, axis, keepdims)
        assert not y.requires_grad
        np.testing.assert_array_equal(y.numpy(), numpys(x, axis, keepdims=keepdims), strict=True)
    assert (t.argmax(1).numpy() == x.argmax(1)).all()
    assert (np.argmax(t, 1) == x.argmax(1)).all()


def test_accuracy_in_a_captured_step(rng):
    step = mg.capture(lambda x, labels: (x.argmax(-1) == labels).to("float32").mean())
    for _ in range(3):
        x, labels = rng.standard_normal((20, 3)).astype(np.float32), rng.integers(0, 3, 20)
        assert step(x, labels).item() == pytest.approx((x.argmax(-1) == labels).mean())


def test_nan_wins(device):
    x = mg.tensor([1.0, np.nan, 0.0], device=device)
    assert np.isnan(mg.min(x).item())
    assert mg.argmin(x).item() == mg.argmax(x).item() == 1
    assert np.isnan(mg.prod(x).item())


def test_products_beside_zeros(device):
    x = mg.tensor([[2.0, 0.0, 3.0], [0.0, 0.0, 3.0]], device=device, requires_grad=True)
    y = mg.prod(x, 1)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [0, 0])
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 6, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mg.prod(x[:, :0], 1).numpy(), [1, 1])


def test_logsumexp_does_not_overflow(device):
    x = mg.tensor([[1e4, 1e4], [-np.inf, -np.inf], [np.inf, 0.0]], device=device)
    np.testing.assert_allclose(mg.logsumexp(x, 1).numpy(), [1e4 + np.log(2), -np.inf, np.inf], rtol=1e-6)


def test_norms_have_gradient_zero_at_zero(device):
    for function in (mg.norm, lambda t: t.std()):
        x = mg.tensor([0.0, 0.0], device=device, requires_grad=True)
        function(x).backward()
        np.testing.assert_array_equal(x.grad.numpy(), [0, 0])


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_all_and_any(axis, device):
    for array in (
        np.ones((2, 3), bool),
        np.zeros((2, 3), bool),
        np.array([[1, 0, 1], [1, 0, 0]], bool),
        np.ones((2, 0), bool),
    ):
        x = mg.tensor(array, device=device)
        np.testing.assert_array_equal(x.all(axis).numpy(), array.all(axis), strict=True)
        np.testing.assert_array_equal(x.any(axis).numpy(), array.any(axis), strict=True)
    with pytest.raises(TypeError, match="all needs a bool tensor, as x > 0 gives it, not float32"):
        mg.all(mg.tensor([1.0], device=device))


def test_pytorch_has_the_same_numbers(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((3, 4, 5))
    for ours, theirs in (
        (lambda t: t.std(1, 1), lambda t: t.std(1)),
        (lambda t: t.var((0, 2)), lambda t: t.var((0, 2), correction=0)),
        (lambda t: mg.logsumexp(t, (1, 2)), lambda t: torch.logsumexp(t, (1, 2))),
        (lambda t: t.prod(1), lambda t: t.prod(1)),
        (lambda t: t.cumsum(1), lambda t: t.cumsum(1)),
        (lambda t: mg.norm(t, axis=1), lambda t: torch.linalg.vector_norm(t, dim=1)),
        (lambda t: t.min(1), lambda t: t.amin(1)),
    ):
        a, b = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, expected = ours(a), theirs(b)
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-12)
        y.backward(np.ones(y.shape))
        expected.sum().backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: mg.min(x[:0]), ValueError, "of no elements"),
        (lambda x: mg.argmax(x[:0], 0), ValueError, r"argmax of no elements: shape \(0, 3\), axis 0"),
        (lambda x: mg.var(x[:1], 0, 1), ValueError, "with correction 1 divides by 0"),
        (lambda x: mg.norm(x, 3), ValueError, "ord is 2, 1 or infinity, not 3"),
        (lambda x: mg.cumsum(x, 2), ValueError, "axis 2 is out of range"),
        (lambda x: mg.argmax(mg.tensor([1])), TypeError, "argmax needs a float32 or float64 tensor, not int64"),
        (lambda x: mg.prod([1.0]), TypeError, "prod needs a Tensor, not list"),
        (lambda x: mg.argmax(x, (0, 1)), TypeError, r"axis must be one integer here, not \(0, 1\)"),
        (lambda x: x.argmin([1]), TypeError, "axis must be one integer here"),
        (lambda x: mg.cumsum(x, (0, 1)), TypeError, "axis must be one integer here"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(mg.tensor(np.ones((2, 3), np.float32)))
