import itertools

import numpy as np
import pytest
from targets import slow
from views import VIEWS, layout, offset_in

from minigrad.kernels.cuda import movement
from minigrad.kernels.cuda.parts import rows

DTYPES = [dtype.name for dtype in movement.KINDS]


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


@pytest.mark.parametrize(("source", "into"), list(itertools.permutations(DTYPES, 2)))
def test_copy_converts(check_kernel, rng, source, into):
    x = numbers(rng, 20, source)
    check_kernel("movement", "copy", x, np.zeros(20, into), ulps=0)


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
    for into in DTYPES:
        if into != source:
            check_kernel("movement", "copy", x, np.zeros(x.size, into), ulps=0)


@pytest.mark.parametrize(
    ("source", "into", "values"),
    [
        ("float64", "float32", [1 / 3, 1e-46, np.nan, -np.inf]),
        ("float32", "float64", [1 / 3, np.nan, np.inf, -0.0, 1e-45]),
        ("float32", "bool", [0.0, -0.0, 0.1, np.nan, -3, np.inf]),
        ("float64", "int64", [1.9, -1.9, -0.5, 2.0**53, -(2.0**63)]),
        ("float64", "uint64", [2.0**63, 2.0**64 - 2048, 0.9]),
        ("float32", "int8", [127.9, -127.9, 0.0]),
    ],
)
def test_conversion_of_floats(check_kernel, source, into, values):
    check_kernel("movement", "copy", np.array(values, source), np.zeros(len(values), into), ulps=0)


def test_conversion_overflows_to_infinity(memory):
    y = memory.empty((2,), np.float32)
    movement.copy(memory.put(np.array([1e300, -1e300])), y)
    np.testing.assert_array_equal(memory.get(y), [np.inf, -np.inf])


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


@pytest.mark.parametrize("kind", ["uint8", "int16"])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 1), (5, 17, 3), (40, 1, 300), (4, 3, 100), (7, 32, 21), (3, 5, 0)])
def test_take_rows_of_small_elements(check_kernel, rng, kind, n, d, m):
    check_kernel("movement", "take_rows", numbers(rng, (n, d), kind), rng.integers(0, n, m), np.empty((m, d), kind))


@pytest.mark.parametrize(("n", "d", "m"), [(5, 3, 1), (7, 1, 150), (300, 4, 129), (9, 1, 0)])
def test_take_rows_backward_by_sorting(check_kernel, monkeypatch, rng, dtype, n, d, m):
    monkeypatch.setattr(movement, "FEW", -1)
    dy, dx = rng.standard_normal((m, d)).astype(dtype), np.full((n, d), np.nan, dtype)
    check_kernel("movement", "take_rows_backward", dy, rng.integers(0, n, m), dx, ulps=0)


@pytest.mark.parametrize("m", [1, rows.SORTED, *slow(2 * rows.SORTED + 1)])
def test_keys_are_sorted(memory, rng, m):
    index = rng.integers(0, 2**31, m)
    keys = memory.get(rows.sorted_keys(memory.put(index)))
    expected = np.sort((index.astype(np.uint64) << np.uint64(32)) | np.arange(m, dtype=np.uint64))
    np.testing.assert_array_equal(keys[:m], expected)
    assert (keys[m:] == 2**64 - 1).all()
