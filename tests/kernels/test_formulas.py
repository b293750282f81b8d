import functools
import math
import os
import platform
import re
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import config, njit
from numba.core.errors import TypingError
from scipy import special

from minigrad.kernels import formulas
from minigrad.kernels.cpu.tools.pipeline import KernelCompiler

DTYPES = (np.float32, np.float64)
LIMITS = {  # ulp, as the docstrings state them
    **{"exp": 1.0, "log": 0.9, "tanh": 2.2, "sigmoid": 2.5},
    **{"expm1": 1.8, "log1p": 1.6, "erf": 2.9},
}
IN_LONGDOUBLE = [name for name in LIMITS if name != "erf"]  # which NumPy lacks
GRADIENTS = ("exp_grad", "log_grad", "sqrt_grad", "tanh_grad", "sigmoid_grad", "relu_grad")
ALL = (*LIMITS, "relu", "sign", *GRADIENTS)
HAS_WIDE_LONGDOUBLE = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
CONTRACTION = frozenset({"contract"})
SUMS = frozenset({"contract", "reassoc", "nsz"})


def compiled(flags):
    """As kernels are."""
    return njit(pipeline_class=KernelCompiler, fastmath=set(flags))


@functools.cache
def loop_over(name, flags=CONTRACTION):
    formula = getattr(formulas, name)
    if name in GRADIENTS:

        @compiled(flags)
        def loop(dy, x, y):
            for i in range(x.size):
                y[i] = formula(dy[i], x[i])

    else:

        @compiled(flags)
        def loop(x, y):
            for i in range(x.size):
                y[i] = formula(x[i])

    return loop


def apply(name, *arguments):
    y = np.empty_like(arguments[0])
    loop_over(name)(*arguments, y)
    return y


def inputs(name, x):
    return (x[::-1].copy(), x) if name in GRADIENTS else (x,)


def reference(name, x):
    """NumPy in the precision of x, which is to be wider than the precision tested."""
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            e = np.exp(-np.abs(x))
            return np.where(x < 0, e, 1) / (1 + e)
        if name == "erf":
            return special.erf(x)
        return getattr(np, name)(x)


