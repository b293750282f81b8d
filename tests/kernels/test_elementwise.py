import numpy as np
import pytest

from minigrad.kernels import reference
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.axes import broadcast_layout
from minigrad.kernels.cpu import elementwise
from minigrad.kernels.cpu.tools import threads
from minigrad.kernels.cpu.tools.launch import GRAIN, Variants

BLOCK = elementwise.BLOCK
SIZES = (1, 3, 15, 16, 17, 100, BLOCK - 1, BLOCK, BLOCK + 1, GRAIN - 1, GRAIN, GRAIN + 1, 3 * GRAIN + 17)
UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "relu")
BINARY = ("add", "sub", "mul", "div")
EXACT = {"sqrt_forward": 0, "relu_forward": 0, "relu_backward": 0, "exp_backward": 0, "log_backward": 0}
ULPS = 4
GUARD = 32
SENTINEL = 12345


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


def run(name, *inputs, dtype, size, extra=()):
    """The kernel's result in a guarded array, on one thread and on all; fails if they differ."""
    results = []
    for count in {1, threads.available_threads()}:
        threads.set_num_threads(count)
        memory = np.full(size + 2 * GUARD, SENTINEL, dtype)
        y = memory[GUARD : GUARD + size]
        y[:] = np.nan
        getattr(elementwise, name)(*inputs, y, *extra)
        assert (memory[:GUARD] == SENTINEL).all()
        assert (memory[GUARD + size :] == SENTINEL).all()
        results.append(y)
    assert results[0].tobytes() == results[-1].tobytes()
    return results[0]


def run_reference(name, *inputs, dtype, size, extra=()):
    y = np.empty(size, dtype)
    getattr(reference.elementwise, name)(*inputs, y, *extra)
    return y


def check(name, *inputs, dtype, size, extra=(), ulps=None):
    given = [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]
    actual = run(name, *given, dtype=dtype, size=size, extra=extra)
    expected = run_reference(name, *inputs, dtype=dtype, size=size, extra=extra)
    assert ulps_apart(actual, expected) <= (EXACT.get(name, ULPS) if ulps is None else ulps)
    for x, before in zip(given, inputs, strict=True):
        np.testing.assert_array_equal(x, before)


