import itertools

import numpy as np
import pytest

from minigrad.kernels.axes import DIMS
from minigrad.kernels.cuda import movement
from minigrad.kernels.cuda.parts import rows

DTYPES = [dtype.name for dtype in movement.KINDS]


def layout(view):
    """(shape, strides in elements) of a view, filled up to DIMS axes."""
    missing = DIMS - view.ndim
    return (1,) * missing + view.shape, (0,) * missing + tuple(s // view.itemsize for s in view.strides)


def offset_in(view, base):
    return (view.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // base.itemsize


def numbers(rng, n, dtype):
    """Numbers that every dtype of their kind holds."""
    return (rng.integers(0, 2, n) if dtype == "bool" else rng.integers(0, 100, n)).astype(dtype)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1000])
def test_fill_takes_every_type(check_kernel, kind, n):
    check_kernel("movement", "fill", True if kind == "bool" else 77, np.zeros(n, kind))


@pytest.mark.parametrize("value", [1.5, -0.0, np.nan, np.inf])
def test_fill_takes_every_float(memory, dtype, value):
    y = memory.empty((37,), dtype)
    movement.fill(value, y)
    np.testing.assert_array_equal(memory.get(y), np.full(37, value, dtype))
    assert (np.signbit(memory.get(y)) == np.signbit(value)).all()


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32", "float64"])
def test_fill_of_a_part_leaves_the_rest(memory, kind):
    y = memory.put(np.zeros(99, kind))
    movement.fill(5, y.part(3, 92))
    np.testing.assert_array_equal(memory.get(y), np.repeat(np.array([0, 5, 0], kind), [3, 89, 7]))


@pytest.mark.parametrize("kind", DTYPES)
def test_copy_of_one_type(check_kernel, rng, kind):
    x = numbers(rng, 100, kind)
    check_kernel("movement", "copy", x, np.zeros_like(x))


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(DTYPES, 2)))
def test_copy_converts(check_kernel, rng, source, target):
    x = numbers(rng, 20, source)
    check_kernel("movement", "copy", x, np.zeros(20, target), ulps=0)


