"""Operators between tensors, numbers and arrays, and changes in place."""

import numpy as np
import pytest

import minigrad as mg


def leaf(values, dtype=np.float32):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


@each_operator
@pytest.mark.parametrize(
    "other", [2.0, 3, True, np.float32(2), np.float64(0.1), np.int32(3)], ids=lambda o: type(o).__name__
)
def test_numbers_on_both_sides_take_the_tensors_dtype(operator, other, device):
    array = np.array([1.5, -2.0], np.float32)
    x = mg.tensor(array, device=device)
    number = np.float32(other)
    for y, expected in ((operator(x, other), operator(array, number)), (operator(other, x), operator(number, array))):
        assert isinstance(y, mg.Tensor)
        assert (y.dtype, y.device) == (np.float32, device)
        np.testing.assert_array_equal(y.numpy(), expected)


@each_operator
def test_arrays_on_both_sides(operator, rng, device):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal(4)
    for y in (operator(mg.tensor(a, device=device), b), operator(a, mg.tensor(b, device=device))):
        assert isinstance(y, mg.Tensor)
        assert y.device == device
        np.testing.assert_allclose(y.numpy(), operator(a, b), rtol=1e-15)


@each_operator
def test_array_operand_keeps_its_dtype(operator):
    with pytest.raises(TypeError, match="dtypes differ, float32 and float64"):
        operator(mg.tensor([1.0]), np.ones(1))


@each_operator
@pytest.mark.parametrize("other", ["a", None, [1.0], 1j, np.complex64(1), object()], ids=lambda o: type(o).__name__)
def test_other_operands_are_refused(operator, other):
    with pytest.raises(TypeError):
        operator(mg.tensor([1.0]), other)
    with pytest.raises(TypeError):
        operator(other, mg.tensor([1.0]))


@each_operator
def test_integer_tensors_have_no_arithmetic(operator):
    with pytest.raises(TypeError, match="float32 or float64"):
        operator(mg.tensor([1]), mg.tensor([2]))


def test_matrix_product_with_arrays_on_both_sides(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    np.testing.assert_allclose((mg.tensor(a) @ b).numpy(), a @ b, rtol=1e-12)
    np.testing.assert_allclose((a @ mg.tensor(b)).numpy(), a @ b, rtol=1e-12)


def test_sign_and_power():
    x = leaf([2.0, -3.0])
    np.testing.assert_array_equal((-x).numpy(), [-2, 3])
    assert +x is x
    np.testing.assert_array_equal((x**2).numpy(), [4, 9])
    (x**2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4, -6])


def test_methods_are_the_functions(rng):
    array = rng.uniform(0.5, 2, (2, 3))
    x = mg.tensor(array)
    for name in ("exp", "log", "sqrt", "tanh", "relu", "sigmoid", "sum", "mean", "max"):
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(mg, name)(x).numpy())
    for name in ("sum", "mean", "max"):
        y = getattr(x, name)(axis=1, keepdims=True)
        assert y.shape == (2, 1)
        np.testing.assert_array_equal(y.numpy(), getattr(mg, name)(x, axis=1, keepdims=True).numpy())


def test_shape_methods(rng):
    array = rng.standard_normal((2, 3, 4))
    x = mg.tensor(array)
    for y in (x.reshape(6, 4), x.reshape((6, 4)), x.reshape(-1, 4), x.reshape([6, -1])):
        np.testing.assert_array_equal(y.numpy(), array.reshape(6, 4))
    for y in (x.transpose(2, 0, 1), x.transpose((2, 0, 1))):
        np.testing.assert_array_equal(y.numpy(), array.transpose(2, 0, 1))
    np.testing.assert_array_equal(x.T.numpy(), array.T)
    for axes in ((0, 2), (-1, 1), (1, 1)):
        np.testing.assert_array_equal(x.swapaxes(*axes).numpy(), array.swapaxes(*axes))
    np.testing.assert_array_equal(x[1, ::2, -1].numpy(), array[1, ::2, -1])


def test_transpose_names_every_axis(rng):
    """As in NumPy; PyTorch's transpose(0, 1) is swapaxes."""
    matrix = mg.tensor(rng.standard_normal((2, 3)))
    assert matrix.transpose(0, 1).shape == (2, 3)
    assert matrix.swapaxes(0, 1).shape == (3, 2)
    with pytest.raises(ValueError, match=r"each of them once, not \(0, 1\); t.swapaxes\(0, 1\) exchanges two axes"):
        mg.tensor(np.zeros((2, 3, 4))).transpose(0, 1)
    with pytest.raises(ValueError, match="axis"):
        matrix.swapaxes(0, 2)


def test_swapaxes_gradient(rng):
    mg.testing.check_grads(lambda x: x.swapaxes(0, 2), rng.standard_normal((2, 3, 4)))


