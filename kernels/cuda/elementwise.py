"""Functions of one element or of two, and their gradients. Contracts: kernels/reference/elementwise.py.

All of them only move memory: every element is read once and written once, and what counts is that enough bytes are on
their way at any moment. So a thread reads 16 bytes at a time, and several times before it computes anything. Where
arrays are large it takes four such vectors (of one array, or two of each of two); where they are small it takes one,
so that more multiprocessors have something to do. What is left over (up to three elements at the end, or everything
if an array does not begin at 16 bytes) goes one by one.

unary, binary      y = f(x) and y = f(a, b) of arrays that lie alike; gradients are functions of dy and a saved array
broadcast, compare y = f(a, b) of arrays that do not: kernels/cuda/parts/pairs.py
to_columns         activate: as unary, with y's rows farther apart
from_columns       activate_backward: as binary, with the rows of dy and y farther apart
power, power_grad  y = x^p, which takes some hundred instructions and is bound by them
"""

from typing import NamedTuple

from minigrad.kernels import formulas
from minigrad.kernels.activations import IDENTITY, RELU, SIGMOID
from minigrad.kernels.bits import sqrt
from minigrad.kernels.cuda import movement
from minigrad.kernels.cuda.parts.pairs import (
    EQUAL,
    FORMULA,
    LESS,
    LESS_EQUAL,
    NOT_EQUAL,
    broadcast,
    broadcast_plan,
    comparison,
    put_pairs,
    spread,
)
from minigrad.kernels.cuda.parts.units import below
from minigrad.kernels.cuda.parts.walk import divided, reciprocal
from minigrad.kernels.cuda.tools.language import at, cuda, device_function, load4, store4, uint32
from minigrad.kernels.cuda.tools.launch import Real, Reals, UInt, blocks_for, kernel

THREADS = 256
STEP = 4 * THREADS  # elements that a block takes at once, a vector for each thread
SPAN = 4 * STEP  # elements that a block takes in large arrays
LARGE = 1 << 21  # elements from where a thread takes several vectors; reckoned, not measured


@device_function
def put(y, i, u):
    """Write f of four elements to i."""
    store4(y, i, FORMULA(u[0]), FORMULA(u[1]), FORMULA(u[2]), FORMULA(u[3]))


@kernel(threads=THREADS)
def unary(x: Reals, y: Reals, n: UInt, span: UInt, vector_mask: UInt):
    start = uint32(uint32(cuda.blockIdx.x) * span)
    x, y = at(x, start), at(y, start)
    count = min(span, uint32(n - start))
    vectored = uint32(count & vector_mask)
    i = uint32(uint32(cuda.threadIdx.x) * uint32(4))
    if vectored == uint32(SPAN):
        s, t = load4(x, i), load4(x, i + uint32(STEP))
        u, v = load4(x, i + uint32(2 * STEP)), load4(x, i + uint32(3 * STEP))
        put(y, i, s)
        put(y, i + uint32(STEP), t)
        put(y, i + uint32(2 * STEP), u)
        put(y, i + uint32(3 * STEP), v)
    else:
        while i < vectored:
            put(y, i, load4(x, i))
            i = uint32(i + uint32(STEP))
        i = uint32(vectored + uint32(cuda.threadIdx.x))
        while i < count:
            y[i] = FORMULA(x[i])
            i = uint32(i + uint32(THREADS))


