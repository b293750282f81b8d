import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, basic_indices, integer_array_indices

import minigrad as mg
from minigrad.testing import check_forward, check_grads

quick = settings(deadline=None, max_examples=40)


def numbered(shape, dtype=np.float64):
    """1, 2, 3 ...: every element tells where it came from."""
    return np.arange(1, 1 + np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


def check_index(x, index, device, numpy_index=None):
    """x[index] and its gradient against NumPy, where the gradient adds up what is taken twice."""
    numpy_index = index if numpy_index is None else numpy_index
    t = mg.tensor(x, device=device, requires_grad=True)
    y = t[index]
    np.testing.assert_array_equal(y.numpy(), x[numpy_index], strict=True)
    dy = numbered(y.shape)
    y.backward(dy)
    dx = np.zeros_like(x)
    np.add.at(dx, numpy_index, dy)
    np.testing.assert_array_equal(t.grad.numpy(), dx)


@pytest.mark.parametrize(
    ("shape", "to"),
    [((), (1,)), ((1,), ()), ((6,), (2, 3)), ((2, 3), -1), ((2, 3), (3, -1)), ((17,), (17, 1)), ((0, 3), (5, 0, 1))],
)
def test_reshape(shape, to, device, rng):
    x = rng.standard_normal(shape)
    check_forward(lambda t: mg.reshape(t, to), lambda a: a.reshape(to), x, device=device, rtol=0, atol=0)
    check_grads(lambda t: mg.reshape(t, to), x, device=device)


def test_reshape_takes_lengths_or_a_tuple():
    x = mg.tensor(numbered((2, 6)))
    for y in (x.reshape(3, 4), x.reshape((3, 4)), x.reshape([3, -1]), x.reshape(np.int64(3), np.int64(4))):
        np.testing.assert_array_equal(y.numpy(), numbered((3, 4)))
    assert x.reshape(12).shape == x.reshape(-1).shape == (12,)


@pytest.mark.parametrize("to", [(4,), (4, -1), (-1, -1), (-2, -3), (0, -1), (6, 0)])
def test_reshape_that_does_not_fit_is_refused(to):
    with pytest.raises(ValueError, match=r"cannot reshape \(2, 3\) \(6 elements\) to"):
        mg.tensor(numbered((2, 3))).reshape(to)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((5,), None),
        ((3, 17), None),
        ((33, 4), (1, 0)),
        ((2, 3, 4), (2, 0, 1)),
        ((2, 3, 4), (0, -1, 1)),
        ((2, 3, 4, 5), (3, 1, 0, 2)),
        ((1, 4097), None),
        ((0, 3), None),
    ],
)
def test_transpose(shape, axes, device, rng):
    x = rng.standard_normal(shape)
    check_forward(lambda t: mg.transpose(t, axes), lambda a: a.transpose(axes), x, device=device, rtol=0, atol=0)
    check_grads(lambda t: mg.transpose(t, axes), x, device=device)


def test_transpose_takes_axes_or_a_tuple_and_reverses_without():
    x = mg.tensor(numbered((2, 3, 4)))
    assert x.transpose(1, 2, 0).shape == x.transpose((1, 2, 0)).shape == (3, 4, 2)
    assert x.transpose().shape == x.T.shape == (4, 3, 2)


@quick
@given(data=st.data())
def test_transpose_by_any_order_and_back(data, device):
    x = numbered(data.draw(array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=3)))
    axes = tuple(data.draw(st.permutations(range(x.ndim))))
    y = mg.transpose(mg.tensor(x, device=device), axes)
    np.testing.assert_array_equal(y.numpy(), x.transpose(axes), strict=True)
    np.testing.assert_array_equal(mg.transpose(y, np.argsort(axes)).numpy(), x)


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ((0,), ValueError, "needs each of them once, not"),
        ((0, 0), ValueError, "name one axis twice"),
        ((0, -2), ValueError, "name one axis twice"),
        ((0, 2), ValueError, "axis 2 is out of range for 2 dimensions"),
        ((0, 1.0), TypeError, "float"),
    ],
)
def test_transpose_by_other_than_each_axis_once_is_refused(axes, error, message):
    with pytest.raises(error, match=message):
        mg.transpose(mg.tensor(numbered((2, 3))), axes)


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        ((5,), 2),
        ((5,), -1),
        ((5,), np.int64(3)),
        ((), ()),
        ((), None),
        ((), Ellipsis),
        ((3, 4), 1),
        ((3, 4), (1, 2)),
        ((3, 4), (Ellipsis, 2)),
        ((3, 4), (1, 2, Ellipsis)),
        ((3, 4), (1, 2, None)),
        ((3, 4), slice(None, None, -1)),
        ((3, 4), (slice(2, None, -2), slice(None, None, 3))),
        ((3, 4), slice(1, 1)),
        ((3, 4), (None, slice(0, 9), None, -1)),
        ((2, 3, 4), (1, Ellipsis, slice(3, 0, -1))),
        ((4097,), slice(None, None, 2)),
        ((0, 3), (slice(None), 1)),
    ],
)
def test_basic_indexing(shape, index, device):
    check_index(numbered(shape), index, device)


