"""Recurrent layers. Contracts and formulas: kernels/reference/recurrent.py.

The host goes through the steps, with two launches for each: the product of h and W_hh, by the kernels of all products, and
the cell, where a thread does all there is to do for one unit of one sequence. What passes from step to step backwards, dh
and dc, stays in scratch memory. Formulas are those of the CPU.
"""

from typing import NamedTuple

from minigrad.kernels.cuda import gemm, movement
from minigrad.kernels.cuda.tools.context import context
from minigrad.kernels.cuda.tools.language import cuda, device_function, real, uint32
from minigrad.kernels.cuda.tools.launch import Reals, UInt, blocks_for, kernel
from minigrad.kernels.formulas import relu, relu_grad, sigmoid, sigmoid_grad, tanh, tanh_grad

THREADS = 256


@device_function
def my_element():
    """The element of (n, units) that this thread is for."""
    return uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))


@device_function
def first_gate(i, units, gates):
    """Where that element is in the first of so many parts of (n, gates * units)."""
    return uint32(i // units * (gates - uint32(1)) * units + i)


@kernel(threads=THREADS)
def rnn_cell(y: Reals, n: UInt, with_relu: UInt):
    i = my_element()
    if i < n:
        if with_relu != uint32(0):
            y[i] = relu(y[i])
        else:
            y[i] = tanh(y[i])


@kernel(threads=THREADS)
def rnn_cell_backward(dy: Reals, y: Reals, dh: Reals, dgates: Reals, n: UInt, with_relu: UInt, later: UInt):
    """`later`: whether dh holds the gradient of a later step."""
    i = my_element()
    if i < n:
        d = dy[i]
        if later != uint32(0):
            d += dh[i]
        if with_relu != uint32(0):
            dgates[i] = relu_grad(d, y[i])
        else:
            dgates[i] = tanh_grad(d, y[i])


class Step(NamedTuple):
    """Elements of the state, units of a sequence, whether there is a state before, whether dh is a later step's gradient."""

    n: UInt
    units: UInt
    started: UInt
    later: UInt


@kernel(threads=THREADS)
def lstm_cell(gates: Reals, before: Reals, c: Reals, y: Reals, step: Step):
    k, units = my_element(), step.units
    if k < step.n:
        i = first_gate(k, units, uint32(4))
        f, g = uint32(i + units), uint32(i + uint32(2) * units)
        o = uint32(g + units)
        gates[i], gates[f], gates[g], gates[o] = sigmoid(gates[i]), sigmoid(gates[f]), tanh(gates[g]), sigmoid(gates[o])
        state = gates[i] * gates[g]
        if step.started != uint32(0):
            state = gates[f] * before[k] + state
        c[k] = state
        y[k] = gates[o] * tanh(state)


@kernel(threads=THREADS)
def lstm_cell_backward(
    dy: Reals, gates: Reals, before: Reals, c: Reals, dgates: Reals, dh: Reals, dc: Reals, step: Step
):  # fmt: skip
    k, units = my_element(), step.units
    if k < step.n:
        i = first_gate(k, units, uint32(4))
        f, g = uint32(i + units), uint32(i + uint32(2) * units)
        o = uint32(g + units)
        d = dy[k]
        if step.later != uint32(0):
            d += dh[k]
        squashed = tanh(c[k])
        dgates[o] = sigmoid_grad(d * squashed, gates[o])
        state = dc[k] + tanh_grad(d * gates[o], squashed)
        dgates[i] = sigmoid_grad(state * gates[g], gates[i])
        if step.started != uint32(0):
            dgates[f] = sigmoid_grad(state * before[k], gates[f])
        else:
            dgates[f] = real(0)
        dgates[g] = tanh_grad(state * gates[i], gates[g])
        dc[k] = state * gates[f]


@kernel(threads=THREADS)
def gru_cell(
    gates: Reals, products: Reals, before: Reals, hidden: Reals, y: Reals, step: Step
):  # fmt: skip
    k, units = my_element(), step.units
    if k < step.n:
        r = first_gate(k, units, uint32(3))
        z, m = uint32(r + units), uint32(r + uint32(2) * units)
        gates[r], gates[z] = sigmoid(gates[r] + products[r]), sigmoid(gates[z] + products[z])
        hidden[k] = products[m]
        gates[m] = tanh(gates[m] + gates[r] * hidden[k])
        value = (real(1) - gates[z]) * gates[m]
        if step.started != uint32(0):
            value += gates[z] * before[k]
        y[k] = value


@kernel(threads=THREADS)
def gru_cell_backward(
    dy: Reals, gates: Reals, hidden: Reals, before: Reals, dgates: Reals, dhidden: Reals, dh: Reals, step: Step
):  # fmt: skip
    k, units = my_element(), step.units
    if k < step.n:
        r = first_gate(k, units, uint32(3))
        z, m = uint32(r + units), uint32(r + uint32(2) * units)
        d = dy[k]
        if step.later != uint32(0):
            d += dh[k]
        change = -gates[m]
        if step.started != uint32(0):
            change = before[k] - gates[m]
        dz = sigmoid_grad(d * change, gates[z])
        dn = tanh_grad(d * (real(1) - gates[z]), gates[m])
        dr = sigmoid_grad(dn * hidden[k], gates[r])
        dgates[r], dgates[z], dgates[m] = dr, dz, dn
        dhidden[r], dhidden[z], dhidden[m] = dr, dz, dn * gates[r]
        dh[k] = d * gates[z]


def step_of(x, t):
    """What an array (steps, ...) has of a step."""
    row = x.size // x.shape[0]
    return x.reshape(-1).part(t * row, (t + 1) * row).reshape(x.shape[1:])


def in_order(steps, reverse):
    """(step, the one before or None, the one after or None), as the steps follow one another."""
    order = list(range(steps))[:: -1 if reverse else 1]
    return list(zip(order, [None, *order], [*order[1:], None], strict=False))


def grid(x):
    """Blocks and threads for the elements of a step, and their number."""
    return blocks_for(x.size, THREADS), THREADS


def nothing(x):
    """An array without elements."""
    return x.reshape(-1).part(0, 0)


def multiply(product, *arguments):
    """gemm or gemm_add of a state, which is not rounded to bfloat16: errors would add up over the steps."""
    asked = context.matmul_precision
    context.matmul_precision = "float32" if asked == "bf16" else asked
    try:
        product(*arguments)
    finally:
        context.matmul_precision = asked


def rnn_forward(h0, w_hh, with_relu, reverse, y):
    for t, last, _ in in_order(y.shape[0], reverse):
        now = step_of(y, t)
        if last is not None or h0.size:
            multiply(gemm.gemm_add, h0 if last is None else step_of(y, last), w_hh, now, False, False)
        rnn_cell[grid(now)](now, now.size, int(with_relu))


def rnn_backward(dy, y, w_hh, with_relu, reverse, dgates, dh0):
    dh = context.empty(y.shape[1:], y.dtype)
    for t, last, following in reversed(in_order(y.shape[0], reverse)):
        now = step_of(dgates, t)
        later = int(following is not None)
        rnn_cell_backward[grid(now)](step_of(dy, t), step_of(y, t), dh, now, now.size, int(with_relu), later)
        if last is not None or dh0.size:
            multiply(gemm.gemm, now, w_hh, nothing(now), dh if last is not None else dh0, False, True)


def lstm_forward(h0, c0, w_hh, reverse, gates, c, y):
    units = y.shape[2]
    for t, last, _ in in_order(y.shape[0], reverse):
        a, now = step_of(gates, t), step_of(y, t)
        if last is not None or h0.size:
            multiply(gemm.gemm_add, h0 if last is None else step_of(y, last), w_hh, a, False, False)
        before = c0 if last is None else step_of(c, last)
        lstm_cell[grid(now)](a, before, step_of(c, t), now, Step(now.size, units, int(before.size > 0), 0))


def lstm_backward(dy, dc, gates, c0, c, w_hh, reverse, dgates, dh0, dc0):
    units = c.shape[2]
    dh, dstate = (context.empty(c.shape[1:], c.dtype) for _ in range(2))
    movement.copy(dc.reshape(-1), dstate.reshape(-1))
    for t, last, following in reversed(in_order(c.shape[0], reverse)):
        now = step_of(dgates, t)
        before = c0 if last is None else step_of(c, last)
        lstm_cell_backward[grid(dh)](
            step_of(dy, t), step_of(gates, t), before, step_of(c, t), now, dh, dstate,
            Step(dh.size, units, int(before.size > 0), int(following is not None)),
        )  # fmt: skip
        if last is not None or dh0.size:
            multiply(gemm.gemm, now, w_hh, nothing(now), dh if last is not None else dh0, False, True)
    if dc0.size:
        movement.copy(dstate.reshape(-1), dc0.reshape(-1))


def gru_forward(h0, w_hh, b_hh, reverse, gates, hidden, y):
    n, units = y.shape[1:]
    products = context.empty((n, 3 * units), y.dtype)
    for t, last, _ in in_order(y.shape[0], reverse):
        now = step_of(y, t)
        before = h0 if last is None else step_of(y, last)
        # without a state the product is one over no indices: the bias
        left, right = (before, w_hh) if before.size else (nothing(y).reshape(n, 0), nothing(y).reshape(0, 3 * units))
        multiply(gemm.gemm, left, right, b_hh, products, False, False)
        gru_cell[grid(now)](
            step_of(gates, t), products, before, step_of(hidden, t), now, Step(now.size, units, int(before.size > 0), 0)
        )


def gru_backward(dy, gates, hidden, h0, y, w_hh, reverse, dgates, dhidden, dh0):
    units = y.shape[2]
    dh = context.empty(y.shape[1:], y.dtype)
    for t, last, following in reversed(in_order(y.shape[0], reverse)):
        before = h0 if last is None else step_of(y, last)
        now = step_of(dhidden, t)
        gru_cell_backward[grid(dh)](
            step_of(dy, t), step_of(gates, t), step_of(hidden, t), before, step_of(dgates, t), now, dh,
            Step(dh.size, units, int(before.size > 0), int(following is not None)),
        )  # fmt: skip
        if last is not None or dh0.size:
            multiply(gemm.gemm_add, now, w_hh, dh, False, True)
    if dh0.size:
        movement.copy(dh.reshape(-1), dh0.reshape(-1))
