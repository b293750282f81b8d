import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from minigrad.kernels import axes as layout
from minigrad.kernels.axes import DIMS, positions
from minigrad.ops.shapes import normal_axes

quick = settings(deadline=None, max_examples=60)


@quick
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=5))
def test_broadcast_layout_walks_like_numpy(shapes):
    a_shape, b_shape = shapes.input_shapes
    shape, merged, a_strides, b_strides = layout.broadcast_layout(a_shape, b_shape)
    assert shape == shapes.result_shape
    assert len(merged) == len(a_strides) == len(b_strides) == DIMS
    for source, strides in ((a_shape, a_strides), (b_shape, b_strides)):
        x = np.arange(np.prod(source, dtype=int)).reshape(source)
        np.testing.assert_array_equal(x.reshape(-1)[positions(merged, strides)], np.broadcast_to(x, shape).reshape(-1))


@pytest.mark.parametrize(("a", "b"), [((2,), (3,)), ((2, 3), (2,)), ((0,), (2,)), ((4, 1, 3), (2, 2, 3))])
def test_shapes_that_do_not_broadcast_are_refused(a, b):
    with pytest.raises(ValueError, match="do not broadcast"):
        layout.broadcast_shape(a, b)


@quick
@given(shape=array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=4))
def test_contiguous_strides_are_numpys(shape):
    x = np.empty(shape, np.int8)
    expected = tuple(0 if n == 1 else s for n, s in zip(shape, x.strides, strict=True))
    if x.size:
        assert layout.contiguous_strides(shape) == expected


@quick
@given(data=st.data())
def test_merge_keeps_the_walk(data):
    shape = data.draw(array_shapes(min_dims=0, max_dims=DIMS, min_side=1, max_side=3))
    order = data.draw(st.permutations(range(len(shape))))
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).transpose(order)
    steps = tuple(s // x.itemsize for s in x.strides)
    merged, strides = layout.merge(x.shape, steps)
    np.testing.assert_array_equal(positions(merged, strides), x.reshape(-1))


def test_merge_makes_one_axis_of_what_is_contiguous():
    assert layout.merge((2, 3, 4), (12, 4, 1)) == ((1,) * (DIMS - 1) + (24,), (0,) * (DIMS - 1) + (1,))


def test_merge_of_too_many_axes_is_refused():
    shape = (2,) * (DIMS + 1)
    with pytest.raises(ValueError, match=f"needs {DIMS + 1} nested loops here; at most {DIMS} are supported"):
        layout.merge(shape, tuple(3 * 5**i for i in range(DIMS + 1)))


def test_flat_layout():
    shape, strides = layout.flat_layout(17)
    np.testing.assert_array_equal(positions(shape, strides), np.arange(17))


@pytest.mark.parametrize(
    ("axes", "expected"), [((0,), (1, 2, 60)), ((1,), (2, 3, 20)), ((1, 2), (2, 12, 5)), ((0, 1, 2, 3), (1, 120, 1))]
)
def test_reduction_layout(axes, expected):
    assert layout.reduction_layout((2, 3, 4, 5), axes) == expected


@pytest.mark.parametrize(
    ("axis", "ndim", "expected"),
    [
        (None, 3, (0, 1, 2)),
        (0, 3, (0,)),
        (-1, 3, (2,)),
        ((2, 0), 3, (0, 2)),
        ((), 3, ()),
        (np.int8(1), 2, (1,)),
        ([0, -1], 2, (0, 1)),
    ],
)
def test_normal_axes(axis, ndim, expected):
    assert normal_axes(axis, ndim) == expected


@pytest.mark.parametrize(
    ("axis", "error", "message"),
    [
        (3, ValueError, "axis 3 is out of range for 3 dimensions"),
        ((0, -4), ValueError, "axis -4 is out of range"),
        ((1, -2), ValueError, "one axis twice"),
        (0.5, TypeError, "not 0.5"),
        ("01", TypeError, "not '01'"),
    ],
)
def test_axes_that_are_not_there_are_refused(axis, error, message):
    with pytest.raises(error, match=message):
        normal_axes(axis, 3)
