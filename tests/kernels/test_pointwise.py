"""Kernels of formulas against the reference: every operation, layouts, sizes, dtypes, several results."""

import pickle
import re

import numpy as np
import pytest
from targets import on_cpu, on_cuda, slow

from minigrad.kernels.axes import broadcast_layouts
from minigrad.kernels.cpu import pointwise
from minigrad.kernels.cpu.tools.launch import GRAIN
from minigrad.kernels.cpu.vector.code import REGISTER_BITS
from minigrad.kernels.expressions import (
    OPERATIONS,
    Formula,
    erf,
    exp,
    expm1,
    gradient,
    log1p,
    maximum,
    minimum,
    sigmoid,
    tanh,
    trace,
    where,
)

BLOCK = pointwise.BLOCK
SIZES = [1, 3, 17, *on_cpu(BLOCK - 1, BLOCK + 1, GRAIN, 3 * GRAIN + 17), *on_cuda(257, 1026)]
CHAIN = trace(lambda a, x, b: a * x * tanh(b + x))
OF_ONE = [name for name, operation in OPERATIONS.items() if operation.code.count("{") == 1 and name != "not"]
OF_TWO = ["add", "sub", "mul", "div", "minimum", "maximum", "power", "less", "less_equal", "equal", "not_equal"]


def formula_of(operation, count):
    """The formula of a single operation."""
    kind = OPERATIONS[operation].kind
    return Formula(
        [f"x{i}" for i in range(count)], ["float"] * count, [(operation, tuple(range(count)))], [count]
    ), kind


def check(check_kernel, formula, *inputs, ulps=8, **options):
    """Run a formula on a target and hold it against the reference."""
    shape, merged, strides = broadcast_layouts(*[x.shape for x in inputs])
    data = next((x for x, kind in zip(inputs, formula.kinds, strict=True) if kind == "float"), inputs[0])
    size = int(np.prod(shape))
    outputs = [np.zeros(size, bool if formula.kind(i) == "bool" else data.dtype) for i in formula.outputs]
    flat = [x.ravel() for x in inputs]
    options = {"parallel": size >= GRAIN, **options}
    return check_kernel("pointwise", "evaluate", formula, flat, outputs, merged, strides, ulps=ulps, **options)[2]


