import itertools

import numpy as np
import pytest
from targets import first_only, on_cpu, on_cuda

from minigrad.kernels import reference
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.cpu import elementwise
from minigrad.kernels.cpu.tools.launch import GRAIN, Variants

BLOCK = elementwise.BLOCK
SIZES = {"cpu": (1, 3, 15, 16, 17, 100, BLOCK - 1, BLOCK, BLOCK + 1, GRAIN - 1), "cuda": (301,)}
LARGE_SIZES = (
    GRAIN,
    GRAIN + 1,
    3 * GRAIN + 17,
)  # whose kernels are compiled anew, to share the same work among threads
UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "relu")
BINARY = ("add", "sub", "mul", "div")
EXACT = {"sqrt_forward": 0, "relu_forward": 0, "relu_backward": 0, "exp_backward": 0, "log_backward": 0}
ULPS = 4


def ulps_apart(actual, expected):
    """The most roundings that lie between the elements of two arrays; NaN and infinities must be at the same places."""
    assert actual.dtype == expected.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    assert np.isfinite(actual[finite]).all()
    _, exponent = np.frexp(expected[finite])
    info = np.finfo(expected.dtype)
    spacing = np.ldexp(info.eps, np.maximum(exponent - 1, info.minexp)).astype(np.longdouble)
    difference = np.abs(actual[finite].astype(np.longdouble) - expected[finite])
    return float((difference / spacing).max(initial=0))


def run(target, name, *inputs, dtype, size, extra=()):
    """The kernel's result; fails if it changed an input."""
    results = target.run("elementwise", name, *inputs, np.full(size, np.nan, dtype), *extra)
    for after, before in zip(results, inputs, strict=False):
        np.testing.assert_array_equal(after, before)
    return results[len(inputs)]


def run_reference(name, *inputs, dtype, size, extra=()):
    y = np.empty(size, dtype)
    getattr(reference.elementwise, name)(*inputs, y, *extra)
    return y


def check(target, name, *inputs, dtype, size, extra=(), ulps=None):
    """Each element near the reference's, whatever its size."""
    actual = run(target, name, *inputs, dtype=dtype, size=size, extra=extra)
    expected = run_reference(name, *inputs, dtype=dtype, size=size, extra=extra)
    exact = EXACT.get(name, ULPS) if target.name == "cpu" else ULPS
    assert ulps_apart(actual, expected) <= (exact if ulps is None else ulps)