# In place

IN_PLACE = {
    "+=": lambda a, b: a.__iadd__(b),
    "-=": lambda a, b: a.__isub__(b),
    "*=": lambda a, b: a.__imul__(b),
    "/=": lambda a, b: a.__itruediv__(b),
}
each_in_place = pytest.mark.parametrize("update", IN_PLACE.values(), ids=IN_PLACE.keys())


@each_in_place
@pytest.mark.parametrize(
    "other", [2.0, np.float32([2, 4]), mg.tensor([2.0, 4.0]), mg.tensor([2.0])], ids=lambda o: type(o).__name__
)
def test_update_keeps_tensor_and_memory(update, other):
    t = mg.tensor([8.0, 16.0])
    memory, expected = t.numpy(), update(t.numpy().copy(), np.asarray(other, np.float32))
    assert update(t, other) is t
    assert t.numpy() is memory
    np.testing.assert_array_equal(memory, expected)


@each_in_place
def test_update_of_a_result_on_the_tape_is_a_new_tensor(update):
    x = leaf([4.0])
    y = x * 2.0
    z = update(y, x)
    assert z is not y
    assert y.item() == 8
    z.backward()
    assert x.grad is not None


@each_in_place
def test_update_by_a_tensor_on_the_tape_is_a_new_tensor(update):
    t, x = mg.tensor([4.0]), leaf([2.0])
    y = update(t, x)
    assert y.requires_grad
    assert t.item() == 4


@each_in_place
def test_update_of_a_leaf_needs_no_grad(update):
    x = leaf([4.0])
    with pytest.raises(RuntimeError, match="no_grad"):
        update(x, 2.0)
    assert x.item() == 4
    with mg.no_grad():
        assert update(x, 2.0) is x
    assert x.item() == update(np.array(4.0), 2.0)


@each_in_place
def test_update_does_not_change_the_shape(update):
    t = mg.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3, 2\) broadcast to \(3, 2\)"):
        update(t, np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(t.numpy(), [1, 2])


def test_item_assignment():
    t = mg.tensor(np.zeros((2, 3), np.float32))
    t[0] = 1.0
    t[1, 1:] = mg.tensor([5.0, 6.0])
    t[:, 0] = np.array([7.0, 8.0])
    np.testing.assert_array_equal(t.numpy(), [[7, 1, 1], [8, 5, 6]])


@pytest.mark.parametrize("mask", [[True], [False], [True, False]])
def test_item_assignment_by_a_mask(mask, device):
    """Of one element too, which to Python is the number 0 or 1."""
    t = mg.tensor(np.zeros((len(mask), 2), np.float32), device=device)
    t[mg.tensor(mask, device=device)] = 3.0
    t[mg.tensor(mask, device=device), 1] = 4.0
    np.testing.assert_array_equal(t.numpy(), np.where(np.array(mask)[:, None], [3, 4], 0))


def test_item_assignment_of_a_tensor_on_the_tape_is_refused():
    t, x = mg.tensor([1.0, 2.0]), leaf(3.0)
    with pytest.raises(RuntimeError, match="would lose it"):
        t[0] = x
    with mg.no_grad():
        t[0] = x
    np.testing.assert_array_equal(t.numpy(), [3, 2])


@pytest.mark.parametrize("change", [lambda t: t.__setitem__(0, 9.0), lambda t: t.__iadd__(1.0)], ids=["item", "+="])
def test_read_only_memory_is_not_written(change):
    t = mg.tensor([1.0])
    t.data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        change(t)
    assert t.item() == 1


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (lambda y: np.stack([y, y]), "use mg.stack"),
        (lambda y: np.concatenate([y, y]), "use mg.concat, which is on the tape"),
        (lambda y: np.mean(y), "use mg.mean"),
        (lambda y: np.sum(a=y), "use mg.sum"),
        (lambda y: np.where(np.array([True, False]), y, 0.0), "use mg.where"),
        (lambda y: np.std(y), "use mg.std"),
        (lambda y: np.cbrt(y), "minigrad has no such op"),
        (lambda y: np.fmod(y, 0.5), "minigrad has no such op"),
        (lambda y: np.abs(y, dtype=np.float64), "use mg.abs"),
        (lambda y: np.clip(y, 0, 1), "use mg.clip"),
        (lambda y: np.exp(y, dtype=np.float64), "use mg.exp"),
        (lambda y: np.add.reduce(y), "use mg.add"),
    ],
)
def test_numpy_functions_do_not_take_a_tensor_off_the_tape_in_silence(function, instead):
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    for y in (x, x * 2.0):
        with pytest.raises(
            TypeError, match=rf"float32\[2\] that requires a gradient off the tape: {instead}.*t\.detach"
        ):
            function(y)
    expected = function(np.array([1, 2], np.float32))
    np.testing.assert_array_equal(function(x.detach()), expected)
    with mg.no_grad():
        np.testing.assert_array_equal(function(x), expected)


