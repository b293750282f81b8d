import time

import numpy as np
import pytest
from targets import on_cpu

import minigrad as mg
from minigrad.kernels.cpu import recurrent
from minigrad.kernels.cpu.tools import threads

SHAPES = [(3, 2, 5), *on_cpu((1, 1, 1), (4, 9, 17), (2, 70, 33))]  # steps, sequences, units
LARGE = (28, 40, 64)  # for several threads, which is compiled anew
each_shape = pytest.mark.parametrize(
    "shape", [*SHAPES, pytest.param(LARGE, marks=[pytest.mark.cpu, pytest.mark.slow])], ids=str
)
each_way = pytest.mark.parametrize(
    ("reverse", "started", "other"), [(False, False, True), (True, True, False), (False, True, True)], ids=str
)


def normal(rng, dtype, *shape):
    return (0.7 * rng.standard_normal(shape)).astype(dtype)


def is_large(shape, gates):
    """Whether the sizes lead to the variant for several threads."""
    steps, n, units = shape
    return n > 8 and steps * n * units * gates * units >= 1 << 22


def check(check_kernel, name, shape, gates, *arguments):
    return check_kernel("recurrent", name, *arguments, parallel=is_large(shape, gates), ulps=32, scale=4.0)


@each_shape
@each_way
def test_rnn(check_kernel, rng, dtype, shape, reverse, started, other):
    _, n, units = shape
    h0, w = normal(rng, dtype, n * started, units), normal(rng, dtype, units, units) / dtype.type(units**0.5)
    a, dy = normal(rng, dtype, *shape), normal(rng, dtype, *shape)
    *_, y = check(check_kernel, "rnn_forward", shape, 1, h0, w, other, reverse, a)
    check(check_kernel, "rnn_backward", shape, 1, dy, y, w, other, reverse, np.empty_like(y), np.empty_like(h0))


@each_shape
@each_way
def test_lstm(check_kernel, rng, dtype, shape, reverse, started, other):
    steps, n, units = shape
    h0, c0 = normal(rng, dtype, n * started, units), normal(rng, dtype, n * other, units)
    dc = normal(rng, dtype, n, units)
    w = normal(rng, dtype, units, 4 * units) / dtype.type(units**0.5)
    a, dy, empty = normal(rng, dtype, steps, n, 4 * units), normal(rng, dtype, *shape), np.empty(shape, dtype)
    *_, gates, c, _ = check(check_kernel, "lstm_forward", shape, 4, h0, c0, w, reverse, a, empty, empty.copy())
    out = np.empty_like(gates), np.empty_like(h0), np.empty_like(c0)
    check(check_kernel, "lstm_backward", shape, 4, dy, dc, gates, c0, c, w, reverse, *out)


@each_shape
@each_way
def test_gru(check_kernel, rng, dtype, shape, reverse, started, other):
    steps, n, units = shape
    h0, b = normal(rng, dtype, n * started, units), normal(rng, dtype, 3 * units * other)
    w = normal(rng, dtype, units, 3 * units) / dtype.type(units**0.5)
    a, dy, empty = normal(rng, dtype, steps, n, 3 * units), normal(rng, dtype, *shape), np.empty(shape, dtype)
    *_, gates, hidden, y = check(check_kernel, "gru_forward", shape, 3, h0, w, b, reverse, a, empty, empty.copy())
    out = np.empty_like(gates), np.empty_like(gates), np.empty_like(h0)
    check(check_kernel, "gru_backward", shape, 3, dy, gates, hidden, h0, y, w, reverse, *out)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_nan_stays_in_its_sequence(check_kernel, rng, dtype, name):
    shape, gates = (3, 4, 5), {"rnn": 1, "lstm": 4, "gru": 3}[name]
    a, w = normal(rng, dtype, 3, 4, gates * 5), normal(rng, dtype, 5, gates * 5)
    a[1, 2, :] = np.nan
    none, empty = np.empty((0, 5), dtype), np.empty(shape, dtype)
    arguments = {
        "rnn": (none, w, False, False, a),
        "lstm": (none, none, w, False, a, empty, empty.copy()),
        "gru": (none, w, none[:, 0].copy(), False, a, empty, empty.copy()),
    }[name]
    y = check(check_kernel, f"{name}_forward", shape, gates, *arguments)[-1]
    expected = np.zeros((3, 4), bool)
    expected[1:, 2] = True
    np.testing.assert_array_equal(np.isnan(y).all(axis=2), expected)
    np.testing.assert_array_equal(np.isnan(y).any(axis=2), expected)


@pytest.mark.skipif(mg.get_num_threads() < 2, reason="needs two threads")
def test_threads_share_the_sequences_of_a_batch(rng, monkeypatch):
    """By processor time, which the thread that launches has a part of only."""
    monkeypatch.setattr(threads, "_contention", None)  # all of them, whatever else the machine does
    steps, n, units = LARGE
    gates, none = normal(rng, np.float32, steps, n, 4 * units), np.empty((0, units), np.float32)
    w, c, y = normal(rng, np.float32, units, 4 * units), *np.empty((2, *LARGE), np.float32)

    def launch():
        recurrent.lstm_forward(none, none, w, False, gates.copy(), c, y)

    launch()
    whole, own = time.process_time(), time.thread_time()
    for _ in range(50):
        launch()
    whole, own = time.process_time() - whole, time.thread_time() - own
    assert own < 0.75 * whole, f"{own:.3f} s of {whole:.3f}"
