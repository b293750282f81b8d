"""Recurrent layers: the kernels over a whole sequence. benchmarks/sections/recurrent.py has whole layers, beside others."""

import functools

import numpy as np

from .measure import PLACES, Benchmark, empty, normal

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Recurrent(Benchmark):
    """All steps forward, given the products of the inputs, and all steps backward."""

    timed = ("forward", "backward")
    params = (list(GATES), ["28x64x128", "100x32x256"], PLACES)
    param_names = ("kind", "steps x sequences x units", "place")

    def setup(self, kind, shape, place):
        self.use(place)
        steps, n, units = map(int, shape.split("x"))
        gates = GATES[kind]
        w, none, a = (
            normal(units, gates * units) / np.float32(units**0.5),
            empty(0, units),
            normal(steps, n, gates * units),
        )
        y, dy, call = empty(steps, n, units), normal(steps, n, units), functools.partial(self.kernel_call, "recurrent")
        shares = 1 / (1 + np.exp(-a))  # what gates may be
        if kind == "rnn":
            self.works["forward"] = call("rnn_forward", none, w, False, False, a)
            self.works["backward"] = call("rnn_backward", dy, np.tanh(a), w, False, False, empty(*a.shape), none)
        elif kind == "lstm":
            self.works["forward"] = call("lstm_forward", none, none, w, False, a, y, empty(*y.shape))
            self.works["backward"] = call(
                "lstm_backward", dy, normal(n, units), shares, none, dy, w, False, empty(*a.shape), none, none
            )
        else:
            self.works["forward"] = call("gru_forward", none, w, normal(gates * units), False, a, y, empty(*y.shape))
            self.works["backward"] = call(
                "gru_backward", dy, shares, dy, none, np.tanh(dy), w, False, empty(*a.shape), empty(*a.shape), none
            )
