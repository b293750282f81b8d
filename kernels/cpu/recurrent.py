"""Recurrent layers. Contracts and formulas: kernels/reference/recurrent.py.

Sequences do not touch one another, so a task takes some rows of the batch through all steps: threads part once for a whole
sequence, not at every step. A step is the product of the task's rows of h with W_hh, whose panels stay in the second-level
cache, by the micro-kernels of all products, and then the cell, row by row, on what the product has left in the cache. An
element of the product is one chain of multiply-adds whatever the rows of a task: the same bits on any number of threads.

The loops of the cells write to one array each. LLVM then needs few tests whether arrays overlap, and makes vector code.
"""

import numpy as np
from numba import prange

from minigrad.kernels.cpu.gemm import PACK_ROWS, multiply_rows
from minigrad.kernels.cpu.parts.panels import PARALLEL_WORK, pack_rows, pack_transposed, split
from minigrad.kernels.cpu.tools.launch import inlined, parallel_kernel, team_size
from minigrad.kernels.cpu.vector.code import vector_lanes
from minigrad.kernels.cpu.vector.tiles import HEIGHTS
from minigrad.kernels.formulas import ONE, ZERO, relu, relu_grad, sigmoid, sigmoid_grad, tanh, tanh_grad

MOST_ROWS = 64  # of a task: what they have of the gates stays in the second-level cache, beside the weights


