import numpy as np
import pytest
from targets import on_cpu, on_cuda, slow
from views import READ, VIEWS, WRITTEN, layout, offset_in

from minigrad.kernels.cpu import movement

BLOCK, LARGE = movement.BLOCK, movement.LARGE
SIZES = [*[0, 1, 7, 17, 1001], *on_cpu(BLOCK + 1, LARGE + 5), *on_cuda(15, 16)]
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


def gathered(target, x, name):
    """(what strided_read made of a view of x, the view)."""
    view = VIEWS[name][1](x)
    y = np.empty(view.size, x.dtype)
    *_, y = target.run("movement", "strided_read", x.ravel(), *layout(view), offset_in(view, x), y)
    return y.reshape(view.shape), view


def scattered(target, x, name):
    """(what strided_write made of an array by a view of it, what it should have), from as many numbers as it takes of x."""
    expected = np.full(VIEWS[name][0], 111, x.dtype)
    view, before = VIEWS[name][1](expected), expected.copy()
    x = x[: view.size]
    *_, y = target.run("movement", "strided_write", x, *layout(view), offset_in(view, expected), before.ravel())
    view[...] = x.reshape(view.shape)
    return y.reshape(expected.shape), expected


@pytest.mark.parametrize("name", READ)
def test_strided_read_gathers_a_view(target, rng, dtype, name):
    np.testing.assert_array_equal(*gathered(target, rng.standard_normal(VIEWS[name][0]).astype(dtype), name))


@pytest.mark.parametrize("name", WRITTEN)
def test_strided_write_scatters_into_a_view_and_leaves_the_rest(target, rng, dtype, name):
    np.testing.assert_array_equal(*scattered(target, rng.standard_normal(20_000).astype(dtype), name))


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["uint8", "int16"])
@pytest.mark.parametrize("name", ["transposed", "rows apart", "columns", "every second"])
def test_views_of_small_elements(target, rng, kind, name):
    np.testing.assert_array_equal(*gathered(target, rng.integers(0, 100, VIEWS[name][0]).astype(kind), name))
    np.testing.assert_array_equal(*scattered(target, rng.integers(0, 100, 20_000).astype(kind), name))


def test_strided_kernels_match_reference(check_kernel, rng, dtype):
    x = rng.standard_normal(70).astype(dtype)
    place = (1, 1, 1, 1, 4, 10), (0, 0, 0, 0, 17, -1), 10
    check_kernel("movement", "strided_read", x, *place, np.empty(40, dtype), ulps=0)
    check_kernel("movement", "strided_write", x[:40].copy(), *place, np.zeros(70, dtype), ulps=0)


@pytest.mark.cpu
def test_strided_read_in_parallel(check_kernel, rng, dtype):
    shape, view_of = PARALLEL_VIEW
    x = rng.standard_normal(shape).astype(dtype)
    view = view_of(x)
    y = np.empty(view.size, dtype)
    check_kernel("movement", "strided_read", x.ravel(), *layout(view), offset_in(view, x), y, parallel=True)


@pytest.mark.cpu
def test_strided_write_in_parallel(check_kernel, rng, dtype):
    shape, view_of = PARALLEL_VIEW
    y = np.zeros(shape, dtype)
    view = view_of(y)
    x = rng.standard_normal(view.size).astype(dtype)
    check_kernel("movement", "strided_write", x, *layout(view), offset_in(view, y), y.ravel(), parallel=True)


TAKEN = [  # rows, columns, indices
    *[(1, 1, 1), (5, 17, 3), (4, 3, 100), (3, 5, 0)],
    *on_cpu((10, BLOCK + 1, 3), (300, 7, LARGE // 7 + 1)),
    *on_cuda((40, 1, 300), (7, 32, 21)),
]
GIVEN = [
    *[(1, 1, 1), (5, 17, 3), (4, 3, 100), (3, 5, 0)],
    *on_cpu((3, 1001, 200), (300, 7, LARGE // 7 + 1)),
    *on_cuda((40, 1, 30), (30, 3, 100), (2, 3, 7)),
]


@pytest.mark.parametrize("sizes", TAKEN, ids=str)
def test_take_rows_matches_reference(check_kernel, rng, dtype, sizes):
    n, d, m = sizes
    x = rng.standard_normal((n, d)).astype(dtype)
    check_kernel("movement", "take_rows", x, rng.integers(0, n, m), np.empty((m, d), dtype), parallel=m * d >= LARGE)


@pytest.mark.parametrize("sizes", GIVEN, ids=str)
def test_take_rows_backward_adds_in_the_order_of_the_index(check_kernel, rng, dtype, sizes):
    n, d, m = sizes
    dy = rng.standard_normal((m, d)).astype(dtype)
    dx = np.full((n, d), np.nan, dtype)
    check_kernel("movement", "take_rows_backward", dy, rng.integers(0, n, m), dx, parallel=m * d >= LARGE, ulps=0)


def test_nan_in_a_row_stays_there(check_kernel, dtype):
    dy, dx = np.array([[1, np.nan], [2, 3]], dtype), np.zeros((3, 2), dtype)
    check_kernel("movement", "take_rows_backward", dy, np.array([2, 0]), dx)


ALONG = [(1, 5, 3, 1), (4, 7, 2, 1), (3, 4, 9, 5), *on_cpu((40, 500, 3, 67), (70_000, 4, 2, 1), (1, 3, 2000, 90))]


@pytest.mark.parametrize("kind", ["float32", "int64", "uint8", *slow("bool", "float64", "int16")])
@pytest.mark.parametrize("sizes", ALONG)
def test_take_along(check_kernel, rng, kind, sizes):
    outer, n, count, inner = sizes
    x = (rng.standard_normal((outer, n, inner)) * 50).astype(np.int64).astype(kind)
    index = rng.integers(0, n, (outer, count, inner))
    y = np.zeros(index.shape, kind)
    check_kernel("movement", "take_along", x, index, y, parallel=y.size >= movement.LARGE)


@pytest.mark.parametrize("sizes", ALONG)
def test_take_along_backward_adds_in_the_order_of_the_index(check_kernel, rng, dtype, sizes):
    outer, n, count, inner = sizes
    index = rng.integers(0, n, (outer, count, inner))
    dy, dx = rng.standard_normal(index.shape).astype(dtype), np.full((outer, n, inner), np.nan, dtype)
    large = max(dy.size, dx.size) >= movement.LARGE
    check_kernel("movement", "take_along_backward", dy, index, dx, parallel=large, ulps=0)
