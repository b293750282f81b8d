import numpy as np
import pytest

from minigrad.kernels import reference
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.cuda import elementwise

UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "relu")
STEP = elementwise.STEP
SIZES = (0, 1, 3, 4, 5, 257, STEP - 1, STEP, STEP + 7)


def sample(rng, name, size, dtype):
    """Inputs from all of a function's domain."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)
    return (np.abs(x) + 1e-30 if name in ("log", "sqrt", "power") else x).astype(dtype)


def saved(name, x):
    """What the gradient of a function needs."""
    if name == "log":
        return x
    y = np.empty_like(x)
    getattr(reference.elementwise, f"{name}_forward")(x, y)
    return y


def ulps_apart(actual, expected):
    """The most roundings that lie between the elements of two arrays; NaN and infinities must be at the same places."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    info = np.finfo(expected.dtype)
    _, exponent = np.frexp(expected[finite])
    spacing = np.ldexp(info.eps, np.maximum(exponent - 1, info.minexp)).astype(np.longdouble)
    difference = np.abs(actual[finite].astype(np.longdouble) - expected[finite])
    return float((difference / spacing).max(initial=0))


def assert_near(actual, *inputs, function, ulps=4):
    """Each element near the reference's, whatever its size."""
    expected = np.empty_like(actual)
    getattr(reference.elementwise, function)(*inputs, expected)
    assert ulps_apart(actual, expected) <= ulps


@pytest.mark.parametrize("n", SIZES)
def test_sizes_around_vectors_and_blocks(check_kernel, rng, dtype, n):
    x, dy = rng.standard_normal((2, n)).astype(dtype)
    check_kernel("elementwise", "relu_forward", x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "relu_backward", dy, x, np.empty_like(x), ulps=0)


@pytest.mark.parametrize("name", UNARY)
def test_forward_matches_reference(check_kernel, rng, dtype, name):
    x = sample(rng, name, 301, dtype)
    _, y = check_kernel("elementwise", f"{name}_forward", x, np.empty_like(x))
    assert_near(y, x, function=f"{name}_forward")


@pytest.mark.parametrize("name", UNARY)
def test_backward_matches_reference(check_kernel, rng, dtype, name):
    x, dy = sample(rng, name, 301, dtype), rng.standard_normal(301).astype(dtype)
    *_, dx = check_kernel("elementwise", f"{name}_backward", dy, saved(name, x), np.empty_like(x))
    if name != "tanh":  # 1 - y^2 of the reference loses digits near 1, the kernel's product does not
        assert_near(dx, dy, saved(name, x), function=f"{name}_backward")


@pytest.mark.parametrize("n", [elementwise.SPAN, elementwise.SPAN + STEP + 3])
def test_large_arrays_take_several_vectors_to_a_thread(check_kernel, monkeypatch, rng, dtype, n):
    monkeypatch.setattr(elementwise, "LARGE", 0)
    x, dy = rng.standard_normal((2, n)).astype(dtype)
    layout = broadcast_layout((n,), (n,))[1:]
    check_kernel("elementwise", "relu_forward", x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "relu_backward", dy, x, np.empty_like(x), ulps=0)
    check_kernel("elementwise", "sub_forward", dy, x, np.empty_like(x), *layout, ulps=0)


@pytest.mark.parametrize("start", [1, 2, 4])
def test_arrays_that_do_not_begin_at_16_bytes(memory, rng, dtype, start):
    x = rng.standard_normal(29).astype(dtype)
    given, y = memory.put(x).part(start, 29), memory.put(np.full(29, 7, dtype))
    elementwise.relu_forward(given, y.part(0, 29 - start))
    np.testing.assert_array_equal(memory.get(y)[: 29 - start], np.maximum(x[start:], 0))
    assert (memory.get(y)[29 - start :] == 7).all()


def specials(dtype):
    info = np.finfo(dtype)
    positive = [0, info.smallest_subnormal, info.tiny, 1e-4, 0.5, 1, 2, 20, 89, 1000, 1e4, info.max, np.inf]
    return np.array([*positive, *(-x for x in map(dtype.type, positive)), np.nan], dtype)


