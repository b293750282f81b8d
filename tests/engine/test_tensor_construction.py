"""mg.tensor: dtypes, layouts, and what is refused."""

import numpy as np
import pytest

import minigrad as mg


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


@pytest.mark.parametrize(
    "data", [np.ones(2, complex), np.array(["1"]), np.array([1.0], object)], ids=lambda d: d.dtype.name
)
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
    ids=[
        "transposed",
        "strided",
        "reversed",
        "fortran",
        "big-endian",
        "big-endian-int",
        "read-only",
        "broadcast",
        "empty",
        "empty-axis",
        "overlapping",
    ],
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


@pytest.mark.parametrize(("device", "error"), [("gpu", ValueError), ("cuda:1", RuntimeError), ("tpu", ValueError)])
def test_devices_that_are_not_there(device, error):
    with pytest.raises(error, match="device"):
        mg.tensor([1.0], device=device)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [([1, -1], "uint8"), ([300], "uint8"), ([np.nan], "int64"), ([1e19], "int64"), ([2.0**63], "int64")],
)
def test_numbers_that_an_integer_dtype_does_not_hold_are_refused(data, dtype):
    with pytest.raises(TypeError, match=f"{dtype} does not hold all of the numbers, which go from"):
        mg.tensor(data, dtype=dtype)
    t = mg.tensor([0], dtype=dtype)
    with pytest.raises(TypeError, match="does not hold"):
        t[:] = np.array(data)
    with pytest.raises(TypeError, match=f"the number to be assigned is .*, which {dtype} does not hold"):
        t[0] = data[-1]
    assert t.item() == 0


def test_fractions_are_cut_off_where_an_integer_dtype_is_asked_for():
    np.testing.assert_array_equal(mg.tensor([1.7, -1.7], dtype="int64").numpy(), [1, -1])
