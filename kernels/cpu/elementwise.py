"""Functions of one element or of two, and their gradients. Contracts: kernels/reference/elementwise.py.

Work is cut into blocks of BLOCK elements; within one, LLVM turns the plain loop into vector code.
"""

import numpy as np
from numba import prange

from minigrad.kernels import formulas
from minigrad.kernels.activations import RELU, SIGMOID
from minigrad.kernels.axes import DIMS
from minigrad.kernels.cpu.tools.launch import FLAGS, CpuKernel, inlined, parallel_kernel

BLOCK = 1 << 12  # elements


@inlined
def blocks(x):
    """How many blocks a flat array has."""
    return (x.size + BLOCK - 1) // BLOCK


@inlined
def part(x, block):
    """One block of a flat array."""
    return x[block * BLOCK : (block + 1) * BLOCK]


@inlined
def offset(row, shape, strides):
    """Where row `row` of a layout starts: rows run over all axes but the last, in C order."""
    position = 0
    for axis in range(DIMS - 2, -1, -1):
        position += row % shape[axis] * strides[axis]
        row //= shape[axis]
    return position


def broadcasting(name, formula):
    """A kernel that applies `formula` to a and b, each read through its layout. The last stride is 0 or 1.

    y may be of another type than a and b, which are of one.
    """
    formula = inlined(formula)

    def kernel(a, b, y, shape, a_strides, b_strides):
        n = shape[DIMS - 1]
        pieces = (n + BLOCK - 1) // BLOCK  # of a row, if rows are long
        group = max(1, BLOCK // n)  # rows to a task, if rows are short
        rows = y.size // n
        a_step, b_step = a_strides[DIMS - 1], b_strides[DIMS - 1]
        for task in prange((rows + group - 1) // group * pieces):
            start = task % pieces * BLOCK
            stop = min(n, start + BLOCK)
            first = task // pieces * group
            for row in range(first, min(rows, first + group)):
                v = y[row * n + start : row * n + stop]
                p = offset(row, shape, a_strides) + start * a_step
                q = offset(row, shape, b_strides) + start * b_step
                if a_step == 1 and b_step == 1:
                    s, t = a[p : p + v.size], b[q : q + v.size]
                    for i in range(v.size):
                        v[i] = formula(s[i], t[i])
                elif a_step == 1:
                    s, number = a[p : p + v.size], b[q]
                    for i in range(v.size):
                        v[i] = formula(s[i], number)
                elif b_step == 1:
                    number, t = a[p], b[q : q + v.size]
                    for i in range(v.size):
                        v[i] = formula(number, t[i])
                else:
                    v[:] = formula(a[p], b[q])

    kernel.__name__ = kernel.__qualname__ = name
    return CpuKernel(kernel, FLAGS, sized_by=2)


add_forward = broadcasting("add_forward", lambda a, b: a + b)
sub_forward = broadcasting("sub_forward", lambda a, b: a - b)
mul_forward = broadcasting("mul_forward", lambda a, b: a * b)
div_forward = broadcasting("div_forward", lambda a, b: a / b)
equal = broadcasting("equal", lambda a, b: a == b)
not_equal = broadcasting("not_equal", lambda a, b: a != b)
less = broadcasting("less", lambda a, b: a < b)
less_equal = broadcasting("less_equal", lambda a, b: a <= b)


def unary(name, formula):
    """A kernel that applies `formula` to every element."""

    def kernel(x, y):
        for block in prange(blocks(y)):
            u, v = part(x, block), part(y, block)
            for i in range(v.size):
                v[i] = formula(u[i])

    kernel.__name__ = kernel.__qualname__ = name
    return CpuKernel(kernel, FLAGS, sized_by=-1)


def gradient(name, formula):
    """A kernel that applies `formula` to every dy and result y."""

    def kernel(dy, y, dx):
        for block in prange(blocks(dx)):
            du, u, dv = part(dy, block), part(y, block), part(dx, block)
            for i in range(dv.size):
                dv[i] = formula(du[i], u[i])

    kernel.__name__ = kernel.__qualname__ = name
    return CpuKernel(kernel, FLAGS, sized_by=-1)


exp_forward = unary("exp_forward", formulas.exp)
exp_backward = gradient("exp_backward", formulas.exp_grad)
log_forward = unary("log_forward", formulas.log)
sqrt_forward = unary("sqrt_forward", np.sqrt)
sqrt_backward = gradient("sqrt_backward", formulas.sqrt_grad)
tanh_forward = unary("tanh_forward", formulas.tanh)
tanh_backward = gradient("tanh_backward", formulas.tanh_grad)
sigmoid_forward = unary("sigmoid_forward", formulas.sigmoid)
sigmoid_backward = gradient("sigmoid_backward", formulas.sigmoid_grad)
relu_forward = unary("relu_forward", formulas.relu)
relu_backward = gradient("relu_backward", formulas.relu_grad)


@parallel_kernel()
def log_backward(dy, x, dx):  # of which the gradient takes x, not y
    for block in prange(blocks(dx)):
        du, u, dv = part(dy, block), part(x, block), part(dx, block)
        for i in range(dv.size):
            dv[i] = formulas.log_grad(du[i], u[i])


# Rows of activate and activate_backward are found by unsigned positions in the flat arrays: a slice for each row would
# count references, which costs more than a short row, and a signed position might stand for one from the end.


@parallel_kernel(sized_by=0)
def activate(x, activation, y, column):
    m, c = x.shape
    rows = max(1, BLOCK // c)
    for block in prange((m + rows - 1) // rows):
        u, v = x.reshape(-1), y.reshape(-1)
        for i in range(block * rows, min(m, (block + 1) * rows)):
            p, q, n = np.uintp(i * c), np.uintp(i * y.shape[1] + column), np.uintp(c)
            if activation == RELU:
                for j in range(n):
                    v[q + j] = formulas.relu(u[p + j])
            elif activation == SIGMOID:
                for j in range(n):
                    v[q + j] = formulas.sigmoid(u[p + j])
            else:
                for j in range(n):
                    v[q + j] = u[p + j]


@parallel_kernel(sized_by=0)
def activate_backward(dy, y, column, activation, dx):
    m, c = dx.shape
    rows = max(1, BLOCK // c)
    for block in prange((m + rows - 1) // rows):
        du, u, dv = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)
        for i in range(block * rows, min(m, (block + 1) * rows)):
            p, q, n = np.uintp(i * c), np.uintp(i * dy.shape[1] + column), np.uintp(c)
            if activation == RELU:
                for j in range(n):
                    dv[p + j] = formulas.relu_grad(du[q + j], u[q + j])
            elif activation == SIGMOID:
                for j in range(n):
                    dv[p + j] = formulas.sigmoid_grad(du[q + j], u[q + j])
            else:
                for j in range(n):
                    dv[p + j] = du[q + j]


@parallel_kernel()
def power_forward(x, p, y):
    for block in prange(blocks(y)):
        u, v = part(x, block), part(y, block)
        if p == 2:
            for i in range(v.size):
                v[i] = u[i] * u[i]
        else:
            for i in range(v.size):
                v[i] = np.float64(u[i]) ** p


@parallel_kernel()
def power_backward(dy, x, p, dx):
    for block in prange(blocks(dx)):
        du, u, dv = part(dy, block), part(x, block), part(dx, block)
        if p == 0:
            for i in range(dv.size):  # dv[:] = 0 would be dropped: Numba does not see that part() gave it dx's memory
                dv[i] = 0
        elif p == 2:
            for i in range(dv.size):
                dv[i] = du[i] * (u[i] + u[i])
        else:
            for i in range(dv.size):
                dv[i] = du[i] * p * np.float64(u[i]) ** (p - 1)