def sample(operation, rng, size, dtype):
    """Numbers of the operation's domain."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-2, 2, size)
    if operation in ("log", "sqrt", "power"):
        x = np.abs(x) + 0.01
    return x.astype(dtype)


@pytest.mark.parametrize("operation", OF_ONE)
def test_operation_of_one_number(check_kernel, rng, dtype, operation):
    formula, _ = formula_of(operation, 1)
    check(check_kernel, formula, sample(operation, rng, 301, dtype))


@pytest.mark.parametrize("operation", OF_TWO)
def test_operation_of_two_numbers(check_kernel, rng, dtype, operation):
    formula, _ = formula_of(operation, 2)
    a, b = sample(operation, rng, 301, dtype), sample("", rng, 301, dtype)
    b[::3] = a[::3]
    if operation == "power":
        b = np.clip(b, -3, 3)
        b[1::5] = 2
    check(check_kernel, formula, a, b)


SPECIAL = np.array([0.0, -0.0, 1, -1, 2, -2, 0.5, np.inf, -np.inf, np.nan, 1e30, -1e30])


@pytest.mark.parametrize("operation", [name for name in (*OF_ONE, *OF_TWO) if name not in ("sin", "cos")])
def test_infinities_and_nan(check_kernel, dtype, operation):
    count = 2 if operation in OF_TWO else 1
    formula, _ = formula_of(operation, count)
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1).astype(dtype)
    with np.errstate(all="ignore"):
        y = check(check_kernel, formula, *pairs[:count])[0]
    if operation in ("exp", "tanh", "erf", "sigmoid", "add", "minimum", "maximum", "abs", "sign"):
        np.testing.assert_array_equal(np.isnan(pairs[:count]).any(0) | (operation == "add") & np.isnan(y), np.isnan(y))


@pytest.mark.parametrize("size", SIZES)
def test_sizes(check_kernel, rng, dtype, size):
    x, b = rng.standard_normal((2, size)).astype(dtype)
    a = np.array(0.7, dtype)
    check(check_kernel, CHAIN, a, x, b)
    check(check_kernel, gradient(CHAIN, (0, 1, 2)), x[::-1].copy(), a, x, b)


@pytest.mark.parametrize(
    "shapes",
    [
        ((5, 1), (5, 7), (7,)),
        ((3, 1, 4), (1, 5, 1), (3, 5, 4)),
        ((2, 1, 3, 1), (1, 2, 1, 2), (2, 2, 3, 2)),
        ((2, 1, 2, 1, 2, 1), (1, 2, 1, 2, 1, 2), (2, 2, 2, 2, 2, 2)),
        ((1,), (9, 1), ()),
        *on_cpu(((300, 1), (300, 200), (200,)), ((3, 1), (3, 2 * BLOCK + 5), (1,))),
    ],
)
def test_broadcasting(check_kernel, rng, dtype, shapes):
    inputs = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    check(check_kernel, CHAIN, *inputs)


def test_four_inputs_and_four_results(check_kernel, rng, dtype):
    formula = trace(lambda a, b, c, d: a * b + c * d * tanh(a + d))
    inputs = rng.standard_normal((5, 1000)).astype(dtype)
    assert len(check(check_kernel, gradient(formula, (0, 1, 2, 3)), *inputs)) == 4


@pytest.mark.parametrize("kind", ["float32", "int64", "bool", *slow("float64", "int32", "int16", "uint8")])
def test_choice_of_any_dtype(check_kernel, rng, kind):
    def choose(condition: bool, a, b):
        return where(condition, a, b)

    a, b = (rng.standard_normal((2, 5, 7)) * 50).astype(np.int64).astype(kind)
    check(check_kernel, trace(choose), rng.random((5, 7)) < 0.5, a, b)
    check(check_kernel, trace(choose), rng.random(7) < 0.5, a, b[:1])


def test_conditions(check_kernel, rng, dtype):
    def three(a: bool, b: bool):
        return (a & ~b) | (~a & b)

    a, b = rng.random((2, 100)) < 0.5
    y = check(check_kernel, trace(three), a, b)[0]
    np.testing.assert_array_equal(y, a ^ b)
    x = rng.standard_normal(100).astype(dtype)
    check(check_kernel, trace(lambda x: (x > 0) | (x < -1)), x)
    check(check_kernel, trace(lambda x: (x > 0) * x + (x < -1)), x)


def test_all_functions_in_one_formula(check_kernel, rng, dtype):
    formula = trace(
        lambda x, y: minimum(exp(x), 3) - maximum(erf(y), x) + log1p(sigmoid(x * y)) / expm1(abs(y) + 1) - x**3 + 2**y
    )
    x, y = rng.standard_normal((2, 333)).astype(dtype)
    check(check_kernel, formula, x, y, ulps=16)
    check(check_kernel, gradient(formula, (0, 1)), x, x, y, ulps=16)


@pytest.mark.cpu
def test_kernel_is_found_again_by_another_process():
    kernel = pointwise.kernel_for(CHAIN, 1, (True, True, False))
    assert pickle.loads(pickle.dumps(kernel)) is kernel


@pytest.mark.cpu
def test_equal_formulas_share_a_kernel():
    other = trace(lambda u, v, w: u * v * tanh(w + v))
    assert pointwise.kernel_for(other, 1, (True,) * 3) is pointwise.kernel_for(CHAIN, 1, (True,) * 3)
    assert pointwise.kernel_for(other, 2, (True,) * 3).__name__ != pointwise.kernel_for(CHAIN, 1, (True,) * 3).__name__


@pytest.mark.cpu
def test_loops_over_many_arrays_are_vector_code(own_cache):
    formula = gradient(trace(lambda a, b, c, d: a * b + c * d * tanh(a + d)), (0, 1, 2, 3))
    kernel = pointwise.WrittenKernel(formula, 1, (True,) * 5)
    kernel.serial(*[np.ones(64, np.float32) for _ in range(9)])
    (compiled,) = kernel.serial.overloads.values()
    text = str(compiled.library._final_module)
    assert len(re.findall(rf"fmul <{REGISTER_BITS // 32} x float>", text)) >= 10
