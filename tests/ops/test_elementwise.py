import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_forward, check_grads

SIZES = [(), (1,), (17,), (33,), (5, 7), (4097,)]
ULPS = 4  # what the project promises for exp, log, tanh and what is built on them


def np_sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def np_relu(x):
    return np.where(x <= 0, 0, x)


# name: (NumPy's function, inputs from normal numbers, kept in the domain and off kinks)
FUNCTIONS = {
    "exp": (np.exp, lambda x: 3 * x),
    "log": (np.log, lambda x: np.exp(2 * x)),
    "sqrt": (np.sqrt, lambda x: np.exp(x)),
    "tanh": (np.tanh, lambda x: x),
    "sigmoid": (np_sigmoid, lambda x: 4 * x),
    "relu": (np_relu, lambda x: x + np.copysign(0.1, x)),
}

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def inputs(name, rng, shape):
    return np.asarray(FUNCTIONS[name][1](rng.standard_normal(shape)))


def assert_within_ulps(y, expected, ulps):
    """y is within `ulps` roundings, in its own dtype, of what float64 gave."""
    error = np.abs(y.astype(np.float64) - expected)
    spacing = np.spacing(np.abs(expected).astype(y.dtype)).astype(np.float64)
    assert np.max(error / spacing, initial=0) <= ulps


@every_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SIZES)
def test_matches_numpy_within_4_ulp(name, dtype, shape, device, rng):
    x = inputs(name, rng, shape).astype(dtype)
    y = getattr(mg, name)(mg.tensor(x, device=device)).numpy()
    assert y.shape == shape
    assert y.dtype == dtype
    assert_within_ulps(y, FUNCTIONS[name][0](x.astype(np.float64)), ULPS)


@every_function
@pytest.mark.parametrize("shape", SIZES)
def test_gradients(name, shape, device, rng):
    check_grads(getattr(mg, name), inputs(name, rng, shape), device=device, rtol=1e-5)


@every_function
def test_float32_gradients_are_close_to_float64(name, device, rng):
    x = inputs(name, rng, (257,)).astype(np.float32)
    grads = []
    for dtype in (np.float32, np.float64):
        t = mg.tensor(x, dtype=dtype, device=device, requires_grad=True)
        getattr(mg, name)(t).sum().backward()
        grads.append(t.grad.numpy())
    assert grads[0].dtype == np.float32
    # 1 - y² and y (1 - y) lose what y was rounded by: an absolute error of a few roundings of 1
    np.testing.assert_allclose(grads[0], grads[1], rtol=2e-6, atol=5e-7)


@every_function
def test_method_is_the_same_function(name, device, rng):
    x = mg.tensor(inputs(name, rng, (9,)), device=device)
    np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(mg, name)(x).numpy())


@every_function
def test_zero_sized(name, device):
    x = mg.tensor(np.zeros((3, 0), np.float32), device=device, requires_grad=True)
    y = getattr(mg, name)(x)
    assert y.shape == (3, 0)
    y.sum().backward()
    assert x.grad.shape == (3, 0)


@every_function
def test_nan_comes_out_as_nan_and_its_neighbours_do_not(name, device):
    x = np.full(19, 0.5, np.float32)
    x[7] = np.nan
    y = getattr(mg, name)(mg.tensor(x, device=device)).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@every_function
def test_input_is_left_alone(name, device, rng):
    x = inputs(name, rng, (9,))
    t = mg.tensor(x, device=device, requires_grad=True)
    getattr(mg, name)(t).sum().backward()
    np.testing.assert_array_equal(t.numpy(), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", [1000, -1000, np.inf, -np.inf, 0], [np.inf, 0, np.inf, 0, 1]),
        ("log", [0, -0.0, -1, np.inf, 1], [-np.inf, -np.inf, np.nan, np.inf, 0]),
        ("sqrt", [0, -1, np.inf, 4], [0, np.nan, np.inf, 2]),
        ("tanh", [1000, -1000, np.inf, -np.inf, 0], [1, -1, 1, -1, 0]),
        ("sigmoid", [1000, -1000, np.inf, -np.inf, 0], [1, 0, 1, 0, 0.5]),
        ("relu", [1e4, -1e4, np.inf, -np.inf, 0], [1e4, 0, np.inf, 0, 0]),
    ],
)
def test_far_out_values_are_exact_and_raise_no_warning(name, x, expected, dtype, device):
    y = getattr(mg, name)(mg.tensor(np.array(x, dtype), device=device))
    np.testing.assert_array_equal(y.numpy(), np.array(expected, dtype))