@quick
@given(data=st.data())
def test_any_basic_index(data, device):
    x = numbered(data.draw(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    check_index(x, data.draw(basic_indices(x.shape, allow_newaxis=True, allow_ellipsis=True)), device)


@quick
@given(data=st.data())
def test_any_integer_arrays_as_index(data, device):
    x = numbered(data.draw(array_shapes(min_dims=1, max_dims=3, max_side=4)))
    check_index(x, data.draw(integer_array_indices(x.shape)), device)


@quick
@given(data=st.data())
def test_any_mask(data, device):
    x = numbered(data.draw(array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)))
    check_index(x, data.draw(arrays(np.bool_, x.shape[: data.draw(st.integers(1, x.ndim))])), device)


@pytest.mark.parametrize("index", [[2, 0, 2], [[1, 1], [0, 2]], [], [0] * 50])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_rows_by_an_integer_tensor(index, dtype, device):
    rows = np.array(index, dtype)
    check_index(numbered((3, 5)), mg.tensor(rows, device=device), device, numpy_index=rows)


def test_a_mask_made_as_a_tensor(device):
    mask = np.array([[True, False, True], [False, False, True]])
    check_index(numbered((2, 3)), mg.tensor(mask, device=device), device, numpy_index=mask)


def test_index_gradients(device, rng):
    check_grads(lambda t: t[1:, ::-2], rng.standard_normal((3, 5)), device=device)
    check_grads(lambda t: t[[2, 0, 2]], rng.standard_normal((3, 5)), device=device)
    check_grads(lambda t: t[[0, 1, 1], [2, 2, 2]], rng.standard_normal((2, 3)), device=device)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_integers_in_an_array_take_rows(dtype, device):
    for rows in ([5, 0, 199 if dtype != np.int8 else -1], [[0, 1], [1, 0]], [], 7):
        check_index(numbered((200, 3)), np.array(rows, dtype), device)


def test_rows_are_taken_without_a_number_for_each_element():
    x = mg.tensor(np.zeros((50_000, 3), np.float32))
    x[np.array([1, -1])]  # compiles
    tracemalloc.start()
    x[np.array([1, -1])]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # an int64 for each element would be 1,200,000


def test_an_indexed_tensor_is_a_copy(device):
    x = mg.tensor([1.0, 2.0], device=device)
    y = x[:]
    x[0] = 5.0
    np.testing.assert_array_equal(y.numpy(), [1, 2])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (3, "out of bounds"),
        (-4, "out of bounds"),
        ((0, 0, 0), "too many indices"),
        ([0, 3], "out of bounds"),
        (np.array([0, 200], np.uint8), "index 200 is out of bounds for axis 0 with size 3"),
        (np.array([2**63], np.uint64), "out of bounds"),
        ([[0], [-4]], "index -4 is out of bounds"),
        (1.0, "only integers"),
        ("a", "only integers"),
        ([0.5], "integer"),
        (np.ones(2, bool), "boolean index"),
    ],
)
def test_an_index_that_is_wrong_is_refused(index, message, device):
    with pytest.raises(IndexError, match=message):
        mg.tensor(numbered((3, 5)), device=device)[index]


@pytest.mark.parametrize("row", [3, -1])
def test_a_row_number_out_of_range_is_refused(row, device):
    with pytest.raises(IndexError, match=f"row numbers must be 0 to 2; they go from .*{row}"):
        mg.tensor(numbered((3, 5)), device=device)[mg.tensor([1, row], device=device)]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis, device, rng):
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for shape, length in zip(shapes, (1, 5, 17), strict=True):
        shape[axis] = length
    parts = [rng.standard_normal(shape) for shape in shapes]
    check_forward(
        lambda *ts: mg.concat(ts, axis), lambda *xs: np.concatenate(xs, axis), *parts, device=device, rtol=0, atol=0
    )
    check_grads(lambda *ts: mg.concat(ts, axis), *parts, device=device)