def errors_in_ulp(y, exact):
    """|y - exact| in distances of floats of y's type; infinite where one is NaN or infinite and the other isn't."""
    limits = np.finfo(y.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(y.dtype)
        exponent = np.frexp(exact)[1] - 1
        ulp = np.ldexp(np.ones_like(exact), np.maximum(exponent, limits.minexp) - limits.nmant)
        errors = np.abs(y.astype(exact.dtype) - exact) / ulp
    same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
    return np.where(np.isfinite(rounded) & np.isfinite(y), errors, np.where(same, 0, np.inf))


def bits(x):
    return x.view(f"u{x.itemsize}")


def samples_of_all_floats(dtype, rng, count):
    """Floats of every size, subnormal numbers, NaN and infinities too, and as many from where the work is done."""
    width = 8 * np.dtype(dtype).itemsize
    patterns = rng.integers(0, 2**width, count, dtype=f"u{width // 8}").view(dtype)
    limits = np.finfo(dtype)
    low, high = math.log(limits.smallest_subnormal) - 2, math.log(limits.max) + 1
    near = [rng.uniform(-5, 5, count // 3), rng.uniform(0.5, 2, count // 3), rng.uniform(low, high, count // 3)]
    return np.concatenate([patterns, *near, [0.0, -0.0, np.inf, -np.inf, np.nan]], dtype=dtype, casting="same_kind")


@pytest.fixture
def rng():
    return np.random.default_rng(20150211)


@pytest.mark.parametrize("name", LIMITS)
def test_float32_error_over_all_sizes(name):
    x = np.arange(0, 2**32, 1021, dtype=np.int64).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    assert errors_in_ulp(apply(name, x), reference(name, wide)).max() <= LIMITS[name]


@pytest.mark.skipif(not HAS_WIDE_LONGDOUBLE, reason="np.longdouble is no wider than float64 here")
@pytest.mark.parametrize("name", IN_LONGDOUBLE)
def test_float64_error_over_all_sizes(name, rng):
    x = samples_of_all_floats(np.float64, rng, 100_000)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.longdouble)
    assert errors_in_ulp(apply(name, x), reference(name, wide)).max() <= LIMITS[name]


def decimal_erf(x):
    """By its power series, which takes more digits than it leaves where x is large."""
    with localcontext(prec=90):
        term, total, n = x, x, 0
        while abs(term) > abs(total) * Decimal(10) ** -40:
            n += 1
            term = -term * x * x / n
            total += term / (2 * n + 1)
        return total * 2 / PI.sqrt()


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")


def decimal_tanh(x):
    e = (-2 * abs(x)).exp()
    return ((1 - e) / (1 + e)).copy_sign(x)


DECIMAL = {
    "exp": Decimal.exp,
    "log": Decimal.ln,
    "tanh": decimal_tanh,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "expm1": lambda x: x.exp() - 1,
    "log1p": lambda x: (1 + x).ln(),
    "erf": decimal_erf,
}


@pytest.mark.parametrize("name", LIMITS)
def test_float64_error_against_decimal_arithmetic(name, rng):
    largest = 7 if name == "erf" else 20
    x = rng.uniform(0.05, largest, 1000) * (1 if name in ("log", "log1p") else rng.choice([-1, 1], 1000))
    y = apply(name, x)
    with localcontext(prec=50):
        errors = [abs(Decimal(float(b)) - DECIMAL[name](Decimal(float(a)))) for a, b in zip(x, y, strict=True)]
    assert np.max(np.array([float(e) for e in errors]) / np.spacing(np.abs(y))) <= LIMITS[name] + 0.01


SPECIAL_VALUES = [
    ("exp", math.nan, math.nan),
    ("exp", math.inf, math.inf),
    ("exp", -math.inf, 0.0),
    ("exp", 0.0, 1.0),
    ("exp", -0.0, 1.0),
    ("exp", 1000.0, math.inf),
    ("exp", -1000.0, 0.0),
    ("log", math.nan, math.nan),
    ("log", math.inf, math.inf),
    ("log", 0.0, -math.inf),
    ("log", -0.0, -math.inf),
    ("log", 1.0, 0.0),
    ("log", -1e-40, math.nan),
    ("log", -1.0, math.nan),
    ("log", -math.inf, math.nan),
    ("tanh", math.nan, math.nan),
    ("tanh", math.inf, 1.0),
    ("tanh", -math.inf, -1.0),
    ("tanh", 0.0, 0.0),
    ("tanh", -0.0, -0.0),
    ("sigmoid", math.nan, math.nan),
    ("sigmoid", math.inf, 1.0),
    ("sigmoid", -math.inf, 0.0),
    ("sigmoid", 1000.0, 1.0),
    ("sigmoid", -1000.0, 0.0),
    ("sigmoid", -0.0, 0.5),
    ("expm1", math.nan, math.nan),
    ("expm1", math.inf, math.inf),
    ("expm1", -math.inf, -1.0),
    ("expm1", 1000.0, math.inf),
    ("expm1", 0.0, 0.0),
    ("expm1", -0.0, -0.0),
    ("log1p", math.nan, math.nan),
    ("log1p", math.inf, math.inf),
    ("log1p", -1.0, -math.inf),
    ("log1p", -2.0, math.nan),
    ("log1p", -math.inf, math.nan),
    ("log1p", 0.0, 0.0),
    ("log1p", -0.0, -0.0),
    ("erf", math.nan, math.nan),
    ("erf", math.inf, 1.0),
    ("erf", -math.inf, -1.0),
    ("erf", 6.0, 1.0),
    ("erf", 0.0, 0.0),
    ("erf", -0.0, -0.0),
    ("sign", math.nan, math.nan),
    ("sign", math.inf, 1.0),
    ("sign", -3.0, -1.0),
    ("sign", 0.0, 0.0),
    ("sign", -0.0, -0.0),
    ("relu", math.nan, math.nan),
    ("relu", math.inf, math.inf),
    ("relu", -math.inf, 0.0),
    ("relu", -0.0, 0.0),
    ("relu", -3.0, 0.0),
    ("relu", 3.0, 3.0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "x", "expected"), SPECIAL_VALUES)
def test_special_value(name, x, expected, dtype):
    for count in (1, 64):  # as the rest of a loop, and in a vector
        y = apply(name, np.full(count, x, dtype))
        np.testing.assert_array_equal(y, dtype(expected))
        assert np.all(np.signbit(y) == np.signbit(expected)) or math.isnan(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_reaches_the_smallest_and_the_largest_float(dtype):
    limits = np.finfo(dtype)
    smallest = np.log(np.longdouble(limits.smallest_subnormal))
    x = np.array([smallest + 0.1, smallest - 1, np.log(limits.max) * (1 - limits.eps)], dtype)
    y = apply("exp", x)
    np.testing.assert_array_equal(y[:2], [limits.smallest_subnormal, 0])
    assert limits.max * 0.999 < y[2] <= limits.max


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_below_zero_is_exp_where_that_is_a_normal_number(dtype, rng):
    smallest = dtype(np.log(np.longdouble(np.finfo(dtype).tiny)) * (1 - 1e-7))
    near = np.linspace(smallest, smallest * dtype(1.001), 1000, dtype=dtype)
    sizes = samples_of_all_floats(dtype, rng, 30_000)
    usual = (-9 * rng.exponential(size=3_000)).astype(dtype)
    x = np.concatenate([-abs(sizes[~np.isnan(sizes)]), usual, near])
    y = apply("exp_below_zero", x)
    normal = x >= smallest
    np.testing.assert_array_equal(bits(y[normal]), bits(apply("exp", x[normal])))
    rest = x < smallest * dtype(1 + 1e-6)
    assert rest.any()
    np.testing.assert_array_equal(y[rest], 0)
    assert np.isnan(apply("exp_below_zero", np.full(64, np.nan, dtype))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_of_powers_of_two(dtype):
    limits = np.finfo(dtype)
    exponents = np.arange(limits.minexp - limits.nmant, limits.maxexp)
    y = apply("log", np.ldexp(dtype(1), exponents))
    np.testing.assert_array_equal(y, (exponents * np.log(np.longdouble(2))).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions_are_odd_to_the_bit(name, dtype, rng):
    x = samples_of_all_floats(dtype, rng, 3000)
    x = x[~np.isnan(x)]
    np.testing.assert_array_equal(bits(apply(name, -x)), bits(-apply(name, x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_of_a_tiny_number_is_that_number(dtype):
    limits = np.finfo(dtype)
    x = np.array([limits.smallest_subnormal, 7 * limits.smallest_subnormal, limits.tiny, limits.eps**2], dtype)
    np.testing.assert_array_equal(apply("tanh", x), x)


@pytest.mark.parametrize(
    ("name", "gradient", "derivative"),
    [
        ("exp", "exp_grad", np.exp),
        ("tanh", "tanh_grad", lambda x: 1 / np.cosh(x) ** 2),
        ("sigmoid", "sigmoid_grad", lambda x: 1 / (4 * np.cosh(x / 2) ** 2)),
        ("relu", "relu_grad", lambda x: np.heaviside(x, 0)),
    ],
)
def test_gradient_from_the_output_is_the_derivative(name, gradient, derivative, rng):
    x, dy = rng.uniform(-3, 3, 1000), rng.standard_normal(1000)
    np.testing.assert_allclose(apply(gradient, dy, apply(name, x)), dy * derivative(x), rtol=1e-13)


def test_sqrt_gradient_from_the_output_is_the_derivative(rng):
    x, dy = rng.uniform(0.1, 9, 1000), rng.standard_normal(1000)
    np.testing.assert_allclose(apply("sqrt_grad", dy, np.sqrt(x)), dy * 0.5 * x**-0.5, rtol=1e-15)


def test_log_gradient_is_the_derivative(rng):
    x, dy = rng.uniform(0.1, 9, 1000), rng.standard_normal(1000)
    np.testing.assert_allclose(apply("log_grad", dy, x), dy / x, rtol=1e-15)


@pytest.mark.parametrize("name", ["log_grad", "sqrt_grad"])
def test_gradient_at_zero_is_infinite_without_an_error(name):
    np.testing.assert_array_equal(apply(name, np.array([1.0, -1.0]), np.zeros(2)), [np.inf, -np.inf])


def test_tanh_gradient_keeps_its_precision_near_one(rng):
    y = rng.uniform(0.999, 1, 1000).astype(np.float32)
    exact = 1 - y.astype(np.float64) ** 2
    np.testing.assert_allclose(apply("tanh_grad", np.ones_like(y), y), exact, rtol=2e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_gradient_is_zero_where_the_output_is(dtype):
    dy = np.array([1.0, 2.0, np.nan, 4.0], dtype)
    np.testing.assert_array_equal(apply("relu_grad", dy, np.array([0.0, 5.0, 0.0, 1e-30], dtype)), [0, 2, 0, 4])


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_passes_nan_of_the_output_on(name):
    dy, y = np.ones(64, np.float32), np.full(64, np.nan, np.float32)
    if name == "relu_grad":
        np.testing.assert_array_equal(apply(name, dy, y), dy)
    else:
        assert np.isnan(apply(name, dy, y)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_compiled_type_is_that_of_the_argument(name, dtype):
    formula = getattr(formulas, name)
    arguments = inputs(name, np.ones(1, dtype))
    call = compiled(CONTRACTION)((lambda dy, x: formula(dy, x)) if name in GRADIENTS else (lambda x: formula(x)))
    call(*(a[0] for a in arguments))
    assert str(call.nopython_signatures[0].return_type) == np.dtype(dtype).name


def test_integers_are_refused_when_compiled():
    with pytest.raises(TypingError, match="expected operands all float32 or all float64, got int64"):
        apply("exp", np.arange(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_bits_do_not_depend_on_the_place_in_the_loop(name, dtype, rng):
    x = samples_of_all_floats(dtype, rng, 300)
    arguments = inputs(name, x)
    one_by_one = np.concatenate([apply(name, *(a[i : i + 1] for a in arguments)) for i in range(x.size)])
    for start, stop in [(0, x.size), (0, 67), (1, 66), (3, 130)]:
        cut = apply(name, *(a[start:stop] for a in arguments))
        expected = one_by_one[start:stop]
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(bits(cut)[numbers], bits(expected)[numbers])
        assert np.isnan(cut[~numbers]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", [frozenset(), SUMS])
@pytest.mark.parametrize("name", LIMITS)
def test_bits_do_not_depend_on_the_flags_of_the_kernel(name, flags, dtype, rng):
    x = rng.uniform(-9, 9, 1003).astype(dtype)
    y = np.empty_like(x)
    loop_over(name, flags)(x, y)
    np.testing.assert_array_equal(y, apply(name, x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_what_is_done_with_the_value(dtype, rng):
    @compiled(CONTRACTION)
    def add_exp(x, total):
        for i in range(x.size):
            total[i] += formulas.exp(x[i])

    x, start = rng.uniform(-9, 9, 1003).astype(dtype), rng.standard_normal(1003).astype(dtype)
    total = start.copy()
    add_exp(x, total)
    np.testing.assert_array_equal(total, start + apply("exp", x))


IN_A_NARROWER_BUILD = """
import sys
import numpy as np
from numba import njit
from minigrad.kernels import formulas
from minigrad.kernels.cpu.tools.pipeline import KernelCompiler

def loop_over(formula):
    @njit(fastmath={"contract"})
    def loop(x, y):
        for i in range(x.size):
            y[i] = formula(x[i])
    return loop

arrays = np.load(sys.argv[1])
results = {}
for name in ("exp", "exp_below_zero", "log", "tanh", "sigmoid", "expm1", "log1p", "erf"):
    loop = loop_over(getattr(formulas, name))
    for x in arrays.values():
        results[f"{name}_{x.dtype}"] = y = np.empty_like(x)
        loop(x, y)
    assert "zmm" not in "".join(loop.inspect_asm().values())
np.savez(sys.argv[2], **results)
"""


def runs_on(*features):
    present = get_host_cpu_features()
    return platform.machine() in ("x86_64", "AMD64") and all(present.get(feature) for feature in features)


@pytest.mark.slow
@pytest.mark.skipif(not runs_on("avx2", "fma"), reason="needs an x86-64 with AVX2 and FMA")
def test_bits_do_not_depend_on_the_vector_width(rng, tmp_path):
    arrays = {np.dtype(dtype).name: samples_of_all_floats(dtype, rng, 30_000) for dtype in DTYPES}
    np.savez(tmp_path / "x.npz", **arrays)
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    command = [sys.executable, "-c", IN_A_NARROWER_BUILD, str(tmp_path / "x.npz"), str(tmp_path / "y.npz")]
    subprocess.run(command, env=environment, check=True, timeout=120)
    with np.load(tmp_path / "y.npz") as narrow:
        for name in (*LIMITS, "exp_below_zero"):
            for dtype, x in arrays.items():
                np.testing.assert_array_equal(narrow[f"{name}_{dtype}"], apply(name, x), err_msg=f"{name} {dtype}")


PACKED = {
    np.float32: re.compile(r"\tv?(fn?m|mul|div|max|min|add|sub|and|blend|cmp)\w*ps\t.*%[xyz]mm"),
    np.float64: re.compile(r"\tv?(fn?m|mul|div|max|min|add|sub|and|blend|cmp)\w*pd\t.*%[xyz]mm"),
}
CONVERSION = re.compile(r"\tv?cvt(ps2pd|pd2ps|ss2sd|sd2ss)")
CALLED = re.compile(r"\t(?:callq?\t|jmp\t|movabsq\t\$)([A-Za-z_]\w*)")
OURS_OR_PYTHONS = re.compile(r"_?Py|NRT_|numba_|mem(set|cpy)|.*loop_over")


@pytest.mark.skipif(not runs_on("fma"), reason="reads x86-64 assembly with FMA")
@pytest.mark.skipif(bool(config.BOUNDSCHECK), reason="bounds checks keep loops from becoming vector code")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_loop_is_vector_code_without_calls(name, dtype):
    loop = loop_over(name)
    apply(name, *inputs(name, np.ones(1, dtype)))
    (signature,) = (s for s in loop.signatures if np.dtype(s[0].dtype.name) == dtype)
    assembly = loop.inspect_asm(signature)
    assert PACKED[dtype].search(assembly)
    assert not CONVERSION.search(assembly)
    assert [symbol for symbol in CALLED.findall(assembly) if not OURS_OR_PYTHONS.match(symbol)] == []


@pytest.mark.parametrize("dtype", [float, *DTYPES])
@pytest.mark.parametrize("name", ALL)
def test_plain_python_call_agrees_with_compiled(name, dtype):
    formula = getattr(formulas, name)
    for x in (0.2, 0.9, 3.7):
        arguments = [dtype(a) for a in ((1.5, x) if name in GRADIENTS else (x,))]
        y = formula(*arguments)
        compiled = apply(name, *(np.array([a]) for a in arguments))[0]
        assert np.result_type(y) == np.dtype(dtype)
        assert y == pytest.approx(compiled, rel=8 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cosine_and_sine_of_turns(dtype):
    @njit
    def loop(v, x, y):
        for i in range(v.size):
            x[i], y[i] = formulas.cos_sin_of_turns(v[i])

    v = (np.arange(0, 2**24 + 1, 37) / 2**24).astype(dtype)
    x, y = np.empty_like(v), np.empty_like(v)
    loop(v, x, y)
    angle = v.astype(np.longdouble) * (2 * np.pi + np.longdouble(2.4492935982947064e-16))  # pi beyond float64
    np.testing.assert_allclose(x, np.cos(angle), rtol=0, atol=2 * np.finfo(dtype).eps)
    np.testing.assert_allclose(y, np.sin(angle), rtol=0, atol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(
        [formulas.cos_sin_of_turns(dtype(t)) for t in (0, 0.25, 0.5, 1)], [(1, 0), (0, 1), (-1, 0), (1, 0)]
    )
