import numpy as np
import pytest

import minigrad as mg


def leaf(values, dtype=np.float32):
    return mg.tensor(np.array(values, dtype), requires_grad=True)


# Construction


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        (2, "int64"),
        (True, "bool"),
        ([1.0, 2.0], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        ([1, 2.5], "float32"),
        ((1.0, 2.0), "float32"),
        (range(3), "int64"),
        (np.float64(1), "float64"),
        (np.float32(1), "float32"),
        (np.ones(2), "float64"),
        (np.ones(2, np.float32), "float32"),
        (np.ones(2, np.uint8), "uint8"),
        (np.ones(2, np.int16), "int16"),
        (np.ones(2, bool), "bool"),
        ([], "float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{np.asarray(value).dtype}",
)
def test_dtype_follows_the_data(data, dtype):
    t = mg.tensor(data)
    assert t.dtype == dtype
    np.testing.assert_array_equal(t.numpy(), np.asarray(data, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", np.float64, np.dtype(np.int32), bool])
def test_dtype_may_be_given(dtype):
    t = mg.tensor([0, 1, 2], dtype=dtype)
    assert t.dtype == dtype
    np.testing.assert_array_equal(t.numpy(), np.array([0, 1, 2], dtype))


@pytest.mark.parametrize(
    "data",
    [
        np.ones(2, np.float16),
        np.ones(2, np.longdouble),
        np.ones(2, complex),
        1j,
        np.array([1, None]),
        np.array(["a"]),
        "a",
        None,
        np.array(["2020-01-01"], "datetime64[D]"),
        {"a": 1},
        [object()],
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_dtypes_that_are_not_supported(data):
    with pytest.raises(TypeError, match=r"not supported|cannot make a tensor of dtype"):
        mg.tensor(data)


@pytest.mark.parametrize("dtype", ["float16", "complex64", object, "U3", "datetime64[s]"])
def test_dtypes_that_cannot_be_asked_for(dtype):
    with pytest.raises(TypeError, match=r"not supported|cannot make a tensor of dtype"):
        mg.tensor([1.0], dtype=dtype)


@pytest.mark.parametrize("data", [np.ones(2, complex), np.array(["1"]), np.array([1.0], object)], ids=lambda d: d.dtype.name)
def test_asking_for_floats_does_not_hide_other_data(data):
    with pytest.raises(TypeError, match="cannot make a tensor of dtype"):
        mg.tensor(data, dtype="float32")


def test_half_precision_is_converted_when_asked():
    np.testing.assert_array_equal(mg.tensor(np.array([1.5], np.float16), dtype="float32").numpy(), np.float32([1.5]))


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError, match="inhomogeneous"):
        mg.tensor([[1.0], [1.0, 2.0]])


ORDERED = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
READ_ONLY = ORDERED.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "array",
    [
        ORDERED.transpose(2, 0, 1),
        ORDERED[:, ::2, ::-1],
        ORDERED[::-1],
        np.asfortranarray(ORDERED),
        ORDERED.astype(">f4"),
        ORDERED.astype(">i8"),
        READ_ONLY,
        np.broadcast_to(ORDERED[0, 0], (5, 4)),
        ORDERED[:0],
        ORDERED[..., None][..., :0],
        np.lib.stride_tricks.as_strided(ORDERED, (3, 3), (4, 4)),
    ],
    ids=["transposed", "strided", "reversed", "fortran", "big-endian", "big-endian-int", "read-only", "broadcast", "empty", "empty-axis", "overlapping"],
)
def test_arrays_of_any_layout_are_made_right(array):
    t = mg.tensor(array)
    inside = t.numpy()
    assert inside.flags.c_contiguous
    assert inside.flags.writeable
    assert inside.dtype.isnative
    assert not np.shares_memory(inside, array)
    np.testing.assert_array_equal(inside, array)


def test_array_subclasses_become_plain_arrays():
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    assert type(mg.tensor(masked).numpy()) is np.ndarray
    assert type(mg.tensor(np.arange(3.0).view(np.recarray)).numpy()) is np.ndarray


def test_tensor_copies():
    array = np.ones(3)
    t = mg.tensor(array)
    other = mg.tensor(t)
    array[0] = 5
    t.numpy()[1] = 5
    np.testing.assert_array_equal(t.numpy(), [1, 5, 1])
    np.testing.assert_array_equal(other.numpy(), [1, 1, 1])


def test_anything_with_an_array_interface():
    class Like:
        def __array__(self, dtype=None, copy=None):
            return np.array([1.0, 2.0])

    t = mg.tensor(Like())
    assert t.dtype == np.float64
    np.testing.assert_array_equal(t.numpy(), [1, 2])


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    given = torch.arange(6, dtype=torch.float64).reshape(2, 3).T
    t = mg.tensor(given)
    assert t.dtype == np.float64
    np.testing.assert_array_equal(t.numpy(), given.numpy())
    given[0, 0] = 7
    assert t.numpy()[0, 0] == 0


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
def test_only_floats_can_require_a_gradient(dtype):
    with pytest.raises(TypeError, match=f"only float32 and float64 tensors can require a gradient, not {dtype}"):
        mg.tensor([1, 0], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(("device", "error"), [("gpu", RuntimeError), ("cuda:1", RuntimeError), ("tpu", ValueError)])
def test_devices_that_are_not_there(device, error):
    with pytest.raises(error, match="device"):
        mg.tensor([1.0], device=device)


# What it is


def test_description(device):
    t = mg.tensor(np.zeros((2, 3)), device=device)
    assert (t.shape, t.ndim, t.size, t.dtype, t.device) == ((2, 3), 2, 6, np.float64, device)
    assert (t.requires_grad, t.is_leaf, t.grad) == (False, True, None)
    assert len(t) == 2


def test_scalar_has_no_length():
    with pytest.raises(TypeError, match="no length"):
        len(mg.tensor(1.0))
    with pytest.raises(TypeError, match="no length"):
        list(mg.tensor(1.0))


def test_iteration_gives_differentiable_rows():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    first, second = x
    (first * 10.0 + second).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[10, 10], [1, 1]])


def test_python_numbers():
    assert float(mg.tensor([2.5])) == 2.5
    assert int(mg.tensor(2.9)) == 2
    assert [10, 20, 30][mg.tensor(1)] == 20
    assert mg.tensor(2.0).item() == 2.0
    assert type(mg.tensor([[2.5]]).item()) is float
    assert type(mg.tensor(3).item()) is int
    assert mg.tensor([[1, 2]]).tolist() == [[1, 2]]


def test_float_is_no_index():
    with pytest.raises(TypeError):
        [1, 2][mg.tensor(1.0)]


@pytest.mark.parametrize("value", [0.0, 1.0, True, False, 3])
def test_truth_of_one_element(value):
    assert bool(mg.tensor([value])) is bool(value)


@pytest.mark.parametrize("convert", [bool, float, int, mg.Tensor.item])
@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_several_elements_are_no_number(convert, shape):
    with pytest.raises(ValueError, match="one element"):
        convert(mg.tensor(np.ones(shape)))


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (mg.tensor([1.0, 2.5]), "tensor([1. , 2.5], dtype=float32)"),
        (mg.tensor(3), "tensor(3, dtype=int64)"),
        (mg.tensor([1.0], requires_grad=True), "tensor([1.], dtype=float32, requires_grad=True)"),
        (mg.tensor([1.0], device="reference"), "tensor([1.], dtype=float32, device='reference')"),
        (mg.tensor([1.0], requires_grad=True) + 1.0, "tensor([2.], dtype=float32, op=Add)"),
    ],
    ids=["floats", "integer", "leaf", "device", "result"],
)
def test_repr(t, text):
    assert repr(t) == text


