import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import minigrad as mg
from minigrad.testing import check_forward, check_grads

FUNCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max}
AXES = [None, *range(-3, 3), *itertools.combinations(range(3), 2), (0, 1, 2), (-1, 0), ()]

every_function = pytest.mark.parametrize("name", FUNCTIONS)


@every_function
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
def test_over_every_choice_of_axes(name, axis, keepdims, device, rng):
    x = rng.permutation(3 * 4 * 5).reshape(3, 4, 5) / 7.0  # all different, by more than the steps of check_grads
    check_forward(
        lambda t: getattr(mg, name)(t, axis, keepdims),
        lambda a: FUNCTIONS[name](a, axis=axis, keepdims=keepdims),
        x,
        device=device,
        rtol=1e-14,
        atol=1e-14,
    )
    check_grads(lambda t: getattr(mg, name)(t, axis, keepdims), x, device=device)


@every_function
@pytest.mark.parametrize("shape", [(), (1,), (17,), (33,), (4097,), (257, 3), (2, 1, 65)])
def test_over_all_elements(name, shape, device, rng):
    x = rng.permutation(int(np.prod(shape))).reshape(shape) / 7.0
    check_forward(getattr(mg, name), FUNCTIONS[name], x, device=device, rtol=1e-14, atol=1e-13)
    check_grads(getattr(mg, name), x, device=device)


@every_function
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_shape_and_axes(name, data, device):
    shape = data.draw(array_shapes(min_dims=0, max_dims=5, min_side=1, max_side=4))
    axis = data.draw(st.none() | st.sets(st.integers(0, len(shape) - 1)).map(tuple) if shape else st.none())
    x = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal(shape).astype(np.float32)
    t = mg.tensor(x, device=device, requires_grad=True)
    y = getattr(mg, name)(t, axis)
    expected = FUNCTIONS[name](x.astype(np.float64), axis=axis)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6, atol=2e-6, strict=False)
    y.backward(np.ones(y.shape, np.float32))
    np.testing.assert_allclose(t.grad.numpy().sum(), {"mean": y.size, "max": y.size, "sum": x.size}[name], rtol=1e-5)


@every_function
def test_method_is_the_same_function(name, device, rng):
    x = mg.tensor(rng.standard_normal((3, 4)), device=device)
    for arguments in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}):
        function, method = getattr(mg, name)(x, **arguments), getattr(x, name)(**arguments)
        np.testing.assert_array_equal(method.numpy(), function.numpy(), strict=True)


def test_float32_is_added_up_in_float64(device):
    x = np.ones(4097, np.float32)
    x[0] = 2**24  # the float32 next to it is two away: ones added one by one would be lost
    assert mg.tensor(x, device=device).sum().item() == 2**24 + 4096


def test_float32_sum_of_any_axes_is_within_a_rounding(device, rng):
    x = rng.standard_normal((17, 33, 9)).astype(np.float32)
    for axis in (0, 1, 2, (0, 1), (1, 2), None):
        y = mg.tensor(x, device=device).sum(axis).numpy()
        np.testing.assert_allclose(y, x.sum(axis, dtype=np.float64), rtol=6e-8, atol=1e-12)


def test_mean_has_the_dtype_of_its_input(device, rng):
    x = rng.standard_normal((5, 3)).astype(np.float32)
    y = mg.tensor(x, device=device).mean(axis=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), x.mean(axis=0, dtype=np.float64), rtol=3e-7)


def test_the_first_of_equal_maxima_gets_the_gradient(device):
    x = mg.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], device=device, requires_grad=True)
    x.max(axis=1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 1, 0], [1, 0, 0]])


def test_the_first_of_equal_maxima_over_axes_apart(device):
    x = mg.tensor(np.zeros((2, 3, 2), np.float32), device=device, requires_grad=True)
    x.max(axis=(0, 2)).sum().backward()
    expected = np.zeros((2, 3, 2))
    expected[0, :, 0] = 1
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@every_function
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_comes_through(name, axis, device):
    x = np.ones((5, 7), np.float32)
    x[2, 3] = np.nan
    y = getattr(mg, name)(mg.tensor(x, device=device), axis).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x).any(axis=axis))


def test_max_of_infinities(device):
    x = mg.tensor([[-np.inf, -np.inf], [np.inf, 0.0]], device=device)
    np.testing.assert_array_equal(x.max(axis=1).numpy(), [-np.inf, np.inf])


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_sum_over_a_zero_sized_axis_is_zero(axis, device):
    x = mg.tensor(np.zeros((0, 3), np.float32), device=device, requires_grad=True)
    y = x.sum(axis)
    np.testing.assert_array_equal(y.numpy(), np.zeros((0, 3), np.float32).sum(axis), strict=True)
    y.backward(np.ones(y.shape, np.float32))
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(("name", "message"), [("mean", "mean of no elements"), ("max", "maximum of no elements")])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_of_no_elements_is_refused(name, message, axis, device):
    with pytest.raises(ValueError, match=rf"{message}: shape \(0, 3\)"):
        getattr(mg, name)(mg.tensor(np.zeros((0, 3)), device=device), axis)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_beside_a_zero_sized_axis_gives_nothing(name, device):
    x = mg.tensor(np.zeros((0, 3)), device=device, requires_grad=True)
    y = getattr(mg, name)(x, 1)
    assert y.shape == (0,)
    y.backward(np.zeros(0))
    assert x.grad.shape == (0, 3)


@every_function
@pytest.mark.parametrize(
    ("axis", "error", "message"),
    [
        (2, ValueError, "axis 2 is out of range for 2 dimensions"),
        (-3, ValueError, "axis -3 is out of range"),
        ((0, 0), ValueError, "one axis twice"),
        ((1, -1), ValueError, "one axis twice"),
        (1.0, TypeError, "axis must be an integer, a tuple of integers or None, not 1.0"),
        ("0", TypeError, "not '0'"),
    ],
)
def test_an_axis_that_is_not_there_is_refused(name, axis, error, message):
    with pytest.raises(error, match=message):
        getattr(mg, name)(mg.tensor(np.ones((2, 3))), axis)


@every_function
@pytest.mark.parametrize("axis", [np.int64(1), [1], np.array([1])])
def test_numpy_integers_and_lists_are_axes_too(name, axis, rng):
    x = rng.standard_normal((2, 3))
    np.testing.assert_allclose(getattr(mg, name)(mg.tensor(x), axis).numpy(), FUNCTIONS[name](x, axis=1))
