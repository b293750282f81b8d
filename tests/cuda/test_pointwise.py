import numpy as np
import pytest

from minigrad.kernels.axes import broadcast_layouts, flat_layout
from minigrad.kernels.cuda import pointwise
from minigrad.kernels.cuda.tools import launch, machine_code
from minigrad.kernels.expressions import gradient, sigmoid, trace, where
from minigrad.ops.table import TABLE

SILU = trace(lambda x: x * sigmoid(x))
SIZES = (0, 1, 3, 4, 5, 255, 256, 257, 1023, 1024, 1031)


@pytest.mark.parametrize("n", SIZES)
def test_sizes_around_vectors_and_blocks(check_kernel, rng, dtype, n):
    x, dy = rng.standard_normal((2, n)).astype(dtype)
    shape, strides = flat_layout(n)
    check_kernel("pointwise", "evaluate", SILU, [x], [np.empty_like(x)], shape, (strides,))
    check_kernel("pointwise", "evaluate", gradient(SILU, (0,)), [dy, x], [np.empty_like(x)], shape, (strides, strides))


@pytest.mark.parametrize("start", [1, 2, 4])
def test_arrays_that_do_not_begin_at_16_bytes(memory, rng, dtype, start):
    x = rng.standard_normal(29).astype(dtype)
    given, y = memory.put(x).part(start, 29), memory.put(np.full(29, 7, dtype))
    shape, strides = flat_layout(29 - start)
    pointwise.evaluate(trace(lambda x: x + 1), [given], [y.part(0, 29 - start)], shape, (strides,))
    np.testing.assert_array_equal(memory.get(y)[: 29 - start], x[start:] + 1)
    assert (memory.get(y)[29 - start :] == 7).all()


def test_bools_are_read_one_by_one_and_words_in_vectors():
    def choose(condition: bool, a, b):
        return where(condition, a, b)

    formula = trace(choose)
    one = pointwise.text_of_kernel(formula, ("Bytes", "Words4", "Words4", "Words4"), 1, (True, True, True))
    assert "load4" not in one
    four = pointwise.text_of_kernel(trace(lambda a, b: a + b), ("Reals",) * 3, 1, (True, False))
    assert "load4(x0, i)" in four
    assert "x1[uint32(0)]" in four


def test_written_kernels_are_in_no_table_of_kernels():
    before = list(launch.kernels)
    pointwise.written_kernel(trace(lambda x: x * 3.25), ("Reals", "Reals"), 1, (True,))
    assert launch.kernels == before
    listed = [kernel for kernel, _ in machine_code.cases().values() if kernel.function.__module__ == pointwise.__name__]
    assert len(listed) == 6  # three kernels of two types


def kernels_of(op):
    """The kernels of an op's formula and gradient, of arrays that lie alike and broadcast."""
    wanted = tuple([i for i, kind in enumerate(op.traced.kinds) if kind == "float"])
    formulas = [op.traced] if op.is_condition else [op.traced, gradient(op.traced, wanted, op.partials)]
    for formula in formulas:
        kinds = ["Bytes" if kind == "bool" else "Reals" for kind in formula.kinds]
        kinds += ["Bytes" if formula.kind(i) == "bool" else "Reals" for i in formula.outputs]
        yield pointwise.written_kernel(formula, tuple(kinds), 1, (True,) * len(formula.kinds))
        yield pointwise.written_kernel(formula, tuple(kinds), 3, None)


@pytest.mark.parametrize("name", [n if n == "gelu_erf" else pytest.param(n, marks=pytest.mark.slow) for n in TABLE])
def test_every_formula_of_the_table_compiles_in_its_own_precision(name):
    for kernel in kernels_of(TABLE[name]):
        for real in kernel.types:
            ptx, _ = launch.compile_ptx(kernel, real)
            if real == launch.FLOAT32 and name not in (
                "sin",
                "cos",
                "tan",
                "tensor_power",
            ):  # CUDA's own go over float64
                assert ".f64" not in ptx, name


def test_broadcast_inputs_are_walked(check_kernel, rng, dtype):
    inputs = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 1, 4), (2, 1), (1,))]
    shape, merged, strides = broadcast_layouts(*[x.shape for x in inputs])
    formula = trace(lambda a, b, c: a * b - c)
    y = np.empty(np.prod(shape), dtype)
    check_kernel("pointwise", "evaluate", formula, [x.ravel() for x in inputs], [y], merged, strides)
