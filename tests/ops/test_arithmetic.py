import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import minigrad as mg
from minigrad.testing import check_forward, check_grads

OPS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
SHAPES = [(), (1,), (17,), (3, 11), (4097,)]
BROADCAST = [
    ((3, 4), (4,)),
    ((4,), (3, 4)),
    ((3, 1), (1, 4)),
    ((2, 3, 4), ()),
    ((), (5,)),
    ((2, 1, 4), (3, 1)),
    ((1, 1), (2, 3)),
    ((2, 1, 3, 1), (1, 4, 1, 2)),
]

every_op = pytest.mark.parametrize("name", OPS)


def away_from_zero(rng, shape):
    """Normal numbers moved off zero, to divide by."""
    x = rng.standard_normal(shape)
    return x + np.copysign(0.5, x)


def summed_to(grad, shape):
    """`grad` summed over what an array of `shape` was repeated along."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    return grad.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy_to_the_bit(name, dtype, shape, device, rng):
    a, b = rng.standard_normal(shape).astype(dtype), away_from_zero(rng, shape).astype(dtype)
    y = getattr(mg, name)(mg.tensor(a, device=device), mg.tensor(b, device=device))
    assert y.dtype == dtype
    assert y.device == device
    np.testing.assert_array_equal(y.numpy(), OPS[name](a, b), strict=True)


@every_op
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(name, shape, device, rng):
    check_grads(getattr(mg, name), rng.standard_normal(shape), away_from_zero(rng, shape), device=device)


@every_op
@pytest.mark.parametrize(("a", "b"), BROADCAST)
def test_broadcast_gradients(name, a, b, device, rng):
    inputs = rng.standard_normal(a), away_from_zero(rng, b)
    check_forward(getattr(mg, name), OPS[name], *inputs, device=device, rtol=0, atol=0)
    check_grads(getattr(mg, name), *inputs, device=device)


@settings(deadline=None, max_examples=40)
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=4), seed=st.integers(0, 99))
def test_mul_broadcasts_like_numpy_both_ways(shapes, seed, device):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape) for shape in shapes.input_shapes)
    ta, tb = (mg.tensor(x, device=device, requires_grad=True) for x in (a, b))
    y = ta * tb
    np.testing.assert_array_equal(y.numpy(), a * b, strict=True)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    np.testing.assert_allclose(ta.grad.numpy(), summed_to(dy * b, a.shape), rtol=1e-13, atol=1e-13, strict=True)
    np.testing.assert_allclose(tb.grad.numpy(), summed_to(dy * a, b.shape), rtol=1e-13, atol=1e-13, strict=True)


@every_op
def test_a_tensor_with_itself_gets_both_gradients(name, device, rng):
    check_grads(lambda x: getattr(mg, name)(x, x), away_from_zero(rng, (7,)), device=device)


@pytest.mark.parametrize("number", [3, -0.5, True, np.float64(2.25), np.float32(0.1), np.int8(3), np.bool_(True)])
def test_numbers_take_the_dtype_of_the_tensor(number, device, rng):
    x = rng.standard_normal((2, 5)).astype(np.float32) + 3
    t = mg.tensor(x, device=device)
    value = np.float32(number)
    results = {
        "t + n": (t + number, x + value),
        "n + t": (number + t, value + x),
        "t - n": (t - number, x - value),
        "n - t": (number - t, value - x),
        "t * n": (t * number, x * value),
        "n * t": (number * t, value * x),
        "t / n": (t / number, x / value),
        "n / t": (number / t, value / x),
    }
    for expression, (y, expected) in results.items():
        np.testing.assert_array_equal(y.numpy(), expected, strict=True, err_msg=expression)


def test_numpy_arrays_work_on_both_sides(device, rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal(4)
    t = mg.tensor(a, device=device)
    for y, expected in ((t + b, a + b), (b + t, b + a), (b - t, b - a), (t / b, a / b)):
        assert isinstance(y, mg.Tensor)
        np.testing.assert_array_equal(y.numpy(), expected, strict=True)


def test_negation(device, rng):
    x = rng.standard_normal(5)
    np.testing.assert_array_equal((-mg.tensor(x, device=device)).numpy(), -x)
    check_grads(lambda x: -x, x, device=device)


def test_division_by_zero_is_what_ieee_says_without_a_warning(device):
    a, b = mg.tensor([1.0, -1.0, 0.0], device=device), mg.tensor([0.0, 0.0, 0.0], device=device)
    np.testing.assert_array_equal((a / b).numpy(), np.array([np.inf, -np.inf, np.nan], np.float32))


@every_op
def test_nan_comes_through(name, device):
    a = np.array([np.nan, 1.0, np.nan, 2.0], np.float32)
    b = np.array([1.0, np.nan, np.nan, 2.0], np.float32)
    y = getattr(mg, name)(mg.tensor(a, device=device), mg.tensor(b, device=device))
    np.testing.assert_array_equal(np.isnan(y.numpy()), [True, True, True, False])


def test_only_the_side_that_needs_it_gets_a_gradient(device):
    for name in OPS:
        a = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
        b = mg.tensor([3.0, 4.0], device=device)
        getattr(mg, name)(a, b).sum().backward()
        getattr(mg, name)(b, a).sum().backward()
        assert a.grad is not None
        assert b.grad is None


def test_more_loops_than_the_kernels_have_are_refused(device):
    a, b = mg.tensor(np.ones((2, 1) * 4), device=device), mg.tensor(np.ones((1, 2) * 4), device=device)
    with pytest.raises(ValueError, match="8 nested loops"):
        a + b


def test_high_rank_works_where_axes_can_be_walked_together(device, rng):
    a, b = rng.standard_normal((2,) * 9), rng.standard_normal((2,) * 4)
    np.testing.assert_array_equal((mg.tensor(a, device=device) * mg.tensor(b, device=device)).numpy(), a * b)


@every_op
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.ones(2, np.float32), np.ones(2, np.float64), TypeError, "float32 and float64"),
        (np.ones(2, np.int64), np.ones(2, np.int64), TypeError, "int64"),
        (np.ones((2, 3)), np.ones((2, 4)), ValueError, r"\(2, 3\) and \(2, 4\) do not broadcast: 3 against 4"),
        (np.ones(3), np.ones((3, 2)), ValueError, r"\(3,\) and \(3, 2\)"),
    ],
)
def test_tensors_that_do_not_match_are_refused(name, a, b, error, message, device):
    with pytest.raises(error, match=message):
        getattr(mg, name)(mg.tensor(a, device=device), mg.tensor(b, device=device))


@every_op
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("two", "str"),
        ([1.0, 2.0], "list"),
        (None, "NoneType"),
        (1j, "complex"),
        (np.complex64(1j), "complex64"),
        (np.ones(2, np.float16), "float16"),
        (np.array([1, "a"], object), "object"),
        (np.ones(2, np.float64), "float32 and float64"),
    ],
)
def test_other_operands_are_refused(name, other, message, device):
    with pytest.raises(TypeError, match=message):
        getattr(mg, name)(mg.tensor([1.0, 2.0], device=device), other)


@every_op
def test_without_any_tensor_there_is_an_error(name):
    with pytest.raises(TypeError, match="at least one side must be a Tensor, not float and int"):
        getattr(mg, name)(1.0, 2)


@every_op
def test_devices_are_not_mixed(name):
    a, b = mg.tensor([1.0], device="cpu"), mg.tensor([1.0], device="reference")
    with pytest.raises(RuntimeError, match="'cpu', 'reference'"):
        getattr(mg, name)(a, b)