def sample(rng, name, size, dtype):
    """Inputs from all of a function's domain."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)
    return (np.abs(x) + 1e-30 if name in ("log", "sqrt", "power") else x).astype(dtype)


@pytest.mark.parametrize("name", UNARY)
def test_forward_matches_reference(set_threads, rng, dtype, name):
    for size in SIZES:
        check(f"{name}_forward", sample(rng, name, size, dtype), dtype=dtype, size=size)


@pytest.mark.parametrize("name", [name for name in UNARY if name != "tanh"])
def test_backward_matches_reference(set_threads, rng, dtype, name):
    for size in SIZES:
        dy, x = rng.standard_normal(size).astype(dtype), sample(rng, name, size, dtype)
        saved = x if name == "log" else run_reference(f"{name}_forward", x, dtype=dtype, size=size)
        check(f"{name}_backward", dy, saved, dtype=dtype, size=size)


def test_backward_of_tanh_loses_nothing_near_one(set_threads, rng, dtype):
    for size in SIZES:
        dy = rng.standard_normal(size).astype(dtype)
        y = np.tanh(sample(rng, "tanh", size, dtype))
        dx = run("tanh_backward", dy, y, dtype=dtype, size=size)
        wide = y.astype(np.longdouble)
        assert ulps_apart(dx, (dy * (1 - wide) * (1 + wide)).astype(dtype)) <= ULPS


def specials(dtype):
    info = np.finfo(dtype)
    positive = [0, info.smallest_subnormal, info.tiny, 1e-4, 0.5, 1, 2, 20, 89, 1000, 1e4, info.max, np.inf]
    return np.array([*positive, *(-x for x in map(dtype.type, positive)), np.nan], dtype)


@pytest.mark.parametrize("name", UNARY)
def test_special_values_match_reference(set_threads, dtype, name):
    x = specials(dtype)
    check(f"{name}_forward", x, dtype=dtype, size=x.size)
    saved = x if name == "log" else run_reference(f"{name}_forward", x, dtype=dtype, size=x.size)
    dy, saved = (a.ravel().copy() for a in np.meshgrid(x, saved))
    check(f"{name}_backward", dy, saved, dtype=dtype, size=dy.size)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "relu"])
def test_signed_zeros(dtype, name):
    y = np.empty(2, dtype)
    getattr(elementwise, f"{name}_forward")(np.array([0.0, -0.0], dtype), y)
    expected = {"exp": [1, 1], "tanh": [0.0, -0.0], "sigmoid": [0.5, 0.5], "relu": [0.0, 0.0]}[name]
    np.testing.assert_array_equal(y, expected)
    if name == "tanh":
        np.testing.assert_array_equal(np.signbit(y), [False, True])


def test_sigmoid_ends_exactly_at_0_and_1(dtype):
    y = np.empty(2, dtype)
    elementwise.sigmoid_forward(np.array([-1000, 1000], dtype), y)
    np.testing.assert_array_equal(y, [0, 1])


def test_gradient_of_relu_at_zero_is_zero(dtype):
    dx = np.empty(3, dtype)
    elementwise.relu_backward(np.full(3, 7, dtype), np.array([0, 1, np.nan], dtype), dx)
    np.testing.assert_array_equal(dx, [0, 7, 7])


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 2.5, -0.5])
def test_power_matches_reference(set_threads, rng, dtype, p):
    for size in (1, 17, BLOCK + 1, GRAIN + 1):
        x, dy = sample(rng, "power", size, dtype), rng.standard_normal(size).astype(dtype)
        check("power_forward", x, p, dtype=dtype, size=size)
        check("power_backward", dy, x, p, dtype=dtype, size=size)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_power_of_special_values(set_threads, dtype, p):
    x = specials(dtype)
    check("power_forward", x, p, dtype=dtype, size=x.size)
    dy, base = (a.ravel().copy() for a in np.meshgrid(x, x))
    if p == 2:  # the kernel doubles before it multiplies: another order at the edge of overflow
        keep = ~(np.isfinite(dy) & np.isfinite(base)) | (np.abs(dy) <= 1e4) & (np.abs(base) <= 1e4)
        dy, base = dy[keep], base[keep]
    check("power_backward", dy, base, p, dtype=dtype, size=dy.size)


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
    ((1000, 3), (1000, 1)),
    ((5, BLOCK + 3), (BLOCK + 3,)),
    ((3, 2 * BLOCK), (3, 1)),
    ((BLOCK + 1, 2), (2,)),
    ((300, 200), (300, 200)),
    ((300, 200), (200,)),
    ((300, 200), (300, 1)),
    ((300, 200), ()),
    ((), (300, 200)),
    ((40, 1, 50), (30, 1)),
]


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_broadcasting_matches_reference_exactly(set_threads, rng, dtype, name, a_shape, b_shape):
    a, b = (
        rng.standard_normal(a_shape).astype(dtype).reshape(-1),
        rng.standard_normal(b_shape).astype(dtype).reshape(-1),
    )
    shape, *layout = broadcast_layout(a_shape, b_shape)
    check(f"{name}_forward", a, b, dtype=dtype, size=int(np.prod(shape)), extra=layout, ulps=0)


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES, ids=str)
def test_broadcasting_is_numpys(rng, a_shape, b_shape):
    a, b = rng.standard_normal(a_shape), rng.standard_normal(b_shape)
    shape, *layout = broadcast_layout(a_shape, b_shape)
    y = np.empty(shape)
    elementwise.sub_forward(a.reshape(-1), b.reshape(-1), y.reshape(-1), *layout)
    np.testing.assert_array_equal(y, a - b)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("size", [100, GRAIN])
def test_one_number_for_a_whole_axis(set_threads, dtype, name, size):
    layout = (1, 1, 1, 1, 2, size // 2), (0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 0)
    check(
        f"{name}_forward", np.array([6, 8], dtype), np.array([2], dtype), dtype=dtype, size=size, extra=layout, ulps=0
    )


@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_of_special_values(set_threads, dtype, name):
    x = specials(dtype)
    _, *layout = broadcast_layout((x.size, 1), (x.size,))
    check(f"{name}_forward", x, x, dtype=dtype, size=x.size**2, extra=layout, ulps=0)


# activate: rows of x, in columns of a wider y

ACTIVATIONS = {"identity": IDENTITY, "relu": RELU, "sigmoid": SIGMOID}
ROWS_AND_COLUMNS = [(1, 1), (3, 7), (1000, 8), (61, 17), (5, 100), (257, 48), (3, BLOCK + 1), (GRAIN // 8 + 1, 8)]
MARGINS = [(0, 0), (1, 0), (16, 5), (0, 33)]  # columns of y and dy before those that are meant, and after them

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
each_margin = pytest.mark.parametrize("margin", MARGINS, ids=str)


def within(array, margin, value):
    """The array with columns of `value` before and after it."""
    return np.pad(array, ((0, 0), margin), constant_values=value)


def columns(array, margin):
    return array[:, margin[0] : array.shape[1] - margin[1]]


@each_activation
@each_margin
def test_activate_matches_reference_and_writes_its_columns_only(check_kernel, rng, dtype, activation, margin):
    for shape in ROWS_AND_COLUMNS:
        x = sample(rng, "activate", shape, dtype)
        y = within(np.full(shape, np.nan, dtype), margin, 7)
        parallel = x.size >= GRAIN
        _, _, y, _ = check_kernel("elementwise", "activate", x, activation, y, margin[0], parallel=parallel)
        assert (np.delete(y, np.s_[margin[0] : y.shape[1] - margin[1]], axis=1) == 7).all()


@each_activation
@each_margin
def test_activate_backward_matches_reference_from_its_columns_only(check_kernel, rng, dtype, activation, margin):
    for shape in ROWS_AND_COLUMNS:
        dy, y = rng.standard_normal(shape).astype(dtype), sample(rng, "activate", shape, dtype)
        wide_dy, wide_y = within(dy, margin, np.nan), within(y, margin, np.nan)
        arguments = wide_dy, wide_y, margin[0], activation, np.full(shape, np.inf, dtype)
        parallel = wide_dy.size >= GRAIN
        check_kernel("elementwise", "activate_backward", *arguments, parallel=parallel)


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_activate_has_the_bits_of_the_function_alone(rng, dtype, name):
    for shape in ROWS_AND_COLUMNS:
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


@pytest.mark.parametrize("name", ["equal", "not_equal", "less", "less_equal"])
@pytest.mark.parametrize("kind", ["float32", "int64"])
@pytest.mark.parametrize("n", [1, 17, BLOCK + 1, GRAIN + 1])
def test_comparisons_match_reference(check_kernel, rng, name, kind, n):
    a, b = rng.integers(-2, 3, (2, n)).astype(kind)
    if kind == "float32":
        a[::5] = b[::7] = np.nan
    parallel = n >= GRAIN
    check_kernel("elementwise", name, a, b, np.empty(n, bool), *broadcast_layout((n,), (n,))[1:], parallel=parallel)
    check_kernel("elementwise", name, a, b[:1], np.empty(n, bool), *broadcast_layout((n,), (1,))[1:], parallel=parallel)
    check_kernel("elementwise", name, a[:1], b, np.empty(n, bool), *broadcast_layout((1,), (n,))[1:], parallel=parallel)