def test_sigmoid_far_below_zero_keeps_its_precision(device):
    x = np.array([-20, -50, -87, -100], np.float32)  # at -100 exp(-x) is beyond float32, its inverse is not
    y = mg.sigmoid(mg.tensor(x, device=device)).numpy()
    assert_within_ulps(y, np_sigmoid(x.astype(np.float64)), ULPS)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("sigmoid", [1000, -1000], [0, 0]),
        ("tanh", [1000, -1000], [0, 0]),
        ("exp", [-1000], [0]),
        ("relu", [0, -0.0, 1e30], [0, 0, 1]),
        ("relu", [np.nan], [1]),
        ("log", [0.0], [np.inf]),
        ("sqrt", [0.0], [np.inf]),
    ],
)
def test_gradient_at_the_edges(name, x, expected, device):
    t = mg.tensor(np.array(x, np.float32), device=device, requires_grad=True)
    getattr(mg, name)(t).sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), np.array(expected, np.float32))


@pytest.mark.parametrize("exponent", [2, 3, 1, 0, -1, 0.5, -1.5, np.float32(2), np.int64(3)])
def test_power(exponent, device, rng):
    x = np.exp(rng.standard_normal((3, 7)))
    check_forward(lambda t: t**exponent, lambda a: a ** float(exponent), x, device=device)
    check_grads(lambda t: t**exponent, x, device=device)


@pytest.mark.parametrize("exponent", [2, 3, -1])
def test_whole_power_of_negative_numbers(exponent, device, rng):
    x = -1 - rng.random(7)
    check_forward(lambda t: t**exponent, lambda a: a ** float(exponent), x, device=device)
    check_grads(lambda t: t**exponent, x, device=device)


@pytest.mark.parametrize(
    ("x", "exponent", "y", "dx"),
    [
        (0.0, 0, 1, 0),
        (0.0, 1, 0, 1),
        (0.0, 2, 0, 0),
        (0.0, -1, np.inf, -np.inf),
        (-8.0, 1 / 3, np.nan, np.nan),
        (np.nan, 2, np.nan, np.nan),
    ],
)
def test_power_at_the_edges(x, exponent, y, dx, device):
    t = mg.tensor([x], device=device, requires_grad=True)
    result = mg.power(t, exponent)
    result.sum().backward()
    np.testing.assert_array_equal(result.numpy(), np.array([y], np.float32))
    np.testing.assert_array_equal(t.grad.numpy(), np.array([dx], np.float32))


@pytest.mark.parametrize("exponent", ["2", None, 1j])
def test_an_exponent_that_is_no_number_is_refused(exponent):
    with pytest.raises(TypeError, match=f"exponent must be a number or a tensor, not {type(exponent).__name__}"):
        mg.power(mg.tensor([1.0]), exponent)


@every_function
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_are_refused(name, dtype, device):
    with pytest.raises(TypeError, match=f"{name} needs a float32 or float64 tensor, not {np.dtype(dtype)}"):
        getattr(mg, name)(mg.tensor(np.ones(3, dtype), device=device))


@every_function
@pytest.mark.parametrize("x", [1.0, np.ones(3), [1.0]])
def test_what_is_no_tensor_is_refused(name, x):
    with pytest.raises(TypeError, match=f"{name} needs a Tensor, not {type(x).__name__}"):
        getattr(mg, name)(x)
