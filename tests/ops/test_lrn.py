"""Local response normalization as an op, held against the formula of Krizhevsky et al. 2012 written out in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing import check_forward, check_grads

SHAPES = [(3, 1), (4, 7), (2, 3, 4, 5), (1, 2, 2, 33)]
CONSTANTS = [(5, 1e-4, 0.75, 2.0), (3, 0.5, 0.75, 1.0), (4, 0.3, 0.6, 0.5), (1, 0.2, 1.0, 2.0), (50, 0.1, 0.75, 2.0)]

every_shape = pytest.mark.parametrize("shape", SHAPES)
every_choice = pytest.mark.parametrize("constants", CONSTANTS)


def np_lrn(x, size, alpha, beta, k):
    """The formula, channel by channel."""
    y = np.empty_like(x)
    for j in range(x.shape[-1]):
        around = x[..., max(j - size // 2, 0) : j + (size - 1) // 2 + 1]
        y[..., j] = x[..., j] / (k + alpha * np.square(around).sum(axis=-1)) ** beta
    return y


@every_shape
@every_choice
def test_formula_and_gradients(shape, constants, device, rng):
    x = 2 * rng.standard_normal(shape)
    check_forward(lambda t: mg.local_response_norm(t, *constants), lambda a: np_lrn(a, *constants), x, device=device)
    check_grads(lambda t: mg.local_response_norm(t, *constants), x, device=device)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 50])
def test_windows_of_each_size_lie_where_the_formula_says(size, rng):
    """With more channels than one, and where nothing is compiled: an even window lies to one side."""
    x = 2 * rng.standard_normal((2, 9))
    constants = size, 0.3, 0.6, 0.5
    check_forward(
        lambda t: mg.local_response_norm(t, *constants), lambda a: np_lrn(a, *constants), x, device="reference"
    )
    check_grads(lambda t: mg.local_response_norm(t, *constants), x, device="reference")


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    size=st.integers(1, 9),
    beta=st.sampled_from([0.0, 0.5, 0.75, 1.2]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_float32_of_any_shape_is_within_a_few_roundings(shape, size, beta, scale):
    x = (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    y = mg.local_response_norm(mg.tensor(x), size, 0.1, beta, 1.0)
    expected = np_lrn(x.astype(np.float64), size, 0.1, beta, 1.0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), expected, rtol=3e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("constants", CONSTANTS[:4])
def test_same_as_pytorch_with_alpha_times_size(constants, dtype, rng):
    torch = pytest.importorskip("torch")
    size, alpha, beta, k = constants
    x, dy = (2 * rng.standard_normal((2, 5, 4, 20)).astype(dtype) for _ in range(2))
    t, other = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = mg.local_response_norm(t, *constants)
    theirs = torch.nn.functional.local_response_norm(other.permute(0, 3, 1, 2), size, alpha * size, beta, k)
    expected = theirs.permute(0, 2, 3, 1)
    y.backward(dy)
    expected.backward(torch.tensor(dy))
    bound = 5e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=0, atol=bound)
    np.testing.assert_allclose(t.grad.numpy(), other.grad.numpy(), rtol=0, atol=bound)


def test_defaults_are_those_of_the_paper(device, rng):
    x = 10 * rng.standard_normal((2, 3, 3, 9))
    check_forward(mg.local_response_norm, lambda a: np_lrn(a, 5, 1e-4, 0.75, 2.0), x, device=device)


def test_nan_reaches_its_neighbours_only(device):
    x = np.ones((2, 9), np.float32)
    x[1, 4] = np.nan
    y = mg.local_response_norm(mg.tensor(x, device=device)).numpy()
    np.testing.assert_array_equal(np.isnan(y[1]), [False] * 2 + [True] * 5 + [False] * 2)
    assert np.isfinite(y[0]).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 4, 4, 3)])
def test_of_nothing_is_nothing(shape, device):
    x = mg.tensor(np.zeros(shape), device=device, requires_grad=True)
    y = mg.local_response_norm(x)
    y.backward(np.zeros(shape))
    assert y.shape == x.grad.shape == shape


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "size must be at least 1, not 0", {"size": 0}),
        (ValueError, "size must be at most 2147483647, not 2147483648", {"size": 2**31}),
        (ValueError, "size must be at most 2147483647, not", {"size": 2**64}),
        (TypeError, "size must be an integer, not 5.0", {"size": 5.0}),
        (ValueError, "alpha and beta must be at least 0 and k above 0", {"alpha": -1.0}),
        (ValueError, "alpha and beta must be at least 0 and k above 0", {"beta": np.inf}),
        (ValueError, "alpha and beta must be at least 0 and k above 0", {"k": 0.0}),
        (ValueError, "alpha and beta must be at least 0 and k above 0", {"k": np.nan}),
    ],
)
def test_constants_that_make_no_norm_are_refused(error, message, arguments, device):
    with pytest.raises(error, match=message):
        mg.local_response_norm(mg.tensor(np.zeros((2, 3)), device=device), **arguments)


def test_an_array_without_a_batch_is_refused(device):
    with pytest.raises(ValueError, match=r"needs a batch axis and channels on the last axis, not shape \(3,\)"):
        mg.local_response_norm(mg.tensor(np.zeros(3), device=device))


def test_integers_are_refused(device):
    with pytest.raises(TypeError, match="needs a float32 or float64 tensor, not int64"):
        mg.local_response_norm(mg.tensor(np.zeros((2, 3), np.int64), device=device))


def test_a_captured_step_gives_the_bits_of_the_eager_one(device, rng):
    def step(x):
        weight.grad = None
        y = mg.local_response_norm(x * weight, alpha=0.1)
        (y * y).sum().backward()
        return y

    weight = mg.tensor(rng.standard_normal(33).astype(np.float32), device=device, requires_grad=True)
    captured = mg.capture(step, device=device)
    for _ in range(3):
        x = rng.standard_normal((4, 33)).astype(np.float32)
        results = []
        for run in (captured, step):
            y = run(mg.tensor(x, device=device))
            results.append((y.numpy().tobytes(), weight.grad.numpy().tobytes()))
        assert results[0] == results[1]


def test_layer_computes_what_the_function_does(device, rng):
    x = mg.tensor(rng.standard_normal((2, 3, 3, 9)), device=device)
    layer = mg.nn.LocalResponseNorm(3, 0.1, 0.5, 1.0)
    np.testing.assert_array_equal(layer(x).numpy(), mg.local_response_norm(x, 3, 0.1, 0.5, 1.0).numpy())
    assert layer.settings() == "size=3, alpha=0.1, beta=0.5, k=1.0"


def test_layer_refuses_bad_constants_at_once():
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        mg.nn.LocalResponseNorm(0)