@inlined
def tasks_for(rows, threads):
    """How many tasks share out the rows among the threads."""
    return max(-(-rows // (MOST_ROWS * threads)) * threads, 1)


@inlined
def rows_of(task, tasks, rows):
    """(first, end) of a task's rows: whole tiles."""
    height = HEIGHTS[-1]
    tiles = -(-rows // height)
    return task * tiles // tasks * height, min(rows, (task + 1) * tiles // tasks * height)


@inlined
def turn(s, steps, reverse):
    """The step that comes s-th."""
    return steps - 1 - s if reverse else s


@inlined
def room_for_panels(w):
    """Memory for the panels of w, or of its transpose."""
    return max(split(w.shape[1], w.dtype)[0] * w.shape[0], split(w.shape[0], w.dtype)[0] * w.shape[1]) * vector_lanes(
        w.dtype
    )


@inlined
def times(a, w, panels, bias, c, i0, i1, accumulate):
    """Rows i0:i1 of C = A W + bias, or plus C; of A W^T where the panels are those of the transpose."""
    multiply_rows(
        a, w, bias, c, False, True, panels, i0, i1, 0, a.shape[1], 0, split(c.shape[1], w.dtype)[1], accumulate
    )


@inlined
def sigmoids(a, p, count):
    """a[p : p + count] = sigmoid of it."""
    for j in range(count):
        a[p + j] = sigmoid(a[p + j])


@inlined
def tanhs(a, p, count):
    """a[p : p + count] = tanh of it."""
    for j in range(count):
        a[p + j] = tanh(a[p + j])


def work_of_steps(h, w_hh):
    """Multiply-adds of all steps; more than one thread needs more than one tile of rows."""
    return h.size * w_hh.shape[1] if h.shape[1] > HEIGHTS[-1] else 0


def rnn_forward_is_large(h0, w_hh, with_relu, reverse, y):
    return work_of_steps(y, w_hh) >= PARALLEL_WORK


def rnn_backward_is_large(dy, y, w_hh, with_relu, reverse, dgates, dh0):
    return work_of_steps(y, w_hh) >= PARALLEL_WORK


def lstm_forward_is_large(h0, c0, w_hh, reverse, gates, c, y):
    return work_of_steps(y, w_hh) >= PARALLEL_WORK


def lstm_backward_is_large(dy, dc, gates, c0, c, w_hh, reverse, dgates, dh0, dc0):
    return work_of_steps(c, w_hh) >= PARALLEL_WORK


def gru_forward_is_large(h0, w_hh, b_hh, reverse, gates, hidden, y):
    return work_of_steps(y, w_hh) >= PARALLEL_WORK


def gru_backward_is_large(dy, gates, hidden, h0, y, w_hh, reverse, dgates, dhidden, dh0):
    return work_of_steps(y, w_hh) >= PARALLEL_WORK


@parallel_kernel(is_large=rnn_forward_is_large)
def rnn_forward(h0, w_hh, with_relu, reverse, y):
    steps, n, units = y.shape
    none = np.empty(0, y.dtype)
    panels = np.empty(room_for_panels(w_hh), y.dtype)
    for k0 in prange((units + PACK_ROWS - 1) // PACK_ROWS):
        pack_rows(w_hh, k0 * PACK_ROWS, min(units, (k0 + 1) * PACK_ROWS), panels)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        flat = y.reshape(-1)
        for s in range(steps):
            t = turn(s, steps, reverse)
            if s > 0:
                times(y[turn(s - 1, steps, reverse)], w_hh, panels, none, y[t], i0, i1, 1)
            elif h0.size:
                times(h0, w_hh, panels, none, y[t], i0, i1, 1)
            p, count = np.uintp((t * n + i0) * units), np.uintp((i1 - i0) * units)
            if with_relu:
                for j in range(count):
                    flat[p + j] = relu(flat[p + j])
            else:
                tanhs(flat, p, count)


@parallel_kernel(is_large=rnn_backward_is_large)
def rnn_backward(dy, y, w_hh, with_relu, reverse, dgates, dh0):
    steps, n, units = y.shape
    none = np.empty(0, y.dtype)
    panels = np.empty(room_for_panels(w_hh), y.dtype)
    for p in prange(split(units, y.dtype)[1]):
        pack_transposed(w_hh, p, panels)
    dh = np.empty((n, units), y.dtype)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        dy_flat, y_flat, dgates_flat, dh_flat = dy.reshape(-1), y.reshape(-1), dgates.reshape(-1), dh.reshape(-1)
        q, count = np.uintp(i0 * units), np.uintp((i1 - i0) * units)
        for j in range(count):
            dh_flat[q + j] = ZERO
        for s in range(steps - 1, -1, -1):
            t = turn(s, steps, reverse)
            p = np.uintp((t * n + i0) * units)
            if with_relu:
                for j in range(count):
                    dgates_flat[p + j] = relu_grad(dh_flat[q + j] + dy_flat[p + j], y_flat[p + j])
            else:
                for j in range(count):
                    dgates_flat[p + j] = tanh_grad(dh_flat[q + j] + dy_flat[p + j], y_flat[p + j])
            if s > 0:
                times(dgates[t], w_hh, panels, none, dh, i0, i1, 0)
            elif dh0.size:
                times(dgates[t], w_hh, panels, none, dh0, i0, i1, 0)


@inlined
def lstm_cell(gates, p, before, b, c, y, q, units):
    """A row: gates (4 units) at p become i, f, g, o; c and y at q, the c before at b."""
    f, g, o = p + units, p + units + units, p + units + units + units
    sigmoids(gates, p, units + units)
    tanhs(gates, g, units)
    sigmoids(gates, o, units)
    if before.size:
        for j in range(units):
            c[q + j] = gates[f + j] * before[b + j] + gates[p + j] * gates[g + j]
    else:
        for j in range(units):
            c[q + j] = gates[p + j] * gates[g + j]
    for j in range(units):
        y[q + j] = gates[o + j] * tanh(c[q + j])


@parallel_kernel(is_large=lstm_forward_is_large)
def lstm_forward(h0, c0, w_hh, reverse, gates, c, y):
    steps, n, units = y.shape
    none = np.empty(0, y.dtype)
    panels = np.empty(room_for_panels(w_hh), y.dtype)
    for k0 in prange((units + PACK_ROWS - 1) // PACK_ROWS):
        pack_rows(w_hh, k0 * PACK_ROWS, min(units, (k0 + 1) * PACK_ROWS), panels)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        gates_flat, c0_flat, c_flat, y_flat = gates.reshape(-1), c0.reshape(-1), c.reshape(-1), y.reshape(-1)
        width = np.uintp(units)
        for s in range(steps):
            t, last = turn(s, steps, reverse), turn(s - 1, steps, reverse)
            if s > 0:
                times(y[last], w_hh, panels, none, gates[t], i0, i1, 1)
            elif h0.size:
                times(h0, w_hh, panels, none, gates[t], i0, i1, 1)
            for i in range(i0, i1):
                p, q = np.uintp((t * n + i) * 4 * units), np.uintp((t * n + i) * units)
                if s > 0:
                    lstm_cell(gates_flat, p, c_flat, np.uintp((last * n + i) * units), c_flat, y_flat, q, width)
                else:
                    lstm_cell(gates_flat, p, c0_flat, np.uintp(i * units), c_flat, y_flat, q, width)


@inlined
def lstm_cell_backward(gates, p, before, b, c, q, dy, dgates, dh, dc, r, squashed, units):
    """A row: dgates (4 units) at p from dh and dc at r, which become those of the step before, but for the product."""
    f, g, o = p + units, p + units + units, p + units + units + units
    for j in range(units):
        squashed[j] = tanh(c[q + j])
    for j in range(units):
        dh[r + j] += dy[q + j]
    for j in range(units):
        dgates[o + j] = sigmoid_grad(dh[r + j] * squashed[j], gates[o + j])
    for j in range(units):
        dc[r + j] += tanh_grad(dh[r + j] * gates[o + j], squashed[j])
    for j in range(units):
        dgates[p + j] = sigmoid_grad(dc[r + j] * gates[g + j], gates[p + j])
    if before.size:
        for j in range(units):
            dgates[f + j] = sigmoid_grad(dc[r + j] * before[b + j], gates[f + j])
    else:
        for j in range(units):
            dgates[f + j] = ZERO
    for j in range(units):
        dgates[g + j] = tanh_grad(dc[r + j] * gates[p + j], gates[g + j])
    for j in range(units):
        dc[r + j] *= gates[f + j]


@parallel_kernel(is_large=lstm_backward_is_large)
def lstm_backward(dy, dc, gates, c0, c, w_hh, reverse, dgates, dh0, dc0):
    steps, n, units = c.shape
    none = np.empty(0, c.dtype)
    # 1. The weights, transposed, in panels that all steps read.
    panels = np.empty(room_for_panels(w_hh), c.dtype)
    for p in prange(split(units, c.dtype)[1]):
        pack_transposed(w_hh, p, panels)
    # 2. Sequences know nothing of one another, so each task takes some of them through all steps, the last step first.
    dh, dstate = np.empty((n, units), c.dtype), np.empty((n, units), c.dtype)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        dy_flat, gates_flat, c0_flat, c_flat = dy.reshape(-1), gates.reshape(-1), c0.reshape(-1), c.reshape(-1)
        dgates_flat, dh_flat, dstate_flat = dgates.reshape(-1), dh.reshape(-1), dstate.reshape(-1)
        squashed, width = np.empty(units, c.dtype), np.uintp(units)
        dh[i0:i1] = 0
        dstate[i0:i1] = dc[i0:i1]
        for s in range(steps - 1, -1, -1):
            t, last = turn(s, steps, reverse), turn(s - 1, steps, reverse)
            # The gradients of the gates, and in dstate that of the cell state before, c0 at the first step.
            for i in range(i0, i1):
                p, q, r = np.uintp((t * n + i) * 4 * units), np.uintp((t * n + i) * units), np.uintp(i * units)
                if s > 0:
                    lstm_cell_backward(
                        gates_flat, p, c_flat, np.uintp((last * n + i) * units), c_flat, q, dy_flat,
                        dgates_flat, dh_flat, dstate_flat, r, squashed, width,
                    )  # fmt: skip
                else:
                    lstm_cell_backward(
                        gates_flat, p, c0_flat, r, c_flat, q, dy_flat,
                        dgates_flat, dh_flat, dstate_flat, r, squashed, width,
                    )  # fmt: skip
            # What the hidden state before did to these gates makes its gradient.
            if s > 0:
                times(dgates[t], w_hh, panels, none, dh, i0, i1, 0)
            elif dh0.size:
                times(dgates[t], w_hh, panels, none, dh0, i0, i1, 0)
        if dc0.size:
            dc0[i0:i1] = dstate[i0:i1]


@inlined
def gru_cell(gates, p, products, before, b, hidden, y, q, units):
    """A row: gates (3 units) at p become r, z, n; hidden and y at q, the h before at b; products (3 units) of that."""
    z, n = p + units, p + units + units
    for j in range(units + units):
        gates[p + j] += products[j]
    sigmoids(gates, p, units + units)
    for j in range(units):
        hidden[q + j] = products[units + units + j]
    for j in range(units):
        gates[n + j] = tanh(gates[n + j] + gates[p + j] * hidden[q + j])
    if before.size:
        for j in range(units):
            y[q + j] = (ONE - gates[z + j]) * gates[n + j] + gates[z + j] * before[b + j]
    else:
        for j in range(units):
            y[q + j] = (ONE - gates[z + j]) * gates[n + j]


@parallel_kernel(is_large=gru_forward_is_large)
def gru_forward(h0, w_hh, b_hh, reverse, gates, hidden, y):
    steps, n, units = y.shape
    panels = np.empty(room_for_panels(w_hh), y.dtype)
    for k0 in prange((units + PACK_ROWS - 1) // PACK_ROWS):
        pack_rows(w_hh, k0 * PACK_ROWS, min(units, (k0 + 1) * PACK_ROWS), panels)
    products = np.empty((n, 3 * units), y.dtype)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        gates_flat, hidden_flat, h0_flat, y_flat = gates.reshape(-1), hidden.reshape(-1), h0.reshape(-1), y.reshape(-1)
        width = np.uintp(units)
        for s in range(steps):
            t, last = turn(s, steps, reverse), turn(s - 1, steps, reverse)
            if s > 0:
                times(y[last], w_hh, panels, b_hh, products, i0, i1, 0)
            elif h0.size:
                times(h0, w_hh, panels, b_hh, products, i0, i1, 0)
            else:
                for i in range(i0, i1):
                    for j in range(3 * units):
                        products[i, j] = b_hh[j] if b_hh.size else ZERO
            for i in range(i0, i1):
                p, q = np.uintp((t * n + i) * 3 * units), np.uintp((t * n + i) * units)
                if s > 0:
                    before = np.uintp((last * n + i) * units)
                    gru_cell(gates_flat, p, products[i], y_flat, before, hidden_flat, y_flat, q, width)
                else:
                    before = np.uintp(i * units)
                    gru_cell(gates_flat, p, products[i], h0_flat, before, hidden_flat, y_flat, q, width)


@inlined
def gru_cell_backward(gates, p, hidden, before, b, dy, q, dgates, dhidden, dh, r, units):
    """A row: dgates and dhidden (3 units) at p from dh at r, which becomes that of the step before, but for the product."""
    z, n = p + units, p + units + units
    for j in range(units):
        dh[r + j] += dy[q + j]
    if before.size:
        for j in range(units):
            dgates[z + j] = sigmoid_grad(dh[r + j] * (before[b + j] - gates[n + j]), gates[z + j])
    else:
        for j in range(units):
            dgates[z + j] = sigmoid_grad(-(dh[r + j] * gates[n + j]), gates[z + j])
    for j in range(units):
        dgates[n + j] = tanh_grad(dh[r + j] * (ONE - gates[z + j]), gates[n + j])
    for j in range(units):
        dgates[p + j] = sigmoid_grad(dgates[n + j] * hidden[q + j], gates[p + j])
    for j in range(units + units):
        dhidden[p + j] = dgates[p + j]
    for j in range(units):
        dhidden[n + j] = dgates[n + j] * gates[p + j]
    for j in range(units):
        dh[r + j] *= gates[z + j]


@parallel_kernel(is_large=gru_backward_is_large)
def gru_backward(dy, gates, hidden, h0, y, w_hh, reverse, dgates, dhidden, dh0):
    steps, n, units = y.shape
    none = np.empty(0, y.dtype)
    # 1. The weights, transposed, in panels that all steps read.
    panels = np.empty(room_for_panels(w_hh), y.dtype)
    for p in prange(split(units, y.dtype)[1]):
        pack_transposed(w_hh, p, panels)
    # 2. Sequences know nothing of one another, so each task takes some of them through all steps, the last step first.
    dh = np.empty((n, units), y.dtype)
    tasks = tasks_for(n, team_size())
    for task in prange(tasks):
        i0, i1 = rows_of(task, tasks, n)
        dy_flat, gates_flat, hidden_flat, h0_flat = (
            dy.reshape(-1),
            gates.reshape(-1),
            hidden.reshape(-1),
            h0.reshape(-1),
        )
        y_flat, dgates_flat, dhidden_flat, dh_flat = (
            y.reshape(-1),
            dgates.reshape(-1),
            dhidden.reshape(-1),
            dh.reshape(-1),
        )
        width = np.uintp(units)
        dh[i0:i1] = 0
        for s in range(steps - 1, -1, -1):
            t, last = turn(s, steps, reverse), turn(s - 1, steps, reverse)
            # The gradients of the gates; dh keeps the share that goes by z straight to the state before.
            for i in range(i0, i1):
                p, q, r = np.uintp((t * n + i) * 3 * units), np.uintp((t * n + i) * units), np.uintp(i * units)
                if s > 0:
                    gru_cell_backward(
                        gates_flat, p, hidden_flat, y_flat, np.uintp((last * n + i) * units), dy_flat, q,
                        dgates_flat, dhidden_flat, dh_flat, r, width,
                    )  # fmt: skip
                else:
                    gru_cell_backward(
                        gates_flat, p, hidden_flat, h0_flat, r, dy_flat, q,
                        dgates_flat, dhidden_flat, dh_flat, r, width,
                    )  # fmt: skip
            # The other share, through the products of the state before, is added to it.
            if s > 0 or dh0.size:
                times(dhidden[t], w_hh, panels, none, dh, i0, i1, 1)
        if dh0.size:
            dh0[i0:i1] = dh[i0:i1]