def test_repr_of_a_large_tensor_is_short():
    assert len(repr(mg.tensor(np.zeros((1000, 1000))))) < 1000


def test_tensors_are_told_apart_by_identity():
    a, b = mg.tensor([1.0]), mg.tensor([1.0])
    assert a == a
    assert a != b
    assert len({a, b}) == 2


# Out of the tape


def test_numpy_shares_memory():
    t = mg.tensor([1.0, 2.0])
    t.numpy()[0] = 9
    assert t.numpy()[0] == 9
    assert t.data is t.numpy()


def test_asarray_shares_memory():
    t = mg.tensor([1.0, 2.0])
    assert np.asarray(t) is t.numpy()
    assert not np.shares_memory(np.array(t), t.numpy())


def test_asarray_converts():
    t = mg.tensor([1.0, 2.0])
    assert np.asarray(t, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(t, dtype=np.float64, copy=False)


def test_numpy_functions_take_tensors():
    assert np.sum(np.asarray(mg.tensor([1.0, 2.0]))) == 3
    np.testing.assert_allclose(mg.tensor([1.0, 2.0]), [1, 2])


def test_dlpack_to_numpy_shares_memory():
    t = mg.tensor(ORDERED)
    array = np.from_dlpack(t)
    assert np.shares_memory(array, t.numpy())
    np.testing.assert_array_equal(array, ORDERED)


def test_dlpack_to_torch_shares_memory():
    torch = pytest.importorskip("torch")
    t = mg.tensor(ORDERED)
    other = torch.from_dlpack(t)
    other[0, 0, 0] = 50
    assert t.numpy()[0, 0, 0] == 50
    assert tuple(other.shape) == t.shape


def test_dlpack_memory_outlives_the_tensor():
    t = mg.tensor(np.ones(200_000, np.float32)) * 3.0  # from the pool
    array = np.from_dlpack(t)
    del t
    again = mg.tensor(np.ones(200_000, np.float32)) * 5.0
    assert (array == 3).all()
    assert (again.numpy() == 5).all()


def test_detach_shares_memory_off_the_tape():
    x = leaf([1.0, 2.0])
    y = (x * 2.0).detach()
    assert not y.requires_grad
    assert y.is_leaf
    assert np.shares_memory(x.detach().numpy(), x.numpy())


def test_copy_is_off_the_tape_and_elsewhere(device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x.copy()
    assert not y.requires_grad
    assert y.device == device
    assert not np.shares_memory(y.numpy(), x.numpy())
    np.testing.assert_array_equal(y.numpy(), [1, 2])


# to


def test_to_what_it_is_already_is_itself(device):
    x = mg.tensor([1.0], device=device, requires_grad=True)
    assert x.to(device) is x
    assert x.to("float32") is x
    assert x.to(np.float32) is x


def test_to_another_dtype_is_differentiable(device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    y = x.to("float64")
    (y * y).sum().backward()
    assert y.dtype == np.float64
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])


def test_to_another_device_is_a_leaf_there():
    x = leaf([1.0, 2.0])
    y = x.to("reference")
    assert (y.device, y.requires_grad, y.is_leaf) == ("reference", True, True)
    assert not np.shares_memory(x.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("x", "where", "error", "message"),
    [
        (leaf([1.0]) * 2.0, "reference", RuntimeError, "the tape does not cross devices"),
        (leaf([1.0]), "int64", TypeError, "requires a gradient cannot become int64"),
        (leaf([1.0]), "float16", TypeError, "float16 is not supported"),
        (leaf([1.0]), "complex64", TypeError, "complex64"),
        (leaf([1.0]), "nowhere", ValueError, "neither a device"),
        (leaf([1.0]), "cuda", RuntimeError, "CUDA"),
    ],
    ids=["result", "int", "half", "complex", "unknown", "cuda"],
)
def test_to_what_it_cannot_be(x, where, error, message):
    with pytest.raises(error, match=message):
        x.to(where)


def test_integers_become_floats_and_back():
    t = mg.tensor([1, 2, 300])
    assert t.to("float32").dtype == np.float32
    np.testing.assert_array_equal(t.to("float64").to("int64").numpy(), [1, 2, 300])


# Operators

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


@each_operator
@pytest.mark.parametrize("other", [2.0, 3, True, np.float32(2), np.float64(0.1), np.int32(3)], ids=lambda o: type(o).__name__)
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
    np.testing.assert_array_equal(x[1, ::2, -1].numpy(), array[1, ::2, -1])


# In place

IN_PLACE = {
    "+=": lambda a, b: a.__iadd__(b),
    "-=": lambda a, b: a.__isub__(b),
    "*=": lambda a, b: a.__imul__(b),
    "/=": lambda a, b: a.__itruediv__(b),
}
each_in_place = pytest.mark.parametrize("update", IN_PLACE.values(), ids=IN_PLACE.keys())


@each_in_place
@pytest.mark.parametrize("other", [2.0, np.float32([2, 4]), mg.tensor([2.0, 4.0]), mg.tensor([2.0])], ids=lambda o: type(o).__name__)
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


# data and grad


def test_new_data_of_the_same_kind():
    x = leaf([1.0, 2.0])
    given = np.array([3.0, 4.0])[::-1]
    x.data = given
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.numpy(), [4, 3])
    assert not np.shares_memory(x.numpy(), given)