def test_concat_is_on_the_last_axis_by_default():
    x = mg.tensor(numbered((2, 3)))
    assert mg.concat([x, x]).shape == (2, 6)


@quick
@given(data=st.data())
def test_concat_puts_pieces_together_again(data, device):
    x = numbered(data.draw(array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, x.shape[axis]), max_size=3)))
    pieces = [mg.tensor(piece, device=device, requires_grad=True) for piece in np.split(x, cuts, axis)]
    y = mg.concat(pieces, axis)
    np.testing.assert_array_equal(y.numpy(), x, strict=True)
    y.backward(2 * x)
    for piece in pieces:
        np.testing.assert_array_equal(piece.grad.numpy(), 2 * piece.numpy())


def test_concat_of_one_tensor_twice_adds_both_gradients(device):
    x = mg.tensor([1.0, 2.0], device=device, requires_grad=True)
    mg.concat([x, x]).backward(np.array([1, 2, 30, 40], np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [31, 42])


@pytest.mark.parametrize(
    ("tensors", "axis", "error", "message"),
    [
        ([], -1, ValueError, "at least one tensor"),
        ([np.ones(2)], -1, TypeError, "needs tensors, not ndarray"),
        ([mg.tensor([1.0]), mg.tensor([1])], -1, TypeError, "tensor 1 is int64, tensor 0 is float32"),
        ([mg.tensor([[1.0]]), mg.tensor([1.0])], -1, ValueError, r"tensor 1 has shape \(1,\), tensor 0 has \(1, 1\)"),
        ([mg.tensor([[1.0]]), mg.tensor([[1.0], [2.0]])], 1, ValueError, r"axis 1: tensor 1 has shape \(2, 1\)"),
        ([mg.tensor([1.0])], 1, ValueError, "axis 1 is out of range for 1 dim"),
        ([mg.tensor(1.0)], -1, ValueError, "axis -1 is out of range for 0 dim"),
    ],
)
def test_concat_of_what_does_not_fit_is_refused(tensors, axis, error, message):
    with pytest.raises(error, match=message):
        mg.concat(tensors, axis)


def test_concat_does_not_mix_devices():
    with pytest.raises(RuntimeError, match="'cpu', 'reference'"):
        mg.concat([mg.tensor([1.0]), mg.tensor([1.0], device="reference")])


def test_conversion_of_dtype_is_differentiable(device, rng):
    x = mg.tensor(rng.standard_normal((3, 17)), device=device, requires_grad=True)
    y = x.to("float32")
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.numpy(), x.numpy().astype(np.float32))
    y.backward(np.full((3, 17), 0.1, np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), np.full((3, 17), np.float32(0.1)).astype(np.float64), strict=True)


def test_to_what_it_is_already_is_the_tensor_itself(device):
    x = mg.tensor([1.0], device=device)
    assert x.to("float32") is x
    assert x.to(device) is x


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_conversion_between_floats_and_integers(dtype, device):
    x = mg.tensor([0.0, 1.0, 2.0], device=device)
    y = x.to(dtype)
    np.testing.assert_array_equal(y.numpy(), np.array([0, 1, 2]).astype(dtype), strict=True)
    np.testing.assert_array_equal(y.to("float64").numpy(), np.array([0, 1, 2]).astype(dtype).astype(float))


def test_to_another_device_makes_a_leaf_of_its_own():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = x.to("reference")
    assert (y.device, y.requires_grad, y.is_leaf) == ("reference", True, True)
    y.sum().backward()
    assert x.grad is None
    with mg.no_grad():
        y += 1.0
    np.testing.assert_array_equal(x.numpy(), [1, 2])


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("float16", TypeError, "float16 is not supported"),
        ("complex64", TypeError, "complex64"),
        ("int64", TypeError, "requires a gradient cannot become int64"),
        ("nowhere", ValueError, "'nowhere' is neither a device"),
        (None, ValueError, "None is neither a device"),
        ("cuda:1", RuntimeError, "works on one GPU"),
    ],
)
def test_to_what_is_not_there_is_refused(target, error, message):
    with pytest.raises(error, match=message):
        mg.tensor([1.0], requires_grad=True).to(target)


def test_the_tape_does_not_cross_devices():
    x = mg.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="detach"):
        (x * 2.0).to("reference")