@pytest.mark.parametrize(
    "name",
    ["exp", "log", "sqrt", "tanh", "negative", "positive", "abs", "sign", "square", "log1p", "sin", "reciprocal"],
)
def test_numpys_functions_of_an_element_are_ours(name, device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = getattr(np, name)(x)
    assert isinstance(y, mg.Tensor)
    assert y.requires_grad
    np.testing.assert_allclose(y.numpy(), getattr(np, name)(np.float32([1, 2])), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "divide", "less", "equal", "matmul", "maximum", "power"]
)
def test_numpys_functions_of_two_are_ours(name, device):
    a, b = np.float32([1, 2]), np.float32([3, 2])
    x = mg.tensor(b, device=device, requires_grad=True)
    for y, expected in (
        (getattr(np, name)(a, x), getattr(np, name)(a, b)),
        (getattr(np, name)(x, a), getattr(np, name)(b, a)),
    ):
        assert isinstance(y, mg.Tensor)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6, strict=True)


def test_a_tensor_in_the_place_of_numpys_result_is_refused():
    with pytest.raises(TypeError, match="np.add cannot write into a tensor"):
        np.add(np.ones(2), 1.0, out=mg.tensor(np.ones(2)))
    array, x = np.ones(2, np.float32), mg.tensor([1.0, 2.0])
    array += x
    np.testing.assert_array_equal(array, [2, 3])
    x.requires_grad = True
    with pytest.raises(TypeError, match="np.add would take a tensor.*use mg.add"):
        array += x


def test_numpys_functions_in_a_captured_step_are_ours_or_refused(rng):
    x = rng.random((2, 3)).astype(np.float32)
    step = mg.capture(lambda x: np.exp(x) > np.sqrt(x))
    for shift in (0, 1):
        assert step(x + np.float32(shift)).numpy().all()
    with pytest.raises(mg.CaptureError, match=r"np.asarray\(\)"):
        mg.capture(lambda x: np.cbrt(x))(x)


def test_numpy_may_look_at_a_tensor_that_requires_a_gradient():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert np.shape(x) == (2,)
    assert np.allclose(x, [1, 2])
    assert np.array_equal(x, x)
    assert np.isfinite(x).all()
    assert not np.isnan(x * 2.0).any()
    assert isinstance(np.asarray(x), np.ndarray)


def test_numpys_functions_of_integers_give_arrays():
    x = mg.tensor([-1, 2])
    np.testing.assert_array_equal(np.abs(x), np.array([1, 2]), strict=True)
    np.testing.assert_array_equal(np.maximum(x, 0), np.array([0, 2]), strict=True)


# Numbers that a dtype does not hold


@each_operator
@pytest.mark.parametrize("number", [1e300, -1e300, 10**400, -(10**400), np.float64(1e39), 2**200])
def test_a_number_too_large_for_float32_is_infinite(operator, number, device):
    infinity = np.float32(np.inf if number > 0 else -np.inf)
    array = np.array([1.5, -2.0], np.float32)
    x = mg.tensor(array, device=device)
    np.testing.assert_array_equal(operator(x, number).numpy(), operator(array, infinity))
    np.testing.assert_array_equal(operator(number, x).numpy(), operator(infinity, array))
    y = mg.tensor(array, device=device)
    y += number
    np.testing.assert_array_equal(y.numpy(), [infinity, infinity])


def test_a_power_too_large_is_infinite(device):
    x = mg.tensor([2.0, 0.5], device=device)
    np.testing.assert_array_equal((x ** (10**400)).numpy(), [np.inf, 0])
    np.testing.assert_array_equal((x**1e300).numpy(), [np.inf, 0])


@each_operator
@pytest.mark.parametrize("number", [1, -1, 0.5, np.nan, np.inf, 2**70, 10**400, True, np.float32(2)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_numbers_with_tensors_of_integers_are_refused_by_their_dtype(operator, number, dtype):
    x = mg.tensor(np.ones(2, dtype))
    for compute in (lambda: operator(x, number), lambda: operator(number, x)):
        with pytest.raises(
            TypeError, match=rf"needs float32 or float64 tensors, not {dtype}; convert with .to\('float32'\)"
        ):
            compute()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_minus_of_integers_is_refused_by_its_dtype(dtype):
    with pytest.raises(TypeError, match=f"not {dtype}; convert with"):
        -mg.tensor(np.ones(2, dtype))
    mend = r"pixels of 0 to 255 become .*\.astype\(np.float32\)" if dtype == "uint8" else "convert with"
    with pytest.raises(TypeError, match=f"not {dtype}; {mend}"):
        mg.tensor(np.ones(2, dtype)) ** 2
