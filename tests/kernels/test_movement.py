import numpy as np
import pytest

from minigrad.kernels.axes import DIMS
from minigrad.kernels.cpu import movement

BLOCK, LARGE = movement.BLOCK, movement.LARGE
SIZES = [0, 1, 7, 17, 1001, BLOCK + 1, LARGE + 5]


def layout(view):
    """(shape, strides in elements) of a view, filled up to DIMS axes."""
    missing = DIMS - view.ndim
    return (1,) * missing + view.shape, (0,) * missing + tuple(s // view.itemsize for s in view.strides)


def offset_in(view, base):
    return (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // base.itemsize


VIEWS = {
    "contiguous": ((3, 4, 5), lambda a: a),
    "one element": ((1,), lambda a: a),
    "transposed": ((37, 53), lambda a: a.T),
    "transposed across many tiles": ((150, 131), lambda a: a.T),
    "rotated": ((5, 6, 70), lambda a: a.transpose(1, 2, 0)),
    "reversed order of axes": ((9, 20, 33), lambda a: a.transpose(2, 1, 0)),
    "images to planes": ((3, 7, 9, 5), lambda a: a.transpose(0, 3, 1, 2)),
    "columns": ((40, 50), lambda a: a[:, 3:20]),
    "every second": ((40, 51), lambda a: a[1::2, ::2]),
    "backwards": ((11, 13), lambda a: a[::-1, ::-1]),
    "six axes": ((2, 3, 4, 2, 3, 2), lambda a: a.transpose(5, 1, 3, 0, 4, 2)),
    "empty": ((4, 5), lambda a: a[2:2]),
}
BROADCASTS = {
    "rows": ((1, 33), lambda a: np.broadcast_to(a, (50, 33))),
    "columns": ((50, 1), lambda a: np.broadcast_to(a, (50, 33))),
    "all": ((1,), lambda a: np.broadcast_to(a, (3, 4))),
}
PARALLEL_VIEW = (401, 3, 307), lambda a: a.transpose(2, 1, 0)


@pytest.mark.parametrize("n", SIZES)
def test_fill_matches_reference(check_kernel, dtype, n):
    check_kernel("movement", "fill", 1.5, np.zeros(n, dtype), parallel=n >= LARGE)


@pytest.mark.parametrize("n", SIZES)
def test_copy_matches_reference(check_kernel, rng, dtype, n):
    x = rng.standard_normal(n).astype(dtype)
    check_kernel("movement", "copy", x, np.zeros_like(x), parallel=n >= LARGE)


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_copy_takes_other_types(check_kernel, kind):
    x = (np.arange(100) % 3).astype(kind)
    check_kernel("movement", "copy", x, np.zeros_like(x))


@pytest.mark.parametrize("name", [*VIEWS, *(f"broadcast {name}" for name in BROADCASTS)])
def test_strided_read_gathers_a_view(check_kernel, rng, dtype, name):
    shape, view_of = VIEWS[name] if name in VIEWS else BROADCASTS[name.removeprefix("broadcast ")]
    x = rng.standard_normal(shape).astype(dtype)
    view = view_of(x)
    y = np.full(view.size, np.nan, dtype)
    *_, y = check_kernel("movement", "strided_read", x.ravel(), *layout(view), offset_in(view, x), y)
    np.testing.assert_array_equal(y.reshape(view.shape), view)


@pytest.mark.parametrize("name", VIEWS)
def test_strided_write_scatters_into_a_view(check_kernel, rng, dtype, name):
    shape, view_of = VIEWS[name]
    expected = np.full(shape, -1, dtype)
    view = view_of(expected)
    place = *layout(view), offset_in(view, expected)
    x = rng.standard_normal(view.size).astype(dtype)
    y = expected.ravel()
    view[...] = x.reshape(view.shape)
    *_, y = check_kernel("movement", "strided_write", x, *place, y.copy())
    np.testing.assert_array_equal(y.reshape(shape), expected)


def test_strided_read_in_parallel(check_kernel, rng, dtype):
    shape, view_of = PARALLEL_VIEW
    x = rng.standard_normal(shape).astype(dtype)
    view = view_of(x)
    y = np.empty(view.size, dtype)
    check_kernel("movement", "strided_read", x.ravel(), *layout(view), offset_in(view, x), y, parallel=True)


def test_strided_write_in_parallel(check_kernel, rng, dtype):
    shape, view_of = PARALLEL_VIEW
    y = np.zeros(shape, dtype)
    view = view_of(y)
    x = rng.standard_normal(view.size).astype(dtype)
    check_kernel("movement", "strided_write", x, *layout(view), offset_in(view, y), y.ravel(), parallel=True)


@pytest.mark.parametrize(
    ("n", "d", "m"), [(1, 1, 1), (5, 17, 3), (4, 3, 100), (10, BLOCK + 1, 3), (3, 5, 0), (300, 7, LARGE // 7 + 1)]
)
def test_take_rows_matches_reference(check_kernel, rng, dtype, n, d, m):
    x = rng.standard_normal((n, d)).astype(dtype)
    check_kernel("movement", "take_rows", x, rng.integers(0, n, m), np.empty((m, d), dtype), parallel=m * d >= LARGE)


@pytest.mark.parametrize(
    ("n", "d", "m"), [(1, 1, 1), (5, 17, 3), (4, 3, 100), (3, 5, 0), (3, 1001, 200), (300, 7, LARGE // 7 + 1)]
)
def test_take_rows_backward_adds_in_the_order_of_the_index(check_kernel, rng, dtype, n, d, m):
    dy = rng.standard_normal((m, d)).astype(dtype)
    dx = np.full((n, d), np.nan, dtype)
    check_kernel("movement", "take_rows_backward", dy, rng.integers(0, n, m), dx, parallel=m * d >= LARGE, ulps=0)