@kernel(threads=THREADS)
def binary(a: Reals, b: Reals, y: Reals, n: UInt, span: UInt, vector_mask: UInt):
    start = uint32(uint32(cuda.blockIdx.x) * span)
    a, b, y = at(a, start), at(b, start), at(y, start)
    count = min(span, uint32(n - start))
    vectored = uint32(count & vector_mask)
    i = uint32(uint32(cuda.threadIdx.x) * uint32(4))
    if vectored == uint32(SPAN // 2):
        s, t = load4(a, i), load4(b, i)
        u, v = load4(a, i + uint32(STEP)), load4(b, i + uint32(STEP))
        put_pairs(y, i, s, t)
        put_pairs(y, i + uint32(STEP), u, v)
    else:
        while i < vectored:
            put_pairs(y, i, load4(a, i), load4(b, i))
            i = uint32(i + uint32(STEP))
        i = uint32(vectored + uint32(cuda.threadIdx.x))
        while i < count:
            y[i] = FORMULA(a[i], b[i])
            i = uint32(i + uint32(THREADS))


class Columns(NamedTuple):
    """Columns of a wider matrix: how many, with the reciprocal, of how many, and which is the first; in units of 4 or 1."""

    count: UInt
    multiplier: UInt
    shift: UInt
    width: UInt
    first: UInt


@device_function
def in_wide(i, columns):
    """Where element i of a matrix of so many columns lies in the wider one."""
    row = i if columns.count == uint32(1) else divided(i, columns.multiplier, columns.shift)
    return uint32(i + row * uint32(columns.width - columns.count) + columns.first)


@kernel(threads=THREADS)
def to_columns(x: Reals, y: Reals, n: UInt, in_vectors: UInt, columns: Columns):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(2 * THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        j = below(uint32(i + uint32(THREADS)), n, i)
        p = in_wide(i, columns)
        q = in_wide(j, columns)
        if in_vectors:  # all the numbers count vectors
            s, t = load4(x, uint32(i * uint32(4))), load4(x, uint32(j * uint32(4)))
            put(y, uint32(p * uint32(4)), s)
            put(y, uint32(q * uint32(4)), t)
        else:
            u, v = x[i], x[j]
            y[p] = FORMULA(u)
            y[q] = FORMULA(v)


@kernel(threads=THREADS)
def from_columns(dy: Reals, y: Reals, dx: Reals, n: UInt, in_vectors: UInt, columns: Columns):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(2 * THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        j = below(uint32(i + uint32(THREADS)), n, i)
        p = in_wide(i, columns)
        q = in_wide(j, columns)
        if in_vectors:  # all the numbers count vectors
            p, q = uint32(p * uint32(4)), uint32(q * uint32(4))
            s, t, u, v = load4(dy, p), load4(y, p), load4(dy, q), load4(y, q)
            put_pairs(dx, uint32(i * uint32(4)), s, t)
            put_pairs(dx, uint32(j * uint32(4)), u, v)
        else:
            first, second = FORMULA(dy[p], y[p]), FORMULA(dy[q], y[q])
            dx[i] = first
            dx[j] = second


@kernel(threads=THREADS)
def power(x: Reals, p: Real, y: Reals, n: UInt):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        y[i] = x[i] ** p


@kernel(threads=THREADS)
def power_grad(dy: Reals, x: Reals, p: Real, q: Real, dx: Reals, n: UInt):
    i = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    if i < n:
        dx[i] = dy[i] * p * x[i] ** q


# What the kernels compute


@device_function
def add(a, b):
    return a + b


@device_function
def sub(a, b):
    return a - b


@device_function
def mul(a, b):
    return a * b


@device_function
def div(a, b):
    return a / b


@device_function
def same(x):
    return x


@device_function
def same_grad(dy, y):
    return dy


@device_function
def square(x):
    return x * x


@device_function
def square_grad(dy, x):
    return dy * (x + x)


UNARY = {
    name: unary.variant(FORMULA=formula)
    for name, formula in {
        "exp": formulas.exp,
        "log": formulas.log,
        "sqrt": sqrt,
        "tanh": formulas.tanh,
        "sigmoid": formulas.sigmoid,
        "relu": formulas.relu,
        "square": square,
    }.items()
}
GRADIENTS = {
    name: binary.variant(FORMULA=formula)
    for name, formula in {
        "exp": formulas.exp_grad,
        "log": formulas.log_grad,
        "sqrt": formulas.sqrt_grad,
        "tanh": formulas.tanh_grad,
        "sigmoid": formulas.sigmoid_grad,
        "relu": formulas.relu_grad,
        "square": square_grad,
    }.items()
}
ARITHMETIC = {f: (binary.variant(FORMULA=f), broadcast.variant(FORMULA=f)) for f in (add, sub, mul, div)}
TO_COLUMNS = {
    number: to_columns.variant(FORMULA=formula)
    for number, formula in {IDENTITY: same, RELU: formulas.relu, SIGMOID: formulas.sigmoid}.items()
}
FROM_COLUMNS = {
    number: from_columns.variant(FORMULA=formula)
    for number, formula in {IDENTITY: same_grad, RELU: formulas.relu_grad, SIGMOID: formulas.sigmoid_grad}.items()
}


def vector_mask(*arrays):
    """What leaves of a number of elements those that whole vectors hold: none if an array does not begin at 16 bytes."""
    return 0 if any(array.pointer % 16 for array in arrays) else 0xFFFFFFFC


def map_one(kernel, x, y):
    """y = f(x)."""
    if y.size:
        span = SPAN if y.size >= LARGE else STEP
        kernel[blocks_for(y.size, span), THREADS](x, y, y.size, span, vector_mask(x, y))


def map_two(kernel, a, b, y):
    """y = f(a, b) of arrays of one size."""
    if y.size:
        span = SPAN // 2 if y.size >= LARGE else STEP
        kernel[blocks_for(y.size, span), THREADS](a, b, y, y.size, span, vector_mask(a, b, y))


def arithmetic(formula, a, b, y, shape, a_strides, b_strides):
    """y = formula(a, b) through layouts."""
    if not y.size:
        return
    of_alike, of_others = ARITHMETIC[formula]
    plan = broadcast_plan(shape, a_strides, b_strides, vector_mask(a, b, y) != 0)
    if plan is None:
        map_two(of_alike, a, b, y)
    else:
        spread(of_others, plan, a, b, y)


def columns_plan(small, column, *wide):
    """(units, whether they are vectors, Columns), all in units of 4 or 1."""
    m, columns = small.shape
    width = wide[0].shape[1]
    in_vectors = (columns | width | column) % 4 == 0 and vector_mask(small, *wide) != 0
    unit = 4 if in_vectors else 1
    columns, width, column = columns // unit, width // unit, column // unit
    return m * columns, in_vectors, Columns(columns, *reciprocal(columns), width, column)


def add_forward(a, b, y, shape, a_strides, b_strides):
    arithmetic(add, a, b, y, shape, a_strides, b_strides)


def sub_forward(a, b, y, shape, a_strides, b_strides):
    arithmetic(sub, a, b, y, shape, a_strides, b_strides)


def mul_forward(a, b, y, shape, a_strides, b_strides):
    arithmetic(mul, a, b, y, shape, a_strides, b_strides)


def div_forward(a, b, y, shape, a_strides, b_strides):
    arithmetic(div, a, b, y, shape, a_strides, b_strides)


def equal(a, b, y, shape, a_strides, b_strides):
    comparison(EQUAL, a, b, y, shape, a_strides, b_strides)


def not_equal(a, b, y, shape, a_strides, b_strides):
    comparison(NOT_EQUAL, a, b, y, shape, a_strides, b_strides)


def less(a, b, y, shape, a_strides, b_strides):
    comparison(LESS, a, b, y, shape, a_strides, b_strides)


def less_equal(a, b, y, shape, a_strides, b_strides):
    comparison(LESS_EQUAL, a, b, y, shape, a_strides, b_strides)


def exp_forward(x, y):
    map_one(UNARY["exp"], x, y)


def exp_backward(dy, y, dx):
    map_two(GRADIENTS["exp"], dy, y, dx)


def log_forward(x, y):
    map_one(UNARY["log"], x, y)


def log_backward(dy, x, dx):
    map_two(GRADIENTS["log"], dy, x, dx)


def sqrt_forward(x, y):
    map_one(UNARY["sqrt"], x, y)


def sqrt_backward(dy, y, dx):
    map_two(GRADIENTS["sqrt"], dy, y, dx)


def tanh_forward(x, y):
    map_one(UNARY["tanh"], x, y)


def tanh_backward(dy, y, dx):
    map_two(GRADIENTS["tanh"], dy, y, dx)


def sigmoid_forward(x, y):
    map_one(UNARY["sigmoid"], x, y)


def sigmoid_backward(dy, y, dx):
    map_two(GRADIENTS["sigmoid"], dy, y, dx)


def relu_forward(x, y):
    map_one(UNARY["relu"], x, y)


def relu_backward(dy, y, dx):
    map_two(GRADIENTS["relu"], dy, y, dx)


def activate(x, activation, y, column):
    if x.size:
        n, *plan = columns_plan(x, column, y)
        TO_COLUMNS[activation][blocks_for(n, 2 * THREADS), THREADS](x, y, n, *plan)


def activate_backward(dy, y, column, activation, dx):
    if dx.size:
        n, *plan = columns_plan(dx, column, dy, y)
        FROM_COLUMNS[activation][blocks_for(n, 2 * THREADS), THREADS](dy, y, dx, n, *plan)


def power_forward(x, p, y):
    if p == 2:
        map_one(UNARY["square"], x, y)
    elif y.size:
        power[blocks_for(y.size, THREADS), THREADS](x, p, y, y.size)


def power_backward(dy, x, p, dx):
    if p == 0:
        movement.fill(0.0, dx)
    elif p == 2:
        map_two(GRADIENTS["square"], dy, x, dx)
    elif dx.size:
        power_grad[blocks_for(dx.size, THREADS), THREADS](dy, x, p, p - 1, dx, dx.size)