@pytest.mark.parametrize("name", UNARY)
def test_special_values_match_reference(memory, dtype, name):
    x = specials(dtype)
    y = memory.empty(x.shape, dtype)
    getattr(elementwise, f"{name}_forward")(memory.put(x), y)
    assert_near(memory.get(y), x, function=f"{name}_forward")
    dy, kept = (a.ravel().copy() for a in np.meshgrid(x, saved(name, x)))
    dx = memory.empty(dy.shape, dtype)
    getattr(elementwise, f"{name}_backward")(memory.put(dy), memory.put(kept), dx)
    assert_near(memory.get(dx), dy, kept, function=f"{name}_backward")


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3, -1.0, 0.5, 2.5, -0.5])
def test_power_matches_reference(check_kernel, rng, dtype, p):
    x = (rng.uniform(0.3, 3, 261)).astype(dtype)
    dy = rng.standard_normal(261).astype(dtype)
    check_kernel("elementwise", "power_forward", x, p, np.empty_like(x), ulps=4)
    check_kernel("elementwise", "power_backward", dy, x, p, np.empty_like(x), ulps=4)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_power_of_special_values(memory, dtype, p):
    x = specials(dtype)
    y, dx = memory.empty(x.shape, dtype), memory.empty(x.shape, dtype)
    elementwise.power_forward(memory.put(x), p, y)
    assert_near(memory.get(y), x, p, function="power_forward")
    elementwise.power_backward(memory.put(np.ones_like(x)), memory.put(x), p, dx)
    assert_near(memory.get(dx), np.ones_like(x), x, p, function="power_backward")


SHAPES = [
    ((1,), (1,)),
    ((17,), (17,)),
    ((17,), (1,)),
    ((1,), (20,)),
    ((3, 5), (5,)),
    ((40, 8), (8,)),
    ((8,), (40, 8)),
    ((9, 4), (4,)),
    ((37, 32), (37, 1)),
    ((7, 1), (1, 12)),
    ((2, 3, 4), (3, 1)),
    ((2, 5, 8), (2, 1, 8)),
    ((4, 1, 3, 1, 5), (2, 1, 2, 1)),
    ((2, 1, 2, 1, 2, 1), (1, 3, 1, 3, 1, 3)),
    ((2, 1, 2, 1, 2, 1), (1, 3, 1, 3, 1, 8)),
    ((1100, 2), (2,)),
    ((1028,), ()),
]


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sub", "div"])
def test_broadcasting_is_numpys(memory, rng, dtype, name, a_shape, b_shape):
    a, b = rng.standard_normal(a_shape).astype(dtype), rng.standard_normal(b_shape).astype(dtype)
    shape, *layout = broadcast_layout(a_shape, b_shape)
    y = memory.empty(shape, dtype)
    flat = (memory.put(a).reshape(-1), memory.put(b).reshape(-1), y.reshape(-1))
    getattr(elementwise, f"{name}_forward")(*flat, *layout)
    np.testing.assert_array_equal(memory.get(y), a - b if name == "sub" else a / b)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_arithmetic_of_special_values(check_kernel, dtype, name):
    x = specials(dtype)
    _, *layout = broadcast_layout((x.size, 1), (x.size,))
    check_kernel("elementwise", f"{name}_forward", x, x, np.empty(x.size**2, dtype), *layout, ulps=0)


@pytest.mark.parametrize("name", ["add", "mul"])
def test_arithmetic_of_equal_shapes_matches_reference(check_kernel, rng, dtype, name):
    a, b = rng.standard_normal((2, 301)).astype(dtype)
    layout = broadcast_layout((301,), (301,))[1:]
    check_kernel("elementwise", f"{name}_forward", a, b, np.empty_like(a), *layout, ulps=0)