def test_data_in_place_keeps_the_memory():
    x = leaf([1.0, 2.0])
    memory = x.numpy()
    x.data -= 1
    assert x.numpy() is memory
    np.testing.assert_array_equal(memory, [0, 1])


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 1)), 1.0, mg.tensor(np.ones(2))], ids=str)
def test_data_of_another_kind_is_refused(value):
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"data must stay float32\[2\]"):
        x.data = value
    np.testing.assert_array_equal(x.numpy(), [1, 2])


def test_gradient_may_be_set():
    x = leaf([1.0, 2.0])
    given = mg.tensor([5.0, 6.0])
    x.grad = given
    assert x.grad is given
    x.grad = [7, 8]
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [7, 8])
    x.grad = None
    assert x.grad is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.ones(3), ValueError),
        (np.ones((1, 2)), ValueError),
        (mg.tensor(np.ones(2)), ValueError),
        (np.ones(2, complex), TypeError),
        ("a", TypeError),
        (mg.tensor([1.0, 2.0], device="reference"), RuntimeError),
    ],
    ids=["length", "rank", "dtype", "complex", "text", "device"],
)
def test_gradient_of_another_kind_is_refused(value, error):
    x = leaf([1.0, 2.0])
    with pytest.raises(error):
        x.grad = value
    assert x.grad is None
