"""Gradients of recurrent layers as ops on tensors, which can be derived again; those of kernels are in minigrad.ops.recurrent.

The states of all steps are the layer's own result. So what a step has computed from the state before it is computed anew for
all steps at once, and derived through the result, that is by the layer itself. What goes from step to step is only what does
so in backward: the gradient of the state, a linear function, whose coefficients are there for all steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

from minigrad.ops.arithmetic import add, mul, sub
from minigrad.ops.creation import zeros
from minigrad.ops.elementwise import ReLU, Sigmoid, Tanh, sigmoid, tanh
from minigrad.ops.gemm import linear, matmul
from minigrad.ops.movement import Rows, concat, reshape, swapaxes
from minigrad.ops.reduce import sum
from minigrad.ops.shape_functions import split, stack, unstack
from minigrad.tensor import Tensor

# As in minigrad.ops.recurrent a sequence is (steps, N, features).


class Given(NamedTuple):
    """The inputs that all layers have, in their order."""

    x: Tensor
    h0: Tensor | None
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None


def rnn_gradients(
    dy: Tensor, given: Given, y: Tensor, relu: bool, reverse: bool, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Those of an RNN's inputs."""
    slope, turned = (ReLU if relu else Tanh).slope.op, swapaxes(given.w_hh, 0, 1)
    dgates: list[Tensor] = []
    dh = None
    for dy_t, y_t in backwards(reverse, dy, y):
        dgates.append(slope.apply(dy_t if dh is None else add(dy_t, dh), y_t))
        dh = matmul(dgates[-1], turned)
    da = sequence(dgates, reverse)
    return of_inputs(given, (dh,), da, da, states_before(y, given.h0, reverse), needs)


def lstm_gradients(
    dy: Tensor, dc: Tensor, given: Given, c0: Tensor | None, y: Tensor, reverse: bool, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Those of an LSTM's inputs, from those of the h of all steps and of the last c."""
    turned, slope = swapaxes(given.w_hh, 0, 1), Sigmoid.slope.op
    before = states_before(y, given.h0, reverse)
    i, f, g, o = split(add(linear(given.x, given.w_ih, given.b_ih), linear(before, given.w_hh, given.b_hh)), 4, axis=2)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = cells(c0, f, mul(i, g), reverse)
    squashed = tanh(c)
    c_of_h = Tanh.slope.op.apply(o, squashed)
    ifg_of_c = stack(
        [slope.apply(g, i), slope.apply(states_before(c, c0, reverse), f), Tanh.slope.op.apply(i, g)], axis=2
    )
    o_of_h = slope.apply(squashed, o)
    dgates: list[Tensor] = []
    dh = None
    for dy_t, f_t, *slopes in backwards(reverse, dy, f, c_of_h, ifg_of_c, o_of_h):
        dh = dy_t if dh is None else add(dy_t, dh)
        dc = add(dc, mul(dh, slopes[0]))
        dgates.append(concat([of_parts(dc, slopes[1]), mul(dh, slopes[2])], axis=1))
        dh, dc = matmul(dgates[-1], turned), mul(dc, f_t)
    da = sequence(dgates, reverse)
    return of_inputs(given, (dh, dc), da, da, before, needs)


def gru_gradients(
    dy: Tensor, given: Given, y: Tensor, reverse: bool, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Those of a GRU's inputs."""
    turned, slope = swapaxes(given.w_hh, 0, 1), Sigmoid.slope.op
    before = states_before(y, given.h0, reverse)
    a, m = linear(given.x, given.w_ih, given.b_ih), linear(before, given.w_hh, given.b_hh)
    (a_r, a_z, a_n), (m_r, m_z, m_n) = split(a, 3, axis=2), split(m, 3, axis=2)
    r, z = sigmoid(add(a_r, m_r)), sigmoid(add(a_z, m_z))
    n = tanh(add(a_n, mul(r, m_n)))
    n_of_h = Tanh.slope.op.apply(sub(1.0, z), n)
    r_of_h, z_of_h = mul(n_of_h, slope.apply(m_n, r)), slope.apply(sub(before, n), z)
    of_a, of_m = stack([r_of_h, z_of_h, n_of_h], axis=2), stack([r_of_h, z_of_h, mul(n_of_h, r)], axis=2)
    dgates: list[Tensor] = []
    dhidden: list[Tensor] = []
    dh = None
    for dy_t, z_t, of_a_t, of_m_t in backwards(reverse, dy, z, of_a, of_m):
        dh = dy_t if dh is None else add(dy_t, dh)
        dgates.append(of_parts(dh, of_a_t))
        dhidden.append(of_parts(dh, of_m_t))
        dh = add(mul(dh, z_t), matmul(dhidden[-1], turned))
    return of_inputs(given, (dh,), sequence(dgates, reverse), sequence(dhidden, reverse), before, needs)


def of_inputs(
    given: Given,
    starts: Sequence[Tensor | None],
    da: Tensor,
    dm: Tensor,
    before: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs that need one: of the first states as they are, of the others from those of the products."""
    x, rest = given.x, needs[1 + len(starts) :]
    return (
        matmul(da, swapaxes(given.w_ih, 0, 1)) if needs[0] else None,
        *[start if need else None for start, need in zip(starts, needs[1:], strict=False)],
        matmul(swapaxes(rows(x), 0, 1), rows(da)) if rest[0] else None,
        matmul(swapaxes(rows(before), 0, 1), rows(dm)) if rest[1] else None,
        sum(da, (0, 1)) if rest[2] else None,
        sum(dm, (0, 1)) if rest[3] else None,
    )


def rows(x: Tensor) -> Tensor:
    """All steps as one matrix."""
    return reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))


def of_parts(dh: Tensor, slopes: Tensor) -> Tensor:
    """The gradients of parts, side by side: that of a state (N, hidden) times the slopes (N, parts, hidden)."""
    n, parts, hidden = slopes.shape
    return reshape(mul(reshape(dh, (n, 1, hidden)), slopes), (n, parts * hidden))


def cells(c0: Tensor | None, f: Tensor, new: Tensor, reverse: bool) -> Tensor:
    """c of all steps, f c + new."""
    states: list[Tensor] = []
    for f_t, new_t in backwards(not reverse, f, new):
        last = states[-1] if states else c0
        states.append(new_t if last is None else add(mul(f_t, last), new_t))
    return sequence(states, not reverse)


def states_before(y: Tensor, first: Tensor | None, reverse: bool) -> Tensor:
    """The state before each step, where y has that after it: `first`, or zeros, before the one that comes first."""
    steps, shape = y.shape[0], (1, *y.shape[1:])
    start = zeros(shape, y.dtype, y._device) if first is None else reshape(first, shape)
    if steps == 1:
        return start
    if reverse:
        return concat([Rows.apply(y, start=1, stop=steps), start], axis=0)
    return concat([start, Rows.apply(y, start=0, stop=steps - 1)], axis=0)


def backwards(reverse: bool, *sequences: Tensor) -> list[tuple[Tensor, ...]]:
    """Step by step, from the one that comes last, what each sequence has of it."""
    steps = list(zip(*map(unstack, sequences), strict=True))
    return steps if reverse else steps[::-1]


def sequence(steps: list[Tensor], reverse: bool) -> Tensor:
    """What was made of each step, from the one that comes last, as a sequence."""
    return stack(steps if reverse else steps[::-1])
