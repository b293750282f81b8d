"""Recurrent layers, step by step; float32 computed in float64.

With a for the products of the inputs, x W_ih + b, which are there for all steps, and h for the state before:

    rnn     h' = f(a + h W_hh), f tanh or relu                                                       (Elman 1990)
    lstm    i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of the four parts of a + h W_hh
            c' = f c + i g;  h' = o tanh(c')                 (Hochreiter and Schmidhuber 1997; Gers et al. 2000)
    gru     r, z = sigmoid of the first two parts of a + h W_hh + b_hh
            m = h W_hn + b_hn;  n = tanh(a_n + r m);  h' = (1 - z) n + z h                       (Cho et al. 2014)

The gru applies r behind the product, as PyTorch and cuDNN do. y (t, n, h) holds h' of all steps; before the first one h is
h0 (n, h), or zero where that is (0, h), and c is c0. With `reverse` the last step comes first.

Backward goes the other way. `dgates` is the gradient of a, from which those of x, W_ih and b follow, and that of W_hh:
the sum over the steps of h^T dgates. In the gru the products of the state have a gradient of their own, `dhidden`, which
differs in the third part: r times that of dgates.
"""

import numpy as np

defined = np.errstate(all="ignore")


def _in_order(steps, reverse):
    """The steps as they follow one another."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _start(h0, like):
    """The state before the first step."""
    return h0.astype(np.float64) if h0.size else np.zeros(like.shape[1:])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _parts(gates, count):
    return np.split(gates.astype(np.float64), count, axis=-1)


@defined
def rnn_forward(h0, w_hh, with_relu, reverse, y):
    h = _start(h0, y)
    for t in _in_order(len(y), reverse):
        a = y[t] + h @ w_hh.astype(np.float64)
        h = np.where(a <= 0, 0, a) if with_relu else np.tanh(a)
        y[t] = h


@defined
def rnn_backward(dy, y, w_hh, with_relu, reverse, dgates, dh0):
    dh = np.zeros(y.shape[1:])
    for t in _in_order(len(y), not reverse):
        dh = dh + dy[t]
        h = y[t].astype(np.float64)
        da = np.where(h <= 0, 0, dh) if with_relu else dh * (1 - h * h)
        dgates[t] = da
        dh = da @ w_hh.T
    if dh0.size:
        dh0[:] = dh


@defined
def lstm_forward(h0, c0, w_hh, reverse, gates, c, y):
    h, state = _start(h0, y), _start(c0, y)
    for t in _in_order(len(y), reverse):
        i, f, g, o = _parts(gates[t] + h @ w_hh.astype(np.float64), 4)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        state = f * state + i * g
        h = o * np.tanh(state)
        gates[t], c[t], y[t] = np.concatenate([i, f, g, o], axis=1), state, h


@defined
def lstm_backward(dy, dc, gates, c0, c, w_hh, reverse, dgates, dh0, dc0):
    steps = list(_in_order(len(c), reverse))
    dh, dstate = np.zeros(c.shape[1:]), dc.astype(np.float64)
    for number in reversed(range(len(steps))):
        t = steps[number]
        before = c[steps[number - 1]].astype(np.float64) if number else _start(c0, c)
        i, f, g, o = _parts(gates[t], 4)
        dh = dh + dy[t]
        squashed = np.tanh(c[t].astype(np.float64))
        dstate = dstate + dh * o * (1 - squashed * squashed)
        parts = (
            dstate * g * i * (1 - i),
            dstate * before * f * (1 - f),
            dstate * i * (1 - g * g),
            dh * squashed * o * (1 - o),
        )
        da = np.concatenate(parts, axis=1)
        dgates[t] = da
        dh, dstate = da @ w_hh.T, dstate * f
    if dh0.size:
        dh0[:] = dh
    if dc0.size:
        dc0[:] = dstate


@defined
def gru_forward(h0, w_hh, b_hh, reverse, gates, hidden, y):
    h = _start(h0, y)
    for t in _in_order(len(y), reverse):
        (a_r, a_z, a_n) = _parts(gates[t], 3)
        (b_r, b_z, m) = _parts(h @ w_hh.astype(np.float64) + (b_hh if b_hh.size else 0), 3)
        r, z = _sigmoid(a_r + b_r), _sigmoid(a_z + b_z)
        n = np.tanh(a_n + r * m)
        h = (1 - z) * n + z * h
        gates[t], hidden[t], y[t] = np.concatenate([r, z, n], axis=1), m, h


@defined
def gru_backward(dy, gates, hidden, h0, y, w_hh, reverse, dgates, dhidden, dh0):
    steps = list(_in_order(len(y), reverse))
    dh = np.zeros(y.shape[1:])
    for number in reversed(range(len(steps))):
        t = steps[number]
        h = y[steps[number - 1]].astype(np.float64) if number else _start(h0, y)
        r, z, n = _parts(gates[t], 3)
        dh = dh + dy[t]
        dz = dh * (h - n) * z * (1 - z)
        dn = dh * (1 - z) * (1 - n * n)
        dr = dn * hidden[t] * r * (1 - r)
        dgates[t] = np.concatenate([dr, dz, dn], axis=1)
        da = np.concatenate([dr, dz, dn * r], axis=1)
        dhidden[t] = da
        dh = dh * z + da @ w_hh.T
    if dh0.size:
        dh0[:] = dh