def sample(rng, name, size, dtype):
    """Inputs from all of a function's domain."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)
    return (np.abs(x) + 1e-30 if name in ("log", "sqrt", "power") else x).astype(dtype)


def check_forward(target, rng, name, size, dtype):
    check(target, f"{name}_forward", sample(rng, name, size, dtype), dtype=dtype, size=size)


def check_backward(target, rng, name, size, dtype):
    dy, x = rng.standard_normal(size).astype(dtype), sample(rng, name, size, dtype)
    if name == "tanh":  # nothing is lost near one
        y = np.tanh(x)
        wide = y.astype(np.longdouble)
        dx = run(target, "tanh_backward", dy, y, dtype=dtype, size=size)
        assert ulps_apart(dx, (dy * (1 - wide) * (1 + wide)).astype(dtype)) <= ULPS
        return
    saved = x if name == "log" else run_reference(f"{name}_forward", x, dtype=dtype, size=size)
    check(target, f"{name}_backward", dy, saved, dtype=dtype, size=size)


@pytest.mark.parametrize("name", UNARY)
def test_forward_matches_reference(target, rng, dtype, name):
    for size in SIZES[target.name]:
        check_forward(target, rng, name, size, dtype)


@pytest.mark.parametrize("name", UNARY)
def test_backward_matches_reference(target, rng, dtype, name):
    for size in SIZES[target.name]:
        check_backward(target, rng, name, size, dtype)


@pytest.mark.cpu
@pytest.mark.parametrize("name", first_only(*UNARY))
def test_functions_of_large_arrays_match_reference(target, rng, dtype, name):
    for size in LARGE_SIZES:
        check_forward(target, rng, name, size, dtype)
        check_backward(target, rng, name, size, dtype)


def specials(dtype):
    info = np.finfo(dtype)
    positive = [0, info.smallest_subnormal, info.tiny, 1e-4, 0.5, 1, 2, 20, 89, 1000, 1e4, info.max, np.inf]
    return np.array([*positive, *(-x for x in map(dtype.type, positive)), np.nan], dtype)


@pytest.mark.parametrize("name", UNARY)
def test_special_values_match_reference(target, dtype, name):
    x = specials(dtype)
    check(target, f"{name}_forward", x, dtype=dtype, size=x.size)
    saved = x if name == "log" else run_reference(f"{name}_forward", x, dtype=dtype, size=x.size)
    dy, saved = (a.ravel().copy() for a in np.meshgrid(x, saved))
    check(target, f"{name}_backward", dy, saved, dtype=dtype, size=dy.size)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "relu"])
def test_signed_zeros(target, dtype, name):
    y = run(target, f"{name}_forward", np.array([0.0, -0.0], dtype), dtype=dtype, size=2)
    expected = {"exp": [1, 1], "tanh": [0.0, -0.0], "sigmoid": [0.5, 0.5], "relu": [0.0, 0.0]}[name]
    np.testing.assert_array_equal(y, expected)
    if name == "tanh":
        np.testing.assert_array_equal(np.signbit(y), [False, True])


def test_sigmoid_ends_exactly_at_0_and_1(target, dtype):
    y = run(target, "sigmoid_forward", np.array([-1000, 1000], dtype), dtype=dtype, size=2)
    np.testing.assert_array_equal(y, [0, 1])


def test_gradient_of_relu_at_zero_is_zero(target, dtype):
    dy, x = np.full(3, 7, dtype), np.array([0, 1, np.nan], dtype)
    dx = run(target, "relu_backward", dy, x, dtype=dtype, size=3)
    np.testing.assert_array_equal(dx, [0, 7, 7])


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 2.5, -0.5])
def test_power_matches_reference(target, rng, dtype, p):
    for size in (1, 17, BLOCK + 1, GRAIN + 1) if target.name == "cpu" else (261,):
        x, dy = sample(rng, "power", size, dtype), rng.standard_normal(size).astype(dtype)
        check(target, "power_forward", x, p, dtype=dtype, size=size)
        check(target, "power_backward", dy, x, p, dtype=dtype, size=size)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_power_of_special_values(target, dtype, p):
    x = specials(dtype)
    check(target, "power_forward", x, p, dtype=dtype, size=x.size)
    dy, base = (a.ravel().copy() for a in np.meshgrid(x if target.name == "cpu" else np.ones(1, dtype), x))
    if p == 2:  # the kernel doubles before it multiplies: another order at the edge of overflow
        keep = ~(np.isfinite(dy) & np.isfinite(base)) | (np.abs(dy) <= 1e4) & (np.abs(base) <= 1e4)
        dy, base = dy[keep], base[keep]
    check(target, "power_backward", dy, base, p, dtype=dtype, size=dy.size)


SHAPES = [
    ((1,), (1,)),
    ((17,), (17,)),
    ((17,), (1,)),
    ((1,), (17,)),
    ((3, 5), (5,)),
    ((5,), (3, 5)),
    ((3, 1), (3, 5)),
    ((7, 1), (1, 9)),
    ((2, 3, 4), (3, 1)),
    ((4, 1, 3, 1, 5), (2, 1, 2, 1)),
    ((2, 1, 2, 1, 2, 1), (1, 3, 1, 3, 1, 3)),
    *on_cpu(
        ((1000, 3), (1000, 1)),
        ((5, BLOCK + 3), (BLOCK + 3,)),
        ((3, 2 * BLOCK), (3, 1)),
        ((BLOCK + 1, 2), (2,)),
    ),
    *on_cuda(
        ((1,), (20,)),
        ((40, 8), (8,)),
        ((8,), (40, 8)),
        ((9, 4), (4,)),
        ((37, 32), (37, 1)),
        ((7, 1), (1, 12)),
        ((2, 5, 8), (2, 1, 8)),
        ((2, 1, 2, 1, 2, 1), (1, 3, 1, 3, 1, 8)),
        ((1100, 2), (2,)),
        ((1028,), ()),
        ((301,), (301,)),
    ),
]
LARGE_SHAPES = [
    ((300, 200), (300, 200)),
    ((300, 200), (200,)),
    ((300, 200), (300, 1)),
    ((300, 200), ()),
    ((), (300, 200)),
    ((40, 1, 50), (30, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_broadcasting_is_numpys(target, rng, dtype, name, shapes):
    check_broadcasting(target, rng, dtype, name, shapes)


@pytest.mark.cpu
@pytest.mark.parametrize("shapes", LARGE_SHAPES, ids=str)
@pytest.mark.parametrize("name", first_only(*reversed(BINARY)))
def test_broadcasting_of_large_arrays_is_numpys(target, rng, dtype, name, shapes):
    check_broadcasting(target, rng, dtype, name, shapes)


def check_broadcasting(target, rng, dtype, name, shapes):
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    shape, *layout = broadcast_layout(*shapes)
    inputs, size = (a.reshape(-1), b.reshape(-1)), int(np.prod(shape))
    check(target, f"{name}_forward", *inputs, dtype=dtype, size=size, extra=layout, ulps=0)
    y = run(target, f"{name}_forward", *inputs, dtype=dtype, size=size, extra=layout)
    expected = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name](a, b)
    np.testing.assert_array_equal(y.reshape(shape), expected)


@pytest.mark.parametrize(
    ("name", "size"), [*[(name, 100) for name in BINARY], pytest.param("div", GRAIN, marks=pytest.mark.cpu)]
)
def test_one_number_for_a_whole_axis(target, dtype, name, size):
    layout = (1, 1, 1, 1, 2, size // 2), (0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 0)
    a, b = np.array([6, 8], dtype), np.array([2], dtype)
    check(target, f"{name}_forward", a, b, dtype=dtype, size=size, extra=layout, ulps=0)


@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_of_special_values(target, dtype, name):
    x = specials(dtype)
    _, *layout = broadcast_layout((x.size, 1), (x.size,))
    check(target, f"{name}_forward", x, x, dtype=dtype, size=x.size**2, extra=layout, ulps=0)


# activate: rows of x, in columns of a wider y

ACTIVATIONS = {"identity": IDENTITY, "relu": RELU, "sigmoid": SIGMOID}
ROWS_AND_COLUMNS = [(1, 1), (3, 7), (1000, 8), (61, 17), (5, 100), (257, 48), (3, BLOCK + 1), (GRAIN // 8 + 1, 8)]
OF_ONE_THREAD = ROWS_AND_COLUMNS[:-1]
MARGINS = [(0, 0), (1, 0), (16, 5), (0, 33)]  # columns of y and dy before those that are meant, and after them
WINDOWS = [  # rows and columns, and such a margin
    *on_cpu(*itertools.product(ROWS_AND_COLUMNS, MARGINS)),
    *on_cuda(
        ((1, 1), (0, 0)),
        ((3, 7), (1, 0)),
        ((61, 5), (0, 3)),
        ((33, 4), (4, 8)),
        ((29, 24), (16, 4)),
        ((5, 100), (0, 0)),
        ((5, 8), (2, 6)),
    ),
]

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_window = pytest.mark.parametrize("window", WINDOWS, ids=str)


def within(array, margin, value):
    """The array with columns of `value` before and after it."""
    return np.pad(array, ((0, 0), margin), constant_values=value)


def columns(array, margin):
    return array[:, margin[0] : array.shape[1] - margin[1]]


@each_activation
@each_window
def test_activate_matches_reference_and_writes_its_columns_only(check_kernel, rng, dtype, activation, window):
    shape, margin = window
    x = sample(rng, "activate", shape, dtype)
    y = within(np.full(shape, np.nan, dtype), margin, 7)
    parallel = x.size >= GRAIN
    _, _, y, _ = check_kernel("elementwise", "activate", x, activation, y, margin[0], parallel=parallel)
    assert (np.delete(y, np.s_[margin[0] : y.shape[1] - margin[1]], axis=1) == 7).all()


@each_activation
@each_window
def test_activate_backward_matches_reference_from_its_columns_only(check_kernel, rng, dtype, activation, window):
    shape, margin = window
    dy, y = rng.standard_normal(shape).astype(dtype), sample(rng, "activate", shape, dtype)
    wide_dy, wide_y = within(dy, margin, np.nan), within(y, margin, np.nan)
    arguments = wide_dy, wide_y, margin[0], activation, np.full(shape, np.inf, dtype)
    check_kernel("elementwise", "activate_backward", *arguments, parallel=wide_dy.size >= GRAIN)


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_activate_has_the_bits_of_the_function_alone(rng, dtype, name):
    for shape in OF_ONE_THREAD:
        x, dy = sample(rng, name, shape, dtype), rng.standard_normal(shape).astype(dtype)
        y, expected, dx, expected_dx = (np.empty_like(x) for _ in range(4))
        elementwise.activate(x, ACTIVATIONS[name], y, 0)
        getattr(elementwise, f"{name}_forward")(x.reshape(-1), expected.reshape(-1))
        assert y.tobytes() == expected.tobytes()
        elementwise.activate_backward(dy, y, 0, ACTIVATIONS[name], dx)
        getattr(elementwise, f"{name}_backward")(dy.reshape(-1), y.reshape(-1), expected_dx.reshape(-1))
        assert dx.tobytes() == expected_dx.tobytes()


@each_activation
def test_activate_special_values(dtype, activation):
    x, y, expected = specials(dtype)[np.newaxis], np.empty((1, 27), dtype), np.empty((1, 27), dtype)
    elementwise.activate(x, activation, y, 0)
    reference.elementwise.activate(x, activation, expected, 0)
    assert ulps_apart(y, expected) <= ULPS
    dy, saved = (a.reshape(1, -1).copy() for a in np.meshgrid(specials(dtype), y))
    dx, expected = np.empty_like(dy), np.empty_like(dy)
    elementwise.activate_backward(dy, saved, 0, activation, dx)
    reference.elementwise.activate_backward(dy, saved, 0, activation, expected)
    assert ulps_apart(dx, expected) <= ULPS


@pytest.mark.parametrize(("size", "parallel"), [(GRAIN - 1, False), (GRAIN, True)])
def test_large_work_runs_in_parallel(size, parallel):
    x = np.ones(size, np.float32)
    for kernel, arguments in (
        (elementwise.exp_forward, (x, x)),
        (elementwise.exp_backward, (x, x, x)),
        (elementwise.power_forward, (x, 2.0, x)),
        (elementwise.add_forward, (x[:1], x, x, (1, 1, 1, 1, 1, size), (0,) * 6, (0, 0, 0, 0, 0, 1))),
    ):
        assert isinstance(kernel.resolve(*arguments)[0], Variants) is parallel


INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
each_comparison = pytest.mark.parametrize("name", ["equal", "not_equal", "less", "less_equal"])


@each_comparison
@pytest.mark.parametrize("kind", ["float32", "int64"])
@pytest.mark.parametrize("n", [1, 17, *on_cpu(BLOCK + 1, GRAIN + 1), *on_cuda(0, 255, 256, 257, 1000)])
def test_comparisons_match_reference(check_kernel, rng, name, kind, n):
    a, b = rng.integers(-2, 3, (2, n)).astype(kind)
    if kind == "float32":
        a[::5] = b[::7] = np.nan
    for x, y in ((a, b), (a, b[:1]), (a[:1], b)) if n else ((a, b),):
        layout = broadcast_layout(x.shape, y.shape)[1:]
        check_kernel("elementwise", name, x, y, np.empty(n, bool), *layout, parallel=n >= GRAIN)


@each_comparison
@pytest.mark.parametrize("kind", ["float32", "int64", *on_cuda("bool", *INTEGERS, "uint64", "float64")])
def test_comparisons_broadcast(check_kernel, rng, name, kind):
    a, b = rng.integers(-2, 3, (2, 3, 1, 5)).astype(kind)
    if a.dtype.kind == "f":
        a[1], b[:, :, 1] = np.nan, np.inf
    for other in (b, b[:1], b[:, :, :1], b[0, 0], b[:1, :, :1]):
        other = np.ascontiguousarray(other)
        for x, y in ((a, other), (other, a)):
            layout = broadcast_layout(x.shape, y.shape)[1:]
            check_kernel("elementwise", name, x.ravel(), y.ravel(), np.zeros(a.size, bool), *layout)


@each_comparison
@pytest.mark.parametrize("top", [2**62, *on_cuda(2**63)])
def test_comparisons_tell_large_integers_apart(check_kernel, name, top):
    a, b = np.array([[top, top + 1, top], [top + 1, top, top]])
    check_kernel("elementwise", name, a, b, np.zeros(3, bool), *broadcast_layout((3,), (3,))[1:])