LIMITS = {
    "int8": [-128, 127],
    "uint8": [255],
    "int16": [-(2**15), 2**15 - 1],
    "uint16": [2**16 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "uint32": [2**32 - 1],
    "int64": [-(2**63), 2**63 - 1, 2**53 + 1, 16777217 * 2**30 + 1],
    "uint64": [2**64 - 1, 2**63, 16777217 * 2**30 + 1],
}


@pytest.mark.parametrize("source", LIMITS)
def test_conversion_of_the_largest_integers(check_kernel, source):
    x = np.array(LIMITS[source] * 2, source)
    for target in DTYPES:
        if target != source:
            check_kernel("movement", "copy", x, np.zeros(x.size, target), ulps=0)


@pytest.mark.parametrize(
    ("source", "target", "values"),
    [
        ("float64", "float32", [1 / 3, 1e-46, np.nan, -np.inf]),
        ("float32", "float64", [1 / 3, np.nan, np.inf, -0.0, 1e-45]),
        ("float32", "bool", [0.0, -0.0, 0.1, np.nan, -3, np.inf]),
        ("float64", "int64", [1.9, -1.9, -0.5, 2.0**53, -(2.0**63)]),
        ("float64", "uint64", [2.0**63, 2.0**64 - 2048, 0.9]),
        ("float32", "int8", [127.9, -127.9, 0.0]),
    ],
)
def test_conversion_of_floats(check_kernel, source, target, values):
    check_kernel("movement", "copy", np.array(values, source), np.zeros(len(values), target), ulps=0)


def test_conversion_overflows_to_infinity(memory):
    y = memory.empty((2,), np.float32)
    movement.copy(memory.put(np.array([1e300, -1e300])), y)
    np.testing.assert_array_equal(memory.get(y), [np.inf, -np.inf])


VIEWS = {
    "contiguous": ((3, 4, 5), lambda a: a),
    "one element": ((1,), lambda a: a),
    "transposed": ((37, 53), lambda a: a.T),
    "rotated": ((5, 6, 20), lambda a: a.transpose(1, 2, 0)),
    "images to planes": ((3, 7, 9, 5), lambda a: a.transpose(0, 3, 1, 2)),
    "images to many planes": ((2, 3, 11, 33), lambda a: a.transpose(0, 3, 1, 2)),
    "planes to images": ((2, 33, 3, 11), lambda a: a.transpose(0, 2, 3, 1)),
    "transposed part": ((40, 50), lambda a: a[3:, 2:35].T),
    "columns": ((40, 50), lambda a: a[:, 3:20]),
    "aligned columns": ((40, 64), lambda a: a[:, 16:48]),
    "rows apart": ((12, 8), lambda a: a[::2]),
    "every second": ((40, 51), lambda a: a[1::2, ::2]),
    "backwards": ((11, 13), lambda a: a[::-1, ::-1]),
    "rows backwards": ((11, 16), lambda a: a[::-1]),
    "six axes": ((2, 3, 4, 2, 3, 2), lambda a: a.transpose(5, 1, 3, 0, 4, 2)),
    "empty": ((4, 5), lambda a: a[2:2]),
}
BROADCASTS = {
    "rows": ((1, 33), lambda a: np.broadcast_to(a, (50, 33))),
    "vectors of rows": ((1, 32), lambda a: np.broadcast_to(a, (50, 32))),
    "columns": ((50, 1), lambda a: np.broadcast_to(a, (50, 33))),
    "all": ((1,), lambda a: np.broadcast_to(a, (3, 4))),
}


SOME = ["transposed", "rows apart", "columns", "every second"]
# every view of float32, and some of types of other sizes
READ = [("float32", name) for name in [*VIEWS, *(f"broadcast {name}" for name in BROADCASTS)]]
WRITTEN = [("float32", name) for name in VIEWS]
OTHERS = list(itertools.product(["uint8", "int16", "float64"], SOME))


@pytest.mark.parametrize(("kind", "name"), READ + OTHERS)
def test_strided_read_gathers_a_view(memory, rng, kind, name):
    shape, view_of = VIEWS[name] if name in VIEWS else BROADCASTS[name.removeprefix("broadcast ")]
    x = numbers(rng, shape, kind)
    view = view_of(x)
    y = memory.empty((view.size,), kind)
    movement.strided_read(memory.put(x.ravel()), *layout(view), offset_in(view, x), y)
    np.testing.assert_array_equal(memory.get(y).reshape(view.shape), view)


@pytest.mark.parametrize(("kind", "name"), WRITTEN + OTHERS)
def test_strided_write_scatters_into_a_view_and_leaves_the_rest(memory, rng, kind, name):
    shape, view_of = VIEWS[name]
    expected = np.full(shape, 111, kind)
    y = memory.put(expected.ravel())
    view = view_of(expected)
    x = numbers(rng, view.size, kind)
    movement.strided_write(memory.put(x), *layout(view), offset_in(view, expected), y)
    view[...] = x.reshape(view.shape)
    np.testing.assert_array_equal(memory.get(y).reshape(shape), expected)


def test_strided_kernels_match_reference(check_kernel, rng, dtype):
    x = rng.standard_normal(70).astype(dtype)
    place = (1, 1, 1, 1, 4, 10), (0, 0, 0, 0, 17, -1), 10
    check_kernel("movement", "strided_read", x, *place, np.empty(40, dtype), ulps=0)
    check_kernel("movement", "strided_write", x[:40].copy(), *place, np.zeros(70, dtype), ulps=0)


@pytest.mark.parametrize(
    ("name", "size"), [("contiguous", 16), ("aligned columns", 16), ("columns", 4), ("rows apart", 16)]
)
def test_float32_moves_in_the_widest_units(name, size):
    shape, view_of = VIEWS[name]
    x = np.zeros(shape, np.float32)
    view = view_of(x)
    steps = movement.contiguous_steps(layout(view)[0])
    kernel, *_ = movement.move_plan(*layout(view), steps, offset_in(view, x), 0, 4, 16)
    assert kernel is movement.MOVES[size]


@pytest.mark.parametrize("name", ["transposed", "images to many planes", "planes to images", "transposed part"])
def test_transposing_goes_through_tiles(name):
    shape, view_of = VIEWS[name]
    x = np.zeros(shape, np.float32)
    view = view_of(x)
    steps = movement.contiguous_steps(layout(view)[0])
    kernel, *_ = movement.move_plan(*layout(view), steps, offset_in(view, x), 0, 4, 16)
    assert kernel is movement.TRANSPOSES[4]


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 1), (5, 17, 3), (40, 1, 300), (4, 3, 100), (7, 32, 21), (3, 5, 0)])
def test_take_rows_matches_reference(check_kernel, rng, kind, n, d, m):
    check_kernel("movement", "take_rows", numbers(rng, (n, d), kind), rng.integers(0, n, m), np.empty((m, d), kind))


BACKWARD = [(1, 1, 1), (5, 17, 3), (40, 1, 30), (3, 5, 0), (30, 3, 100), (2, 3, 7)]


@pytest.mark.parametrize(("n", "d", "m"), BACKWARD)
def test_take_rows_backward_adds_in_the_order_of_the_index(check_kernel, rng, dtype, n, d, m):
    dy, dx = rng.standard_normal((m, d)).astype(dtype), np.full((n, d), np.nan, dtype)
    check_kernel("movement", "take_rows_backward", dy, rng.integers(0, n, m), dx, ulps=0)


@pytest.mark.parametrize(("n", "d", "m"), [(5, 3, 1), (7, 1, 150), (300, 4, 129), (9, 1, 0)])
def test_take_rows_backward_by_sorting(check_kernel, monkeypatch, rng, dtype, n, d, m):
    monkeypatch.setattr(movement, "FEW", -1)
    dy, dx = rng.standard_normal((m, d)).astype(dtype), np.full((n, d), np.nan, dtype)
    check_kernel("movement", "take_rows_backward", dy, rng.integers(0, n, m), dx, ulps=0)


@pytest.mark.parametrize("m", [1, rows.SORTED, 2 * rows.SORTED + 1])
def test_keys_are_sorted(memory, rng, m):
    index = rng.integers(0, 2**31, m)
    keys = memory.get(rows.sorted_keys(memory.put(index)))
    expected = np.sort((index.astype(np.uint64) << np.uint64(32)) | np.arange(m, dtype=np.uint64))
    np.testing.assert_array_equal(keys[:m], expected)
    assert (keys[m:] == 2**64 - 1).all()


def test_nan_in_a_row_stays_there(check_kernel, dtype):
    dy, dx = np.array([[1, np.nan], [2, 3]], dtype), np.zeros((3, 2), dtype)
    check_kernel("movement", "take_rows_backward", dy, np.array([2, 0]), dx)