def test_result_may_take_the_place_of_an_operand(memory, rng, dtype):
    a, b = rng.standard_normal((40, 8)).astype(dtype), rng.standard_normal(8).astype(dtype)
    given = memory.put(a)
    _, *layout = broadcast_layout((40, 8), (8,))
    elementwise.add_forward(given.reshape(-1), memory.put(b), given.reshape(-1), *layout)
    np.testing.assert_array_equal(memory.get(given), a + b)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(((64, 100), (100,)), 4), (((64, 100), (64, 1)), 4), (((64, 100), ()), 4), (((64, 99), (99,)), 1)],
)
def test_rows_that_are_multiples_of_four_are_read_in_vectors(shape, expected):
    _, *layout = broadcast_layout(*shape)
    unit, _ = elementwise.broadcast_plan(*layout, True)
    assert unit == expected


# activate: rows of x, in columns of a wider y

ACTIVATIONS = {"identity": IDENTITY, "relu": RELU, "sigmoid": SIGMOID}
WINDOWS = [  # (m, columns), columns of y before and after them
    ((1, 1), (0, 0)),
    ((3, 7), (1, 0)),
    ((61, 5), (0, 3)),
    ((33, 4), (4, 8)),
    ((29, 24), (16, 4)),
    ((5, 100), (0, 0)),
    ((5, 8), (2, 6)),
]

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_window = pytest.mark.parametrize(("shape", "margin"), WINDOWS, ids=str)


def within(array, margin, value):
    """The array with columns of `value` before and after it."""
    return np.pad(array, ((0, 0), margin), constant_values=value)


@each_activation
@each_window
def test_activate_matches_reference_and_writes_its_columns_only(check_kernel, rng, dtype, activation, shape, margin):
    x = sample(rng, "activate", shape, dtype)
    y = within(np.full(shape, np.nan, dtype), margin, 7)
    _, _, y, _ = check_kernel("elementwise", "activate", x, activation, y, margin[0], ulps=4)
    assert (np.delete(y, np.s_[margin[0] : y.shape[1] - margin[1]], axis=1) == 7).all()


@each_activation
@each_window
def test_activate_backward_matches_reference_from_its_columns_only(check_kernel, rng, dtype, activation, shape, margin):
    dy, y = rng.standard_normal(shape).astype(dtype), sample(rng, "activate", shape, dtype)
    wide_dy, wide_y = within(dy, margin, np.nan), within(y, margin, np.nan)
    arguments = wide_dy, wide_y, margin[0], activation, np.full(shape, np.inf, dtype)
    check_kernel("elementwise", "activate_backward", *arguments, ulps=4)


COMPARISONS = ("equal", "not_equal", "less", "less_equal")
KINDS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("kind", KINDS)
def test_comparisons_match_reference(check_kernel, rng, name, kind):
    a, b = rng.integers(-2, 3, (2, 3, 1, 5)).astype(kind)
    if a.dtype.kind == "f":
        a[1], b[:, :, 1] = np.nan, np.inf
    for other in (b, b[:1], b[:, :, :1], b[0, 0], b[:1, :, :1]):
        other = np.ascontiguousarray(other)
        layout = broadcast_layout(a.shape, other.shape)[1:]
        check_kernel("elementwise", name, a.ravel(), other.ravel(), np.zeros(a.size, bool), *layout)
        layout = broadcast_layout(other.shape, a.shape)[1:]
        check_kernel("elementwise", name, other.ravel(), a.ravel(), np.zeros(a.size, bool), *layout)


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 1000])
def test_comparisons_of_sizes_around_blocks(check_kernel, rng, name, n):
    a, b = rng.integers(0, 2, (2, n)).astype(np.float32)
    check_kernel("elementwise", name, a, b, np.zeros(n, bool), *broadcast_layout((n,), (n,))[1:])


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_tell_large_integers_apart(check_kernel, name):
    for kind, top in (("int64", 2**62), ("uint64", 2**63)):
        a, b = np.array([top, top + 1, top], kind), np.array([top + 1, top, top], kind)
        check_kernel("elementwise", name, a, b, np.zeros(3, bool), *broadcast_layout((3,), (3,))[1:])
